//! Claims about `chunked`.
