//! Processes of one cluster, in a directory of their own.

use std::{
    collections::BTreeMap,
    net::TcpListener,
    os::unix::process::ExitStatusExt,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use rusqlite::{Connection, OpenFlags, types::Value as Sql};
use serde_json::Value;

use crate::support::{self, Directory, Ended, Server};

/// How long anything may take that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// How often a condition is looked at that another process brings about.
pub(crate) const POLL: Duration = Duration::from_millis(20);

/// A heart and nodes on a broker that others use, too.
pub(crate) struct Cluster {
    pub(crate) amqp: String,
    /// Where the heart is, started or not.
    pub(crate) heart_url: String,
    /// Hearts that nodes ask, with commas between, where these are more than that one.
    pub(crate) heart_urls: Option<String>,
    /// What exchange and queues are called.
    pub(crate) name: String,
    directory: Directory,
    http: reqwest::Client,
    heart: Option<Server>,
    nodes: BTreeMap<u32, Server>,
}

/// The broker of all tests; `None`, and said so, when the test is to be skipped for want of it.
pub(crate) fn shared_broker() -> Option<String> {
    let amqp = std::env::var("LEVERET_TEST_AMQP_URL").ok();
    if amqp.is_none() {
        println!("skipped: LEVERET_TEST_AMQP_URL is not set");
    }
    amqp
}

impl Cluster {
    /// A heart and so many nodes, live.
    pub(crate) async fn start(amqp: String, nodes: u32) -> Cluster {
        let mut cluster = Cluster::new(amqp);
        cluster.start_heart();
        for node in 1..=nodes {
            cluster.start_node(node);
        }
        cluster.until_settled(nodes as usize).await;
        cluster
    }

    /// Nothing started yet.
    pub(crate) fn new(amqp: String) -> Cluster {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Cluster {
            amqp,
            heart_url: free_url(),
            heart_urls: None,
            name: format!("bc-{}-{count}", std::process::id()),
            directory: Directory::new(),
            http: client(),
            heart: None,
            nodes: BTreeMap::new(),
        }
    }

    pub(crate) fn start_heart(&mut self) {
        self.heart = Some(Server::start(&as_strs(&self.heart_args())));
    }

    fn heart_args(&self) -> Vec<String> {
        let listen = self.heart_url.trim_start_matches("http://").to_owned();
        let log = format!("sqlite:{}/heart.db", self.directory.path());
        let exchange = self.exchange();
        let args = ["heart", "--broker", &self.amqp, "--listen", &listen];
        let names = ["--exchange", &exchange, "--queue-name", &self.name];
        let rest = ["--write-log", &log, "--log", LOG];
        let all = [&args[..], &names, &rest].concat();
        all.into_iter().map(str::to_owned).collect()
    }

    /// Runs a heart until it ends at a crash point, `NAME:N`.
    pub(crate) async fn crash_heart(&self, at: &str) {
        crashes(&self.heart_args(), at).await;
    }

    /// Runs a node until it ends at a crash point.
    pub(crate) async fn crash_node(&self, node: u32, at: &str) {
        crashes(&self.node_args(node, &self.file(node)), at).await;
    }

    /// Takes this process for the heart, at its address.
    pub(crate) fn put_heart(&mut self, heart: Server) {
        self.heart_url = heart.url();
        self.heart = Some(heart);
    }

    /// Asks the heart to stop, and waits for it.
    pub(crate) fn stop_heart(&mut self) {
        let heart = self.heart.take().expect("the heart runs");
        heart.terminate();
        assert_eq!(heart.wait().0, Some(0), "the heart drains");
    }

    pub(crate) fn kill_heart(&mut self) {
        self.heart.take().expect("the heart runs").kill();
    }

    pub(crate) fn exchange(&self) -> String {
        format!("{}-fanout", self.name)
    }

    pub(crate) fn queue(&self, node: u32) -> String {
        format!("{}_node_{node}", self.name)
    }

    /// A file in the cluster's directory.
    pub(crate) fn beside(&self, name: &str) -> String {
        format!("{}/{name}", self.directory.path())
    }

    /// The file of a node.
    pub(crate) fn file(&self, node: u32) -> String {
        format!("{}/node-{node}.db", self.directory.path())
    }

    /// The command line of a node with this file.
    pub(crate) fn node_args(&self, node: u32, file: &str) -> Vec<String> {
        self.node_args_on(node, &format!("sqlite:{file}"))
    }

    /// The command line of a node with this database.
    pub(crate) fn node_args_on(&self, node: u32, database: &str) -> Vec<String> {
        let (exchange, node) = (self.exchange(), node.to_string());
        let args = ["node", "--node-id", &node, "--database", database];
        let hearts = self.heart_urls.as_ref().unwrap_or(&self.heart_url);
        let heart = ["--heart", hearts, "--broker", &self.amqp];
        let names = ["--exchange", &exchange, "--queue-name", &self.name];
        let all = [&args[..], &heart, &names, &["--log", LOG]].concat();
        all.into_iter().map(str::to_owned).collect()
    }

    pub(crate) fn start_node(&mut self, node: u32) {
        let args = self.node_args(node, &self.file(node));
        self.add(node, Server::start(&as_strs(&args)));
    }

    pub(crate) fn add(&mut self, node: u32, server: Server) {
        self.nodes.insert(node, server);
    }

    /// Starts a node that cannot make any of its files longer than so many KiB: a full disk.
    pub(crate) fn start_node_on_full_disk(&mut self, node: u32, kib: u32) {
        let mut command = Command::new("bash");
        let script = format!("trap '' XFSZ; ulimit -f {kib}; exec \"$0\" \"$@\"");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_leveret")]);
        command.args(self.node_args(node, &self.file(node)));
        self.add(node, Server::of(command));
    }

    pub(crate) fn kill_node(&mut self, node: u32) {
        self.take(node).kill();
    }

    pub(crate) fn take(&mut self, node: u32) -> Server {
        self.nodes.remove(&node).expect("the node runs")
    }

    /// Asks a node to stop, and waits for it.
    pub(crate) fn stop_node(&mut self, node: u32) {
        let server = self.take(node);
        server.terminate();
        assert_eq!(server.wait().0, Some(0), "node {node} drains");
    }

    /// `leveret cluster …`
    pub(crate) fn operator(&self, args: &[&str]) -> Ended {
        let hearts = self.heart_urls.as_ref().unwrap_or(&self.heart_url);
        support::leveret(&[&["cluster", "--heart", hearts, "--json"], args].concat())
    }

    /// What the heart says of the cluster; `None` while it does not answer.
    pub(crate) async fn status(&self) -> Option<Value> {
        let answer = self
            .http
            .get(format!("{}/status", self.heart_url))
            .send()
            .await;
        answer.ok()?.json().await.ok()
    }

    /// Waits until so many nodes are live and have applied all of the log.
    pub(crate) async fn until_settled(&self, nodes: usize) {
        self.until("all nodes are live and at the end of the log", |status| {
            let all = status["nodes"].as_array().map_or(&[][..], Vec::as_slice);
            let is_there =
                |node: &Value| node["state"] == "live" && node["position"] == status["last_seq"];
            status["state"] == "active" && all.len() == nodes && all.iter().all(is_there)
        })
        .await;
    }

    /// Waits until a node is in a state.
    pub(crate) async fn until_state(&self, node: u32, state: &str) {
        let node_id = node.to_string();
        self.until(&format!("node {node} is {state}"), |status| {
            let all = status["nodes"].as_array().map_or(&[][..], Vec::as_slice);
            let is_it = |of: &Value| of["node_id"] == node_id && of["state"] == state;
            all.iter().any(is_it)
        })
        .await;
    }

    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status().await;
            if status.as_ref().is_some_and(&holds) {
                return;
            }
            assert!(Instant::now() < deadline, "not in time: {what}: {status:?}");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Compares contents as an operator does, stops everything, and compares the files. Returns the dump of the first node.
    pub(crate) async fn assert_equal(mut self) -> Dump {
        let running: Vec<u32> = self.nodes.keys().copied().collect();
        self.until_settled(running.len()).await;
        let verified = self.operator(&["verify"]);
        assert_eq!(verified.code, Some(0), "{verified:?}");
        for node in &running {
            self.stop_node(*node);
        }
        self.stop_heart();
        let dumps: Vec<Dump> = running.iter().map(|node| dump(&self.file(*node))).collect();
        for (node, other) in running.iter().zip(&dumps).skip(1) {
            assert!(
                *other == dumps[0],
                "node {node} differs from node {}",
                running[0]
            );
        }
        self.forget(&running).await;
        dumps.into_iter().next().expect("there is a node")
    }

    /// Removes what was made at the broker. What fails is the broker's, which goes with the tests.
    async fn forget(&self, nodes: &[u32]) {
        let Ok(broker) = leveret::broker::connect(&self.amqp).await else {
            return;
        };
        for node in nodes {
            let queue = self.queue(*node);
            drop(broker.delete_queue(&format!("{queue}.dlq")).await);
            drop(broker.delete_queue(&queue).await);
        }
        drop(broker.delete_queue(&format!("{}_heart", self.name)).await);
        drop(broker.delete_exchange(&self.exchange()).await);
        broker.close().await;
    }
}

/// Warnings would be many where things are broken on purpose.
pub(crate) const LOG: &str = "error,lapin=off";

/// An HTTP client.
pub(crate) fn client() -> reqwest::Client {
    // An error only says that a provider is installed already.
    drop(rustls::crypto::ring::default_provider().install_default());
    reqwest::Client::new()
}

/// The tables of users: names and definitions, and all rows with their row ids.
pub(crate) type Dump = BTreeMap<String, (String, Vec<Vec<Sql>>)>;

/// Reads a database that nobody has open.
pub(crate) fn dump(file: &str) -> Dump {
    let connection = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap();
    let tables = "SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE '\\_leveret\\_%' ESCAPE '\\'
        AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'";
    let mut statement = connection.prepare(tables).unwrap();
    let tables = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
    let tables: Vec<(String, String)> = tables.unwrap().collect::<Result<_, _>>().unwrap();
    let rows = |table: &str| {
        let sql = format!("SELECT rowid, * FROM \"{table}\" ORDER BY rowid");
        let mut statement = connection.prepare(&sql).unwrap();
        let columns = statement.column_count();
        let rows = statement.query_map([], |row| (0..columns).map(|at| row.get(at)).collect());
        rows.unwrap().collect::<Result<_, _>>().unwrap()
    };
    tables
        .into_iter()
        .map(|(name, sql)| {
            let rows = rows(&name);
            (name, (sql, rows))
        })
        .collect()
}

pub(crate) fn as_strs(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

/// An address that nobody listens on now.
pub(crate) fn free_url() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// Starts a process that is expected to end by itself, and waits for that within a bound.
pub(crate) fn ends_within(args: &[String], bound: Duration) -> Ended {
    let mut command = support::command(&as_strs(args));
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child: Child = child.spawn().unwrap();
    let deadline = Instant::now() + bound;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("{args:?} did not end within {bound:?}");
        }
        std::thread::sleep(POLL);
    }
    let output = child.wait_with_output().unwrap();
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs `leveret` with these arguments until it is at a crash point, where it must end by SIGKILL.
async fn crashes(args: &[String], at: &str) {
    let mut child = support::command(&as_strs(args))
        .env("LEVERET_CRASH_AT", at)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let end = Instant::now() + PATIENCE;
    let ended = loop {
        if let Some(ended) = child.try_wait().unwrap() {
            break ended;
        }
        if Instant::now() > end {
            child.kill().unwrap();
            panic!("it does not come to {at}");
        }
        tokio::time::sleep(POLL).await;
    };
    assert_eq!(ended.signal(), Some(9), "{at}: {ended}");
}
