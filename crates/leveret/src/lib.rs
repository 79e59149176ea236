//! Leveret: message-driven backends, embedded or across machines.

mod batcher;
pub mod broker;
mod connect;
#[cfg(feature = "http")]
pub mod http;
pub mod metrics;
pub mod nodes;
mod one_file;
mod redact;
pub mod runtime;
pub mod sqlite;
pub mod store;
mod tls;

pub use leveret_core as core;

pub use self::{
    connect::{ConnectError, Connected, Migrated, connect, migrate},
    one_file::OneFile,
    redact::redact_url,
};
