//! Servers are killed while schedules are due: each due time is fired once.

use std::{
    collections::BTreeSet,
    process::Command,
    time::{Duration, Instant},
};

use leveret::{
    core::{
        ids::{RunId, ScheduleId},
        parse::workflow_from_json,
        schedule::{Firing, FiringState, Schedule, Spec},
    },
    runtime::{Clock, SystemClock},
    schedules::Change,
    store::{
        RunFilter, RunStatus, Store,
        postgres::{PostgresOptions, PostgresStore},
    },
};
use serde_json::json;

use super::{
    rig::{PATIENCE, Worker},
    servers::Place,
};

/// How often what other processes fire is looked at.
const POLL: Duration = Duration::from_millis(50);
/// How many servers are killed, one after the other.
const KILLS: usize = 8;

/// `leveret serve`.
fn server(place: &Place) -> Worker {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leveret"));
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--broker", &place.amqp])
        .args(["--store", &place.postgres, "--prefix", &place.prefix])
        .args([
            "--status",
            "off",
            "--completion",
            "false",
            "--log",
            "error,lapin=off",
        ]);
    Worker::spawn(command)
}

/// Schedules that are due at an interval, in a store that other processes serve.
struct World {
    place: Place,
    store: PostgresStore,
    ids: Vec<ScheduleId>,
    every: Duration,
}

impl World {
    async fn start(place: Place, count: usize, every: Duration) -> World {
        let store =
            PostgresStore::connect(PostgresOptions::prefixed(&place.postgres, &place.prefix)).await;
        let store = store.expect("PostgreSQL answers");
        let definition = json!({ "id": "scheduled", "nodes": [{ "id": "a", "uses": "set" }] });
        let workflow = workflow_from_json(&definition, None).expect("valid");
        let put = store.put_workflow(&workflow, SystemClock.now()).await;
        put.expect("stores");
        let ids = (0..count).map(|n| ScheduleId::new(format!("s{n}")).expect("an id"));
        let world = World {
            place,
            store,
            ids: ids.collect(),
            every,
        };
        for (n, id) in world.ids.iter().enumerate() {
            world.put(id, n).await;
        }
        world
    }

    /// They are due at different times within the interval.
    async fn put(&self, id: &ScheduleId, n: usize) {
        let every = self.every.as_millis() as u64;
        let spec = json!({ "workflow_id": "scheduled", "every": every, "overlap": "allow", "catch_up": "all" });
        let spec: Spec = serde_json::from_value(spec).expect("a spec");
        let share = every * n as u64 / self.ids.len() as u64;
        let now = SystemClock.now() + Duration::from_millis(share);
        let compiled = spec.compile(now).expect("it is due");
        let schedule = Schedule::new(spec, &compiled, now);
        let change = Change {
            id: id.clone(),
            version: 0,
            look_at: schedule.next_due,
            schedule,
            over: Vec::new(),
        };
        assert!(
            self.store
                .schedules()
                .change(&change)
                .await
                .expect("stores")
        );
    }

    async fn history(&self, id: &ScheduleId) -> Vec<Firing> {
        let history = self.store.schedules().history(id, None, 1000).await;
        history.expect("PostgreSQL answers")
    }

    /// How many firings there were of all.
    async fn fired(&self) -> u64 {
        let kept = self.store.schedules().list(None, 10_000).await;
        let kept = kept.expect("PostgreSQL answers");
        kept.iter().map(|kept| kept.schedule.firings).sum()
    }

    async fn until_fired(&self, goal: u64) {
        let deadline = Instant::now() + PATIENCE;
        while self.fired().await < goal {
            assert!(Instant::now() < deadline, "schedules are not fired");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Pauses all, and waits until nothing is to be started any more.
    async fn pause(&self) {
        let schedules = self.store.schedules();
        let deadline = Instant::now() + PATIENCE;
        for id in &self.ids {
            loop {
                assert!(
                    Instant::now() < deadline,
                    "schedule {id} does not come to rest"
                );
                let kept = schedules.get(id).await.expect("answers").expect("is there");
                if kept.schedule.paused_at.is_some() && kept.schedule.starting.is_empty() {
                    break;
                }
                if kept.schedule.paused_at.is_none() {
                    let mut schedule = kept.schedule;
                    let compiled = schedule.spec.compiled().expect("a spec");
                    let now = SystemClock.now();
                    schedule.pause(now);
                    let change = Change {
                        id: id.clone(),
                        version: kept.version,
                        look_at: schedule.look_at(&compiled, id.as_str(), now, now),
                        schedule,
                        over: Vec::new(),
                    };
                    schedules.change(&change).await.expect("answers");
                }
                tokio::time::sleep(POLL).await;
            }
        }
    }

    /// Each due time from the first to the last was fired once, each has a run, and there are no other runs. How late they were, sorted.
    async fn assert_each_once(&self) -> Vec<u64> {
        let (mut late, mut runs) = (Vec::new(), BTreeSet::<RunId>::new());
        for id in &self.ids {
            let mut history = self.history(id).await;
            history.reverse();
            let kept = self
                .store
                .schedules()
                .get(id)
                .await
                .expect("answers")
                .expect("is there");
            assert_eq!(
                history.len() as u64,
                kept.schedule.firings,
                "{id}: none is left over"
            );
            let mut due = kept.schedule.anchor;
            for firing in history {
                due = due + self.every;
                assert_eq!(
                    (firing.due_at, firing.state),
                    (due, FiringState::Started),
                    "{id}: {firing:?}"
                );
                late.push(firing.at.ms_since(due));
                assert!(
                    runs.insert(firing.run_id.expect("it has a run")),
                    "{id}: a run of two firings"
                );
            }
        }
        self.assert_runs(&runs).await;
        late.sort_unstable();
        late
    }

    /// The runs of the store are these, and complete.
    async fn assert_runs(&self, expect: &BTreeSet<RunId>) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (mut runs, mut all_completed) = (BTreeSet::new(), true);
            let mut filter = RunFilter {
                limit: 500,
                ..RunFilter::default()
            };
            loop {
                let page = self.store.runs(&filter).await.expect("PostgreSQL answers");
                let Some(last) = page.last() else { break };
                filter.after = Some((last.created_at, last.run_id.clone()));
                for run in page {
                    all_completed &= run.status == RunStatus::Completed;
                    runs.insert(run.run_id);
                }
            }
            assert_eq!(&runs, expect, "a run for each firing, and no other");
            if all_completed {
                return;
            }
            assert!(Instant::now() < deadline, "runs do not complete");
            tokio::time::sleep(POLL).await;
        }
    }
}

async fn killed(name: &str, count: usize, every: Duration, kills: usize, firings_between: u64) {
    let Some(place) = Place::shared(name).await else {
        return;
    };
    let world = World::start(place, count, every).await;
    let mut servers = [server(&world.place), server(&world.place)];
    let worker = Worker::start(&world.place);
    for n in 0..kills {
        world
            .until_fired(world.fired().await + firings_between)
            .await;
        servers[n % 2] = server(&world.place);
    }
    world
        .until_fired(world.fired().await + firings_between)
        .await;
    world.pause().await;
    let late = world.assert_each_once().await;
    let at = |share: usize| late[(late.len() - 1) * share / 100];
    println!(
        "{count} schedules, {kills} servers killed, {} firings; late by {} ms (median), {} ms (99 of 100), {} ms (most)",
        late.len(),
        at(50),
        at(99),
        at(100)
    );
    drop((servers, worker));
    world.store.close().await;
    world.place.remove().await;
}

/// Two servers, one of them killed with `kill -9` after some firings, in turn: no due time is lost, and none is fired twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_due_time_is_fired_once_whichever_server_is_killed() {
    killed("kill-schedules", 5, Duration::from_secs(1), KILLS, 8).await;
}

/// A measurement: a thousand schedules a minute.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes three minutes"]
async fn a_thousand_schedules_a_minute() {
    killed("kill-thousand", 1000, Duration::from_secs(60), 10, 180).await;
}
