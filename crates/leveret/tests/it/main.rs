//! Integration tests of `leveret`, one binary.
