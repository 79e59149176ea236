//! The command lines of `leveret heart`, `node` and `cluster`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

pub(crate) const HEART_EXAMPLES: &str = "\
The file has lines of `key: value`: broker, exchange, queue_name, listen, write_log, data, token,
api_tokens, api_hosts, log_bytes_max, log_age_max, queue_messages_max. Flags and LEVERET_* go over it; leveret.toml is not read.
Several hearts on one write log in PostgreSQL: one is active, the others stand by.

Exit codes: 0 stopped as asked, 1 the log or the broker cannot be used, 2 a mistake in what was given.

Examples:
  leveret heart --config heart.yaml
  leveret heart --broker amqp://localhost --write-log sqlite:heart.db
  leveret heart --embedded --nodes 3 --data broadcast --listen 127.0.0.1:7090
";

/// A heart.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct HeartArgs {
    /// The log of writes: sqlite:PATH or postgres://… [default: sqlite:heart.db]
    #[arg(
        long,
        value_name = "URL",
        env = "LEVERET_WRITE_LOG",
        hide_env_values = true
    )]
    pub(crate) write_log: Option<String>,

    #[command(flatten)]
    pub(crate) shared: SharedArgs,

    /// Everything in this process: the heart, its nodes and the broker, in --data
    #[arg(long)]
    pub(crate) embedded: bool,

    /// With --embedded, how many nodes
    #[arg(long, value_name = "N", default_value_t = 3, requires = "embedded", value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(crate) nodes: u16,
}

/// What heart and node have in common.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct SharedArgs {
    /// The fanout exchange [default: write_requests_fanout]
    #[arg(
        long,
        value_name = "NAME",
        env = "LEVERET_EXCHANGE",
        hide_env_values = true
    )]
    pub(crate) exchange: Option<String>,

    /// What names of queues begin with [default: write_requests]
    #[arg(
        long,
        value_name = "NAME",
        env = "LEVERET_QUEUE_NAME",
        hide_env_values = true
    )]
    pub(crate) queue_name: Option<String>,
}

pub(crate) const NODE_EXAMPLES: &str = "\
The file has lines of `key: value`: node_id, database, heart (a URL or a list), broker, exchange, queue_name, listen, advertise, data,
token, api_tokens, api_hosts, seed. Flags and LEVERET_* go over it; leveret.toml is not read.

Exit codes: 0 stopped as asked or removed from the cluster, 1 the name is another node's or the database cannot be used, 2 a mistake in
what was given.

Examples:
  leveret node --config node.yaml
  leveret node --node-id 1 --database sqlite:node-1.db --heart http://127.0.0.1:7090 --broker amqp://localhost
  leveret node --config node.yaml --seed          the tables that are there are the beginning of a cluster
";

/// A node.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct NodeArgs {
    /// The node's name, unique in its cluster
    #[arg(
        long,
        value_name = "NAME",
        env = "LEVERET_NODE_ID",
        hide_env_values = true
    )]
    pub(crate) node_id: Option<String>,

    /// Its database: sqlite:PATH or postgres://…
    #[arg(
        long,
        value_name = "URL",
        env = "LEVERET_DATABASE",
        hide_env_values = true
    )]
    pub(crate) database: Option<String>,

    /// Its heart; several, with commas between them, of which one is active
    #[arg(
        long,
        value_name = "URL",
        env = "LEVERET_HEART",
        hide_env_values = true,
        value_delimiter = ','
    )]
    pub(crate) heart: Vec<String>,

    /// Where the heart reaches it [default: http://LISTEN]
    #[arg(
        long,
        value_name = "URL",
        env = "LEVERET_ADVERTISE",
        hide_env_values = true
    )]
    pub(crate) advertise: Option<String>,

    /// A database that has tables is the beginning of the cluster; without this it is refused
    #[arg(long)]
    pub(crate) seed: bool,

    #[command(flatten)]
    pub(crate) shared: SharedArgs,
}

pub(crate) const CLUSTER_EXAMPLES: &str = "\
Exit codes: 0 done and equal, 1 nodes differ or it cannot be done, 2 a mistake in what was given.

Examples:
  leveret cluster status
  leveret cluster verify --json
  leveret cluster rebuild 2 --heart http://10.0.0.1:7090
";

/// A cluster's heart, and what to do there.
#[derive(Args, Clone, Debug)]
pub(crate) struct ClusterArgs {
    #[command(subcommand)]
    pub(crate) command: ClusterCommand,

    /// The heart; several, with commas between them, of which one is active
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "LEVERET_HEART",
        hide_env_values = true,
        value_delimiter = ',',
        default_value = "http://127.0.0.1:7090"
    )]
    pub(crate) heart: Vec<String>,
}

/// What to do at a cluster.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum ClusterCommand {
    /// Show the log and the nodes
    #[command(after_help = "Examples:\n  leveret cluster status --json")]
    Status,
    /// Compare the contents of all nodes at one write; nodes that differ are quarantined
    #[command(
        after_help = "Exit codes: 0 all are equal, 1 not.\n\nExamples:\n  leveret cluster verify"
    )]
    Verify,
    /// Copy the contents of a node to a file: a SQLite database, checked
    #[command(after_help = "Examples:\n  leveret cluster snapshot --to backup.db")]
    Snapshot {
        /// The file
        #[arg(long, value_name = "FILE", default_value = "snapshot.db")]
        to: PathBuf,
    },
    /// Put the contents of the others in the place of a node's, and wait until it serves
    #[command(after_help = "Examples:\n  leveret cluster rebuild 2")]
    Rebuild {
        /// The node
        node: String,
    },
    /// Make a node no member any more; its queue is deleted
    #[command(after_help = "Examples:\n  leveret cluster remove 2")]
    Remove {
        /// The node
        node: String,
    },
    /// Go on with a log that is lost, or older than what nodes have applied
    #[command(after_help = "Examples:\n  leveret cluster recover")]
    Recover,
}

pub(crate) const BENCH_BROADCAST_EXAMPLES: &str = "\
applied/s: writes of all clients at level `accepted` a second, until the last node has applied the last one. A write counts once, not once
a node, and every node is looked at for all rows in the end. bare/s: the same statements by one thread into a log and as many SQLite files,
one after the other, 64 writes a commit; a write counts once, too. Nodes apply at the same time, and take what has arrived in one commit
(applied/commit), so that applied/s may be above bare/s.

Without --broker, messages go through this process's memory. On RabbitMQ, exchange and queues have names of their own and are removed
at the end.

Examples:
  leveret bench broadcast --nodes 3 --json
  leveret bench broadcast --nodes 3 --broker amqp://localhost
";

/// A cluster to measure.
#[derive(Args, Clone, Debug)]
pub(crate) struct BroadcastArgs {
    /// Nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=20))]
    pub(crate) nodes: u16,

    /// Writes that are measured, after a tenth of them as a warm-up
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) writes: u32,

    /// Clients that write at the same time
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) clients: u32,
}
