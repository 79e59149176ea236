//! Workers are asked to stop, by SIGTERM, while a step is under way: a request that this process answers when the test says so.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use leveret::{
    broker::QueueStats,
    core::{ids::RunId, json::Json, workflow::Workflow},
    runtime::StartRequest,
    store::StepStatus,
};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::{
    load::workflow,
    rig::{NEVER, PATIENCE, POLL, Rig, Worker, until},
    servers::Place,
};

/// How much longer than its drain timeout a worker may take to end: it tells the store and closes its connections.
const END_TIME_MAX: Duration = Duration::from_secs(20);

/// Where the steps ask.
struct Slow(TcpListener);

/// A step under way.
struct Asked {
    stream: TcpStream,
    idempotency_key: String,
}

impl Slow {
    async fn start() -> Slow {
        Slow(
            TcpListener::bind("127.0.0.1:0")
                .await
                .expect("a port is free"),
        )
    }

    /// Runs whose third step asks, and waits much longer than anything here takes.
    fn workflow(&self) -> Arc<Workflow> {
        let address = self.0.local_addr().expect("an address");
        let params = json!({ "url": format!("http://{address}"), "timeout": "1h" });
        workflow("drain", &[("c", "http", params)])
    }

    /// Waits until a step asks.
    async fn asked(&self) -> Asked {
        let accepted = timeout(PATIENCE, self.0.accept()).await;
        let (mut stream, _) = accepted.expect("a step asks").expect("accepts");
        let mut lines = BufReader::new(&mut stream).lines();
        let mut idempotency_key = None;
        while let Some(line) = lines.next_line().await.expect("a request")
            && !line.is_empty()
        {
            let key = line.strip_prefix("idempotency-key: ").map(str::to_owned);
            idempotency_key = idempotency_key.or(key);
        }
        Asked {
            stream,
            idempotency_key: idempotency_key.expect("the step sends its key"),
        }
    }

    /// Whether no step asks, now that all is done.
    async fn assert_not_asked(&self) {
        let asked = timeout(Duration::ZERO, self.0.accept()).await;
        assert!(asked.is_err(), "a step was executed once more");
    }
}

impl Asked {
    async fn answer(mut self) {
        let answer = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
        self.stream
            .write_all(answer)
            .await
            .expect("the step listens");
    }
}

fn worker(place: &Place, drain_timeout: &str) -> Worker {
    Worker::start_with(place, &["--drain-timeout", drain_timeout])
}

async fn start(rig: &Rig, workflow: &Arc<Workflow>) -> RunId {
    let request = StartRequest {
        workflow: workflow.clone(),
        input: Json::null(),
        run_id: None,
    };
    rig.engine.start(request).await.expect("starts").0
}

/// Waits until the worker has ended, with code 0.
async fn until_ended(worker: &mut Worker) {
    until("the worker ends", || !worker.is_alive()).await;
    assert_eq!(worker.end(), None, "it ends by itself");
}

/// Waits until the queue of jobs is so.
async fn until_queue(rig: &Rig, what: &str, holds: impl Fn(QueueStats) -> bool) {
    let queue = &rig.engine.names().execution;
    let becomes = async {
        while !holds(
            rig.engine
                .broker()
                .queue_stats(queue)
                .await
                .expect("counts"),
        ) {
            tokio::time::sleep(POLL).await;
        }
    };
    timeout(PATIENCE, becomes).await.expect(what);
}

/// A step that takes longer than the drain timeout is dropped and its job returns: the next worker executes it again and ends the run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_outlasts_the_drain_timeout_is_requeued() {
    const DRAIN: Duration = Duration::from_millis(500);
    let Some(place) = Place::shared("kill-outlast").await else {
        return;
    };
    let rig = Rig::start(place, NEVER).await;
    let slow = Slow::start().await;
    let mut first = worker(&rig.place, "500ms");
    let run_id = start(&rig, &slow.workflow()).await;
    let begun = slow.asked().await;
    let asked_to_stop = Instant::now();
    first.terminate();
    until_ended(&mut first).await;
    let took = asked_to_stop.elapsed();
    assert!(took >= DRAIN && took < DRAIN + END_TIME_MAX, "{took:?}");
    until_queue(&rig, "the job is back", |stats| {
        (stats.ready, stats.consumers) == (1, 0)
    })
    .await;

    let second = worker(&rig.place, "500ms");
    let again = slow.asked().await;
    assert_eq!(again.idempotency_key, begun.idempotency_key);
    again.answer().await;
    rig.assert_each_once(&BTreeSet::from([run_id])).await;
    slow.assert_not_asked().await;
    rig.assert_no_dead_letters().await;
    drop(second);
    rig.end().await;
}

/// A step that ends within the drain timeout is finished and recorded; what comes meanwhile is left to others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_is_finished_first() {
    let Some(place) = Place::shared("kill-finish").await else {
        return;
    };
    let rig = Rig::start(place, NEVER).await;
    let slow = Slow::start().await;
    let workflow = slow.workflow();
    let mut first = worker(&rig.place, "1h");
    let run_id = start(&rig, &workflow).await;
    let under_way = slow.asked().await;
    first.terminate();
    until_queue(&rig, "it stops consuming", |stats| stats.consumers == 0).await;
    let later = start(&rig, &workflow).await;
    until_queue(&rig, "the later run waits", |stats| stats.ready == 1).await;
    assert!(first.is_alive(), "it does not wait for its step");
    under_way.answer().await;
    until_ended(&mut first).await;
    let result = rig.engine.result(&run_id).await.expect("the store answers");
    let step = &result.expect("the run is recorded").steps["c"];
    assert_eq!((step.status, step.attempts), (StepStatus::Completed, 1));

    let second = worker(&rig.place, "1h");
    slow.asked().await.answer().await;
    rig.assert_each_once(&BTreeSet::from([run_id, later])).await;
    slow.assert_not_asked().await;
    rig.assert_no_dead_letters().await;
    drop(second);
    rig.end().await;
}
