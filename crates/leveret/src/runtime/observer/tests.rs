use leveret_core::{graph::Place, ids::Scope, json::Json, parse::workflow_from_json};
use serde_json::json;

use super::*;
use crate::{
    broker::memory::MemoryBroker,
    nodes::Registry,
    runtime::{Publish, health::Part},
    store::Woken,
};

struct World {
    broker: Arc<MemoryBroker>,
    observer: Arc<Observer>,
    publishing: Option<std::pin::Pin<Box<dyn Future<Output = ()> + Send>>>,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    plan: Plan,
}

impl World {
    /// An observer whose task does not run yet.
    async fn new() -> World {
        let broker = Arc::new(MemoryBroker::new());
        let names = Arc::new(Names::default());
        let topology = names.topology(Publish::EVERYTHING);
        broker.declare(&topology).await.expect("declares");
        let (metrics, health) = (Arc::<Metrics>::default(), Arc::<Health>::default());
        let (observer, publishing) = Observer::new(
            StatusMessages::All,
            names,
            Arc::default(),
            Publisher {
                broker: broker.clone(),
                topology,
                metrics: metrics.clone(),
                health: health.clone(),
                losing: Arc::default(),
            },
        );
        let definition = json!({ "id": "w", "nodes": [{ "id": "a", "uses": "set" }] });
        let workflow = workflow_from_json(&definition, None).expect("valid");
        World {
            broker,
            observer: Arc::new(observer),
            publishing: Some(Box::pin(publishing)),
            metrics,
            health,
            plan: Plan::new(Arc::new(workflow), &Registry::builtin()),
        }
    }

    fn publish(&mut self) {
        tokio::spawn(self.publishing.take().expect("was not called before"));
    }

    async fn running(&self, run: &str) {
        let run_id = RunId::new(run).expect("an id");
        let at = Timestamp(0);
        self.observer
            .running(&self.plan, &run_id, &Place::root(0), None, at)
            .await;
    }

    /// A step with an output of about so many bytes.
    async fn recorded(&self, bytes: usize) {
        let finished = Finished {
            run_id: RunId::new("r").expect("an id"),
            workflow: self.plan.workflow.clone(),
            node: 0,
            scope: Scope::root(),
            via: None,
            attempts: 1,
            started_at: Timestamp(0),
            finished_at: Timestamp(0),
            woken: Woken::No,
            outcome: Outcome::Completed {
                output: Json::from(json!("x".repeat(bytes))),
                action: None,
                taken: Vec::new(),
                context: Vec::new(),
                items: None,
            },
        };
        self.observer.recorded(&self.plan, &finished, None).await;
    }

    async fn ready(&self) -> u64 {
        let queue = Names::default().status;
        self.broker.queue_stats(&queue).await.expect("counts").ready
    }
}

/// So many may wait, and not one more, however often messages came and went before.
#[tokio::test(start_paused = true)]
async fn the_bound_holds_and_does_not_drift() {
    let mut world = World::new().await;
    let full = async |world: &World| {
        for _ in 0..UNITS {
            world.running("r").await;
        }
        let more = tokio::time::timeout(Duration::from_secs(60), world.running("r"));
        assert!(more.await.is_err(), "one more has no room");
    };
    full(&world).await;
    world.publish();
    world.observer.flush().await;
    assert_eq!(world.ready().await, UNITS as u64);
    assert_eq!(world.observer.units.available_permits(), UNITS);
    world.running("r").await;
    world.observer.flush().await;
    assert_eq!(world.observer.units.available_permits(), UNITS);
}

/// Large ones take the room of many.
#[tokio::test(start_paused = true)]
async fn large_messages_take_more_room() {
    let world = World::new().await;
    let bytes = UNITS / 4 * UNIT_BYTES - 1000;
    for _ in 0..4 {
        world.recorded(bytes).await;
    }
    let more = tokio::time::timeout(Duration::from_secs(60), world.running("r"));
    assert!(more.await.is_err());
}

/// Somebody deletes the queue, then the exchange: both are declared again, and nothing is lost.
#[tokio::test(start_paused = true)]
async fn what_is_deleted_is_declared_again() {
    let mut world = World::new().await;
    world.publish();
    let names = Names::default();
    world
        .broker
        .delete_queue(&names.status)
        .await
        .expect("deletes");
    world.running("first").await;
    world.observer.flush().await;
    assert_eq!(world.ready().await, 1);
    world
        .broker
        .delete_exchange(&names.exchange)
        .await
        .expect("deletes");
    world.running("second").await;
    world.observer.flush().await;
    assert_eq!(world.ready().await, 2);
    assert_eq!(world.metrics.status_messages_lost.get(), 0);
    assert!(world.health.get(Part::Publishing));
    assert_eq!(world.observer.losing(), None);
}
