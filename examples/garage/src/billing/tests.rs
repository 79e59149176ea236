//! The service: told things in every order, asked by every route, and its client with the simulator.

mod client;
mod routes;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use axum::{
    body::Body,
    http::{HeaderMap, Request},
};
use leveret::{
    broker::Message,
    core::event::Event,
    crash::Point,
    service::{
        Effect, Of, Performed,
        events::{Cause, Emitter, EventData},
        testing::{Parts, TestedService, World, world},
    },
};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::{
    bill::{Bill, BillMessage, BillState, KIND},
    intent::{Action, GATEWAY_QUEUE, Intent, Outcome},
};
use crate::{
    auth::Role as Who,
    events::{
        CATALOGUE, ExecutionFailed, PaymentRefundFailed, PaymentRefunded, QuoteCreated,
        WorkOrderApproved, WorkOrderCancelled, WorkOrderCreated,
    },
    gateway::ledger::{self, Charged, Ledger, Refunded},
    ids::Id,
    money::Money,
    settings::Settings,
    statuses::{PaymentStatus, QuoteStatus},
};

/// How long quotes are valid in these tests.
const VALID_FOR: Duration = Duration::from_secs(600);
const SECRET: &str = "the secret of webhooks";

fn id(name: &str) -> Id {
    Id::derived(&["test", name])
}

/// The simulated gateway's books, without HTTP.
#[derive(Clone)]
struct Books {
    ledger: Arc<Mutex<Ledger>>,
    world: World,
}

impl Books {
    fn new(world: &World) -> Books {
        Books {
            ledger: Arc::new(Mutex::new(Ledger::new(Duration::from_millis(500)))),
            world: world.clone(),
        }
    }

    fn now(&self) -> Duration {
        Duration::from_millis(self.world.now().0.unsigned_abs())
    }

    fn report(&self) -> Value {
        self.ledger.lock().unwrap().report(self.now())
    }

    fn outcome(shown: &Value) -> Outcome {
        let charge_id = shown["id"].to_string();
        match shown["status"].as_str().unwrap() {
            "approved" => Outcome::Charged { charge_id },
            "in_process" => Outcome::InProcess {
                charge_id,
                status: "in_process".into(),
            },
            _ => Outcome::Rejected {
                charge_id: Some(charge_id),
                reason: shown["status_detail"].as_str().unwrap().to_owned(),
            },
        }
    }
}

#[async_trait]
impl Effect for Books {
    type Decider = Of<Bill>;

    async fn perform(&self, intent: &Message, _: u32) -> Performed<Of<Bill>> {
        let intent: Intent = serde_json::from_slice(&intent.body).unwrap();
        let now = self.now();
        let mut ledger = self.ledger.lock().unwrap();
        let outcome = match intent.action {
            Action::Charge => {
                let request = ledger::Request {
                    amount: intent.amount,
                    reference: intent.payment_id.to_string(),
                    notification_url: None,
                };
                match ledger.charge(&intent.key, request, now) {
                    Charged::Done(id) | Charged::InProcess(id) => {
                        Some(Books::outcome(&ledger.shown(id, now).unwrap()))
                    }
                    Charged::Late(_) | Charged::Fails => None,
                    Charged::OtherBody => panic!("one key, two charges"),
                }
            }
            Action::LookUp => {
                let found = ledger.search(intent.payment_id.as_str(), now);
                let found = found.first().map(Books::outcome);
                Some(found.unwrap_or(Outcome::NotCharged))
            }
            Action::Refund => {
                let charge_id = intent.charge_id.as_deref().unwrap().parse().unwrap();
                let key = format!("{}-refund", intent.key);
                let refunded = ledger.refund(charge_id, &key, now);
                (refunded == Refunded::Done).then_some(Outcome::Refunded)
            }
        };
        match outcome {
            Some(outcome) => Performed::Outcome(intent.concluded(outcome)),
            None => Performed::Retry {
                reason: "no answer".into(),
            },
        }
    }

    fn given_up(&self, intent: &Message, reason: &str) -> Option<BillMessage> {
        let intent: Intent = serde_json::from_slice(&intent.body).unwrap();
        let outcome = intent.given_up(reason, 4);
        Some(intent.concluded(outcome))
    }
}

/// A billing service in a world, its gateway, and what it tells.
struct Garage {
    world: World,
    service: TestedService,
    books: Books,
    settings: Settings,
}

impl Garage {
    async fn new(world: World) -> Garage {
        let books = Books::new(&world);
        let mut settings = Settings::test(world.clock());
        settings.mercado_pago.webhook_secret = Some(SECRET.to_owned());
        settings.patience.quote_valid_for = VALID_FOR;
        let make = {
            let (books, settings) = (books.clone(), settings.clone());
            move |parts: Parts| {
                let gateway = parts.effect(books.clone());
                let made = super::service_with(parts.documents, parts.broker, &settings, gateway);
                made.expect("the catalogue agrees")
            }
        };
        let service = world.service("billing", &super::kinds(), make).await;
        for key in ["quote.#", "payment.#"] {
            world.listen("told", CATALOGUE.exchange, key).await;
        }
        Garage {
            world,
            service,
            books,
            settings,
        }
    }

    async fn tell<E: EventData>(&self, data: &E, version: u64) {
        let event = CATALOGUE.event(E::TYPE).unwrap();
        let cause = Cause::root(id("order").as_str());
        let emitter = Emitter::new(&CATALOGUE, event.publisher, cause, self.world.now());
        let publish = emitter.event(data, version);
        self.world.publish(publish.publication).await;
    }

    async fn created(&self, estimated: Option<i64>) {
        let data = WorkOrderCreated {
            work_order_id: id("order"),
            customer_id: 7,
            vehicle_id: 1,
            description: "it squeaks".into(),
            estimated_cost: estimated.map(Money),
        };
        self.tell(&data, 1).await;
    }

    async fn agreed(&self) {
        let data = WorkOrderApproved {
            work_order_id: id("order"),
            customer_id: 7,
        };
        self.tell(&data, 2).await;
    }

    async fn cancelled(&self) {
        let data = WorkOrderCancelled {
            work_order_id: id("order"),
            customer_id: 7,
            reason: Some("no time".into()),
        };
        self.tell(&data, 3).await;
    }

    async fn broken(&self) {
        let data = ExecutionFailed {
            execution_id: id("execution"),
            work_order_id: id("order"),
            reason: "the frame is broken".into(),
        };
        self.tell(&data, 2).await;
    }

    async fn state(&self) -> BillState {
        let state = self.service.state(KIND, id("order").as_str()).await;
        state.expect("there is a bill")
    }

    /// Asks by HTTP.
    async fn ask(&self, who: Who, method: &str, path: &str, body: Value) -> (u16, Value) {
        let (status, body, _) = self.ask_with(who, method, path, body, &[]).await;
        (status, body)
    }

    async fn ask_with(
        &self,
        who: Who,
        method: &str,
        path: &str,
        body: Value,
        headers: &[(&str, &str)],
    ) -> (u16, Value, HeaderMap) {
        let service = self.service.service();
        let guard =
            axum::middleware::from_fn_with_state(self.settings.keys.clone(), crate::auth::guard);
        let router = super::router(&service, &self.settings)
            .route_layer(guard)
            .merge(super::public(&service, &self.settings));
        // Tokens are for the time of day.
        let now = crate::settings::system_time().0.unsigned_abs() / 1000;
        let token = self.settings.keys.token("7", who, now);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {token}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = match body {
            Value::Null => String::new(),
            body => body.to_string(),
        };
        let request = request.body(Body::from(body)).unwrap();
        let response = router.oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        let body = serde_json::from_slice(&bytes).unwrap_or_default();
        (parts.status.as_u16(), body, parts.headers)
    }

    /// Asks until there is an answer: a service that crashes gives none.
    async fn insist(&self, method: &str, path: &str, body: Value, key: &str) -> (u16, Value) {
        for _ in 0..20 {
            let headers = [("idempotency-key", key)];
            let asked = self.ask_with(Who::Customer, method, path, body.clone(), &headers);
            let patience = Duration::from_secs(120);
            if let Ok((status, body, _)) = tokio::time::timeout(patience, asked).await {
                return (status, body);
            }
        }
        panic!("no answer to {method} {path}");
    }

    fn payment(amount: &str) -> Value {
        json!({
            "quoteId": Id::derived(&["quote", id("order").as_str()]), "workOrderId": id("order"), "customerId": 7,
            "amount": amount, "paymentMethod": "PIX", "process": true,
        })
    }

    /// Created, agreed upon, and paid by a request, this amount in minor units.
    async fn paid(&self, minor: i64) -> (u16, Value) {
        self.created(Some(minor)).await;
        self.world.settle().await;
        self.agreed().await;
        self.world.settle().await;
        let payment = Garage::payment(&Money(minor).to_string());
        self.ask(Who::Customer, "POST", "/payments", payment).await
    }

    /// Events in the order of each aggregate's, told once more or not.
    async fn told(&self) -> Vec<Event> {
        let mut told: Vec<Event> = Vec::new();
        for message in self.world.take("told").await {
            let event = leveret::service::events::envelope(&message).unwrap();
            if !told.iter().any(|known| known.event_id == event.event_id) {
                told.push(event);
            }
        }
        for event in &told {
            assert_eq!(*event.correlation_id, *id("order").as_str());
            let earlier = |other: &&Event| {
                other.aggregate.id == event.aggregate.id
                    && other.aggregate.version <= event.aggregate.version
            };
            let count = told.iter().filter(earlier).count();
            assert_eq!(event.aggregate.version, count as u64, "{told:?}");
        }
        told
    }

    async fn told_types(&self) -> Vec<String> {
        let mut types: Vec<String> = self
            .told()
            .await
            .iter()
            .map(|event| event.event_type.to_string())
            .collect();
        types.sort();
        types
    }
}

/// Five copies of each event in any order, requests that are repeated, and crashes: one quote, one payment, one charge.
#[test]
fn one_of_each() {
    for seed in 0..20 {
        world(seed, async |world| {
            let garage = Garage::new(world.clone()).await;
            world.copies(5);
            world.shuffled();
            world.crashing(20, 4);
            garage.agreed().await;
            garage.created(Some(15_000)).await;
            world.finish().await;
            assert_eq!(garage.state().await.quotes[0].status, QuoteStatus::Approved);
            let payment = Garage::payment("150.00");
            let (status, paid) = garage
                .insist("POST", "/payments", payment.clone(), "k")
                .await;
            assert_eq!(
                (status, &paid["status"]),
                (201, &json!("APPROVED")),
                "{paid}"
            );
            let again = garage.insist("POST", "/payments", payment, "k").await;
            assert_eq!(again, (201, paid));
            world.finish().await;
            let report = garage.books.report();
            assert_eq!(report["charges"].as_array().unwrap().len(), 1);
            let expected = [
                "payment.approved",
                "payment.created",
                "quote.approved",
                "quote.created",
            ];
            assert_eq!(garage.told_types().await, expected);
        });
    }
}

/// However often a refund is asked for, and by whatever, there is one.
#[test]
fn one_refund() {
    for seed in 0..20 {
        world(seed, async |world| {
            let garage = Garage::new(world.clone()).await;
            // Its refund fails twice first.
            let (status, _) = garage.paid(15_005).await;
            assert_eq!(status, 201);
            world.copies(5);
            world.shuffled();
            world.crashing(10, 4);
            garage.broken().await;
            garage.cancelled().await;
            world.finish().await;
            let state = garage.state().await;
            assert_eq!(state.payments[0].status, PaymentStatus::Refunded);
            let report = garage.books.report();
            assert_eq!(report["refunds"].as_array().unwrap().len(), 1, "{report}");
            assert_eq!(report["refunded_twice"], json!([]));
            let told = garage.told().await;
            let refunds = told
                .iter()
                .filter(|event| &*event.event_type == PaymentRefunded::TYPE);
            let refunds: Vec<_> = refunds.collect();
            assert_eq!(refunds.len(), 1);
            assert!(refunds[0].causation_id.is_some(), "it says why");
        });
    }
}

/// A process that ends at any point of a charge charges once.
#[test]
fn a_crash_at_each_point_of_a_charge() {
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
                let garage = Garage::new(world.clone()).await;
                garage.created(Some(15_000)).await;
                garage.agreed().await;
                world.finish().await;
                garage.service.crash_at_nth(point, times);
                let payment = Garage::payment("150.00");
                let (status, paid) = garage.insist("POST", "/payments", payment, "k").await;
                assert_eq!(status, 201, "{point} {paid}");
                world.finish().await;
                let report = garage.books.report();
                assert_eq!(report["charges"].as_array().unwrap().len(), 1, "{point}");
                let state = garage.state().await;
                assert_eq!(state.payments[0].status, PaymentStatus::Approved, "{point}");
            });
        }
    }
}

/// Cancelled while the gateway has the charge in process: it comes, goes back, and nobody is told to begin work.
#[test]
fn a_charge_after_the_cancellation_goes_back() {
    world(3, async |world| {
        let garage = Garage::new(world.clone()).await;
        garage.created(Some(15_002)).await;
        garage.agreed().await;
        world.finish().await;
        let mut payment = Garage::payment("150.02");
        payment["process"] = json!(false);
        let (_, made) = garage
            .ask(Who::Customer, "POST", "/payments", payment)
            .await;
        let path = format!("/payments/{}/process", made["id"].as_str().unwrap());
        let processed = garage.ask(Who::Customer, "POST", &path, Value::Null);
        let cancelled = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            garage.cancelled().await;
        };
        tokio::join!(processed, cancelled);
        world.advance(Duration::from_secs(60)).await;
        world.finish().await;
        let state = garage.state().await;
        assert_eq!(state.payments[0].status, PaymentStatus::Refunded);
        let told = garage.told_types().await;
        assert!(!told.contains(&"payment.approved".to_owned()), "{told:?}");
        assert!(told.contains(&"payment.refunded".to_owned()), "{told:?}");
    });
}

/// The gateway always fails: nothing moved, that is settled, and somebody can see which payment it was. The customer may try again.
#[test]
fn a_gateway_that_always_fails() {
    world(4, async |world| {
        let garage = Garage::new(world.clone()).await;
        let (status, under_way) = garage.paid(15_003).await;
        assert_eq!((status, &under_way["status"]), (202, &json!("PROCESSING")));
        world.finish().await;
        let state = garage.state().await;
        assert_eq!(state.payments[0].status, PaymentStatus::Rejected);
        assert!(
            garage
                .told_types()
                .await
                .contains(&"payment.failed".to_owned())
        );
        let letters = world.dead_letters(GATEWAY_QUEUE).await;
        assert_eq!(letters.len(), 1);
        let letter: Value = serde_json::from_slice(&letters[0].body).unwrap();
        assert_eq!(letter["paymentId"], under_way["id"]);
        let again = Garage::payment("150.03");
        let (status, _) = garage.ask(Who::Customer, "POST", "/payments", again).await;
        assert_eq!(status, 202);
    });
}

/// The gateway charges and does not say so: the same key finds out.
#[test]
fn a_gateway_that_charges_silently() {
    world(5, async |world| {
        let garage = Garage::new(world.clone()).await;
        let (status, paid) = garage.paid(15_004).await;
        assert_eq!((status, &paid["status"]), (201, &json!("APPROVED")));
        assert_eq!(
            garage.books.report()["charges"].as_array().unwrap().len(),
            1
        );
    });
}

/// A refund that fails for good is told once; its dead letter, put back, asks again.
#[test]
fn a_refund_that_fails() {
    world(6, async |world| {
        let garage = Garage::new(world.clone()).await;
        garage.paid(15_006).await;
        garage.cancelled().await;
        world.finish().await;
        let failures = async || {
            let told = garage.world.take("told").await;
            let kinds = told.iter().filter_map(|message| message.kind.as_deref());
            kinds
                .filter(|kind| *kind == PaymentRefundFailed::TYPE)
                .count()
        };
        assert_eq!(failures().await, 1);
        for _ in 0..2 {
            let letters = world.dead_letters(GATEWAY_QUEUE).await;
            assert_eq!(letters.len(), 1);
            let replayed =
                leveret::broker::Publication::to_queue(GATEWAY_QUEUE, letters[0].clone());
            world.publish(replayed).await;
            world.finish().await;
        }
        assert_eq!(failures().await, 0);
        let refunds = garage.state().await.payments[0].refund.clone();
        assert_eq!(refunds.unwrap().error.as_deref(), Some("no answer"));
    });
}

/// Nobody answers in time: the work order's quote expires, by itself and once.
#[test]
fn a_quote_expires() {
    world(7, async |world| {
        let garage = Garage::new(world.clone()).await;
        garage.created(Some(15_000)).await;
        world.settle().await;
        garage.service.crash_at(Point::ServiceAfterCommit);
        world.advance(VALID_FOR + Duration::from_secs(60)).await;
        world.finish().await;
        assert_eq!(garage.state().await.quotes[0].status, QuoteStatus::Expired);
        let told = garage.told().await;
        let [created, rejected] = &told[..] else {
            panic!("{told:?}");
        };
        assert_eq!(&*created.event_type, QuoteCreated::TYPE);
        let data: Value = serde_json::from_str(rejected.data.text()).unwrap();
        assert_eq!(data["reason"], "expired");
        garage.agreed().await;
        world.finish().await;
        assert_eq!(garage.told().await, []);
    });
}
