//! Events as they come: once, twice, in any order, and while the service crashes.

use axum::http::StatusCode;
use leveret::{
    broker::{Message, Publication},
    crash::Point,
    service::testing::world,
};
use serde_json::{Value, json};

use super::{Rig, STAFF};
use crate::{
    events::{
        BILLING, EXECUTION, ExecutionCompleted, ExecutionFailed, ExecutionStatusChanged,
        PaymentApproved, PaymentCreated, QuoteApproved, QuoteCreated, QuoteRejected, QuoteSent,
    },
    ids::Id,
    money::Money,
    statuses::ExecutionStatus,
};

pub(super) fn ids(order: &Id) -> (Id, Id, Id) {
    let derived = |word: &str| Id::derived(&[word, order.as_str()]);
    (derived("quote"), derived("payment"), derived("execution"))
}

impl Rig {
    /// All events of a happy saga, in order.
    pub(super) async fn happy(&self, order: &Id) {
        let (quote_id, payment_id, execution_id) = ids(order);
        let work_order_id = order.clone();
        let (customer_id, amount) = (1, Money(15_000));
        let created = QuoteCreated {
            quote_id: quote_id.clone(),
            work_order_id: work_order_id.clone(),
            customer_id,
            total_amount: amount,
        };
        self.publish(BILLING, &created, 1, order).await;
        let sent = QuoteSent {
            quote_id: quote_id.clone(),
            work_order_id: work_order_id.clone(),
            customer_id,
            total_amount: amount,
        };
        self.publish(BILLING, &sent, 2, order).await;
        let approved = QuoteApproved {
            quote_id: quote_id.clone(),
            work_order_id: work_order_id.clone(),
            customer_id,
            total_amount: amount,
        };
        self.publish(BILLING, &approved, 3, order).await;
        let wanted = PaymentCreated {
            payment_id: payment_id.clone(),
            quote_id: quote_id.clone(),
            work_order_id: work_order_id.clone(),
            amount,
        };
        self.publish(BILLING, &wanted, 1, order).await;
        let paid = PaymentApproved {
            payment_id,
            quote_id,
            work_order_id: work_order_id.clone(),
            amount,
        };
        self.publish(BILLING, &paid, 2, order).await;
        let moved = ExecutionStatusChanged {
            execution_id: execution_id.clone(),
            work_order_id: work_order_id.clone(),
            previous_status: ExecutionStatus::Queued,
            new_status: ExecutionStatus::Diagnosing,
        };
        self.publish(EXECUTION, &moved, 2, order).await;
        let completed = ExecutionCompleted {
            execution_id,
            work_order_id,
            parts_used: Vec::new(),
            services_performed: Vec::new(),
        };
        self.publish(EXECUTION, &completed, 3, order).await;
    }

    pub(super) async fn rejected(&self, order: &Id, reason: Option<&str>) {
        let rejected = QuoteRejected {
            quote_id: ids(order).0,
            work_order_id: order.clone(),
            reason: reason.map(str::to_owned),
        };
        self.publish(BILLING, &rejected, 2, order).await;
    }
}

#[test]
fn a_happy_saga() {
    world(1, async |world| {
        let rig = Rig::new(&world).await;
        let order = rig.opened().await;
        assert_eq!(rig.told().await, ["work-order.created"]);
        rig.happy(&order).await;
        world.finish().await;
        let told = rig.told().await;
        assert_eq!(told.last().unwrap(), "work-order.status-changed COMPLETED");
        let shown = rig.get(&format!("/work-orders/{order}")).await;
        assert_eq!(shown["status"], "COMPLETED");
        assert_eq!(shown["executionStatus"], "COMPLETED");
        assert_eq!(shown["customerApproval"], true);
        assert!(shown["completedAt"].is_string() && shown["quoteSentAt"].is_string());
        let history = rig.get(&format!("/work-orders/{order}/history")).await;
        let passed = history["timeline"].as_array().unwrap();
        assert_eq!(passed[0]["status"], "PENDING");
        assert_eq!(passed.last().unwrap()["cause"], "execution.completed");
    });
}

/// Whatever the order, however often, and with crashes: the same end, each event told once.
#[test]
fn in_any_order_with_crashes() {
    for seed in 0..24 {
        world(seed, async |world| {
            let rig = Rig::new(&world).await;
            let order = rig.opened().await;
            rig.told().await;
            world.copies(3);
            world.shuffled();
            world.crashing(15, 4);
            rig.happy(&order).await;
            world.finish().await;
            world.calm();
            assert_eq!(rig.status(&order).await, "COMPLETED");
            let told = rig.told().await;
            let ends = told.iter().filter(|told| told.ends_with("COMPLETED"));
            assert_eq!(ends.count(), 1, "{told:?}");
            for queue in crate::os::queues() {
                assert_eq!(world.dead_letters(&queue).await, [], "{queue}");
            }
            let backlog = rig.os.documents().backlog().await.unwrap();
            assert_eq!((backlog.outgoing, backlog.parked), (0, 0));
        });
    }
}

#[test]
fn a_rejected_quote_cancels_and_tells_why() {
    for seed in 0..4 {
        world(seed, async |world| {
            let rig = Rig::new(&world).await;
            let order = rig.opened().await;
            rig.told().await;
            world.twice();
            rig.os.crash_at(Point::ServiceAfterCommit);
            rig.rejected(&order, Some("too dear")).await;
            world.finish().await;
            world.calm();
            let expected = [
                "work-order.status-changed CANCELLED",
                "work-order.cancelled",
            ];
            assert_eq!(rig.told().await, expected);
            let shown = rig.get(&format!("/work-orders/{order}")).await;
            assert_eq!(shown["cancellationReason"], "too dear");
            // Cancelled again it stays so, and nothing is told; nor does an event move it.
            let path = format!("/work-orders/{order}");
            let (status, _) = rig.ask(STAFF, "DELETE", &path, &Value::Null).await;
            assert_eq!(status, StatusCode::OK);
            rig.happy(&order).await;
            world.finish().await;
            assert_eq!(rig.told().await, [""; 0]);
            assert_eq!(rig.status(&order).await, "CANCELLED");
        });
    }
}

#[test]
fn a_failed_repair_cancels() {
    world(1, async |world| {
        let rig = Rig::new(&world).await;
        let order = rig.opened().await;
        let failed = ExecutionFailed {
            execution_id: ids(&order).2,
            work_order_id: order.clone(),
            reason: "it is scrap".into(),
        };
        rig.publish(EXECUTION, &failed, 4, &order).await;
        world.finish().await;
        let shown = rig.get(&format!("/work-orders/{order}")).await;
        assert_eq!(shown["status"], "CANCELLED");
        assert_eq!(shown["executionStatus"], "FAILED");
        assert_eq!(shown["cancellationReason"], "it is scrap");
    });
}

/// What came too early is heard when staff have gone on.
#[test]
fn a_quote_waits_for_the_diagnosis() {
    world(1, async |world| {
        let rig = Rig::new(&world).await;
        let order = rig.opened().await;
        let path = format!("/work-orders/{order}");
        let to = |status: &str| json!({ "status": status });
        rig.ask(STAFF, "PATCH", &path, &to("DIAGNOSIS")).await;
        rig.happy(&order).await;
        world.finish().await;
        assert_eq!(rig.status(&order).await, "DIAGNOSIS");
        rig.ask(STAFF, "PATCH", &path, &to("AWAITING_QUOTE")).await;
        world.finish().await;
        assert_eq!(rig.status(&order).await, "COMPLETED");
    });
}

/// A message that is no event of a work order is a dead letter with its reason.
#[test]
fn dead_letters() {
    world(1, async |world| {
        let rig = Rig::new(&world).await;
        let order = rig.opened().await;
        rig.told().await;
        let nobody = Id::derived(&["nobody"]);
        rig.rejected(&nobody, None).await;
        world.finish().await;
        let letters = world.dead_letters("os-quote-rejected").await;
        let reason = format!("{:?}", letters[0].headers);
        assert!(reason.contains("not found"), "{reason}");
        let bare = json!({ "paymentId": ids(&order).1, "workOrderId": order });
        let message = Message::json(bare.to_string());
        let publication = Publication {
            exchange: "garage-events".into(),
            ..Publication::to_queue("payment.approved", message)
        };
        world.publish(publication).await;
        world.finish().await;
        assert_eq!(world.dead_letters("os-payment-approved").await.len(), 1);
        assert_eq!(rig.status(&order).await, "PENDING");
    });
}
