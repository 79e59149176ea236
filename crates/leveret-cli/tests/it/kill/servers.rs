//! Where a test works: the servers it is given, or some of its own, which it may break; always a database of its own.

use std::{path::PathBuf, process::Command};

use tokio_postgres::{Client, NoTls};

const AMQP: &str = "LEVERET_TEST_AMQP_URL";
const POSTGRES: &str = "LEVERET_TEST_POSTGRES_URL";
const SERVERS: &str = "LEVERET_TEST_SERVERS";
const XTASK: &str = "LEVERET_TEST_XTASK";

/// The value of a variable; `None`, and said so, when the test is to be skipped for want of it.
fn given(variable: &str) -> Option<String> {
    let value = std::env::var(variable).ok();
    if value.is_none() {
        println!("skipped: {variable} is not set");
    }
    value
}

/// A broker and a database.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) amqp: String,
    pub(crate) postgres: String,
    /// Of all names at the broker.
    pub(crate) prefix: String,
    server: String,
    database: String,
}

impl Place {
    /// On the servers of all tests. `None`: there are none, and the test is skipped.
    pub(crate) async fn shared(name: &str) -> Option<Place> {
        let (amqp, postgres) = (given(AMQP)?, given(POSTGRES)?);
        Some(Place::new(name, amqp, postgres).await)
    }

    /// On servers that the test may break, and those of all tests for the others. `None`: the test is skipped.
    pub(crate) async fn private(name: &str, kinds: &[&str]) -> Option<(Place, Servers)> {
        let (xtask, amqp, postgres) = (given(XTASK)?, given(AMQP)?, given(POSTGRES)?);
        let kinds: Vec<String> = kinds.iter().map(|&kind| kind.to_owned()).collect();
        let servers = tokio::task::spawn_blocking(move || Servers::up(xtask, &kinds))
            .await
            .expect("no panic");
        let own = |variable: &str, else_: String| servers.exported(variable).unwrap_or(else_);
        let place = Place::new(name, own(AMQP, amqp), own(POSTGRES, postgres)).await;
        Some((place, servers))
    }

    async fn new(name: &str, amqp: String, server: String) -> Place {
        let id = std::process::id();
        let database = format!("kill_{}_{id}", name.replace('-', "_"));
        execute(&server, &format!("CREATE DATABASE {database}")).await;
        let (base, _) = server.rsplit_once('/').expect("the URL names a database");
        Place {
            amqp,
            postgres: format!("{base}/{database}"),
            prefix: format!("{name}-{id}."),
            server,
            database,
        }
    }

    /// Removes the database.
    pub(crate) async fn remove(self) {
        let drop = format!("DROP DATABASE {} WITH (FORCE)", self.database);
        execute(&self.server, &drop).await;
    }
}

async fn execute(url: &str, sql: &str) {
    let client = client(url).await;
    client.batch_execute(sql).await.expect("PostgreSQL obeys");
}

async fn client(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls)
        .await
        .expect("PostgreSQL answers");
    tokio::spawn(connection);
    client
}

/// Servers of a test's own, stopped and removed when dropped.
#[derive(Debug)]
pub(crate) struct Servers {
    xtask: PathBuf,
    /// `NAME='value'`
    exports: Vec<(String, String)>,
}

impl Servers {
    fn up(xtask: String, kinds: &[String]) -> Servers {
        let mut command = Command::new(&xtask);
        command.args(["servers", "up", "--private"]).args(kinds);
        let output = command.output().expect("xtask starts");
        assert!(output.status.success(), "{output:?}");
        let stdout = String::from_utf8(output.stdout).expect("text");
        let export = |line: &str| {
            let (name, value) = line.strip_prefix("export ")?.split_once('=')?;
            Some((name.to_owned(), value.trim_matches('\'').to_owned()))
        };
        Servers {
            xtask: xtask.into(),
            exports: stdout.lines().filter_map(export).collect(),
        }
    }

    fn exported(&self, variable: &str) -> Option<String> {
        let mut exports = self.exports.iter();
        exports
            .find(|(name, _)| name == variable)
            .map(|(_, value)| value.clone())
    }

    /// Gives an order, such as `kill rabbitmq`, and waits until it is done.
    pub(crate) async fn order(&self, order: &str, server: &str) {
        self.perform(&[order, server]).await;
    }

    /// As `rabbitmqctl`.
    pub(crate) async fn rabbitmqctl(&self, arguments: &[&str]) {
        self.perform(&[&["ctl"], arguments].concat()).await;
    }

    async fn perform(&self, arguments: &[&str]) {
        let mut command = self.command(arguments);
        let output = tokio::task::spawn_blocking(move || command.output())
            .await
            .expect("no panic")
            .expect("xtask starts");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.xtask);
        let file = self.exported(SERVERS).expect("servers are described");
        command.env(SERVERS, file).arg("servers").args(arguments);
        command
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        // What fails here is cleaned up with the servers of all tests.
        drop(self.command(&["down"]).output());
    }
}
