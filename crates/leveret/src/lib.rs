//! Leveret: message-driven backends, embedded or across machines.

pub mod broker;
pub mod sqlite;
