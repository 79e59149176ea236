//! Leveret: message-driven backends, embedded or across machines.

pub mod broker;
mod connect;
pub mod metrics;
pub mod nodes;
mod one_file;
pub mod runtime;
pub mod sqlite;
pub mod store;
mod tls;

pub use leveret_core as core;

pub use self::{
    connect::{ConnectError, Connected, Migrated, connect, migrate},
    one_file::OneFile,
};
