//! The servers of one directory, and the file that describes them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;
use std::{fs, thread};

use anyhow::{Context as _, Result, anyhow};
use serde::{Deserialize, Serialize};

use super::instance::{Backing, CLOSING, Instance};
use super::{Kind, SERVERS_ENV, compose, mongodb, postgres, rabbitmq, redis};
use crate::install::Source;
use crate::{paths, ports, say};

/// Servers that live and end together.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Fleet {
    pub(crate) dir: PathBuf,
    pub(crate) servers: Vec<Instance>,
}

impl Fleet {
    /// The file that describes the servers of a directory.
    pub(crate) fn file_in(dir: &Path) -> PathBuf {
        dir.join("servers.json")
    }

    /// Describes servers in a fresh directory; what an earlier fleet left there goes.
    ///
    /// The description is on the disk before anything runs, so that a crash leaves no server unknown.
    pub(crate) fn plan(dir: &Path, kinds: &[Kind], source: &Source) -> Result<Self> {
        remove(dir);
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let mut ports = ports::free(2 * kinds.len())?.into_iter();
        let mut next_port = || ports.next().expect("two ports for each server");
        let servers = kinds
            .iter()
            .map(|&kind| match (source, kind) {
                (Source::Compose, _) => Ok(compose::plan(dir, kind, next_port())),
                (Source::Programs, Kind::RabbitMq) => rabbitmq::plan(dir, next_port(), next_port()),
                (Source::Programs, Kind::Postgres) => postgres::plan(dir, next_port()),
                (Source::Programs, Kind::Redis) => redis::plan(dir, next_port()),
                (Source::Programs, Kind::MongoDb) => mongodb::plan(dir, next_port()),
            })
            .collect::<Result<_>>()?;
        let fleet = Self {
            dir: dir.to_owned(),
            servers,
        };
        fs::write(Self::file_in(dir), serde_json::to_string_pretty(&fleet)?)?;
        Ok(fleet)
    }

    pub(crate) fn load(file: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        serde_json::from_str(&text)
            .with_context(|| format!("{} does not describe servers", file.display()))
    }

    pub(crate) fn get(&self, kind: Kind) -> Result<&Instance> {
        let found = self.servers.iter().find(|server| server.name == kind);
        found.with_context(|| {
            format!(
                "there is no {} among the servers of {}",
                kind.name(),
                self.dir.display()
            )
        })
    }

    /// Starts those that do not run, all at once, and waits until each of them answers.
    pub(crate) fn start(&self) -> Result<()> {
        let begun = Instant::now();
        let results: Vec<Result<()>> = thread::scope(|scope| {
            let threads: Vec<_> = self
                .servers
                .iter()
                .map(|server| scope.spawn(|| server.start()))
                .collect();
            threads
                .into_iter()
                .map(|thread| {
                    thread
                        .join()
                        .map_err(|_| anyhow!("a starting thread panicked"))?
                })
                .collect()
        });
        results.into_iter().collect::<Result<()>>()?;
        say(format_args!(
            "servers are up after {:.1} s",
            begun.elapsed().as_secs_f32()
        ));
        Ok(())
    }

    /// What a test needs to find the servers.
    pub(crate) fn variables(&self) -> Result<Vec<(&'static str, String)>> {
        let mut variables: Vec<_> = self
            .servers
            .iter()
            .map(|server| (server.name.url_env(), server.url.clone()))
            .collect();
        variables.push((SERVERS_ENV, Self::file_in(&self.dir).display().to_string()));
        variables.push((
            "LEVERET_TEST_XTASK",
            paths::this_binary()?.display().to_string(),
        ));
        Ok(variables)
    }

    /// The same as lines for a shell.
    pub(crate) fn exports(&self) -> Result<String> {
        let mut lines = String::new();
        for (name, value) in self.variables()? {
            writeln!(lines, "export {name}='{}'", value.replace('\'', r"'\''"))?;
        }
        Ok(lines)
    }
}

/// Ends every fleet in a directory and below it, and removes the directory. Idempotent.
///
/// A description that cannot be read is passed over: the directory goes all the same.
pub(crate) fn remove(dir: &Path) {
    for fleet in fleets_below(dir) {
        if let Err(error) = fs::write(fleet.dir.join(CLOSING), "") {
            say(format_args!(
                "cannot mark {} as closing: {error}",
                fleet.dir.display()
            ));
        }
        thread::scope(|scope| {
            for server in &fleet.servers {
                scope.spawn(|| server.discard());
            }
        });
        for server in &fleet.servers {
            if let Backing::Program(program) = &server.backing {
                remove_dir(&program.data_dir);
            }
        }
    }
    remove_dir(dir);
}

fn remove_dir(dir: &Path) {
    match fs::remove_dir_all(dir) {
        Err(error) if dir.exists() => say(format_args!("cannot remove {}: {error}", dir.display())),
        _ => {}
    }
}

/// A fleet lies in its directory, a private one in a directory of that.
fn fleets_below(dir: &Path) -> Vec<Fleet> {
    let below = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    below
        .chain([dir.to_owned()])
        .map(|dir| Fleet::file_in(&dir))
        .filter(|file| file.exists())
        .filter_map(|file| Fleet::load(&file).ok())
        .collect()
}
