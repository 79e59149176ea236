//! The command line. What each command does is in `commands/`.

use std::path::PathBuf;

use clap::{Arg, Args, Parser, Subcommand};
use clap_complete::Shell;
use leveret_core::ids::{EventName, IdError, NodeId, RunId, ScheduleId, SignalId, WorkflowId};

use crate::{
    broadcast::args::{
        BENCH_BROADCAST_EXAMPLES, BroadcastArgs, CLUSTER_EXAMPLES, ClusterArgs, HEART_EXAMPLES,
        HeartArgs, NODE_EXAMPLES, NodeArgs,
    },
    settings::{Settings, Span, Status},
};

/// Runs workflows durably: in one process on a SQLite file, or across machines on RabbitMQ and PostgreSQL.
#[derive(Parser, Debug)]
#[command(name = "leveret", version, after_help = AFTER_HELP, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,

    /// Print data as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) settings: Settings,
}

const AFTER_HELP: &str = "\
Exit codes: 0 completed, 1 failed (a run, a connection), 2 what was given is not valid.
Secrets for secret(\"NAME\") in workflows come from variables LEVERET_SECRET_NAME.

Examples:
  leveret demo                                    300 orders through an example workflow, in seconds
  leveret run examples/workflows/hello.yaml       run a file to its end
  leveret up                                      API, worker and timers in one process
";

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Run a workflow file to its end, once or once per line of a file
    #[command(after_help = RUN_EXAMPLES)]
    Run(RunArgs),

    /// Check workflow files
    #[command(after_help = CHECK_EXAMPLES)]
    Check(CheckArgs),

    /// Draw a workflow as a Mermaid flowchart
    #[command(after_help = GRAPH_EXAMPLES)]
    Graph(GraphArgs),

    /// Start everything in one process: API, worker, timers and reconciler
    #[command(after_help = UP_EXAMPLES)]
    Up,

    /// Start the API, timers and reconciler, without a worker
    #[command(after_help = SERVE_EXAMPLES)]
    Serve,

    /// Start a worker; timers fire in `leveret serve` or `leveret up` beside it
    #[command(after_help = WORKER_EXAMPLES)]
    Worker,

    /// Start a broadcast heart: it orders writes, and every node applies them
    #[command(after_help = HEART_EXAMPLES)]
    Heart(HeartArgs),

    /// Start a broadcast node: a database that applies every write of its heart
    #[command(after_help = NODE_EXAMPLES)]
    Node(NodeArgs),

    /// Look after a broadcast cluster: status, verify, snapshot, rebuild, remove, recover
    #[command(after_help = CLUSTER_EXAMPLES)]
    Cluster(ClusterArgs),

    /// Put, list and show workflows of a server
    #[command(subcommand, after_help = WORKFLOWS_EXAMPLES)]
    Workflows(WorkflowsCommand),

    /// Start, list, show, signal, cancel and follow runs of a server
    #[command(subcommand, after_help = RUNS_EXAMPLES)]
    Runs(RunsCommand),

    /// Put, list, show, pause, resume and delete schedules of a server, and see what they fired
    #[command(subcommand, after_help = SCHEDULES_EXAMPLES)]
    Schedules(SchedulesCommand),

    /// List, show, replay and discard messages that could not be handled
    #[command(subcommand, after_help = DLQ_EXAMPLES)]
    Dlq(DlqCommand),

    /// See a workflow at work: orders are checked, priced and charged at a payment service that fails
    #[command(after_help = DEMO_EXAMPLES, args_conflicts_with_subcommands = true)]
    Demo(DemoArgs),

    /// Measure: runs per second and latencies on a real engine in this process
    #[command(subcommand, after_help = BENCH_EXAMPLES)]
    Bench(BenchCommand),

    /// Bring the store's schema up to date
    #[command(after_help = MIGRATE_EXAMPLES)]
    Migrate,

    /// Remove runs that ended long ago
    #[command(after_help = PRUNE_EXAMPLES)]
    Prune {
        /// How long ago they ended at least [default: the setting retention]
        #[arg(long, value_name = "TIME")]
        older_than: Option<Span>,
    },

    /// Print the settings in effect, without passwords
    #[command(after_help = CONFIG_EXAMPLES)]
    Config,

    /// Print the version
    #[command(after_help = "Examples:\n  leveret version --json")]
    Version,

    /// Print a script that completes commands in a shell
    #[command(
        after_help = "Examples:\n  leveret completions bash > ~/.local/share/bash-completion/completions/leveret"
    )]
    Completions {
        /// The shell
        shell: Shell,
    },
}

const PRUNE_EXAMPLES: &str = "\
`leveret up` and `leveret serve` do so by themselves, after --retention. A SQLite file belongs to one process: stop it first.

Examples:
  leveret prune --older-than 7d --store postgres://localhost/leveret
  leveret prune --older-than 1h --json     {\"runs\"}";

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Runs of a chain of nodes that are not pure: each step is committed before the next starts
    #[command(after_help = BENCH_EXAMPLES)]
    Chain(ChainArgs),
    /// Batches of items of one node that is not pure
    #[command(after_help = BENCH_EXAMPLES)]
    Batch(BatchArgs),
    /// Writes through a heart, a broker and nodes, beside the same statements in bare SQLite files
    #[command(after_help = BENCH_BROADCAST_EXAMPLES)]
    Broadcast(BroadcastArgs),
}

/// A chain.
#[derive(Debug, Clone, Args)]
pub(crate) struct ChainArgs {
    /// Nodes of the chain
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) nodes: u32,

    /// Runs that are measured, after a tenth of them as a warm-up
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) runs: u32,

    /// Runs in flight at once
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) concurrency: u32,

    /// Bytes of input that each run carries; its nodes do not read them
    #[arg(long, default_value_t = 16)]
    pub(crate) input_bytes: usize,
}

/// A batch.
#[derive(Debug, Clone, Args)]
pub(crate) struct BatchArgs {
    /// Items of the batch
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) items: u32,

    /// Runs that are measured, one after the other, after one as a warm-up
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) runs: u32,

    /// Items that run at once, at most [default: any number]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) concurrency: Option<u32>,
}

const BENCH_EXAMPLES: &str = "\
Without --store, --broker and --data, everything is in a temporary directory that is removed at the end. On RabbitMQ, exchange and
queues have names of their own, behind --prefix, as have the tables in PostgreSQL, and are removed at the end.

Examples:
  leveret bench chain --nodes 5 --runs 20000 --concurrency 256
  leveret bench chain --nodes 5 --runs 3000 --concurrency 1 --json
  leveret bench batch --items 10000 --runs 5 --json
  leveret bench chain --broker amqp://localhost --store postgres://localhost/leveret --status off";

const RUN_EXAMPLES: &str = "\
Without --store, --broker and --data, everything is in a temporary directory that is removed at the end.
With --json the result is {\"run_id\",\"workflow_id\",\"status\",\"output\",\"error\",\"duration_ms\",\"steps\"}.

Exit codes: 0 every run completed, 1 a run failed or was cancelled, 2 a bad workflow file or input.

Examples:
  leveret run examples/workflows/hello.yaml
  leveret run examples/workflows/routing.yaml --input '{\"amount_cents\": 250000}' --json
  leveret run order.yaml --input @order.json --store sqlite:orders.db
  leveret run order.yaml --each @orders.jsonl --concurrency 32 --set dry_run=true
  leveret run order.yaml --broker amqp://localhost --store postgres://localhost/leveret
";

#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// The workflow, YAML or JSON
    pub(crate) file: PathBuf,

    /// The input: JSON, @FILE, or - for stdin [default: null]
    #[arg(
        long,
        value_name = "JSON|@FILE|-",
        conflicts_with = "each",
        allow_hyphen_values = true
    )]
    pub(crate) input: Option<String>,

    /// Run once per line of a file of JSON lines: @FILE, or - for stdin
    #[arg(long, value_name = "@FILE|-", allow_hyphen_values = true)]
    pub(crate) each: Option<String>,

    /// With --each, how many runs go on at once
    #[arg(long, value_name = "N", default_value = "64", requires = "each", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) concurrency: u16,

    /// Set a field of each input, which must be an object; may be repeated
    #[arg(long = "set", value_name = "KEY=JSON")]
    pub(crate) sets: Vec<String>,
}

const CHECK_EXAMPLES: &str = "\
Exit codes: 0 no errors (warnings may be), 2 errors.

Examples:
  leveret check examples/workflows/*.yaml
  leveret check order.yaml --json     [{\"file\",\"line\",\"column\",\"path\",\"severity\",\"code\",\"message\",\"help\"}]
";

#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    /// Workflow files, YAML or JSON
    #[arg(required = true)]
    pub(crate) files: Vec<PathBuf>,
}

const GRAPH_EXAMPLES: &str = "\
Examples:
  leveret graph examples/workflows/order-fulfilment.yaml > order.mmd
  leveret graph order.yaml --json     {\"workflow_id\",\"mermaid\"}
";

#[derive(Args, Debug)]
pub(crate) struct GraphArgs {
    /// The workflow, YAML or JSON
    pub(crate) file: PathBuf,
}

const UP_EXAMPLES: &str = "\
Prints one line when it is ready. SIGTERM and SIGINT drain: running jobs may end, the rest goes back to its queue. A second
signal exits at once; nothing is lost either way.

Examples:
  leveret up
  LEVERET_API_TOKENS=ops:SECRET leveret up --listen 0.0.0.0:7070 --data /var/lib/leveret
  leveret up --broker amqp://localhost --store postgres://localhost/leveret
";

const SERVE_EXAMPLES: &str = "\
Examples:
  leveret serve --broker amqp://localhost --store postgres://localhost/leveret
";

const WORKER_EXAMPLES: &str = "\
Start as many as you like, on as many machines. A worker shares its work through RabbitMQ and PostgreSQL; the file of an
embedded broker belongs to one process, so use `leveret up` there.

Examples:
  leveret worker --broker amqp://localhost --store postgres://localhost/leveret
  leveret worker --worker-concurrency 32 --status final
  leveret worker --listen 127.0.0.1:7071          # /health/ready, /metrics
";

const WORKFLOWS_EXAMPLES: &str = "\
Examples:
  leveret workflows put order.yaml
  leveret workflows list
  leveret workflows show order --server http://127.0.0.1:7070
";

#[derive(Subcommand, Debug)]
pub(crate) enum WorkflowsCommand {
    /// Store a workflow file, as a new version if it differs from the last
    #[command(after_help = "Examples:\n  leveret workflows put order.yaml")]
    Put {
        /// The workflow, YAML or JSON
        file: PathBuf,
    },
    /// List workflows
    #[command(
        after_help = "Examples:\n  leveret workflows list --server http://127.0.0.1:7070 --json"
    )]
    List,
    /// Show a workflow's newest version
    #[command(after_help = "Examples:\n  leveret workflows show hello")]
    Show {
        /// The workflow's name
        #[arg(value_parser = id::<WorkflowId>)]
        workflow_id: WorkflowId,
    },
}

const RUNS_EXAMPLES: &str = "\
Examples:
  leveret runs start order --input @order.json --wait
  leveret runs list --workflow order --status failed
  leveret runs events 0199c0de-0000-7000-8000-000000000000
  leveret runs signal 0199c0de-0000-7000-8000-000000000000 paid --data '{\"cents\": 4200}'
  leveret runs cancel 0199c0de-0000-7000-8000-000000000000
";

#[derive(Subcommand, Debug)]
pub(crate) enum RunsCommand {
    /// Start a run
    #[command(after_help = "\
With --wait the exit code is 0 when the run completed, 1 when not.

Examples:
  leveret runs start hello
  leveret runs start order --input @order.json --wait --json
  leveret runs start order --input @order.json --idempotency-key order-17")]
    Start(StartArgs),
    /// List runs, newest first
    #[command(
        after_help = "Examples:\n  leveret runs list --workflow order --status failed --limit 20"
    )]
    List(ListArgs),
    /// Show a run and its steps
    #[command(
        after_help = "Examples:\n  leveret runs show 0199c0de-0000-7000-8000-000000000000 --json"
    )]
    Show {
        /// The run
        #[arg(value_parser = id::<RunId>)]
        run_id: RunId,
    },
    /// Cancel a run
    #[command(after_help = "Examples:\n  leveret runs cancel 0199c0de-0000-7000-8000-000000000000")]
    Cancel {
        /// The run
        #[arg(value_parser = id::<RunId>)]
        run_id: RunId,
    },
    /// Send a signal to a run: it ends the oldest wait for its event there, or is kept for the next one
    #[command(after_help = "\
The exit code is 0 when the signal is recorded; it is 1 when there is no such run, or it has ended.

Examples:
  leveret runs signal 0199c0de-0000-7000-8000-000000000000 paid
  leveret runs signal 0199c0de-0000-7000-8000-000000000000 paid --data '{\"cents\": 4200}' --id payment-17")]
    Signal(SignalArgs),
    /// Approve what a node of a run waits for
    #[command(after_help = "\
The exit code is 0 when the decision is recorded; it is 1 when the node does not wait, is decided already, or the data does not fit its form.

Examples:
  leveret runs approve 0199c0de-0000-7000-8000-000000000000 manager --by ada
  leveret runs approve 0199c0de-0000-7000-8000-000000000000 manager --data '{\"limit\": 500}' --by ada")]
    Approve(DecisionArgs),
    /// Reject what a node of a run waits for
    #[command(after_help = "\
The exit code is as that of `leveret runs approve`.

Examples:
  leveret runs reject 0199c0de-0000-7000-8000-000000000000 manager --data '{\"why\": \"too much\"}' --by ada")]
    Reject(DecisionArgs),
    /// List what waits for a decision, the longest first
    #[command(after_help = "Examples:\n  leveret runs approvals\n  leveret runs approvals --json")]
    Approvals {
        /// At most so many
        #[arg(long, value_name = "N", default_value = "50")]
        limit: u32,
    },
    /// Follow a run until its end
    #[command(
        after_help = "The exit code is 0 when the run completed, 1 when not.\n\nExamples:\n  leveret runs events 0199c0de-0000-7000-8000-000000000000 --json"
    )]
    Events {
        /// The run
        #[arg(value_parser = id::<RunId>)]
        run_id: RunId,
    },
}

#[derive(Args, Debug)]
#[command(arg = directory_beside_data())]
pub(crate) struct DecisionArgs {
    /// The run
    #[arg(value_parser = id::<RunId>)]
    pub(crate) run_id: RunId,
    /// The node
    #[arg(value_parser = id::<NodeId>)]
    pub(crate) node_id: NodeId,
    /// What is given with it: JSON, @FILE, or - for stdin [default: null]
    #[arg(
        id = "given_data",
        long = "data",
        value_name = "JSON|@FILE|-",
        allow_hyphen_values = true
    )]
    pub(crate) data: Option<String>,
    /// By whom
    #[arg(long, value_name = "NAME")]
    pub(crate) by: Option<String>,
}

#[derive(Args, Debug)]
#[command(arg = directory_beside_data())]
pub(crate) struct SignalArgs {
    /// The run
    #[arg(value_parser = id::<RunId>)]
    pub(crate) run_id: RunId,
    /// The event
    #[arg(value_parser = id::<EventName>)]
    pub(crate) event: EventName,
    /// What it brings: JSON, @FILE, or - for stdin [default: null]
    #[arg(
        id = "given_data",
        long = "data",
        value_name = "JSON|@FILE|-",
        allow_hyphen_values = true
    )]
    pub(crate) data: Option<String>,
    /// Its name: sent again under the same one, it counts once
    #[arg(long, value_name = "ID", value_parser = id::<SignalId>)]
    pub(crate) id: Option<SignalId>,
}

#[derive(Args, Debug)]
pub(crate) struct StartArgs {
    /// The workflow's name
    #[arg(value_parser = id::<WorkflowId>)]
    pub(crate) workflow_id: WorkflowId,
    /// The input: JSON, @FILE, or - for stdin [default: null]
    #[arg(long, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    pub(crate) input: Option<String>,
    /// The run's identity; a run that exists is not started again
    #[arg(long, value_name = "ID", value_parser = id::<RunId>)]
    pub(crate) run_id: Option<RunId>,
    /// Starts at most one run for this key
    #[arg(long, value_name = "KEY", conflicts_with = "run_id")]
    pub(crate) idempotency_key: Option<String>,
    /// Wait for the run's end and print its result
    #[arg(long)]
    pub(crate) wait: bool,
}

#[derive(Args, Debug)]
#[command(arg = setting_beside_filter())]
pub(crate) struct ListArgs {
    /// Only runs of this workflow
    #[arg(long, value_name = "ID")]
    pub(crate) workflow: Option<String>,
    /// Only runs in this state: running, completed, failed or cancelled
    #[arg(id = "run_status", long = "status")]
    pub(crate) status: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N", default_value = "20")]
    pub(crate) limit: u32,
    /// Go on after this page: the `next` of the page before
    #[arg(long, value_name = "CURSOR")]
    pub(crate) after: Option<String>,
}

/// An id that is given. What is none would make a URL of another place.
fn id<T: TryFrom<String, Error = IdError>>(text: &str) -> Result<T, IdError> {
    T::try_from(text.to_owned())
}

/// The setting `status` under another flag: at `runs list`, `--status` is a filter. A command that has an argument of its own with the
/// setting's id does not get the global one, which would bring the same flag.
fn setting_beside_filter() -> Arg {
    Arg::new("status")
        .long("status-messages")
        .env("LEVERET_STATUS")
        .value_parser(clap::value_parser!(Status))
        .hide(true)
}

/// The setting `data` under another flag, as [`setting_beside_filter`]: there, `--data` is what is given.
fn directory_beside_data() -> Arg {
    Arg::new("data")
        .long("data-directory")
        .env("LEVERET_DATA")
        .value_parser(clap::value_parser!(PathBuf))
        .hide(true)
}

const SCHEDULES_EXAMPLES: &str = "\
Examples:
  leveret schedules put nightly --workflow report --cron '0 2 * * *' --time-zone Europe/Berlin
  leveret schedules put poll --workflow fetch --every 30s --input '{\"source\": \"a\"}'
  leveret schedules list
  leveret schedules history nightly --json";

#[derive(Subcommand, Debug)]
pub(crate) enum SchedulesCommand {
    /// Store a schedule, in the place of one of its name
    #[command(
        after_help = "Examples:\n  leveret schedules put nightly --workflow report --cron '0 2 * * *' --time-zone Europe/Berlin\n  leveret schedules put poll --workflow fetch --every 30s --overlap queue --json"
    )]
    Put(PutScheduleArgs),
    /// List schedules
    #[command(after_help = "Examples:\n  leveret schedules list --json")]
    List,
    /// Show a schedule and its next five due times
    #[command(after_help = "Examples:\n  leveret schedules show nightly --json")]
    Show {
        /// The schedule's name
        #[arg(value_parser = id::<ScheduleId>)]
        id: ScheduleId,
    },
    /// Delete a schedule with its history; its runs go on
    #[command(after_help = "Examples:\n  leveret schedules delete nightly")]
    Delete {
        /// The schedule's name
        #[arg(value_parser = id::<ScheduleId>)]
        id: ScheduleId,
    },
    /// Pause a schedule: nothing falls due until it is resumed
    #[command(after_help = "Examples:\n  leveret schedules pause nightly")]
    Pause {
        /// The schedule's name
        #[arg(value_parser = id::<ScheduleId>)]
        id: ScheduleId,
    },
    /// Go on with the next due time
    #[command(after_help = "Examples:\n  leveret schedules resume nightly")]
    Resume {
        /// The schedule's name
        #[arg(value_parser = id::<ScheduleId>)]
        id: ScheduleId,
    },
    /// Start a run now; prints its id
    #[command(after_help = "Examples:\n  leveret schedules run nightly --json")]
    Run {
        /// The schedule's name
        #[arg(value_parser = id::<ScheduleId>)]
        id: ScheduleId,
    },
    /// List what became of due times, the newest first
    #[command(after_help = "Examples:\n  leveret schedules history nightly --limit 5 --json")]
    History {
        /// The schedule's name
        #[arg(value_parser = id::<ScheduleId>)]
        id: ScheduleId,
        /// At most so many
        #[arg(long, value_name = "N", default_value = "20")]
        limit: u32,
    },
}

#[derive(Args, Debug)]
pub(crate) struct PutScheduleArgs {
    /// The schedule's name
    #[arg(value_parser = id::<ScheduleId>)]
    pub(crate) id: ScheduleId,
    /// Whose runs it starts
    #[arg(long, value_name = "ID", value_parser = id::<WorkflowId>)]
    pub(crate) workflow: WorkflowId,
    /// The interval, as in 10s; due for the first time one interval from now
    #[arg(
        long,
        value_name = "TIME",
        required_unless_present = "cron",
        conflicts_with = "cron"
    )]
    pub(crate) every: Option<String>,
    /// The cron pattern, of five fields, or six with seconds in front
    #[arg(long, value_name = "PATTERN")]
    pub(crate) cron: Option<String>,
    /// The zone of the pattern [default: UTC]
    #[arg(long, value_name = "ZONE", requires = "cron")]
    pub(crate) time_zone: Option<String>,
    /// The input of its runs: JSON, @FILE, or - for stdin [default: null]
    #[arg(long, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    pub(crate) input: Option<String>,
    /// While the run before is running: skip, queue or allow [default: skip]
    #[arg(long, value_name = "WHAT")]
    pub(crate) overlap: Option<String>,
    /// Of times that were missed: none, one or all [default: one]
    #[arg(long, value_name = "WHICH")]
    pub(crate) catch_up: Option<String>,
    /// Each firing is late by a share of this
    #[arg(long, value_name = "TIME")]
    pub(crate) jitter: Option<String>,
}

const DLQ_EXAMPLES: &str = "\
With --broker amqp://… or embedded:PATH, straight at the broker; else through the API of --server, as the file of an embedded broker
belongs to the process that has it open. QUEUE is the work queue or its .dlq, either is meant for the same.
RabbitMQ does not tell its queues over AMQP: without QUEUE, `list` knows those of workflows there.

Exit codes: 0 done, 1 some letters stay or the broker cannot be reached, 2 there is no such queue.

Examples:
  leveret dlq list
  leveret dlq show workflow.execution --limit 3
  leveret dlq replay payment_queue --reason timeout --dry-run
  leveret dlq discard payment_queue --id 4711 --broker amqp://localhost";

#[derive(Subcommand, Debug)]
pub(crate) enum DlqCommand {
    /// List the queues that have dead letters, or the letters of a queue in brief
    #[command(
        after_help = "Examples:\n  leveret dlq list\n  leveret dlq list payment_queue --reason timeout --json"
    )]
    List {
        /// The queue [default: all that are known]
        queue: Option<String>,
        #[command(flatten)]
        filter: DlqFilter,
    },
    /// Show letters with headers and body, oldest first: one unless --limit says more
    #[command(after_help = "Examples:\n  leveret dlq show payment_queue --limit 5 --json")]
    Show {
        /// The queue
        queue: String,
        #[command(flatten)]
        filter: DlqFilter,
    },
    /// Move letters back to the queues that they came from
    #[command(after_help = "\
An interruption loses nothing: at most a batch of 500 letters is then in both places, with the same message ids.

Examples:
  leveret dlq replay payment_queue --dry-run
  leveret dlq replay payment_queue --reason timeout --limit 100")]
    Replay {
        /// The queue
        queue: String,
        #[command(flatten)]
        filter: DlqFilter,
        /// Only say how many it would be
        #[arg(long)]
        dry_run: bool,
    },
    /// Remove letters for good
    #[command(
        after_help = "Examples:\n  leveret dlq discard payment_queue --reason 'not JSON' --dry-run"
    )]
    Discard {
        /// The queue
        queue: String,
        #[command(flatten)]
        filter: DlqFilter,
        /// Only say how many it would be
        #[arg(long)]
        dry_run: bool,
    },
}

/// Which letters.
#[derive(Args, Debug)]
pub(crate) struct DlqFilter {
    /// At most so many, from the oldest on [default: list 50, show 1, else all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: Option<u64>,
    /// Only those whose reason contains this text
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// Only those of this message id
    #[arg(long, value_name = "ID")]
    pub(crate) id: Option<String>,
}

const DEMO_EXAMPLES: &str = "\
Exit codes: 0 every order ended as it should and none was charged twice, 1 otherwise.

Examples:
  leveret demo
  leveret demo --orders 50 --seed 8 --json
  leveret demo --keep --listen 127.0.0.1:7070     then look at http://127.0.0.1:7070/api/v1/runs
  leveret demo payments                           only the payment service, for the examples that need it
  leveret demo broadcast                          three databases kept equal under load
";

#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    #[command(subcommand)]
    pub(crate) command: Option<DemoCommand>,
    /// Run only so many of the orders [default: all 300]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) orders: Option<u32>,
    /// Decides which orders fail, are declined and stall
    #[arg(long, value_name = "N", default_value = "7")]
    pub(crate) seed: u64,
    /// Stay, so that you can look around, until Ctrl-C
    #[arg(long)]
    pub(crate) keep: bool,
}

#[derive(Subcommand, Debug)]
pub(crate) enum DemoCommand {
    /// Three databases under load: one is stopped and back, a fourth added; in the end all are equal
    #[command(
        after_help = "Exit codes: 0 all contents are equal, 1 not.\n\nExamples:\n  leveret demo broadcast"
    )]
    Broadcast,
    /// Only the payment service, until Ctrl-C; listens on 127.0.0.1:7171 unless --listen says otherwise
    #[command(after_help = "Examples:\n  leveret demo payments --listen 127.0.0.1:7171")]
    Payments {
        /// Decides which orders fail, are declined and stall
        #[arg(long, value_name = "N", default_value = "7")]
        seed: u64,
    },
}

const MIGRATE_EXAMPLES: &str = "\
Exit codes: 0 up to date, 1 the store cannot be reached or is newer than this program, 2 the URL of a store cannot be used.

Examples:
  leveret migrate
  leveret migrate --store postgres://localhost/leveret
";

const CONFIG_EXAMPLES: &str = "\
Examples:
  leveret config
  LEVERET_STORE=sqlite:orders.db leveret config --json
";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// Every command has examples in its help.
    #[test]
    fn every_command_has_examples() {
        fn check(command: &clap::Command, path: &str) {
            for sub in command.get_subcommands() {
                let path = format!("{path} {}", sub.get_name());
                let help = sub
                    .get_after_help()
                    .map(ToString::to_string)
                    .unwrap_or_default();
                assert!(
                    help.contains("Examples:"),
                    "`{path}` has no examples in its help"
                );
                check(sub, &path);
            }
        }
        check(&Cli::command(), "leveret");
    }

    /// Every example in the help texts is a command line that is understood.
    #[test]
    fn every_example_parses() {
        let texts = help_texts(&Cli::command());
        let lines = texts.lines().filter_map(|line| line.strip_prefix("  "));
        let commands: Vec<Vec<&str>> = lines.filter_map(words).collect();
        assert!(commands.len() > 30, "{commands:?}");
        for command in commands {
            if let Err(error) = Cli::try_parse_from(&command) {
                panic!("{command:?}: {error}");
            }
        }
    }

    /// The help after a command and all below it.
    fn help_texts(command: &clap::Command) -> String {
        let own = command.get_after_help().map(ToString::to_string);
        let below = command.get_subcommands().map(help_texts);
        own.into_iter().chain(below).collect::<Vec<_>>().join("\n")
    }

    /// The words of an example, as a shell takes them: without variables before, a file to write to, and the remark behind.
    fn words(line: &str) -> Option<Vec<&str>> {
        let command = &line[line.find("leveret ")?..];
        let command = command.split("   ").next()?.split(" > ").next()?;
        let pieces = command.split('\'').enumerate();
        let words = pieces.flat_map(|(at, piece)| match at % 2 {
            0 => piece.split_whitespace().collect(),
            _ => vec![piece],
        });
        Some(words.collect())
    }

    /// At `runs list`, `--status` is the filter, and the setting of that name keeps its value.
    #[test]
    fn the_filter_is_not_the_setting() {
        let check = |args: &[&str], setting, filter: Option<&str>| {
            let cli = Cli::try_parse_from([&["leveret"], args].concat()).unwrap();
            let Command::Runs(RunsCommand::List(list)) = cli.command else {
                panic!("not `runs list`: {:?}", cli.command);
            };
            assert_eq!(
                (cli.settings.status, list.status.as_deref()),
                (setting, filter),
                "{args:?}"
            );
        };
        check(&["runs", "list"], None, None);
        check(
            &["runs", "list", "--status", "failed"],
            None,
            Some("failed"),
        );
        check(
            &["--status", "off", "runs", "list", "--status", "failed"],
            Some(Status::Off),
            Some("failed"),
        );
    }
}
