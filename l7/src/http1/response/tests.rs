//! Claims about `response`.
