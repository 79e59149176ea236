//! What checks files that are for others: manifests of Kubernetes against its schemas, `compose.yaml` against its own. Two packages of Python, in
//! an environment beside the servers' data.

use std::path::PathBuf;
use std::process::Command;
use std::{fs, io};

use anyhow::{Context as _, Result, bail};

use crate::{paths, say};

/// Names the environment's Python to the tests.
pub(crate) const ENV: &str = "LEVERET_TEST_VALIDATORS";

/// The releases that are installed.
const PACKAGES: [&str; 2] = ["kubernetes-validate==1.37.0", "compose-spec==0.2.1"];
/// The environment; another name for other releases.
const DIR: &str = "validators-1";
/// In its directory when it is installed as a whole.
const INSTALLED: &str = "installed";

/// Their Python, installed if need be; none where it cannot be: tests that need it are skipped then.
pub(crate) fn ensure() -> Option<PathBuf> {
    match install() {
        Ok(python) => Some(python),
        Err(error) => {
            say(format_args!(
                "manifests are not checked against their schemas: {error:#}"
            ));
            None
        }
    }
}

fn install() -> Result<PathBuf> {
    let dir = paths::data()?.join(DIR);
    let python = dir.join("bin").join("python");
    if dir.join(INSTALLED).is_file() {
        return Ok(python);
    }
    say(format_args!("installing {} with pip", PACKAGES.join(" ")));
    match fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let system = paths::program("python3").context("python3 is not installed")?;
    run(Command::new(system).args(["-m", "venv"]).arg(&dir))?;
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "--disable-pip-version-check", "install"]);
    run(pip.arg("--quiet").args(PACKAGES))?;
    fs::write(dir.join(INSTALLED), "")?;
    Ok(python)
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.stdout(io::stderr()).status();
    let name = command.get_program().display().to_string();
    let status = status.with_context(|| format!("cannot run {name}"))?;
    if !status.success() {
        bail!("`{name} {:?}` failed ({status})", command.get_args());
    }
    Ok(())
}
