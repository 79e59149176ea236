//! A catalogue of two services, and what it lets pass.

use std::{sync::Arc, time::Duration};

use leveret_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Catalogue, Cause, Emitter, EventData, EventType, Party, Subscriptions, envelope, queue_name,
    read,
};
use crate::{
    broker::{Broker, Message, Topology, memory::MemoryBroker},
    service::{
        Aggregate, Decider, Decision, Key, Next, Of, Refusal, Service, ServiceBuilder,
        ServiceOptions, View,
        documents::{Kind, memory::MemoryDocuments},
    },
};

const SHOP: Party = Party {
    name: "shop",
    source: "shop-service",
};
const MILL: Party = Party {
    name: "mill",
    source: "mill-service",
};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Ordered {
    order_id: String,
}

impl EventData for Ordered {
    const TYPE: &'static str = "flour.ordered";

    fn subject(&self) -> &str {
        &self.order_id
    }
}

fn schema() -> Value {
    json!({ "type": "object" })
}

static CATALOGUE: Catalogue = Catalogue {
    title: "Flour",
    exchange: "flour",
    events: &[EventType {
        name: "flour.ordered",
        version: 1,
        publisher: SHOP,
        consumers: &[MILL],
        summary: "Somebody wants flour.",
        data: schema,
    }],
    watchers: &["mill-sagas"],
};

const SAGA: &str = "0192d3a4-7b1e-5c6d-8e9f-0a1b2c3d4e5f";

fn told(version: u64) -> Message {
    let emitter = Emitter::new(&CATALOGUE, SHOP, Cause::root(SAGA), Timestamp(1));
    let data = Ordered {
        order_id: "o1".into(),
    };
    emitter.event(&data, version).publication.message
}

#[test]
fn told_again_it_is_the_same_event() {
    assert_eq!(told(1), told(1));
    assert_ne!(told(1).message_id, told(2).message_id);
    let event = envelope(&told(2)).unwrap();
    assert_eq!(told(2).message_id.as_ref(), Some(&event.event_id));
    assert_eq!(event.aggregate.version, 2);
    assert_eq!(
        read::<Ordered>(&event),
        Ok(Ordered {
            order_id: "o1".into()
        })
    );
    assert_eq!(Cause::of(&event).causation_id, Some(event.event_id));
}

/// Changes an event, and says why it is not read then.
fn refused(path: &str, value: Value) -> String {
    let mut body: Value = serde_json::from_slice(&told(1).body).unwrap();
    *body.pointer_mut(path).unwrap() = value;
    let event = envelope(&Message::json(body.to_string()));
    event.and_then(|event| read::<Ordered>(&event)).unwrap_err()
}

#[test]
fn what_is_not_read() {
    let check = |path: &str, value: Value, expected: &str| {
        let reason = refused(path, value);
        assert!(reason.contains(expected), "{path}: {reason}");
    };
    check(
        "/eventType",
        json!("flour.ground"),
        "`eventType` is not flour.ordered: it is flour.ground",
    );
    check(
        "/eventVersion",
        json!(2),
        "`eventVersion` is 2; only 1 is read",
    );
    check(
        "/aggregate/id",
        json!("o2"),
        "`aggregate.id` is 'o2', and `data` is about 'o1'",
    );
    check("/data", json!({}), "missing field `orderId`");
    check(
        "/data",
        json!({ "orderId": "o1", "more": 1 }),
        "unknown field `more`",
    );
    let other = Message {
        message_id: Some("x".into()),
        ..told(1)
    };
    assert!(
        envelope(&other)
            .unwrap_err()
            .contains("is not the `eventId`")
    );
}

struct Sack;

impl Aggregate for Sack {
    const KIND: &'static str = "sack";
    type State = u32;
    type Message = Ordered;

    fn id(message: &Ordered) -> String {
        message.order_id.clone()
    }

    fn decide(state: Option<u32>, _: &Ordered, _: Timestamp) -> Result<Next<u32>, Refusal> {
        Ok(Next::state(state.unwrap_or(0) + 1))
    }
}

fn builder() -> ServiceBuilder {
    let options = ServiceOptions::new("mill", Arc::new(|| Timestamp(1)));
    let documents = MemoryDocuments::new(&[Kind::new("sack", &[])]).expect("kinds");
    Service::builder(
        options,
        Arc::new(documents),
        Arc::new(MemoryBroker::default()),
    )
}

#[test]
fn a_service_subscribes_to_what_the_catalogue_says() {
    let none = Subscriptions::new(&CATALOGUE, MILL, builder(), |_| ());
    let error = none.finish().unwrap_err().to_string();
    assert!(error.contains("no queue for [flour.ordered]"), "{error}");
    let subscriptions = || Subscriptions::new(&CATALOGUE, MILL, builder(), |_| ());
    let all = subscriptions().on(Of::<Sack>::default(), |_, data: Ordered| data);
    all.finish().expect("as declared");
    let shop = Subscriptions::new(&CATALOGUE, SHOP, builder(), |_| ());
    let own = shop.on(Of::<Sack>::default(), |_, data: Ordered| data);
    assert_eq!(own.finish().unwrap_err().unknown, ["flour.ordered"]);
}

/// Tells an event whenever it is asked.
struct Shop;

impl Decider for Shop {
    type Message = ();
    type Answer = ();

    fn keys(&self, (): &()) -> Vec<Key> {
        vec![Key::new("sack", "o1")]
    }

    fn decide(&self, _: &View<'_>, (): &(), now: Timestamp) -> Result<Decision<()>, Refusal> {
        let emitter = Emitter::new(&CATALOGUE, SHOP, Cause::root(SAGA), now);
        let data = Ordered {
            order_id: "o1".into(),
        };
        Ok(Decision {
            publish: vec![emitter.event(&data, 1)],
            ..Decision::answer(())
        })
    }
}

#[tokio::test]
async fn an_event_waits_for_consumers_that_were_never_started() {
    let broker = Arc::new(MemoryBroker::default());
    // Another service is just starting: its exchange is there, its queues are not yet.
    let exchange = Topology {
        exchanges: CATALOGUE.topology().exchanges,
        ..Topology::default()
    };
    broker.declare(&exchange).await.expect("declared");
    let mut options = ServiceOptions::new("shop", Arc::new(|| Timestamp(1)));
    options.topology = CATALOGUE.topology();
    let documents = MemoryDocuments::new(&[Kind::new("sack", &[])]).expect("kinds");
    let shop = Service::builder(options, Arc::new(documents), broker.clone()).build();
    shop.call(&Shop, &()).await.expect("told");
    for queue in ["mill-flour-ordered", "mill-sagas"] {
        let waits = async || {
            let stats = broker.queue_stats(queue).await;
            stats.is_ok_and(|stats| stats.ready == 1)
        };
        let sent = async {
            while !waits().await {
                shop.relay_once().await.expect("the outbox is looked at");
                tokio::task::yield_now().await;
            }
        };
        let sent = tokio::time::timeout(Duration::from_secs(10), sent).await;
        sent.unwrap_or_else(|_| panic!("nothing waits in {queue}"));
    }
}

#[test]
fn as_asyncapi() {
    assert_eq!(queue_name(MILL, "flour.ordered"), "mill-flour-ordered");
    let document = CATALOGUE.asyncapi("1.0");
    let receive = &document["operations"]["mill-receives-flour-ordered"];
    assert_eq!(receive["x-queue"], "mill-flour-ordered");
    let send = &document["operations"]["shop-sends-flour-ordered"];
    assert_eq!(send["channel"]["$ref"], "#/channels/flour-ordered");
    let payload = &document["components"]["messages"]["flour-ordered"]["payload"];
    assert_eq!(payload["properties"]["eventType"]["const"], "flour.ordered");
}
