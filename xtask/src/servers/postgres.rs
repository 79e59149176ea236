//! A private PostgreSQL, made by `initdb`, with the durability it has by default.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::Kind;
use super::instance::{Daemon, Instance, Program, User, environment};
use crate::paths;

/// The directory that has both `initdb` and `postgres`; of several versions the newest.
pub(crate) fn programs() -> Option<PathBuf> {
    // Debian keeps the versions apart and puts only wrappers on the PATH.
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            Some((
                entry.file_name().to_str()?.parse().ok()?,
                entry.path().join("bin"),
            ))
        })
        .collect();
    versions.sort();
    let on_path = paths::program("initdb").and_then(|path| Some(path.parent()?.to_owned()));
    versions
        .into_iter()
        .rev()
        .map(|(_, dir)| dir)
        .chain(on_path)
        .find(|dir| dir.join("initdb").is_file() && dir.join("postgres").is_file())
}

pub(crate) fn plan(dir: &Path, port: u16) -> Result<Instance> {
    let programs = programs().context("postgresql is not installed")?;
    let user = account()?;
    let data_dir = data_dir(dir, user.as_ref(), port);
    let argv = [
        &programs.join("postgres").display().to_string(),
        "-D",
        &data_dir.display().to_string(),
        "-p",
        &port.to_string(),
        "-c",
        "listen_addresses=127.0.0.1",
        // No Unix socket: its path may not be longer than about a hundred bytes, and ours may.
        "-c",
        "unix_socket_directories=",
        // Test binaries run at once, each with pools of its own.
        "-c",
        "max_connections=300",
    ];
    let daemon = Daemon {
        argv: argv.map(str::to_owned).to_vec(),
        env: environment(&[("HOME", data_dir.display().to_string())]),
        user,
        pid_file: dir.join("postgres.pid"),
        log_file: dir.join("postgres.log"),
    };
    Ok(Instance::program(
        Kind::Postgres,
        port,
        Program {
            data_dir,
            daemon,
            helper: None,
        },
    ))
}

/// Creates the data directory, once.
pub(crate) fn initialise(program: &Program) -> Result<()> {
    let Program {
        data_dir, daemon, ..
    } = program;
    if data_dir.join("PG_VERSION").exists() {
        return Ok(());
    }
    fs::create_dir_all(data_dir)?;
    if let Some(user) = &daemon.user {
        chown(data_dir, Some(user.uid), Some(user.gid))?;
    }
    let initdb = Path::new(&daemon.argv[0])
        .with_file_name("initdb")
        .display()
        .to_string();
    let data = data_dir.display().to_string();
    // The new files need not be synced; what the server writes later is.
    let options = [
        "-U",
        "postgres",
        "--auth=trust",
        "--encoding=UTF8",
        "--locale=C",
        "--no-sync",
        "-D",
        &data,
    ];
    let argv: Vec<String> = [initdb.as_str()]
        .into_iter()
        .chain(options)
        .map(str::to_owned)
        .collect();
    let output = daemon
        .command(&argv)
        .output()
        .with_context(|| format!("cannot run {initdb}"))?;
    if !output.status.success() {
        bail!(
            "initdb failed ({}):\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

/// Removes the lock file of a server that has ended with all its processes.
///
/// PostgreSQL does so by itself, unless the ended process still stands in the table of processes, as it does
/// where nobody reaps orphans.
pub(crate) fn forget_process(program: &Program) -> Result<()> {
    match fs::remove_file(program.data_dir.join("postmaster.pid")) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// PostgreSQL refuses to run as root; it then runs as `postgres`, which its package creates, or `nobody`.
fn account() -> Result<Option<User>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let found = ["postgres", "nobody"].into_iter().find_map(user);
    found
        .map(Some)
        .context("PostgreSQL does not run as root, and there is no user postgres or nobody")
}

fn user(name: &str) -> Option<User> {
    let id = |option| {
        let output = Command::new("id").args([option, name]).output().ok()?;
        String::from_utf8_lossy(&output.stdout).trim().parse().ok()
    };
    Some(User {
        name: name.to_owned(),
        uid: id("-u")?,
        gid: id("-g")?,
    })
}

/// Beside the others', or, when the account cannot reach that (a checkout in `/root`), among temporary files.
fn data_dir(dir: &Path, user: Option<&User>, port: u16) -> PathBuf {
    let reachable = user.is_none_or(|user| {
        use std::os::unix::process::CommandExt as _;
        let mut test = Command::new("test");
        test.arg("-x")
            .arg(dir)
            .uid(user.uid)
            .gid(user.gid)
            .current_dir("/");
        test.status().is_ok_and(|status| status.success())
    });
    if reachable {
        dir.join("postgres")
    } else {
        std::env::temp_dir().join(format!("leveret-xtask-postgres-{port}"))
    }
}
