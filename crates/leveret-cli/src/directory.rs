//! A directory of this process for what nobody keeps.

use std::path::{Path, PathBuf};

use anyhow::Context;

/// A directory that only this user can read, removed when dropped.
#[derive(Debug)]
pub(crate) struct PrivateDirectory(PathBuf);

impl PrivateDirectory {
    pub(crate) fn new() -> anyhow::Result<PrivateDirectory> {
        let name = format!("leveret-{}-{:016x}", std::process::id(), fastrand::u64(..));
        let path = std::env::temp_dir().join(name);
        make(&path)
            .with_context(|| format!("cannot make the temporary directory {}", path.display()))?;
        Ok(PrivateDirectory(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

#[cfg(unix)]
fn make(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().mode(0o700).create(path)
}

#[cfg(not(unix))]
fn make(path: &Path) -> std::io::Result<()> {
    std::fs::create_dir(path)
}

impl Drop for PrivateDirectory {
    fn drop(&mut self) {
        // Left behind at worst, and then the system's to clean up.
        drop(std::fs::remove_dir_all(&self.0));
    }
}
