//! A private Redis.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::Kind;
use super::instance::{Daemon, Instance, Program, environment};
use crate::paths;

pub(crate) fn program() -> Option<PathBuf> {
    paths::program("redis-server").or_else(|| paths::program("valkey-server"))
}

/// Redis with its append-only file, so that a restart keeps what it held.
pub(crate) fn plan(dir: &Path, port: u16) -> Result<Instance> {
    let program = program().context("redis-server is not installed")?;
    let data_dir = dir.join("redis");
    let options =
        format!("--port {port} --bind 127.0.0.1 --daemonize no --save --appendonly yes --dir");
    let mut argv = vec![program.display().to_string()];
    for option in options.split(' ') {
        argv.push(option.into());
        if option == "--save" {
            // No snapshots.
            argv.push(String::new());
        }
    }
    argv.push(data_dir.display().to_string());
    let daemon = Daemon {
        argv,
        env: environment(&[]),
        user: None,
        pid_file: dir.join("redis.pid"),
        log_file: dir.join("redis.log"),
    };
    Ok(Instance::program(
        Kind::Redis,
        port,
        Program {
            data_dir,
            daemon,
            helper: None,
        },
    ))
}
