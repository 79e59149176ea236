//! Leveret: message-driven backends, embedded or across machines.

pub mod broker;
pub mod metrics;
pub mod nodes;
pub mod runtime;
pub mod sqlite;
pub mod store;
mod tls;

pub use leveret_core as core;
