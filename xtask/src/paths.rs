//! Where things are: the checkout, the directory for servers' data, this binary, programs on the `PATH`.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The root of the checkout this binary was built from.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies in the workspace root")
}

/// This binary, as a path that survives a rebuild.
pub(crate) fn this_binary() -> Result<PathBuf> {
    let path = env::current_exe().context("cannot find the xtask binary")?;
    // Linux says so when cargo has replaced the file since; the new one stands at the same path.
    Ok(path
        .to_str()
        .and_then(|path| path.strip_suffix(" (deleted)"))
        .map(PathBuf::from)
        .unwrap_or(path))
}

/// `target/xtask`, where servers keep their data.
pub(crate) fn data() -> Result<PathBuf> {
    let binary = this_binary()?;
    let target = binary
        .parent()
        .and_then(Path::parent)
        .context("the xtask binary is not in a target directory")?;
    Ok(target.join("xtask"))
}

/// The cargo that runs us, or the one on the `PATH`.
pub(crate) fn cargo() -> String {
    env::var("CARGO").unwrap_or_else(|_| "cargo".into())
}

/// A program on the `PATH`, or in a directory of system programs that a user's `PATH` may lack.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = [
        "/usr/sbin",
        "/sbin",
        "/usr/local/sbin",
        "/opt/homebrew/sbin",
    ]
    .map(PathBuf::from);
    env::split_paths(&path)
        .chain(system)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}
