//! The execution service alone, told things in every order.

use axum::{
    body::Body,
    http::{Request, StatusCode},
};
use leveret::{
    core::event::Event,
    service::{
        Of,
        events::{Cause, Emitter, EventData},
        testing::{Parts, TestedService, World, world},
    },
};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::{
    decide::{Change, Executions, Message, Noted},
    state::{ExecutionState, KIND, id_of},
};
use crate::{
    auth::Role as Who,
    events::{
        BILLING, CATALOGUE, ExecutionCompleted, ExecutionCreated, ExecutionFailed,
        ExecutionStatusChanged, OS, PaymentApproved, QuoteApproved, WorkOrderCancelled,
        WorkOrderStatusChanged,
    },
    ids::Id,
    money::Money,
    settings::Settings,
    statuses::{ExecutionStatus, WorkOrderStatus},
};

fn id(name: &str) -> Id {
    Id::derived(&["test", name])
}

/// An execution service in a world, and what it tells.
struct Garage {
    world: World,
    service: TestedService,
}

impl Garage {
    async fn new(world: World) -> Garage {
        let make = |parts: Parts| {
            let settings = Settings::test(parts.now.clone());
            super::service(parts.documents, parts.broker, &settings).expect("the catalogue agrees")
        };
        let service = world.service("execution", &super::kinds(), make).await;
        world
            .listen("told", CATALOGUE.exchange, "execution.#")
            .await;
        Garage { world, service }
    }

    async fn tell<E: EventData>(&self, data: &E, version: u64) {
        let event = CATALOGUE.event(E::TYPE).unwrap();
        let cause = Cause::root(id("order").as_str());
        let emitter = Emitter::new(&CATALOGUE, event.publisher, cause, self.world.now());
        let publish = emitter.event(data, version);
        self.world.publish(publish.publication).await;
    }

    async fn quote_approved(&self) {
        let data = QuoteApproved {
            quote_id: id("quote"),
            work_order_id: id("order"),
            customer_id: 7,
            total_amount: Money(15000),
        };
        self.tell(&data, 2).await;
    }

    async fn payment_approved(&self) {
        let data = PaymentApproved {
            payment_id: id("payment"),
            quote_id: id("quote"),
            work_order_id: id("order"),
            amount: Money(15000),
        };
        self.tell(&data, 2).await;
    }

    async fn cancelled(&self) {
        let data = WorkOrderCancelled {
            work_order_id: id("order"),
            customer_id: 7,
            reason: Some("no time".into()),
        };
        self.tell(&data, 5).await;
    }

    async fn state(&self) -> Option<ExecutionState> {
        self.service.state(KIND, id_of(&id("order")).as_str()).await
    }

    /// Types of events in their order, told once more or not.
    async fn told(&self) -> Vec<String> {
        let mut told: Vec<Event> = Vec::new();
        for message in self.world.take("told").await {
            let event = leveret::service::events::envelope(&message).unwrap();
            if !told.iter().any(|known| known.event_id == event.event_id) {
                told.push(event);
            }
        }
        told.sort_by_key(|event| event.aggregate.version);
        let versions = told.iter().map(|event| event.aggregate.version);
        let expected = (0..told.len() as u64).map(|at| at + told[0].aggregate.version);
        assert!(versions.eq(expected), "{told:?}");
        let types = told.iter().map(|event| event.event_type.to_string());
        types.collect()
    }

    async fn change(&self, to: ExecutionStatus) -> Result<ExecutionState, String> {
        let change = Message::Change(Change {
            id: id_of(&id("order")),
            to: Some(to),
            may_stay: false,
            noted: Noted::default(),
            request: None,
        });
        let answer = self
            .service
            .call(&Of::<Executions>::default(), &change)
            .await;
        answer
            .expect("it does not crash")
            .map_err(|error| error.to_string())
    }
}

/// The order of quote and payment, five copies of each, and crashes make no difference.
#[test]
fn one_execution_whatever_comes_first() {
    for seed in 0..40 {
        world(seed, async |world| {
            let garage = Garage::new(world.clone()).await;
            world.copies(5);
            world.shuffled();
            world.crashing(20, 4);
            if seed % 2 == 0 {
                garage.quote_approved().await;
                garage.payment_approved().await;
            } else {
                garage.payment_approved().await;
                garage.quote_approved().await;
            }
            world.finish().await;
            let state = garage.state().await.unwrap();
            assert_eq!(state.status, Some(ExecutionStatus::Queued));
            assert_eq!(state.payment_id, Some(id("payment")));
            assert_eq!(state.quote_id, Some(id("quote")));
            assert!(state.quote_approved);
            assert_eq!((state.priority, &*state.technician_id), (5, "unassigned"));
            assert_eq!(garage.told().await, [ExecutionCreated::TYPE]);
        });
    }
}

/// Cancelled at any time: FAILED once, or never made.
#[test]
fn cancelled_in_any_order() {
    for seed in 0..40 {
        world(seed, async |world| {
            let garage = Garage::new(world.clone()).await;
            world.copies(3);
            world.shuffled();
            world.crashing(20, 4);
            garage.quote_approved().await;
            garage.cancelled().await;
            garage.payment_approved().await;
            world.finish().await;
            let state = garage.state().await.unwrap();
            assert!(!state.is_active());
            let told = garage.told().await;
            if state.status.is_none() {
                assert_eq!(told, [""; 0]);
            } else {
                let reason = "The work order is cancelled: no time";
                assert_eq!(state.failure_reason.as_deref(), Some(reason));
                let expected = [
                    ExecutionCreated::TYPE,
                    ExecutionStatusChanged::TYPE,
                    ExecutionFailed::TYPE,
                ];
                assert_eq!(told, expected);
            }
        });
    }
}

#[test]
fn work_goes_its_way() {
    world(1, async |world| {
        let garage = Garage::new(world.clone()).await;
        garage.quote_approved().await;
        world.finish().await;
        let unpaid = garage.change(ExecutionStatus::Diagnosing).await;
        assert_eq!(unpaid.unwrap_err(), "The work order is not paid");
        let unpaid = garage.change(ExecutionStatus::Failed).await;
        assert_eq!(unpaid.unwrap_err(), "The work order is not paid");
        garage.payment_approved().await;
        world.finish().await;
        assert_eq!(garage.told().await, [ExecutionCreated::TYPE]);
        let skipped = garage.change(ExecutionStatus::Repairing).await;
        assert_eq!(
            skipped.unwrap_err(),
            "An execution that is QUEUED cannot become REPAIRING"
        );
        for to in [
            ExecutionStatus::Diagnosing,
            ExecutionStatus::DiagnosisComplete,
            ExecutionStatus::Repairing,
            ExecutionStatus::RepairComplete,
            ExecutionStatus::Testing,
            ExecutionStatus::Repairing,
            ExecutionStatus::RepairComplete,
            ExecutionStatus::Completed,
        ] {
            assert_eq!(garage.change(to).await.unwrap().status, Some(to));
        }
        let again = garage.change(ExecutionStatus::Completed).await;
        assert_eq!(again.unwrap_err(), "Execution is already COMPLETED");
        world.finish().await;
        let mut expected = vec![ExecutionStatusChanged::TYPE; 8];
        expected.push(ExecutionCompleted::TYPE);
        assert_eq!(garage.told().await, expected);
        // What comes late changes nothing.
        garage.cancelled().await;
        garage.payment_approved().await;
        world.finish().await;
        assert_eq!(garage.told().await, [""; 0]);
        let state = garage.state().await.unwrap();
        assert_eq!(state.status, Some(ExecutionStatus::Completed));
    });
}

/// What is wrong with an event is told among the dead letters, and no document is touched.
#[test]
fn what_makes_no_sense_touches_nothing() {
    world(1, async |world| {
        let garage = Garage::new(world.clone()).await;
        garage.quote_approved().await;
        world.finish().await;
        let before = garage.state().await;
        let cause = Cause::root(id("order").as_str());
        let data = PaymentApproved {
            payment_id: id("payment"),
            quote_id: id("quote"),
            work_order_id: id("order"),
            amount: Money(1),
        };
        let publish = Emitter::new(&CATALOGUE, BILLING, cause, world.now()).event(&data, 1);
        let good: Value = serde_json::from_slice(&publish.publication.message.body).unwrap();
        let spoilt = |pointer: &str, value: Value| {
            let mut event = good.clone();
            *event.pointer_mut(pointer).unwrap() = value;
            event
        };
        let without = |member: &str| {
            let mut event = good.clone();
            event["data"].as_object_mut().unwrap().remove(member);
            event
        };
        let bad = [
            spoilt("/eventType", json!("payment.exploded")),
            spoilt("/eventVersion", json!(2)),
            spoilt("/aggregate/id", json!(id("another"))),
            without("workOrderId"),
            without("quoteId"),
            good["data"].clone(),
        ];
        for (at, event) in bad.iter().enumerate() {
            let queue = "execution-payment-approved";
            let message = leveret::broker::Message::json(event.to_string());
            world
                .publish(leveret::broker::Publication::to_queue(queue, message))
                .await;
            world.finish().await;
            assert_eq!(world.dead_letters(queue).await.len(), 1, "{at}: {event}");
        }
        assert_eq!(garage.state().await, before);
    });
}

/// What the OS service says is shown, newest first, and nothing follows.
#[test]
fn the_status_of_the_work_order_is_a_note() {
    world(1, async |world| {
        let garage = Garage::new(world.clone()).await;
        let changed = |previous_status, new_status| WorkOrderStatusChanged {
            work_order_id: id("order"),
            previous_status,
            new_status,
        };
        use WorkOrderStatus::{Approved, Cancelled, InProgress, QuoteSent};
        garage.tell(&changed(Approved, InProgress), 4).await;
        garage.tell(&changed(QuoteSent, Approved), 3).await;
        world.finish().await;
        let state = garage.state().await.unwrap();
        assert_eq!(
            (state.status, state.work_order),
            (None, Some((InProgress, 4)))
        );
        garage.quote_approved().await;
        garage.tell(&changed(InProgress, Cancelled), 5).await;
        world.finish().await;
        let state = garage.state().await.unwrap();
        assert_eq!(state.status, Some(ExecutionStatus::Queued));
        assert_eq!(garage.told().await, [ExecutionCreated::TYPE]);
        assert_eq!(
            CATALOGUE.event("work-order.cancelled").unwrap().publisher,
            OS
        );
    });
}

/// What the API answers.
#[test]
fn over_http() {
    world(1, async |world| {
        let garage = Garage::new(world.clone()).await;
        let settings = Settings::test(world.clock());
        let token = |role| {
            let now = world.now().0.unsigned_abs() / 1000 + 10 * 365 * 24 * 3600;
            settings.keys.token("7", role, now)
        };
        let router = super::router(&garage.service.service(), &settings).route_layer(
            axum::middleware::from_fn_with_state(settings.keys.clone(), crate::auth::guard),
        );
        let ask = async |who, method: &str, path: &str, body: Value| {
            let request = Request::builder()
                .method(method)
                .uri(path)
                .header("authorization", format!("Bearer {}", token(who)))
                .header("idempotency-key", format!("{path}{body}"))
                .body(Body::from(if body.is_null() {
                    String::new()
                } else {
                    body.to_string()
                }))
                .unwrap();
            let response = router.clone().oneshot(request).await.unwrap();
            let status = response.status();
            let bytes = axum::body::to_bytes(response.into_body(), 1 << 20)
                .await
                .unwrap();
            (
                status.as_u16(),
                serde_json::from_slice::<Value>(&bytes).unwrap_or_default(),
            )
        };
        let order = id("order");
        let none = format!("/executions/work-order/{order}");
        assert_eq!(
            ask(Who::Staff, "GET", &none, Value::Null).await,
            (200, json!([]))
        );
        let customer = ask(Who::Customer, "GET", &none, Value::Null).await;
        assert_eq!(customer.0, StatusCode::FORBIDDEN.as_u16());
        let body = json!({ "workOrderId": order, "technicianId": "ada", "priority": 9 });
        let (status, made) = ask(Who::Staff, "POST", "/executions", body.clone()).await;
        assert_eq!((status, &made["status"]), (201, &json!("QUEUED")), "{made}");
        // The same request again makes nothing; another one is a conflict.
        let again = ask(Who::Staff, "POST", "/executions", body).await;
        assert_eq!(again, (201, made.clone()));
        let other = json!({ "workOrderId": order, "technicianId": "bob" });
        assert_eq!(ask(Who::Staff, "POST", "/executions", other).await.0, 409);
        for bad in [
            json!({ "workOrderId": order }),
            json!({ "workOrderId": "no uuid", "technicianId": "ada" }),
            json!({ "workOrderId": id("other"), "technicianId": " " }),
            json!({ "workOrderId": id("other"), "technicianId": "ada", "status": "COMPLETED" }),
            json!({ "workOrderId": id("other"), "technicianId": "ada", "priority": -1 }),
        ] {
            let (status, told) = ask(Who::Staff, "POST", "/executions", bad).await;
            assert_eq!((status, &told["statusCode"]), (400, &json!(400)), "{told}");
        }
        let path = format!("/executions/{}", made["id"].as_str().unwrap());
        let verb = async |verb: &str, body| {
            let (status, told) = ask(Who::Staff, "POST", &format!("{path}/{verb}"), body).await;
            (status, told["status"].clone())
        };
        assert_eq!(verb("start-diagnosis", Value::Null).await.0, 409);
        garage.payment_approved().await;
        world.finish().await;
        let yes = |status: &str| (201, json!(status));
        assert_eq!(verb("start-diagnosis", json!({})).await, yes("DIAGNOSING"));
        let notes = json!({ "notes": "the pump" });
        assert_eq!(
            verb("complete-diagnosis", notes).await,
            yes("DIAGNOSIS_COMPLETE")
        );
        assert_eq!(verb("complete", Value::Null).await.0, 409);
        assert_eq!(verb("fail", json!({})).await.0, 400);
        let (_, queue) = ask(Who::Staff, "GET", "/queue", Value::Null).await;
        assert_eq!(queue[0]["diagnosisNotes"], "the pump");
        let (_, statistics) = ask(Who::Staff, "GET", "/queue/statistics", Value::Null).await;
        assert_eq!(
            (
                &statistics["total"],
                &statistics["byStatus"]["diagnosisComplete"]
            ),
            (&json!(1), &json!(1))
        );
        let put = json!({ "status": "REPAIRING", "partsUsed": [{ "partId": "p1", "name": "pump", "quantity": 1 }] });
        let (status, told) = ask(Who::Staff, "PUT", &path, put).await;
        assert_eq!(
            (status, &told["status"]),
            (200, &json!("REPAIRING")),
            "{told}"
        );
        let bad = json!({ "status": "NOTHING" });
        assert_eq!(ask(Who::Staff, "PATCH", &path, bad).await.0, 400);
        let reason = json!({ "reason": "the frame is broken" });
        assert_eq!(verb("fail", reason.clone()).await, yes("FAILED"));
        let (_, shown) = ask(Who::Admin, "GET", &path, Value::Null).await;
        assert_eq!(shown["failureReason"], reason["reason"]);
        let (_, queue) = ask(Who::Staff, "GET", "/executions/queue", Value::Null).await;
        assert_eq!(queue, json!([]));
        let (status, list) = ask(Who::Staff, "GET", "/executions?status=FAILED", Value::Null).await;
        assert_eq!((status, list.as_array().unwrap().len()), (200, 1));
        let bad = ask(Who::Staff, "GET", "/executions?status=X", Value::Null).await;
        assert_eq!(bad.0, 400);
        let unknown = format!("/executions/{}", id("unknown"));
        assert_eq!(ask(Who::Staff, "GET", &unknown, Value::Null).await.0, 404);
        assert_eq!(
            ask(Who::Staff, "GET", "/executions/7", Value::Null).await.0,
            400
        );
        world.finish().await;
        let told = garage.told().await;
        assert_eq!(told.last().map(String::as_str), Some(ExecutionFailed::TYPE));
        assert_eq!(told.len(), 6);
    });
}
