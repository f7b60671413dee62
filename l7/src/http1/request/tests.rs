//! Claims about `request`.
