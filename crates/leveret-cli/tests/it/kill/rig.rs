//! An engine with timers and reconciler in this process, and workers in processes of their own.

use std::{
    collections::BTreeSet,
    os::unix::process::ExitStatusExt,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use leveret::{
    broker::{
        rabbitmq::{RabbitMq, RabbitMqOptions},
        work::WorkOptions,
    },
    core::ids::RunId,
    runtime::{
        Engine, EngineOptions, EngineParts, Names, Publish, Roles, ServeError, StatusMessages,
    },
    store::postgres::{PostgresOptions, PostgresStore},
};
use tokio::{sync::watch, task::JoinHandle};

use super::{completions::Completions, servers::Place};
use crate::support::terminate;

/// How long anything may take that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// How often a condition is looked at that another process brings about.
pub(crate) const POLL: Duration = Duration::from_millis(5);

/// What the engines of these tests publish.
pub(crate) const COMPLETIONS: Publish = Publish {
    status: StatusMessages::Off,
    completion: true,
};

/// A process that works; killed when dropped.
#[derive(Debug)]
pub(crate) struct Worker(Child);

impl Worker {
    /// `leveret worker`.
    pub(crate) fn start(place: &Place) -> Worker {
        Worker::start_with(place, &[])
    }

    /// `leveret worker` with more settings.
    pub(crate) fn start_with(place: &Place, settings: &[&str]) -> Worker {
        let mut command = Command::new(env!("CARGO_BIN_EXE_leveret"));
        command
            .args(["worker", "--broker", &place.amqp])
            .args(["--store", &place.postgres, "--prefix", &place.prefix])
            .args(["--status", "off", "--log", "error,lapin=off"])
            .args(settings);
        Worker::spawn(command)
    }

    pub(crate) fn spawn(mut command: Command) -> Worker {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Worker(command.spawn().expect("the program starts"))
    }

    /// Asks it to stop.
    pub(crate) fn terminate(&self) {
        terminate(&self.0);
    }

    /// Whether it runs.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.0.try_wait().expect("a child can be asked").is_none()
    }

    /// Waits for its end; the signal that ended it, `None` if it ended by itself and well.
    pub(crate) fn end(&mut self) -> Option<i32> {
        let status = self.0.wait().expect("a child can be waited for");
        assert!(status.success() || status.signal().is_some(), "{status}");
        status.signal()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // SIGKILL. An error says that it is dead already.
        let _dead = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// So long nothing is taken up as stalled: what is lost stays lost, and is seen.
pub(crate) const NEVER: Duration = Duration::from_secs(3600);

/// An engine that starts runs, fires timers, reconciles and hears of completions.
pub(crate) struct Rig {
    pub(crate) place: Place,
    pub(crate) engine: Engine,
    pub(crate) completions: Completions,
    stop: watch::Sender<bool>,
    serving: JoinHandle<Result<(), ServeError>>,
}

impl Rig {
    /// Runs that are `quiet` for so long are taken up by the reconciler.
    pub(crate) async fn start(place: Place, quiet: Duration) -> Rig {
        let engine = engine(&place, quiet).await;
        let (stop, stopped) = watch::channel(false);
        let serving = tokio::spawn({
            let engine = engine.clone();
            let roles = Roles {
                worker: None,
                ..Roles::all()
            };
            async move { engine.serve(roles, stopped).await }
        });
        Rig {
            completions: Completions::of(&engine).await,
            place,
            engine,
            stop,
            serving,
        }
    }

    /// Waits until so many more runs have ended.
    pub(crate) async fn until_ended(&self, more: usize) {
        let goal = self.completions.count() + more;
        until("runs end", || self.completions.count() >= goal).await;
    }

    /// Waits until these runs have completed, each once.
    pub(crate) async fn assert_each_once(&self, runs: &BTreeSet<RunId>) {
        self.completions.assert_each_once(&self.engine, runs).await;
    }

    pub(crate) async fn assert_no_dead_letters(&self) {
        let queue = &self.engine.names().dead_letters;
        let stats = self.engine.broker().queue_stats(queue).await;
        assert_eq!(stats.expect("counts").ready, 0, "jobs were dead-lettered");
    }

    /// Stops, and removes what was made at the servers.
    pub(crate) async fn end(self) {
        self.stop.send(true).expect("still serving");
        self.serving.await.expect("no panic").expect("served");
        drop(self.completions);
        let (broker, names) = (self.engine.broker(), self.engine.names());
        let Names {
            exchange,
            execution,
            status,
            completion,
            dead_letters,
            signal,
            events,
        } = names;
        let signals = WorkOptions::queue(signal.clone()).topology().queues;
        let signals = signals.iter().map(|queue| &queue.name);
        for queue in [execution, status, completion, dead_letters]
            .into_iter()
            .chain(signals)
        {
            broker.delete_queue(queue).await.expect("deletes");
        }
        for exchange in [exchange, events] {
            broker.delete_exchange(exchange).await.expect("deletes");
        }
        self.engine.close().await;
        self.place.remove().await;
    }
}

/// An engine that is told soon when its broker is away, so that this is seen, too.
async fn engine(place: &Place, quiet: Duration) -> Engine {
    let store =
        PostgresStore::connect(PostgresOptions::prefixed(&place.postgres, &place.prefix)).await;
    let store = store.expect("PostgreSQL answers");
    let mut rabbitmq = RabbitMqOptions::new(&place.amqp);
    rabbitmq.outage_wait = Duration::from_secs(1);
    let broker = RabbitMq::connect(rabbitmq).await;
    let broker = broker.expect("RabbitMQ answers");
    let parts = EngineParts {
        names: Names::with_prefix(&place.prefix),
        publish: COMPLETIONS,
        options: EngineOptions {
            quiet,
            cancel_timeout: Duration::from_millis(500),
            ..EngineOptions::default()
        },
        ..EngineParts::new(Arc::new(store), Arc::new(broker))
    };
    Engine::new(parts).await.expect("declares")
}

/// Waits for a condition that another process brings about.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(POLL).await;
    }
}
