//! Finds the servers' programs, or gets them.

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::servers::{Kind, compose, mongodb};
use crate::{paths, say};

/// Where servers come from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Programs of this machine.
    Programs,
    /// Containers of `compose.yaml`.
    Compose,
}

/// Makes sure that the servers can be started, and says from where.
///
/// What is missing is installed with `apt-get` where that exists, as root or through sudo, or with `pip`. Elsewhere,
/// or when that fails, all servers run in docker.
pub(crate) fn ensure(kinds: &[Kind]) -> Result<Source> {
    let missing = || -> Vec<Kind> {
        kinds
            .iter()
            .copied()
            .filter(|kind| !kind.installed())
            .collect()
    };
    if missing().is_empty() {
        return Ok(Source::Programs);
    }
    let pip = || {
        if missing().contains(&Kind::MongoDb)
            && let Err(error) = mongodb::install()
        {
            say(format_args!("{error:#}"));
        }
    };
    pip();
    if missing().is_empty() {
        return Ok(Source::Programs);
    }
    if paths::program("apt-get").is_some() {
        // The verdict is whether the programs are there: a package whose own service cannot start here (there
        // may be no service manager) makes apt-get fail, and is no less usable for us.
        let failed = apt_get(&missing()).err();
        pip();
        if missing().is_empty() {
            return Ok(Source::Programs);
        }
        if let Some(error) = failed {
            say(format_args!("{error:#}"));
        }
    }
    if compose::available() {
        say("the servers run in docker");
        return Ok(Source::Compose);
    }
    let names: Vec<_> = missing().into_iter().map(package).collect();
    bail!(
        "cannot find {0}. Install {0}, or start docker, or name running servers in {1}",
        names.join(", "),
        missing()
            .into_iter()
            .map(Kind::url_env)
            .collect::<Vec<_>>()
            .join(", ")
    )
}

fn package(kind: Kind) -> &'static str {
    match kind {
        Kind::RabbitMq => "rabbitmq-server",
        Kind::Postgres => "postgresql",
        Kind::Redis => "redis-server",
        // What installs it.
        Kind::MongoDb => "python3-venv",
    }
}

fn apt_get(kinds: &[Kind]) -> Result<()> {
    let mut packages: Vec<_> = kinds.iter().copied().map(package).collect();
    if kinds.contains(&Kind::Postgres) {
        // One test puts it before the server, and is skipped without.
        packages.push("pgbouncer");
    }
    say(format_args!(
        "installing {} with apt-get",
        packages.join(" ")
    ));
    // An outdated list may still do.
    if let Err(error) = privileged(&["update"]) {
        say(format_args!("{error:#}; going on"));
    }
    privileged(&[&["install", "-y", "--no-install-recommends"], &packages[..]].concat())
}

/// Runs apt-get as root. Another apt-get is waited for.
fn privileged(args: &[&str]) -> Result<()> {
    let mut line = vec!["sudo", "env"];
    if rustix::process::geteuid().is_root() {
        line.remove(0);
    } else if paths::program("sudo").is_none() {
        bail!("apt-get needs root, and there is no sudo");
    }
    // Run level 1 asks the packages not to start their services: we start our own.
    line.extend([
        "DEBIAN_FRONTEND=noninteractive",
        "RUNLEVEL=1",
        "apt-get",
        "-o",
        "DPkg::Lock::Timeout=300",
    ]);
    line.extend(args);
    let mut command = Command::new(line[0]);
    // Standard output belongs to `export …` lines.
    command.args(&line[1..]).stdout(std::io::stderr());
    let status = command
        .status()
        .with_context(|| format!("cannot run {}", line[0]))?;
    if !status.success() {
        bail!("`{}` failed ({status})", line.join(" "));
    }
    Ok(())
}
