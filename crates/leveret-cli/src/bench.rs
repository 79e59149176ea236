//! Benchmarks of their own.

pub(crate) mod broadcast;
