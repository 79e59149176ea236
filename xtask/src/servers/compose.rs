//! A server in a container, for machines without `apt-get`: the services of `compose.yaml`, in a project and on
//! ports of its own.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::Kind;
use super::instance::{Backing, Instance};
use crate::paths;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Container {
    project: String,
    service: String,
    /// The variable by which `compose.yaml` takes the port, and the port.
    port_env: (String, String),
}

pub(crate) fn plan(dir: &Path, kind: Kind, port: u16) -> Instance {
    let name = kind.name();
    let fleet = dir.file_name().unwrap_or_default().to_string_lossy();
    let container = Container {
        // One project a server, so that its end is `down` and takes network and volume along.
        project: format!("leveret-{fleet}-{name}").to_lowercase(),
        service: name.to_owned(),
        port_env: (
            format!("LEVERET_{}_PORT", name.to_uppercase()),
            port.to_string(),
        ),
    };
    Instance {
        name: kind,
        port,
        url: kind.url(port),
        backing: Backing::Container(container),
    }
}

/// Whether `docker compose` is there and its daemon answers.
pub(crate) fn available() -> bool {
    let quiet = |args: &[&str]| {
        let mut command = Command::new("docker");
        let status = command
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        status.is_ok_and(|status| status.success())
    };
    quiet(&["compose", "version"]) && quiet(&["info"])
}

impl Container {
    pub(crate) fn start(&self) -> Result<()> {
        self.compose(&["up", "-d", "--wait", &self.service])
    }

    pub(crate) fn stop(&self) -> Result<()> {
        self.compose(&["stop", &self.service])
    }

    pub(crate) fn kill(&self) -> Result<()> {
        self.compose(&["kill", &self.service])
    }

    pub(crate) fn discard(&self) {
        if let Err(error) = self.compose(&["down", "--volumes", "--timeout", "0"]) {
            crate::say(format_args!("{error:#}"));
        }
    }

    /// Runs a program in the container.
    pub(crate) fn execute(&self, argv: &[&str]) -> Result<()> {
        self.compose(&[&["exec", "--no-TTY", &self.service], argv].concat())
    }

    fn compose(&self, args: &[&str]) -> Result<()> {
        let mut command = Command::new("docker");
        command
            .args(["compose", "--project-name", &self.project, "--file"])
            .arg(paths::root().join("compose.yaml"));
        command.args(args).env(&self.port_env.0, &self.port_env.1);
        // Standard output belongs to `export …` lines.
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let status = command.status().context("cannot run docker")?;
        if !status.success() {
            bail!("`docker compose {}` failed ({status})", args.join(" "));
        }
        Ok(())
    }
}
