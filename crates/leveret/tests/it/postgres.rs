//! The store on PostgreSQL, against the server of `LEVERET_TEST_POSTGRES_URL`; each test in a schema of its own, dropped at its end.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use leveret::{
    broker::memory::MemoryBroker,
    nodes::{NodeContext, Registry},
    runtime::{
        Clock, Engine, EngineOptions, EngineParts, Names, Roles, StartRequest, SystemClock,
        WorkerOptions,
    },
    store::{
        Committed, Finished, NewRun, Outcome, Started, Store, StoreError, Woken, conformance,
        postgres::{PostgresOptions, PostgresStore},
    },
};
use leveret_core::{
    ids::{RunId, Scope},
    json::Json,
    parse::workflow_from_json,
    time::Timestamp,
    workflow::Workflow,
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_postgres::{Client, NoTls};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schedules_conform() {
    in_schema(|options| async {
        let store = PostgresStore::connect(options).await.expect("connects");
        leveret::schedules::conformance::exercise(&*store.schedules()).await;
        store.close().await;
    })
    .await;
}

/// Runs a test in a fresh schema, which is dropped also when the test fails.
pub(crate) async fn in_schema<Fut>(test: impl FnOnce(PostgresOptions) -> Fut)
where
    Fut: Future<Output = ()> + Send + 'static,
{
    let Ok(url) = std::env::var("LEVERET_TEST_POSTGRES_URL") else {
        println!("skipped: LEVERET_TEST_POSTGRES_URL is not set");
        return;
    };
    let schema = format!("leveret test \"{:016x}", fastrand::u64(..));
    let options = PostgresOptions {
        schema: schema.clone(),
        ..PostgresOptions::new(url.clone())
    };
    let outcome = tokio::spawn(test(options)).await;
    let drop = format!(
        "DROP SCHEMA IF EXISTS \"{}\" CASCADE",
        schema.replace('"', "\"\"")
    );
    admin(&url)
        .await
        .batch_execute(&drop)
        .await
        .expect("drop the schema");
    outcome.expect("the test");
}

async fn admin(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("connect");
    tokio::spawn(connection);
    client
}

async fn connect(options: &PostgresOptions) -> PostgresStore {
    PostgresStore::connect(options.clone())
        .await
        .expect("connect")
}

fn workflow(definition: &serde_json::Value) -> Arc<Workflow> {
    Arc::new(workflow_from_json(definition, None).expect("a valid definition"))
}

fn chain() -> Arc<Workflow> {
    workflow(&json!({
        "id": "chain",
        "nodes": [{ "id": "a", "uses": "log" }, { "id": "b", "uses": "log" }, { "id": "c", "uses": "log" }],
        "edges": [{ "source": "a", "target": "b" }, { "source": "b", "target": "c" }],
    }))
}

fn new_run(id: &str, workflow: &Arc<Workflow>) -> NewRun {
    NewRun {
        run_id: RunId::new(id).expect("a run id"),
        workflow: workflow.clone(),
        input: Json::from(json!({ "n": 1 })),
        created_at: Timestamp(1),
        reconcile_at: Timestamp(1000),
    }
}

fn done(run: &NewRun, node: usize) -> Finished {
    Finished {
        run_id: run.run_id.clone(),
        workflow: run.workflow.clone(),
        node,
        scope: Scope::root(),
        via: None,
        attempts: 1,
        started_at: Timestamp(1),
        finished_at: Timestamp(2),
        woken: Woken::No,
        outcome: Outcome::Completed {
            output: Json::from(json!({ "value": "a result of some length, as results have" })),
            action: None,
            taken: run.workflow.graph.routed(node).collect(),
            context: Vec::new(),
            items: None,
        },
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn conforms() {
    in_schema(|options| async move {
        let connect = move || {
            let options = options.clone();
            async move { Arc::new(connect(&options).await) as Arc<dyn Store> }
        };
        conformance::exercise(connect).await;
    })
    .await;
}

/// All connections of the store are cut, twice: calls fail as retryable at most, and the next one works again.
#[tokio::test(flavor = "multi_thread")]
async fn reconnects_after_the_server_closed_the_connections() {
    in_schema(|options| async move {
        let name = format!("leveret{:08x}", fastrand::u32(..));
        let separator = if options.url.contains('?') { '&' } else { '?' };
        let url = format!("{}{separator}application_name={name}", options.url);
        let store = connect(&PostgresOptions { url, ..options.clone() }).await;
        let run = new_run("r", &chain());
        assert_eq!(store.start(std::slice::from_ref(&run)).await.unwrap(), [Started::New]);
        let admin = admin(&options.url).await;
        for node in 0..2 {
            store.ping().await.unwrap();
            let cut = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = $1";
            assert!(!admin.query(cut, &[&name]).await.unwrap().is_empty());
            let mut committed = store.commit(&[done(&run, node).into()]).await;
            while let Err(error) = &committed {
                assert!(error.is_retryable(), "{error}");
                committed = store.commit(&[done(&run, node).into()]).await;
            }
            assert!(matches!(committed.unwrap()[..], [Committed::Recorded { .. }]));
        }
        store.close().await;
        store.close().await;
        assert!(matches!(store.ping().await, Err(StoreError::Closed)));
    })
    .await;
}

/// What PostgreSQL cannot hold is refused for good, nothing of its batch is recorded, and each of the others can be recorded alone, but not
/// what follows in the same run.
#[tokio::test(flavor = "multi_thread")]
async fn refused_batch_is_committed_one_by_one() {
    in_schema(|options| async move {
        let store = connect(&options).await;
        let runs = ["a", "b", "c"].map(|id| new_run(id, &chain()));
        store.start(&runs).await.unwrap();
        let mut batch: Vec<Finished> = runs.iter().map(|run| done(run, 0)).collect();
        batch.push(done(&runs[1], 1));
        if let Outcome::Completed { action, .. } = &mut batch[1].outcome {
            *action = Some("\0".into());
        }
        let batch: Vec<_> = batch.into_iter().map(Arc::new).collect();
        let refused = store.commit(&batch).await.unwrap_err();
        assert!(matches!(refused, StoreError::Refused { .. }), "{refused}");
        assert!(store.steps(&runs[0].run_id).await.unwrap().is_empty());
        let answers = leveret::store::commit_each(&store, &batch).await;
        assert!(matches!(
            answers[..],
            [
                Ok(Committed::Recorded { .. }),
                Err(StoreError::Refused { .. }),
                Ok(Committed::Recorded { .. }),
                Err(StoreError::Refused { .. })
            ]
        ));
        assert!(store.steps(&runs[1].run_id).await.unwrap().is_empty());
    })
    .await;
}

/// Many programs create the schema at once; a newer schema is left alone; a missing one is an error when migrations are not to be applied.
/// The statements of a commit are sent together. Where the first one fails, the others must not take effect outside of a transaction: the steps
/// would be recorded, and what follows from them not.
#[tokio::test(flavor = "multi_thread")]
async fn steps_are_not_recorded_without_their_transaction() {
    in_schema(|options| async move {
        let url = with_first_begin_spoiled(&options.url).await;
        let store = connect(&PostgresOptions { url, ..options }).await;
        let join = workflow(&json!({
            "id": "join",
            "nodes": [{ "id": "a", "uses": "log" }, { "id": "b", "uses": "log" }, { "id": "c", "uses": "log" }],
            "edges": [{ "source": "a", "target": "c" }, { "source": "b", "target": "c" }],
        }));
        let run = new_run("r", &join);
        store.start(std::slice::from_ref(&run)).await.unwrap();
        let first = [Arc::new(done(&run, 0))];
        let spoiled = store.commit(&first).await.unwrap_err();
        assert!(spoiled.to_string().contains("42601"), "{spoiled}");
        assert!(store.steps(&run.run_id).await.unwrap().is_empty());
        let committed = store.commit(&first).await.unwrap();
        assert!(matches!(committed[..], [Committed::Recorded { .. }]));
        let committed = store.commit(&[done(&run, 1).into()]).await.unwrap();
        let [Committed::Recorded { decision, .. }] = &committed[..] else {
            panic!("{committed:?}");
        };
        assert_eq!(decision.ready.len(), 1, "{decision:?}");
    })
    .await;
}

/// The URL of a proxy before the server, that makes a syntax error of the first BEGIN of a commit.
async fn with_first_begin_spoiled(url: &str) -> String {
    let (head, rest) = url.split_once('@').expect("the URL names a user");
    let (server, database) = rest.split_once('/').expect("the URL names a database");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = server.to_owned();
    tokio::spawn(async move {
        let spoiled = Arc::new(AtomicBool::new(false));
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&server).await.unwrap();
            let (mut answers, mut to_server) = server.into_split();
            let (mut statements, mut to_client) = client.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut answers, &mut to_client).await });
            let spoiled = spoiled.clone();
            tokio::spawn(async move {
                let mut bytes = vec![0; 64 * 1024];
                while let Ok(count @ 1..) = statements.read(&mut bytes).await {
                    let mut words = bytes[..count].windows(10);
                    if let Some(at) = words.position(|word| word == b"BEGIN; SET")
                        && !spoiled.swap(true, Ordering::Relaxed)
                    {
                        bytes[at] = b'?';
                    }
                    to_server.write_all(&bytes[..count]).await.unwrap();
                }
            });
        }
    });
    format!("{head}@{address}/{database}")
}

#[tokio::test(flavor = "multi_thread")]
async fn migrates_once() {
    in_schema(|options| async move {
        let checking = PostgresOptions {
            migrate: false,
            ..options.clone()
        };
        let missing = PostgresStore::connect(checking.clone()).await.unwrap_err();
        assert!(
            matches!(missing, StoreError::Schema { found: 0, .. }),
            "{missing}"
        );
        let mut tasks = Vec::new();
        for _ in 0..6 {
            let options = options.clone();
            tasks.push(tokio::spawn(async move {
                PostgresStore::migrate(&options).await
            }));
        }
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        PostgresStore::connect(checking)
            .await
            .unwrap()
            .ping()
            .await
            .unwrap();
        let schema = options.schema.replace('"', "\"\"");
        let newer = format!("UPDATE \"{schema}\".schema_versions SET version = 99");
        admin(&options.url)
            .await
            .batch_execute(&newer)
            .await
            .unwrap();
        let newer = PostgresStore::connect(options).await.unwrap_err();
        assert!(
            matches!(newer, StoreError::Schema { found: 99, .. }),
            "{newer}"
        );
    })
    .await;
}

#[tokio::test]
async fn errors_tell_no_password() {
    let options = PostgresOptions::new("postgres://user:secret@127.0.0.1:1/database");
    assert!(!format!("{options:?}").contains("secret"));
    let error = PostgresStore::connect(options).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    assert!(!format!("{error} {error:?}").contains("secret"), "{error}");
}

/// Prints how fast steps are committed: `cargo test --release … -- --ignored --nocapture commit_rate`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn commit_rate() {
    in_schema(|options| async move {
        let store = Arc::new(connect(&options).await);
        let joining = workflow(&json!({
            "id": "joining",
            "nodes": [{ "id": "a", "uses": "log" }, { "id": "b", "uses": "log" }, { "id": "j", "uses": "log" }],
            "edges": [{ "source": "a", "target": "j" }, { "source": "b", "target": "j" }],
        }));
        for (name, workflow) in [("chain", chain()), ("join", joining)] {
            for (size, in_flight, commits) in
                [(1, 1, 1500), (8, 2, 600), (64, 1, 300), (64, 2, 300), (64, 4, 300), (512, 1, 60), (512, 2, 60), (512, 4, 60)]
            {
                let rate = rate(&store, &workflow, size, in_flight, commits / in_flight).await;
                println!("{name}: {size} steps a commit, {in_flight} in flight: {rate}");
            }
        }
    })
    .await;
}

/// Commits whole runs of three steps, node by node; each task has runs of its own.
async fn rate(
    store: &Arc<PostgresStore>,
    workflow: &Arc<Workflow>,
    size: usize,
    tasks: usize,
    commits: usize,
) -> String {
    let mut batches = Vec::new();
    let (mut starting, mut started) = (std::time::Duration::ZERO, 0);
    for _ in 0..tasks {
        let mut mine = Vec::new();
        for round in 0..commits / 3 {
            let id = |number| {
                format!(
                    "{:08}-{round:08}-{:016x}-{number:04}",
                    round,
                    fastrand::u64(..)
                )
            };
            let runs: Vec<NewRun> = (0..size)
                .map(|number| new_run(&id(number), workflow))
                .collect();
            let begin = Instant::now();
            store.start(&runs).await.expect("start");
            (starting, started) = (starting + begin.elapsed(), started + size);
            mine.extend((0..3).map(|node| {
                runs.iter()
                    .map(|run| Arc::new(done(run, node)))
                    .collect::<Vec<_>>()
            }));
        }
        batches.push(mine);
    }
    let (begin, mut running) = (Instant::now(), Vec::new());
    for mine in batches {
        let store = store.clone();
        running.push(tokio::spawn(async move {
            for batch in mine {
                let committed = store.commit(&batch).await.expect("commit");
                assert!(
                    committed
                        .iter()
                        .all(|one| matches!(one, Committed::Recorded { .. }))
                );
            }
        }));
    }
    for task in running {
        task.await.expect("a committing task");
    }
    let seconds = begin.elapsed().as_secs_f64();
    let commits = (tasks * (commits / 3) * 3) as f64;
    let starts = started as f64 / starting.as_secs_f64();
    format!(
        "{:.0} steps/s, {:.2} ms a commit; start {starts:.0} runs/s",
        commits * size as f64 / seconds,
        1000.0 * seconds * tasks as f64 / commits
    )
}

/// A definition of one node that sleeps, and a run of it whose step waits until then.
async fn sleeper(store: &PostgresStore, id: &str, until: i64) -> NewRun {
    let new = new_run(
        id,
        &workflow(&json!({ "id": "w", "nodes": [{ "id": "a", "uses": "set" }] })),
    );
    let waits = Finished {
        outcome: Outcome::Waiting {
            until: Some(Timestamp(until)),
            wait: None,
            error: None,
        },
        ..done(&new, 0)
    };
    store
        .start(std::slice::from_ref(&new))
        .await
        .expect("start");
    store.commit(&[Arc::new(waits)]).await.expect("commit");
    new
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timer_at_the_end_of_time_hides_no_stalled_run() {
    in_schema(|options| async move {
        let store = connect(&options).await;
        sleeper(&store, "a", i64::MAX).await;
        let stalled = new_run("b", &chain());
        store.start(&[stalled]).await.expect("start");
        let quiet = std::time::Duration::from_secs(60);
        let claimed = store.claim_stalled(Timestamp(100_000), quiet, 10).await;
        let (runs, looked_at) = claimed.expect("claim");
        assert_eq!((runs, looked_at), (vec![RunId::new("b").unwrap()], 2));
    })
    .await;
}

/// Ids that do not read are those of a newer program, or of a mishap.
#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_timer_holds_no_others() {
    in_schema(|options| async move {
        let store = connect(&options).await;
        sleeper(&store, "a", 10).await;
        sleeper(&store, "b", 10).await;
        let schema = options.schema.replace('"', "\"\"");
        let sql = format!(
            "SET search_path TO \"{schema}\"; UPDATE runs SET run_id = '..' WHERE run_id = 'a'; UPDATE timers SET run_id = '..' WHERE run_id = 'a'"
        );
        admin(&options.url).await.batch_execute(&sql).await.expect("spoil");
        let claim = std::time::Duration::from_secs(5);
        for now in [100, 6_000] {
            let timers = store.claim_timers(Timestamp(now), claim, 10).await.expect("claim");
            let runs: Vec<_> = timers.iter().map(|timer| timer.key.run_id.as_str()).collect();
            assert_eq!(runs, ["b"]);
        }
    })
    .await;
}

/// The heart's log keeps its promises here, too. Its leases go by the database's clock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_of_a_heart_keeps_its_promises() {
    use leveret::broadcast::{
        WriteLog,
        log::{
            conformance,
            postgres::{PostgresLogOptions, PostgresWriteLog},
        },
    };
    in_schema(|options| async move {
        let url = options.url.clone();
        let schema = |at: usize| format!("{} {at}", options.schema);
        let made = std::sync::atomic::AtomicUsize::new(0);
        let exercised = conformance::exercise(async || {
            let log = PostgresLogOptions {
                schema: schema(made.fetch_add(1, Ordering::Relaxed)),
                ..PostgresLogOptions::new(url.clone(), "c1")
            };
            Arc::new(PostgresWriteLog::connect(log).await.unwrap()) as Arc<dyn WriteLog>
        });
        // What it borrows keeps it from being spawned.
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(exercised));
        let client = admin(&url).await;
        for at in 0..made.load(Ordering::Relaxed) {
            let schema = schema(at).replace('"', "\"\"");
            let drop = format!("DROP SCHEMA IF EXISTS \"{schema}\" CASCADE");
            client.batch_execute(&drop).await.unwrap();
        }
    })
    .await;
}

/// A machine's clock that is wrong by so many milliseconds.
#[derive(Debug)]
struct Wrong(i64);

impl Clock for Wrong {
    fn now(&self) -> Timestamp {
        Timestamp(SystemClock.now().0 + self.0)
    }

    fn random(&self) -> f64 {
        SystemClock.random()
    }

    fn new_run_id(&self) -> RunId {
        SystemClock.new_run_id()
    }
}

/// Engines of two machines whose clocks differ, on one store and one broker.
async fn engines(options: &PostgresOptions, wrong: [i64; 2], quiet: Duration) -> [Engine; 2] {
    let broker = MemoryBroker::new();
    let mut engines = Vec::new();
    for wrong in wrong {
        let mut registry = Registry::builtin();
        registry.register_fn("long", |_: NodeContext| async {
            tokio::time::sleep(Duration::from_secs(4)).await;
            Ok(json!(null))
        });
        let parts = EngineParts {
            registry,
            clock: Arc::new(Wrong(wrong)),
            options: EngineOptions {
                quiet,
                ..EngineOptions::default()
            },
            ..EngineParts::new(Arc::new(connect(options).await), Arc::new(broker.clone()))
        };
        engines.push(Engine::new(parts).await.expect("declares"));
    }
    engines.try_into().expect("two")
}

fn serve(engine: &Engine, roles: Roles) -> watch::Sender<bool> {
    let (stop, stopped) = watch::channel(false);
    let engine = engine.clone();
    tokio::spawn(async move { engine.serve(roles, stopped).await });
    stop
}

const WORKER: Roles = Roles {
    worker: Some(WorkerOptions {
        concurrency: 4,
        prefetch: 8,
        drain_timeout: Duration::from_secs(1),
    }),
    timers: false,
    reconciler: false,
};
const KEEPER: Roles = Roles {
    worker: None,
    timers: true,
    reconciler: true,
};

fn request(node: &serde_json::Value) -> StartRequest {
    StartRequest {
        workflow: workflow(&json!({ "id": "w", "nodes": [node] })),
        input: Json::null(),
        run_id: None,
    }
}

/// A worker that is 20 s ahead sets a timer of a second, and who fires it has another clock.
#[tokio::test(flavor = "multi_thread")]
async fn a_nap_takes_its_time_whatever_the_clocks() {
    in_schema(|options| async move {
        let [worker, keeper] = engines(&options, [20_000, 0], Duration::from_secs(60)).await;
        let _serving = (serve(&worker, WORKER), serve(&keeper, KEEPER));
        let nap = json!({ "id": "a", "uses": "sleep", "params": { "duration": "1s" } });
        let begun = Instant::now();
        let result = keeper.start_and_wait(request(&nap)).await.expect("ends");
        let took = begun.elapsed();
        assert!(
            took > Duration::from_millis(900) && took < Duration::from_secs(8),
            "{took:?}"
        );
        assert!(result.duration_ms < 8_000, "{}", result.duration_ms);
    })
    .await;
}

/// A worker that is 70 s behind says of a long step that it is executed; the reconciler believes it.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_step_is_not_taken_for_stalled_whatever_the_clocks() {
    in_schema(|options| async move {
        let [worker, keeper] = engines(&options, [-70_000, 0], Duration::from_secs(1)).await;
        let _serving = (serve(&worker, WORKER), serve(&keeper, KEEPER));
        let long = json!({ "id": "a", "uses": "long" });
        keeper.start_and_wait(request(&long)).await.expect("ends");
        assert_eq!(keeper.metrics().reconciled.get(), 0);
    })
    .await;
}

/// A way to the server that stops when it is told to, and takes connections all the same, as the kernel does for a server that is stopped.
async fn stoppable(url: &str) -> (String, watch::Sender<bool>) {
    let (head, rest) = url.split_once('@').expect("the URL names a user");
    let (server, database) = rest.split_once('/').expect("the URL names a database");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = watch::channel(false);
    let server = server.to_owned();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&server).await.unwrap();
            let (from_server, to_server) = server.into_split();
            let (from_client, to_client) = client.into_split();
            tokio::spawn(forward(from_server, to_client, stopped.clone()));
            tokio::spawn(forward(from_client, to_server, stopped.clone()));
        }
    });
    (format!("{head}@{address}/{database}"), stop)
}

async fn forward(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut stopped: watch::Receiver<bool>,
) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        if stopped.wait_for(|stopped| !stopped).await.is_err()
            || to.write_all(&bytes[..count]).await.is_err()
        {
            return;
        }
    }
}

/// The time that a call of a store may take whose server is stopped: to connect, or to be answered.
const STOPPED_MAX: Duration = Duration::from_secs(4);

async fn bounded<T>(what: &str, call: impl Future<Output = T>) -> T {
    let bounded = tokio::time::timeout(STOPPED_MAX, call).await;
    bounded.unwrap_or_else(|_| panic!("{what} takes longer than {STOPPED_MAX:?}"))
}

/// A server that is stopped, and so closes no connection, holds up no call, no drain and no end for long; when it goes on, so do we.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_stopped_holds_nobody_up() {
    in_schema(|options| async move {
        let (url, stop) = stoppable(&options.url).await;
        let second = Duration::from_secs(1);
        let options = PostgresOptions {
            url,
            connect_timeout: second,
            call_max: second,
            ..options
        };
        let store = connect(&options).await;
        let run = new_run("r", &chain());
        store.start(std::slice::from_ref(&run)).await.unwrap();
        stop.send_replace(true);
        let first = [Arc::new(done(&run, 0))];
        let calls = async {
            for _ in 0..2 {
                let answers = tokio::join!(
                    bounded("a look", async { store.run(&run.run_id).await.map(drop) }),
                    bounded("a put", async {
                        store
                            .put_workflow(&run.workflow, Timestamp(1))
                            .await
                            .map(drop)
                    }),
                    bounded("a cancel", async {
                        store.cancel(&run.run_id, Timestamp(1)).await.map(drop)
                    }),
                    bounded("a commit", async { store.commit(&first).await.map(drop) }),
                );
                for answer in [answers.0, answers.1, answers.2, answers.3] {
                    let error = answer.expect_err("is not answered");
                    assert!(error.is_retryable(), "{error}");
                }
            }
        };
        calls.await;
        stop.send_replace(false);
        let committed = store.commit(&first).await.expect("goes on");
        assert!(matches!(
            committed[..],
            [Committed::Recorded { .. } | Committed::Repeated | Committed::Over(_)]
        ));

        let parts = EngineParts::new(Arc::new(store), Arc::new(MemoryBroker::new()));
        let engine = Engine::new(parts).await.expect("declares");
        let roles = Roles {
            timers: true,
            reconciler: true,
            ..WORKER
        };
        let (draining, drained) = watch::channel(false);
        let serving = tokio::spawn({
            let engine = engine.clone();
            async move { engine.serve(roles, drained).await }
        });
        engine
            .start_and_wait(request(&json!({ "id": "a", "uses": "set" })))
            .await
            .expect("ends");
        stop.send_replace(true);
        let wait = engine.start(request(&json!({ "id": "b", "uses": "set" })));
        assert!(
            tokio::time::timeout(second, wait).await.is_err(),
            "the server is stopped"
        );
        draining.send_replace(true);
        bounded("a drain", serving)
            .await
            .expect("no panic")
            .expect("serves");
        let closed = tokio::time::timeout(4 * STOPPED_MAX, engine.close()).await;
        closed.expect("closes");
        stop.send_replace(false);
    })
    .await;
}

/// Installations of two prefixes share a database, and nothing in it. What is not of one prefix is refused.
#[tokio::test(flavor = "multi_thread")]
async fn installations_share_a_database() {
    in_schema(|options| async move {
        let prefix = |which: &str| format!("{which}{:08x}.", fastrand::u32(..));
        let prefixes = [prefix("a"), prefix("b")];
        let broker = MemoryBroker::new();
        let mut engines = Vec::new();
        for prefix in &prefixes {
            let connected = leveret::connect_prefixed(&options.url, "memory:", prefix).await;
            let parts = |names| EngineParts {
                names,
                ..EngineParts::new(
                    connected.as_ref().unwrap().store.clone(),
                    Arc::new(broker.clone()),
                )
            };
            let refused = Engine::new(parts(Names::default()))
                .await
                .expect_err("is refused");
            assert!(
                refused
                    .to_string()
                    .contains(&format!("of prefix '{prefix}'")),
                "{refused}"
            );
            engines.push(
                Engine::new(parts(Names::with_prefix(prefix)))
                    .await
                    .expect("declares"),
            );
        }
        // Only the second works, and fires timers.
        let _serving = (serve(&engines[1], WORKER), serve(&engines[1], KEEPER));
        let nap = json!({ "id": "a", "uses": "sleep", "params": { "duration": "1ms" } });
        let (of_first, _) = engines[0].start(request(&nap)).await.expect("starts");
        let result = engines[1]
            .start_and_wait(request(&nap))
            .await
            .expect("ends");
        assert_eq!(engines[1].wait(&of_first).await.expect("answers"), None);
        assert_eq!(
            engines[0].wait(&result.run_id).await.expect("answers"),
            None
        );
        for prefix in &prefixes {
            leveret::remove_prefixed(&options.url, prefix)
                .await
                .expect("removes");
        }
        let long = "x".repeat(60);
        let refused = leveret::connect_prefixed(&options.url, "memory:", &long).await;
        assert!(refused.is_err());
    })
    .await;
}
