//! End-to-end tests: one binary, one file a feature.

mod engine;
