//! Broadcast clusters: their settings, their processes, and all of one in this process.

pub(crate) mod args;
pub(crate) mod cluster;
mod config;
pub(crate) mod embedded;
mod file;
mod log;
pub(crate) mod process;
