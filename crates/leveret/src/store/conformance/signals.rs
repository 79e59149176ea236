//! Waits for signals, and what ends them.

use std::{sync::Arc, time::Duration};

use leveret_core::{
    ids::{EventName, RunId, Scope, SignalId, SignalKey},
    json::Json,
    time::Timestamp,
};
use serde_json::{Value, json};

use super::world::{Run, World, assert_over, assert_repeated, commit, ms, node_id, recorded};
use crate::store::{
    Addressee, Committed, Finished, LOOK_PAUSE_MAX, Load, NewRun, NewSignal, Outcome, Pass,
    RunStatus, Signalled, StepStatus, Store, Timer, Wait, WaitFilter, WaitKind, Waited, Woken,
};

/// How long the timers of steps that are woken are claimed.
const CLAIM: Duration = Duration::from_millis(50);

fn event(name: &str) -> EventName {
    EventName::new(name).expect("an event")
}

fn key(world: &World, name: &str) -> SignalKey {
    SignalKey::new(format!("{}.{name}", world.prefix)).expect("a key")
}

fn wait_of(name: &str) -> Wait {
    Wait {
        event: event(name),
        key: None,
        kind: WaitKind::Signal,
        about: Json::null(),
    }
}

/// The step begins to wait.
fn waits(run: &Run, node: &str, wait: Wait, until: Option<Timestamp>) -> Finished {
    let outcome = Outcome::Waiting {
        until,
        wait: Some(wait),
        error: None,
    };
    run.ended(node, outcome)
}

fn signal(to: Addressee, name: &str, data: Value) -> NewSignal {
    NewSignal {
        to,
        event: event(name),
        id: None,
        data: Json::from(data),
    }
}

fn to(run: &Run, name: &str, data: Value) -> NewSignal {
    signal(Addressee::Run(run.id.clone()), name, data)
}

async fn send(world: &World, signal: NewSignal, at: i64) -> Signalled {
    let mut answers = world
        .store
        .signal(&[signal], world.at(at), CLAIM)
        .await
        .expect("signal");
    assert_eq!(answers.len(), 1, "one answer for each signal");
    answers.remove(0)
}

/// The timers of the steps that a signal woke.
#[track_caller]
fn woken(signalled: Signalled) -> Vec<Timer> {
    match signalled {
        Signalled::Recorded { woken, timers } => {
            assert_eq!(woken as usize, timers.len());
            timers
        }
        other => panic!("the signal is recorded, not {other:?}"),
    }
}

#[track_caller]
fn assert_kept(signalled: Signalled) {
    assert_eq!(woken(signalled), [], "nothing waits for it");
}

/// What the step waits for has brought.
async fn brought(world: &World, run: &Run, node: &str) -> Option<Option<Value>> {
    let load = Load {
        step: Some((run.node(node), Scope::root())),
        wait: true,
        ..Load::default()
    };
    let wait = world.load(run, load).await.wait;
    wait.map(|wait| match wait {
        Waited::Open => None,
        Waited::Ended(data) => Some(data.value().clone()),
    })
}

/// The step's end, by the signal that it has got.
fn goes_on(run: &Run, node: &str) -> Finished {
    Finished {
        woken: Woken::BySignal,
        ..run.done(node)
    }
}

async fn remove(world: &World, timers: Vec<Timer>) {
    world.store.remove_timers(&timers).await.unwrap();
}

pub(super) async fn ends_a_wait(world: &mut World) {
    let run = world.run("r", &world.flow("a>b", &json!({}))).await;
    world.record(waits(&run, "a", wait_of("paid"), None)).await;
    assert_eq!(brought(world, &run, "a").await, Some(None));
    assert!(world.claim(world.at(9_999), ms(1)).await.is_empty());

    let timers = woken(send(world, to(&run, "paid", json!({ "cents": 5 })), 100).await);
    let [timer] = &timers[..] else {
        panic!("one step is woken: {timers:?}");
    };
    assert_eq!(timer.key, run.done("a").key());
    assert_eq!((timer.attempts, timer.via), (1, None));
    assert_eq!(timer.workflow_hash, run.workflow.hash);
    assert_eq!(timer.claimed_until, world.at(150));
    assert_eq!(
        brought(world, &run, "a").await,
        Some(Some(json!({ "cents": 5 })))
    );
    // Whoever recorded it may have died.
    assert!(world.claim(world.at(149), ms(9)).await.is_empty());
    let again = world.claim(world.at(150), ms(9)).await;
    assert_eq!(again.len(), 1);
    remove(world, timers).await;
    assert_eq!(
        world.claim(world.at(159), ms(9)).await.len(),
        1,
        "claimed by another"
    );

    let (decision, _) = world.record(goes_on(&run, "a")).await;
    assert_eq!(decision.ready.len(), 1);
    assert_eq!(brought(world, &run, "a").await, None, "it waits no more");
    assert!(world.claim(world.at(9_999), ms(9)).await.is_empty());
    // The next one finds nobody, and stays.
    assert_kept(send(world, to(&run, "paid", json!(2)), 200).await);
}

pub(super) async fn is_kept_for_the_next_wait(world: &mut World) {
    let run = world.run("r", &world.flow("a b", &json!({}))).await;
    assert_kept(send(world, to(&run, "paid", json!(null)), 10).await);
    assert_kept(send(world, to(&run, "other", json!(7)), 10).await);
    let begins = waits(&run, "a", wait_of("paid"), Some(world.at(9_000)));
    let committed = world.commit(&[begins]).await.remove(0);
    assert!(matches!(
        committed,
        Committed::Recorded {
            signalled: true,
            ..
        }
    ));
    assert_eq!(brought(world, &run, "a").await, Some(Some(json!(null))));
    // Due when it began to wait, not at the end of its time.
    let timers = world.claim(world.at(1), ms(9)).await;
    assert_eq!(timers.len(), 1);
    remove(world, timers).await;
    let begins = waits(&run, "b", wait_of("paid"), None);
    let committed = world.commit(&[begins]).await.remove(0);
    assert!(
        matches!(
            committed,
            Committed::Recorded {
                signalled: false,
                ..
            }
        ),
        "it was taken"
    );
}

/// The oldest wait gets the oldest signal, in one batch or in many.
pub(super) async fn wait_in_order(world: &mut World) {
    let run = world.run("r", &world.flow("a b c d", &json!({}))).await;
    let batch = [1, 2, 3].map(|n| to(&run, "go", json!(n)));
    for signalled in world
        .store
        .signal(&batch, world.at(1), CLAIM)
        .await
        .unwrap()
    {
        assert_kept(signalled);
    }
    let begin = |node| waits(&run, node, wait_of("go"), None);
    world.commit(&[begin("b"), begin("a")]).await;
    assert_eq!(brought(world, &run, "b").await, Some(Some(json!(1))));
    assert_eq!(brought(world, &run, "a").await, Some(Some(json!(2))));
    world.commit(&[begin("c"), begin("d")]).await;
    assert_eq!(brought(world, &run, "c").await, Some(Some(json!(3))));
    assert_eq!(brought(world, &run, "d").await, Some(None));

    let run = world.run("s", &world.flow("a b c", &json!({}))).await;
    for node in ["c", "a", "b"] {
        world.record(waits(&run, node, wait_of("go"), None)).await;
    }
    let batch = [1, 2].map(|n| to(&run, "go", json!(n)));
    let answers = world
        .store
        .signal(&batch, world.at(1), CLAIM)
        .await
        .unwrap();
    assert_eq!(answers.into_iter().flat_map(woken).count(), 2);
    for (node, got) in [("c", Some(json!(1))), ("a", Some(json!(2))), ("b", None)] {
        assert_eq!(brought(world, &run, node).await, Some(got), "{node}");
    }
}

pub(super) async fn same_id_counts_once(world: &mut World) {
    let run = world.run("r", &world.flow("a b", &json!({}))).await;
    let other = world.run("o", &run.workflow).await;
    let named = |run: &Run, name: &str, id: &str| NewSignal {
        id: Some(SignalId::new(id).expect("an id")),
        ..to(run, name, json!(id))
    };
    let batch = [
        named(&run, "go", "1"),
        named(&run, "go", "1"),
        named(&run, "come", "1"),
        named(&other, "go", "1"),
    ];
    let answers = world
        .store
        .signal(&batch, world.at(1), CLAIM)
        .await
        .unwrap();
    let repeated: Vec<bool> = answers
        .iter()
        .map(|answer| *answer == Signalled::Repeated)
        .collect();
    assert_eq!(repeated, [false, true, false, false]);
    world.record(waits(&run, "a", wait_of("go"), None)).await;
    assert_eq!(
        send(world, named(&run, "go", "1"), 2).await,
        Signalled::Repeated
    );
    world.record(goes_on(&run, "a")).await;
    world.record(waits(&run, "b", wait_of("go"), None)).await;
    assert_eq!(brought(world, &run, "b").await, Some(None));
    world.store.cancel(&run.id, world.at(3)).await.unwrap();
    assert_eq!(
        send(world, named(&run, "go", "1"), 4).await,
        Signalled::Repeated,
        "also when the run has ended"
    );
}

pub(super) async fn refused_where_nobody_is(world: &mut World) {
    let unknown = Addressee::Run(world.run_id("unknown"));
    assert_eq!(
        send(world, signal(unknown, "go", json!(1)), 1).await,
        Signalled::NoRun
    );
    let run = world.run("r", &world.flow("a", &json!({}))).await;
    let wait = Wait {
        key: Some(key(world, "k")),
        ..wait_of("go")
    };
    world.record(waits(&run, "a", wait, None)).await;
    world.store.cancel(&run.id, world.at(3)).await.unwrap();
    let ended = Signalled::Ended(RunStatus::Cancelled);
    assert_eq!(send(world, to(&run, "go", json!(1)), 4).await, ended);
    let by_key = signal(Addressee::Key(key(world, "k")), "go", json!(1));
    assert_kept(send(world, by_key, 5).await);
    assert!(listed(world, &run.id).await.is_empty());
    assert!(world.claim(world.at(9_999), ms(1)).await.is_empty());
}

/// One wait of each run that waits with the key, and of none else.
pub(super) async fn by_key_to_each_run(world: &mut World) {
    let workflow = world.flow("a b", &json!({}));
    let names: Vec<String> = (0..4).map(|number| format!("r{number}")).collect();
    let runs = world.runs(&names, &workflow).await;
    let keyed = |of: &str| Wait {
        key: Some(key(world, of)),
        ..wait_of("go")
    };
    let batch = [
        waits(&runs[0], "a", keyed("k"), None),
        waits(&runs[0], "b", keyed("k"), None),
        waits(&runs[1], "a", keyed("k"), None),
        waits(&runs[2], "a", keyed("l"), None),
        waits(&runs[3], "a", wait_of("go"), None),
    ];
    world.commit(&batch).await;
    let by_key = |of: &str, name: &str, data: i64| NewSignal {
        id: Some(SignalId::new(data.to_string()).expect("an id")),
        ..signal(Addressee::Key(key(world, of)), name, json!(data))
    };
    let mut timers = woken(send(world, by_key("k", "go", 1), 10).await);
    timers.sort_by(|a, b| a.key.cmp(&b.key));
    let told: Vec<_> = timers.iter().map(|timer| &timer.key).collect();
    assert_eq!(told, [&runs[0].done("a").key(), &runs[1].done("a").key()]);
    assert_eq!(
        send(world, by_key("k", "go", 1), 10).await,
        Signalled::Repeated
    );
    assert_eq!(woken(send(world, by_key("k", "go", 2), 10).await).len(), 1);
    assert_eq!(brought(world, &runs[0], "b").await, Some(Some(json!(2))));

    // Nobody waits: the next wait with that key gets it, and no other.
    assert_kept(send(world, by_key("k", "come", 3), 10).await);
    assert_kept(send(world, by_key("m", "go", 4), 10).await);
    assert_kept(send(world, by_key("m", "go", 5), 10).await);
    world.record(waits(&runs[1], "b", keyed("n"), None)).await;
    assert_eq!(brought(world, &runs[1], "b").await, Some(None));
    let batch = [
        waits(&runs[2], "b", keyed("m"), None),
        waits(&runs[3], "b", keyed("m"), None),
    ];
    world.commit(&batch).await;
    assert_eq!(brought(world, &runs[2], "b").await, Some(Some(json!(4))));
    assert_eq!(brought(world, &runs[3], "b").await, Some(Some(json!(5))));
    // A signal to the run needs no key.
    assert_eq!(
        woken(send(world, to(&runs[2], "go", json!(6)), 10).await).len(),
        1
    );
    assert_eq!(brought(world, &runs[2], "a").await, Some(Some(json!(6))));
}

/// An attempt that knows nothing of the signal is not recorded, however late it is.
pub(super) async fn goes_before_the_end_of_time(world: &mut World) {
    let run = world.run("r", &world.flow("a>c b>c", &json!({}))).await;
    let until = Some(world.at(50));
    let begin = |node| waits(&run, node, wait_of("go"), until);
    world.commit(&[begin("a"), begin("b")]).await;
    let due = world.claim(world.at(50), ms(500)).await;
    assert_eq!(due.len(), 2);
    assert_eq!(
        woken(send(world, to(&run, "go", json!(1)), 60).await).len(),
        1
    );
    let times_out = |node| Finished {
        woken: Woken::ByTime,
        ..run.done(node)
    };
    let committed = world.commit(&[times_out("a"), times_out("b")]).await;
    assert_repeated(&committed[0]);
    recorded(committed[1].clone());
    remove(world, due).await;
    assert_eq!(brought(world, &run, "a").await, Some(Some(json!(1))));
    assert_eq!(brought(world, &run, "b").await, None);
    let timers = world.claim(world.at(60) + CLAIM, ms(9)).await;
    assert_eq!(timers.len(), 1, "it is woken by the signal");
    let (decision, _) = world.record(goes_on(&run, "a")).await;
    assert_eq!(decision.ready.len(), 1);
    remove(world, timers).await;
}

/// A step that failed with what it got tries again with it.
pub(super) async fn outlives_a_retry(world: &mut World) {
    let run = world.run("r", &world.flow("a", &json!({}))).await;
    world.record(waits(&run, "a", wait_of("go"), None)).await;
    remove(
        world,
        woken(send(world, to(&run, "go", json!(1)), 10).await),
    )
    .await;
    let fails = Finished {
        woken: Woken::BySignal,
        ..run.waiting("a", 2, world.at(90))
    };
    world.record(fails).await;
    assert_eq!(brought(world, &run, "a").await, Some(Some(json!(1))));
    // It may also wait anew, for another.
    let anew = Finished {
        attempts: 3,
        woken: Woken::BySignal,
        ..waits(&run, "a", wait_of("come"), None)
    };
    world.record(anew).await;
    assert_eq!(brought(world, &run, "a").await, Some(None));
    assert_kept(send(world, to(&run, "go", json!(2)), 10).await);
    let timers = woken(send(world, to(&run, "come", json!(3)), 10).await);
    assert_eq!(timers[0].attempts, 3);
    remove(world, timers).await;
}

/// A node is called when it waits for that, and once.
pub(super) async fn to_a_node_that_waits(world: &mut World) {
    let run = world.run("r", &world.flow("a>b", &json!({}))).await;
    let call = |kind| {
        let to = Addressee::Node(run.id.clone(), node_id("a"), kind);
        signal(to, "call", json!(1))
    };
    let webhook = Wait {
        kind: WaitKind::Webhook,
        about: Json::from(json!({ "form": "f" })),
        ..wait_of("hook")
    };
    assert_eq!(
        send(world, call(WaitKind::Webhook), 1).await,
        Signalled::NotWaiting
    );
    assert_kept(send(world, to(&run, "hook", json!(0)), 1).await);
    world.record(waits(&run, "a", webhook, None)).await;
    assert_eq!(
        brought(world, &run, "a").await,
        Some(None),
        "no other signal ends it"
    );
    assert_eq!(
        send(world, call(WaitKind::Approval), 2).await,
        Signalled::NotWaiting
    );
    let batch = [call(WaitKind::Webhook), call(WaitKind::Webhook)];
    let mut answers = world
        .store
        .signal(&batch, world.at(3), CLAIM)
        .await
        .unwrap();
    assert_eq!(answers.pop(), Some(Signalled::Over));
    let timers = woken(answers.remove(0));
    assert_eq!(timers.len(), 1);
    remove(world, timers).await;
    world.record(goes_on(&run, "a")).await;
    assert_eq!(
        send(world, call(WaitKind::Webhook), 4).await,
        Signalled::Over
    );
    world.record(run.done("b")).await;
    let ended = Signalled::Ended(RunStatus::Completed);
    assert_eq!(send(world, call(WaitKind::Webhook), 5).await, ended);
}

async fn listed(world: &World, run_id: &RunId) -> Vec<String> {
    let filter = WaitFilter {
        run_id: Some(run_id.clone()),
        limit: 100,
        ..WaitFilter::default()
    };
    let waits = world.store.waits(&filter).await.unwrap();
    let names = waits.iter().map(|wait| wait.key.node_id.to_string());
    names.collect()
}

pub(super) async fn waits_are_listed(world: &mut World) {
    let run = world.run("r", &world.flow("a b c d", &json!({}))).await;
    let approval = Wait {
        kind: WaitKind::Approval,
        key: Some(key(world, "k")),
        about: Json::from(json!({ "who": "Ada" })),
        ..wait_of("approved")
    };
    world.record(waits(&run, "c", wait_of("go"), None)).await;
    let begins = Finished {
        finished_at: world.at(30),
        ..waits(&run, "b", approval.clone(), Some(world.at(70)))
    };
    world.record(begins).await;
    world.record(waits(&run, "a", wait_of("go"), None)).await;
    assert_eq!(listed(world, &run.id).await, ["c", "b", "a"]);
    remove(
        world,
        woken(send(world, to(&run, "go", json!(1)), 10).await),
    )
    .await;
    assert_eq!(listed(world, &run.id).await, ["b", "a"]);

    let mut filter = WaitFilter {
        kind: Some(WaitKind::Approval),
        limit: 2,
        ..WaitFilter::default()
    };
    let mut ours = Vec::new();
    loop {
        let page = world.store.waits(&filter).await.unwrap();
        let Some(last) = page.last() else { break };
        filter.after = Some(last.number);
        ours.extend(page.into_iter().filter(|wait| wait.key.run_id == run.id));
    }
    let [wait] = &ours[..] else {
        panic!("one approval: {ours:?}");
    };
    assert_eq!((&wait.key, &wait.wait), (&run.done("b").key(), &approval));
    assert_eq!(wait.workflow_id, run.workflow.id);
    assert_eq!((wait.since, wait.until), (world.at(30), Some(world.at(70))));
}

/// A run that waits for a signal is looked at ever more seldom, and soon when the signal has come.
pub(super) async fn waiting_runs_are_seldom_looked_at(world: &mut World) {
    let workflow = world.flow("a", &json!({}));
    let new = NewRun {
        reconcile_at: world.at(1_000),
        ..world.new_run("r", &workflow)
    };
    world.store.start(std::slice::from_ref(&new)).await.unwrap();
    let run = Run {
        id: new.run_id,
        workflow,
        now: world.base,
    };
    world.record(waits(&run, "a", wait_of("go"), None)).await;
    let looked_at = async |at: i64| {
        let (stalled, _) = world
            .store
            .claim_stalled(world.at(at), ms(1_000), 1_000)
            .await
            .unwrap();
        stalled.contains(&run.id)
    };
    // The step was recorded at 1 ms.
    assert!(looked_at(11_001).await);
    assert!(!looked_at(21_999).await, "as long as it was quiet");
    assert!(looked_at(22_001).await);
    let days = |days: u32| i64::try_from((LOOK_PAUSE_MAX * days).as_millis()).unwrap();
    assert!(looked_at(days(5)).await);
    assert!(!looked_at(days(6) - 1).await);
    assert!(looked_at(days(6)).await, "once a day");
    let timers = woken(send(world, to(&run, "go", json!(1)), days(6) + 1).await);
    assert!(!looked_at(days(6) + 2).await);
    remove(world, timers).await;
    assert!(looked_at(days(6) + 60_001).await, "if its job was lost");
}

/// Nothing of waits and signals is left of a run that is removed, and nothing of old signals by keys.
pub(super) async fn removed_with_their_runs(world: &mut World) {
    let run = world.run("r", &world.flow("a", &json!({}))).await;
    let named = NewSignal {
        id: Some(SignalId::new("1").expect("an id")),
        ..to(&run, "go", json!(1))
    };
    assert_kept(send(world, named.clone(), 1).await);
    let by_key = |of: &str| NewSignal {
        id: Some(SignalId::new("1").expect("an id")),
        ..signal(Addressee::Key(key(world, of)), "go", json!(1))
    };
    let wait = Wait {
        key: Some(key(world, "read")),
        ..wait_of("go")
    };
    let reader = world.run("reader", &run.workflow).await;
    assert_kept(send(world, by_key("read"), 1).await);
    assert_kept(send(world, by_key("old"), 1).await);
    assert_kept(send(world, by_key("new"), 90).await);
    world.record(waits(&reader, "a", wait, None)).await;
    world.record(run.done("a")).await;
    let mut pass = Some(Pass::default());
    while let Some(at) = pass.take() {
        (_, pass) = world.store.prune(world.at(50), at, 100).await.unwrap();
    }
    assert_eq!(world.store.run(&run.id).await.unwrap(), None);
    assert_eq!(brought(world, &reader, "a").await, Some(Some(json!(1))));
    let again = world.new_run("r", &run.workflow);
    world.store.start(&[again]).await.unwrap();
    assert_kept(send(world, named, 91).await);
    assert_kept(send(world, by_key("old"), 91).await);
    for of in ["read", "new"] {
        assert_eq!(
            send(world, by_key(of), 91).await,
            Signalled::Repeated,
            "{of}"
        );
    }
}

/// How many runs the tasks meet in.
const RUNS: usize = 24;

/// Steps begin to wait while their signals come, by their runs, by keys, twice: whichever is second, each wait ends once, with its own signal.
pub(super) async fn meet_their_waits(world: &mut World) {
    let names: Vec<String> = (0..RUNS).map(|number| format!("r{number}")).collect();
    let runs = world.runs(&names, &world.flow("a b", &json!({}))).await;
    let mut begins = Vec::new();
    let mut sent = Vec::new();
    for (number, run) in runs.iter().enumerate() {
        let of_run = key(world, &format!("k{number}"));
        let keyed = Wait {
            key: Some(of_run.clone()),
            ..wait_of("come")
        };
        begins.push(waits(run, "a", wait_of("go"), None));
        begins.push(waits(run, "b", keyed, Some(world.at(9_000))));
        let id = Some(SignalId::new("once").expect("an id"));
        sent.push(NewSignal {
            id: id.clone(),
            ..to(run, "go", json!(number))
        });
        sent.push(NewSignal {
            id,
            ..signal(Addressee::Key(of_run), "come", json!(number))
        });
    }
    let mut tasks = Vec::new();
    for task in 0..6 {
        let store: Arc<dyn Store> = world.handle().await;
        let (mut begins, mut sent, at) = (begins.clone(), sent.clone(), world.at(1));
        fastrand::shuffle(&mut begins);
        fastrand::shuffle(&mut sent);
        tasks.push(tokio::spawn(async move {
            let mut ended = 0;
            if task % 2 == 0 {
                for batch in begins.chunks(1 + fastrand::usize(..9)) {
                    let committed = commit(&store, batch).await;
                    let signalled = |one: &&Committed| {
                        matches!(
                            one,
                            Committed::Recorded {
                                signalled: true,
                                ..
                            }
                        )
                    };
                    ended += committed.iter().filter(signalled).count();
                }
            } else {
                for batch in sent.chunks(1 + fastrand::usize(..9)) {
                    let answers = store.signal(batch, at, CLAIM).await.expect("signal");
                    for answer in answers {
                        if answer != Signalled::Repeated {
                            ended += woken(answer).len();
                        }
                    }
                }
            }
            ended
        }));
    }
    let mut ended = 0;
    for task in tasks {
        ended += task.await.expect("no panic");
    }
    assert_eq!(ended, 2 * RUNS, "each wait ends once");
    for (number, run) in runs.iter().enumerate() {
        for node in ["a", "b"] {
            let got = brought(world, run, node).await;
            assert_eq!(got, Some(Some(json!(number))), "{node} of {number}");
        }
    }
    let timers = world.claim(world.at(8_000), ms(9)).await;
    assert_eq!(timers.len(), 2 * RUNS, "each has a timer that is due");
    remove(world, timers).await;
}

/// The end of the time against the signal: one of them wins, and a signal that was taken is not lost.
pub(super) async fn against_the_end_of_time(world: &mut World) {
    let names: Vec<String> = (0..RUNS).map(|number| format!("r{number}")).collect();
    let runs = world.runs(&names, &world.flow("a>b", &json!({}))).await;
    let of_all = key(world, "k");
    let wait = Wait {
        key: Some(of_all.clone()),
        ..wait_of("go")
    };
    let begin = |run| waits(run, "a", wait.clone(), Some(world.at(5)));
    let begins: Vec<Finished> = runs.iter().map(begin).collect();
    world.commit(&begins).await;
    let late: Vec<Finished> = runs
        .iter()
        .map(|run| Finished {
            woken: Woken::ByTime,
            ..run.done("a")
        })
        .collect();
    let (one, two, three) = (
        world.handle().await,
        world.handle().await,
        world.handle().await,
    );
    let at = world.at(6);
    let timing_out = tokio::spawn(async move {
        let mut all = Vec::new();
        for batch in late.chunks(3) {
            all.extend(commit(&one, batch).await);
        }
        all
    });
    let singly: Vec<NewSignal> = runs
        .iter()
        .rev()
        .map(|run| to(run, "go", json!(1)))
        .collect();
    let signalling = tokio::spawn(async move {
        let mut woke = 0;
        for batch in singly.chunks(5) {
            let answers = two.signal(batch, at, CLAIM).await.expect("signal");
            woke += answers.into_iter().flat_map(woken).count();
        }
        woke
    });
    let by_key = tokio::spawn(async move {
        let signal = signal(Addressee::Key(of_all), "go", json!(2));
        let answers = three.signal(&[signal], at, CLAIM).await.expect("signal");
        answers.into_iter().flat_map(woken).count()
    });
    let committed = timing_out.await.expect("no panic");
    let woke = signalling.await.expect("no panic") + by_key.await.expect("no panic");
    let mut timed_out = 0;
    for (run, committed) in runs.iter().zip(&committed) {
        let step = world.steps(run).await.remove(0);
        match committed {
            Committed::Recorded { .. } => {
                timed_out += 1;
                assert_eq!(step.status, StepStatus::Completed);
                assert_eq!(brought(world, run, "a").await, None);
            }
            Committed::Repeated => {
                assert_eq!(step.status, StepStatus::Waiting);
                assert!(matches!(brought(world, run, "a").await, Some(Some(_))));
                world.record(goes_on(run, "a")).await;
            }
            other @ Committed::Over(_) => assert_over(other, None),
        }
    }
    assert_eq!(timed_out + woke, RUNS, "by time or by a signal");
    let timers = world.claim(world.at(9_000), ms(1)).await;
    assert!(timers.is_empty(), "none is left: {timers:?}");
}
