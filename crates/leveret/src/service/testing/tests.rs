//! The kit keeps what it promises, and services in it keep their promises.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU32, Ordering},
};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{broker::LivedBroker, documents::LivedDocuments, life::Life, *};
use crate::{
    broker::{self, work::WorkOptions},
    crash::Point,
    service::{
        Aggregate, Effect, Input, Next, Of, Performed, Publish, Refusal, Service, ServiceOptions,
        Subscription,
        documents::{self, Documents},
    },
};

/// What the tests' service keeps: a sum, and what was noted of it elsewhere.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Sum {
    total: i64,
    noted: u32,
    reminded: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Change {
    /// Adds, tells of it, and has it noted.
    Add { id: String, by: i64 },
    /// It was noted.
    Noted { id: String },
    /// Reminds in a minute.
    Remind { id: String },
    /// The minute is over.
    Reminded { id: String },
}

struct Sums;

impl Aggregate for Sums {
    const KIND: &'static str = "sum";
    type State = Sum;
    type Message = Change;

    fn id(message: &Change) -> String {
        let (Change::Add { id, .. }
        | Change::Noted { id }
        | Change::Remind { id }
        | Change::Reminded { id }) = message;
        id.clone()
    }

    fn decide(state: Option<Sum>, message: &Change, now: Timestamp) -> Result<Next<Sum>, Refusal> {
        let mut state = state.unwrap_or_default();
        match message {
            Change::Add { by: 0, .. } => Err(Refusal::malformed("adds nothing")),
            Change::Add { id, by } => {
                state.total += by;
                let noted =
                    Message::json(serde_json::to_vec(&Change::Noted { id: id.clone() }).unwrap());
                let told = Message::json(json!({ "id": id, "sum": state.total }).to_string());
                Ok(Next::state(state).publish([
                    Publish::to_queue("notes", noted),
                    Publish::to_queue("told", told),
                ]))
            }
            Change::Noted { .. } => {
                state.noted += 1;
                Ok(Next::state(state))
            }
            Change::Remind { .. } => {
                Ok(Next::state(state).deadline("remind", now + Duration::from_secs(60)))
            }
            Change::Reminded { .. } => {
                state.reminded += 1;
                Ok(Next::state(state))
            }
        }
    }
}

/// Notes by the idempotency key that the intent's id is.
#[derive(Clone, Default)]
struct Notebook {
    calls: Arc<AtomicU32>,
    keys: Arc<Mutex<std::collections::BTreeSet<String>>>,
    /// Fails so often first.
    fails: Arc<AtomicU32>,
}

#[async_trait::async_trait]
impl Effect for Notebook {
    type Decider = Of<Sums>;

    async fn perform(&self, intent: &Message, _: u32) -> Performed<Of<Sums>> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let failed = self
            .fails
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(1)
            });
        if failed.is_ok() {
            let reason = "the notebook is closed".to_owned();
            return Performed::Retry { reason };
        }
        let key = intent.message_id.as_deref().unwrap().to_owned();
        self.keys.lock().unwrap().insert(key);
        Performed::Outcome(serde_json::from_slice(&intent.body).unwrap())
    }

    fn given_up(&self, _: &Message, _: &str) -> Option<Change> {
        None
    }
}

fn kinds() -> [Kind; 1] {
    [Kind::new("sum", &[])]
}

/// The tests' service, with this notebook.
fn sums(notebook: Notebook) -> impl Fn(Parts) -> Service + Send + Sync + 'static {
    move |parts| {
        let effect = parts.effect(notebook.clone());
        let mut options = ServiceOptions::new("sums", parts.now.clone());
        options.topology.queues = vec![Queue::plain("told")];
        let changes = Subscription::queue("changes", Of::<Sums>::default(), |message| {
            let change = serde_json::from_slice(&message.body);
            change.map(Input::new).map_err(|error| error.to_string())
        });
        Service::builder(options, parts.documents, parts.broker)
            .subscribe(changes)
            .effect(WorkOptions::queue("notes"), effect, Of::<Sums>::default())
            .deadlines("sum", Of::<Sums>::default(), |due| Change::Reminded {
                id: due.key.id.to_string(),
            })
            .build()
    }
}

async fn add(world: &World, id: &str, by: i64) {
    world
        .deliver("changes", json!({ "add": { "id": id, "by": by } }))
        .await;
}

/// The ids of messages, each once.
fn ids(messages: &[Message]) -> std::collections::BTreeSet<Arc<str>> {
    let ids = messages.iter().map(|message| message.message_id.clone());
    ids.flatten().collect()
}

#[test]
fn a_delivery_that_comes_five_times_takes_effect_once() {
    world(1, async |world| {
        let notebook = Notebook::default();
        let service = world
            .service("sums", &kinds(), sums(notebook.clone()))
            .await;
        world.copies(5);
        add(&world, "a", 3).await;
        world.settle().await;
        let sum = service.state("sum", "a").await;
        assert_eq!(
            sum,
            Some(Sum {
                total: 3,
                noted: 1,
                reminded: 0
            })
        );
        assert_eq!(world.take("told").await.len(), 1);
        assert_eq!(notebook.calls.load(Ordering::Relaxed), 5, "at least once");
        assert_eq!(notebook.keys.lock().unwrap().len(), 1, "with one key");
    });
}

/// With some seed, what was delivered later is decided first.
#[test]
fn shuffled_deliveries_come_in_another_order() {
    let order = |seed, shuffled| {
        world(seed, async |world| {
            world
                .service("sums", &kinds(), sums(Notebook::default()))
                .await;
            if shuffled {
                world.shuffled();
            }
            for by in 1..=5 {
                add(&world, &format!("s{by}"), by).await;
            }
            world.settle().await;
            let told = world.take("told").await;
            let sum = |message: &Message| {
                serde_json::from_slice::<Value>(&message.body).unwrap()["sum"].clone()
            };
            told.iter()
                .map(|message| sum(message).as_i64().unwrap())
                .collect::<Vec<_>>()
        })
    };
    assert_eq!(order(1, false), [1, 2, 3, 4, 5]);
    let shuffled: Vec<_> = (1..=4).map(|seed| order(seed, true)).collect();
    assert!(
        shuffled.iter().any(|order| *order != [1, 2, 3, 4, 5]),
        "{shuffled:?}"
    );
    for mut order in shuffled {
        order.sort_unstable();
        assert_eq!(order, [1, 2, 3, 4, 5]);
    }
}

/// At each point, the first and the second time that it is reached.
#[test]
fn a_crash_anywhere_loses_nothing_and_doubles_nothing() {
    for point in [
        Point::ServiceBeforeCommit,
        Point::ServiceAfterCommit,
        Point::RelayBeforePublish,
        Point::RelayAfterPublish,
        Point::EffectBeforeCall,
        Point::EffectAfterCall,
        Point::BrokerBeforeAck,
    ] {
        for times in 1..=2 {
            world(1, async |world| {
                let notebook = Notebook::default();
                let service = world
                    .service("sums", &kinds(), sums(notebook.clone()))
                    .await;
                service.crash_at_nth(point, times);
                for by in 1..=3 {
                    add(&world, "a", by).await;
                    world.settle().await;
                }
                world.finish().await;
                assert_eq!(service.crashes(), 1, "{point}");
                let sum = service.state("sum", "a").await;
                assert_eq!(
                    sum,
                    Some(Sum {
                        total: 6,
                        noted: 3,
                        reminded: 0
                    }),
                    "{point}"
                );
                assert_eq!(ids(&world.take("told").await).len(), 3, "{point}");
                assert_eq!(notebook.keys.lock().unwrap().len(), 3, "{point}");
            });
        }
    }
}

/// What a crash after the commit keeps back goes out when the lease is over, and not before.
#[test]
fn what_a_crash_keeps_back_waits_for_its_lease() {
    world(1, async |world| {
        let service = world
            .service("sums", &kinds(), sums(Notebook::default()))
            .await;
        service.crash_at(Point::ServiceAfterCommit);
        add(&world, "a", 1).await;
        world.advance(Duration::from_secs(25)).await;
        assert_eq!(world.take("told").await.len(), 0);
        assert!(service.state::<Sum>("sum", "a").await.is_some());
        world.advance(Duration::from_secs(10)).await;
        assert_eq!(world.take("told").await.len(), 1);
    });
}

#[test]
fn a_deadline_fires_once_though_its_service_crashes() {
    world(1, async |world| {
        let service = world
            .service("sums", &kinds(), sums(Notebook::default()))
            .await;
        let remind = Change::Remind { id: "a".to_owned() };
        let called = service.call(&Of::<Sums>::default(), &remind).await;
        called.expect("no crash").expect("decided");
        world.advance(Duration::from_secs(59)).await;
        let reminded = async || service.state::<Sum>("sum", "a").await.unwrap().reminded;
        assert_eq!(reminded().await, 0);
        service.crash_at(Point::ServiceBeforeCommit);
        world.advance(Duration::from_secs(120)).await;
        assert_eq!((reminded().await, service.crashes()), (1, 1));
    });
}

#[test]
fn a_call_that_is_interrupted_says_nothing_of_what_happened() {
    for (point, sum) in [
        (Point::ServiceBeforeCommit, None),
        (Point::ServiceAfterCommit, Some(2)),
    ] {
        world(1, async |world| {
            let service = world
                .service("sums", &kinds(), sums(Notebook::default()))
                .await;
            service.crash_at(point);
            let add = Change::Add {
                id: "a".to_owned(),
                by: 2,
            };
            let called = service.call(&Of::<Sums>::default(), &add).await;
            assert!(called.is_none());
            let state = service.state::<Sum>("sum", "a").await;
            assert_eq!(state.map(|state| state.total), sum);
        });
    }
}

/// 1 + 3 attempts take 31 s; then it is a dead letter. What is malformed is one at once, and touches nothing.
#[test]
fn retries_take_their_time_and_end() {
    world(1, async |world| {
        let notebook = Notebook::default();
        notebook.fails.store(u32::MAX, Ordering::Relaxed);
        let service = world
            .service("sums", &kinds(), sums(notebook.clone()))
            .await;
        add(&world, "a", 0).await;
        world.settle().await;
        let letters = world.dead_letters("changes").await;
        assert_eq!(letters.len(), 1);
        assert!(service.state::<Sum>("sum", "a").await.is_none());

        add(&world, "a", 1).await;
        world.advance(Duration::from_secs(30)).await;
        assert_eq!(notebook.calls.load(Ordering::Relaxed), 3);
        assert!(world.dead_letters("notes").await.is_empty());
        world.finish().await;
        assert_eq!(notebook.calls.load(Ordering::Relaxed), 4);
        assert_eq!(world.dead_letters("notes").await.len(), 1);
    });
}

/// Two processes on the same documents, every delivery twice, in any order, crashes by chance: as with one process and nothing of that.
#[test]
fn all_at_once_by_chance() {
    for seed in 0..60 {
        world(seed, async |world| {
            let notebook = Notebook::default();
            let one = world
                .service("sums", &kinds(), sums(notebook.clone()))
                .await;
            let other = world.another(&one).await;
            world.twice();
            world.shuffled();
            world.crashing(20, 4);
            for by in 1..=8 {
                add(&world, &format!("s{}", by % 3), by).await;
            }
            world.finish().await;
            let mut all = Sum::default();
            for id in ["s0", "s1", "s2"] {
                let sum: Sum = one.state("sum", id).await.unwrap();
                all.total += sum.total;
                all.noted += sum.noted;
            }
            assert_eq!(
                all,
                Sum {
                    total: 36,
                    noted: 8,
                    reminded: 0
                }
            );
            assert_eq!(ids(&world.take("told").await).len(), 8);
            assert!(one.crashes() + other.crashes() <= 4);
        });
    }
}

#[test]
fn a_seed_repeats_what_happens() {
    let events = |seed| {
        world(seed, async |world| {
            world
                .service("sums", &kinds(), sums(Notebook::default()))
                .await;
            world.copies(3);
            world.shuffled();
            world.crashing(15, 3);
            for by in 1..=6 {
                add(&world, "a", by).await;
            }
            world.finish().await;
            world.events()
        })
    };
    assert_eq!(events(5), events(5));
    assert_ne!(events(5), events(6));
}

#[test]
#[should_panic(expected = "is no point of services")]
fn a_service_has_no_points_of_nodes() {
    world(1, async |world| {
        let service = world
            .service("sums", &kinds(), sums(Notebook::default()))
            .await;
        service.crash_at(Point::NodeAfterCommit);
    });
}

fn quiet_life() -> Arc<Life> {
    let World(shared) = World::new(1);
    Arc::new(Life::new(shared, "conformance".to_owned(), Arc::default()))
}

/// What stands between a service and its broker keeps the seam's promises.
#[tokio::test(start_paused = true)]
async fn the_broker_conforms() {
    broker::conformance::exercise(|| async {
        let life = quiet_life();
        let inner = life.world.broker.clone();
        Arc::new(LivedBroker { inner, life }) as Arc<dyn Broker>
    })
    .await;
}

#[tokio::test]
async fn the_documents_conform() {
    documents::conformance::exercise(|| async {
        let inner = MemoryDocuments::new(&documents::conformance::kinds()).unwrap();
        let life = quiet_life();
        let documents: Arc<dyn Documents> = Arc::new(LivedDocuments { inner, life });
        documents::conformance::Fresh::new(move || {
            let documents = documents.clone();
            async move { documents }
        })
    })
    .await;
}
