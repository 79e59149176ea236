//! A private server that speaks MongoDB's protocol: SecantusDB, which is a package of Python and so is quickly there on any machine. It stands
//! alone, without a replica set, and syncs each write to the disk.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use anyhow::{Context as _, Result, bail};

use super::Kind;
use super::instance::{Daemon, Instance, Program, environment};
use crate::{paths, say};

/// The release that is installed.
const VERSION: &str = "0.7.0b3";
/// In its directory when it is installed as a whole.
const INSTALLED: &str = "installed";

/// An environment of Python's, kept beside the servers' data.
fn environment_dir() -> Result<PathBuf> {
    Ok(paths::data()?.join(format!("secantusdb-{VERSION}")))
}

pub(crate) fn program() -> Option<PathBuf> {
    let dir = environment_dir().ok()?;
    let program = dir.join("bin").join("secantusd-py");
    (dir.join(INSTALLED).is_file() && program.is_file()).then_some(program)
}

/// Installs it with pip. Needs Python with its module `venv`.
pub(crate) fn install() -> Result<()> {
    let dir = environment_dir()?;
    say(format_args!("installing secantusdb {VERSION} with pip"));
    match fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let python = paths::program("python3").context("python3 is not installed")?;
    run(Command::new(python).args(["-m", "venv"]).arg(&dir))?;
    let mut pip = Command::new(dir.join("bin").join("python"));
    pip.args([
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
        "--quiet",
    ]);
    run(pip.arg(format!("secantusdb=={VERSION}")))?;
    fs::write(dir.join(INSTALLED), "")?;
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    // Standard output belongs to `export …` lines.
    let status = command.stdout(io::stderr()).status();
    let name = command.get_program().display().to_string();
    let status = status.with_context(|| format!("cannot run {name}"))?;
    if !status.success() {
        bail!("`{name} {:?}` failed ({status})", command.get_args());
    }
    Ok(())
}

pub(crate) fn plan(dir: &Path, port: u16) -> Result<Instance> {
    let program = program().context("secantusdb is not installed")?;
    let data_dir = dir.join("mongodb");
    let options =
        format!("--standalone --sync-on-commit --log-level WARNING --host 127.0.0.1 --port {port}");
    let mut argv = vec![program.display().to_string()];
    argv.extend(options.split(' ').map(str::to_owned));
    argv.extend(["--storage-path".to_owned(), data_dir.display().to_string()]);
    let daemon = Daemon {
        argv,
        // Where it would look for a configuration of the user's.
        env: environment(&[("HOME", dir.display().to_string())]),
        user: None,
        pid_file: dir.join("mongodb.pid"),
        log_file: dir.join("mongodb.log"),
    };
    Ok(Instance::program(
        Kind::MongoDb,
        port,
        Program {
            data_dir,
            daemon,
            helper: None,
        },
    ))
}
