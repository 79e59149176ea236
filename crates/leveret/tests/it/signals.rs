//! Steps that wait for signals, and signals that come by call and by message.

use std::{sync::Arc, time::Duration};

use leveret::{
    broker::{ConsumeOptions, Header, Message, Publication},
    core::{
        ids::{EventName, RunId, SignalId, SignalKey},
        json::Json,
        parse::workflow_from_json,
    },
    runtime::{Engine, EngineParts, Roles, StartRequest},
    store::{Addressee, NewSignal, RunStatus, Signalled, WaitFilter},
};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::harness::{Harness, PausedClock, blueprint, in_memory, serving, summary};

/// An engine in virtual time.
async fn engine() -> Engine {
    let parts = EngineParts {
        clock: Arc::new(PausedClock::new("r", Instant::now())),
        ..in_memory()
    };
    serving(parts, Roles::all()).await
}

async fn start(engine: &Engine, text: &str, input: Value) -> RunId {
    let workflow = workflow_from_json(&blueprint(text), None).expect("valid");
    let request = StartRequest {
        workflow: Arc::new(workflow),
        input: Json::from(input),
        run_id: None,
    };
    engine.start(request).await.expect("starts").0
}

/// Waits until so many steps of the run wait.
async fn until_waiting(engine: &Engine, run_id: &RunId, steps: usize) {
    let filter = WaitFilter {
        run_id: Some(run_id.clone()),
        limit: 100,
        ..WaitFilter::default()
    };
    let waiting = async {
        while engine.store().waits(&filter).await.expect("answers").len() != steps {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let bound = Duration::from_secs(20);
    tokio::time::timeout(bound, waiting)
        .await
        .expect("they wait");
}

fn signal(to: Addressee, event: &str, data: Value) -> NewSignal {
    NewSignal {
        to,
        event: EventName::new(event).expect("an event"),
        id: None,
        data: Json::from(data),
    }
}

async fn send(engine: &Engine, run_id: &RunId, event: &str, data: Value) -> Signalled {
    let signal = signal(Addressee::Run(run_id.clone()), event, data);
    engine.signal(signal).await.expect("records")
}

/// How many steps a signal woke.
fn woken(signalled: &Signalled) -> u64 {
    match signalled {
        Signalled::Recorded { woken, .. } => *woken,
        other => panic!("{other:?}"),
    }
}

async fn ended(engine: &Engine, run_id: &RunId) -> String {
    let result = engine.wait(run_id).await.expect("answers");
    assert_eq!(engine.metrics().reconciled.get(), 0);
    summary(&result.expect("is recorded"))
}

/// On a file, with threads: the strict harness finds what is left over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_waits_for_its_signal() {
    let harness = Harness::start().await;
    let engine = &harness.engine;
    let run_id = start(engine, "A>W W>B; W = wait; A = const 1", Value::Null).await;
    until_waiting(engine, &run_id, 1).await;
    assert_eq!(woken(&send(engine, &run_id, "other", json!(0)).await), 0);
    assert_eq!(
        woken(&send(engine, &run_id, "W", json!({ "paid": true })).await),
        1
    );
    assert_eq!(
        ended(engine, &run_id).await,
        r#"completed {"paid":true} | A B W |"#
    );
    let late = send(engine, &run_id, "W", json!(2)).await;
    assert_eq!(late, Signalled::Ended(RunStatus::Completed));
    harness.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_may_come_before_its_wait() {
    let harness = Harness::start().await;
    let engine = &harness.engine;
    let text = r#"A>W W>B B>V; A = wait; W = wait; W.params = {"event":"go"}; V = wait; V.params = {"event":"go"}"#;
    let run_id = start(engine, text, Value::Null).await;
    until_waiting(engine, &run_id, 1).await;
    for n in [1, 2] {
        assert_eq!(woken(&send(engine, &run_id, "go", json!(n)).await), 0);
    }
    send(engine, &run_id, "A", json!(null)).await;
    assert_eq!(ended(engine, &run_id).await, "completed 2 | A B V W |");
    harness.stop().await;
}

#[tokio::test(start_paused = true)]
async fn time_ends_a_wait_with_an_action() {
    let engine = engine().await;
    let text = r#"W>A[timeout] W>B; W = wait; W.params = {"event":"go","timeout":"10m"}; A = const "late""#;
    let begun = Instant::now();
    let run_id = start(&engine, text, Value::Null).await;
    assert_eq!(
        ended(&engine, &run_id).await,
        r#"completed {"A":"late"} | A W | B:skipped"#
    );
    assert_eq!(begun.elapsed().as_secs(), 600);
    let step = engine
        .result(&run_id)
        .await
        .unwrap()
        .unwrap()
        .steps
        .remove("W")
        .unwrap();
    assert!(step.output.is_null());

    let run_id = start(&engine, text, Value::Null).await;
    until_waiting(&engine, &run_id, 1).await;
    send(&engine, &run_id, "go", json!("in time")).await;
    assert_eq!(
        ended(&engine, &run_id).await,
        r#"completed {"B":"in time"} | B W | A:skipped"#
    );
}

#[tokio::test(start_paused = true)]
async fn a_wait_is_for_a_time_or_until_one() {
    let engine = engine().await;
    let begun = Instant::now();
    let run_id = start(
        &engine,
        r#"W; W = wait; W.params = {"duration":"2h"}"#,
        json!(5),
    )
    .await;
    assert_eq!(ended(&engine, &run_id).await, "completed 5 | W |");
    assert_eq!(begun.elapsed().as_secs(), 7_200);
    // The clock began at 2023-11-14T22:13:20Z.
    let text = r#"W; W = WaitNode; W.params = {"until":"{{ run.input }}"}"#;
    let run_id = start(&engine, text, json!("2023-11-15T01:13:20+00:00")).await;
    assert_eq!(
        ended(&engine, &run_id).await,
        r#"completed "2023-11-15T01:13:20+00:00" | W |"#
    );
    assert_eq!(begun.elapsed().as_secs(), 3 * 3_600);
    let run_id = start(&engine, text, json!("1999-01-01T00:00:00Z")).await;
    assert_eq!(
        ended(&engine, &run_id).await,
        r#"completed "1999-01-01T00:00:00Z" | W |"#
    );
    let run_id = start(&engine, text, json!("soon")).await;
    let failed = ended(&engine, &run_id).await;
    assert!(failed.starts_with("failed 'soon' is no time"), "{failed}");
}

#[tokio::test(start_paused = true)]
async fn a_key_finds_the_runs_that_wait_with_it() {
    let engine = engine().await;
    let text = r#"W; W = wait; W.params = {"event":"paid","key":"order-{{ run.input }}"}"#;
    let (one, two, other) = (
        start(&engine, text, json!(1)).await,
        start(&engine, text, json!(1)).await,
        start(&engine, text, json!(2)).await,
    );
    for run_id in [&one, &two, &other] {
        until_waiting(&engine, run_id, 1).await;
    }
    let by_key = |key: &str, data: Value| {
        let key = SignalKey::new(key).expect("a key");
        NewSignal {
            id: Some(SignalId::new("payment").expect("an id")),
            ..signal(Addressee::Key(key), "paid", data)
        }
    };
    let first = engine
        .signal(by_key("order-1", json!("a")))
        .await
        .expect("records");
    assert_eq!(woken(&first), 2);
    let again = engine
        .signal(by_key("order-1", json!("b")))
        .await
        .expect("records");
    assert_eq!(again, Signalled::Repeated);
    for run_id in [&one, &two] {
        assert_eq!(ended(&engine, run_id).await, r#"completed "a" | W |"#);
    }
    assert_eq!(
        engine.result(&other).await.unwrap().unwrap().status,
        RunStatus::Running
    );
    engine.cancel(&other).await.expect("cancels");
}

/// For days the reconciler leaves a run alone that waits, and takes up one that stalls beside its wait.
#[tokio::test(start_paused = true)]
async fn waiting_runs_are_not_stalled() {
    let engine = engine().await;
    let run_id = start(&engine, "S>W S>A; W = wait; S = const 1", Value::Null).await;
    until_waiting(&engine, &run_id, 1).await;
    tokio::time::sleep(Duration::from_secs(3 * 86_400)).await;
    assert_eq!(engine.metrics().reconciled.get(), 0);
    send(&engine, &run_id, "W", json!(2)).await;
    assert_eq!(
        ended(&engine, &run_id).await,
        r#"completed {"A":1,"W":2} | A S W |"#
    );
}

async fn publish(engine: &Engine, body: &Value, message_id: Option<&str>) {
    let mut message = Message::json(serde_json::to_vec(body).expect("prints"));
    message.message_id = message_id.map(Arc::from);
    let publication = Publication::to_queue(engine.names().signal.clone(), message);
    for result in engine.broker().publish(vec![publication]).await {
        result.expect("publishes");
    }
}

/// The reasons of so many dead letters.
async fn dead_letters(engine: &Engine, count: usize) -> Vec<String> {
    let queue = ConsumeOptions::queue(format!("{}.dlq", engine.names().signal));
    let mut letters = engine.broker().consume(queue).await.expect("consumes");
    let mut reasons = Vec::new();
    for _ in 0..count {
        let next = tokio::time::timeout(Duration::from_secs(120), letters.next()).await;
        let letter = next.expect("a letter comes").expect("is open");
        match &letter.message.headers["x-leveret-reason"] {
            Header::Text(reason) => reasons.push(reason.clone()),
            other => panic!("{other:?}"),
        }
        letter.receipt.ack();
    }
    reasons
}

#[tokio::test(start_paused = true)]
async fn signals_come_by_message() {
    let engine = engine().await;
    let text = r#"W>V V>U; W = wait; V = wait; V.params = {"event":"W"}; U = wait; U.params = {"event":"W","key":"k"}"#;
    let run_id = start(&engine, text, Value::Null).await;
    let body =
        |id: &str, n: u32| json!({ "execution_id": run_id, "event": "W", "data": n, "id": id });
    publish(&engine, &body("a", 1), None).await;
    publish(&engine, &body("a", 2), None).await;
    // Without an id, that of the message names it.
    let unnamed = json!({ "execution_id": run_id, "event": "W", "data": 3 });
    publish(&engine, &unnamed, Some("m")).await;
    publish(&engine, &unnamed, Some("m")).await;
    until_waiting(&engine, &run_id, 1).await;
    publish(
        &engine,
        &json!({ "key": "k", "event": "W", "data": 4 }),
        None,
    )
    .await;
    assert_eq!(ended(&engine, &run_id).await, "completed 4 | U V W |");
    let result = engine.result(&run_id).await.unwrap().unwrap();
    assert_eq!(result.steps["V"].output, Json::from(json!(3)));

    publish(&engine, &body("late", 5), None).await;
    publish(&engine, &json!({ "execution_id": run_id }), None).await;
    publish(&engine, &json!([1]), None).await;
    publish(&engine, &json!({ "event": "W" }), None).await;
    let reasons = dead_letters(&engine, 4).await;
    assert_eq!(
        reasons[0],
        format!("run '{run_id}' ended before as completed")
    );
    assert!(
        reasons[1].starts_with("not a signal: missing field `event`"),
        "{reasons:?}"
    );
    assert_eq!(reasons[2], "not a signal: it is no JSON object");
    assert!(reasons[3].contains("a `key`"), "{reasons:?}");
}

/// A signal may overtake the first message of its run; one whose run never comes is dead-lettered after some tries.
#[tokio::test(start_paused = true)]
async fn a_signal_waits_for_its_run() {
    let engine = engine().await;
    let body = json!({ "execution_id": "r-0000", "event": "W", "data": 1 });
    publish(&engine, &body, None).await;
    let never = json!({ "execution_id": "never", "event": "W" });
    publish(&engine, &never, None).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let run_id = start(&engine, "W; W = wait", Value::Null).await;
    assert_eq!(run_id.as_str(), "r-0000");
    assert_eq!(ended(&engine, &run_id).await, "completed 1 | W |");
    assert_eq!(dead_letters(&engine, 1).await, ["there is no run 'never'"]);
}
