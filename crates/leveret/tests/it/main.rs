//! Integration tests of `leveret`, one binary.

#[cfg(feature = "postgres")]
mod postgres; // The store on PostgreSQL: conformance, reconnecting, migrations, and a measurement.
