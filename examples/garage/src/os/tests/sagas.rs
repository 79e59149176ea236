//! `/sagas`: what is missing, late and stuck.

use std::time::Duration;

use axum::http::StatusCode;
use leveret::{
    core::event,
    service::{events::Cause, testing::world},
};
use serde_json::{Value, json};

use super::{ADMIN, ALL, Rig, STAFF, events::ids};
use crate::{
    events::{
        BILLING, PaymentApproved, PaymentRefundFailed, PaymentRefunded, QuoteApproved, QuoteCreated,
    },
    ids::Id,
    money::Money,
};

const MINUTE: Duration = Duration::from_secs(60);

impl Rig {
    async fn saga(&self, order: &Id) -> Value {
        self.world.settle().await;
        let path = format!("/sagas/{order}");
        let (status, saga) = self.ask(ADMIN, "GET", &path, &Value::Null).await;
        assert_eq!(status, StatusCode::OK, "{saga}");
        saga
    }

    async fn sagas(&self, state: &str) -> Vec<Value> {
        let path = format!("/sagas?state={state}");
        let (_, sagas) = self.ask(ADMIN, "GET", &path, &Value::Null).await;
        sagas.as_array().unwrap().clone()
    }

    async fn quoted(&self, order: &Id, cause: Cause) {
        let created = QuoteCreated {
            quote_id: ids(order).0,
            work_order_id: order.clone(),
            customer_id: 1,
            total_amount: Money(100),
        };
        self.publish_because(BILLING, &created, 1, cause).await;
    }

    async fn approved_and_paid(&self, order: &Id, is_paid: bool) {
        let (quote_id, payment_id, _) = ids(order);
        let approved = QuoteApproved {
            quote_id: quote_id.clone(),
            work_order_id: order.clone(),
            customer_id: 1,
            total_amount: Money(100),
        };
        self.publish(BILLING, &approved, 2, order).await;
        if is_paid {
            let paid = PaymentApproved {
                payment_id,
                quote_id,
                work_order_id: order.clone(),
                amount: Money(100),
            };
            self.publish(BILLING, &paid, 2, order).await;
        }
        self.world.settle().await;
    }
}

#[test]
fn a_happy_saga_ends() {
    for seed in 0..6 {
        world(seed, async |world| {
            let rig = Rig::new(&world).await;
            let order = rig.opened().await;
            let saga = rig.saga(&order).await;
            assert_eq!(saga["state"], "running");
            assert_eq!(saga["missing"][0]["oneOf"], json!(["quote.created"]));
            world.twice();
            world.shuffled();
            world.crashing(15, 4);
            rig.happy(&order).await;
            world.finish().await;
            world.calm();
            let saga = rig.saga(&order).await;
            assert_eq!(
                (&saga["state"], &saga["end"]),
                (&json!("ended"), &json!("completed"))
            );
            assert_eq!(saga["missing"], json!([]));
            assert_eq!(saga["workOrderId"], order.as_str());
            assert_eq!(rig.sagas("ended").await[0]["correlationId"], order.as_str());
            assert!(rig.sagas("running").await.is_empty());
        });
    }
}

#[test]
fn who_has_reacted() {
    world(1, async |world| {
        let rig = Rig::new(&world).await;
        let order = rig.opened().await;
        world.settle().await;
        let opened = event::decode(&world.take(ALL).await[0].body).unwrap();
        rig.quoted(&order, Cause::of(&opened)).await;
        let saga = rig.saga(&order).await;
        let entries = &saga["entries"];
        assert_eq!(entries[0]["type"], "work-order.created");
        assert_eq!(entries[0]["reactedBy"][0]["source"], "billing-service");
        // The service's own event follows from the quote.
        assert_eq!(
            entries[1]["reactedBy"][0]["type"],
            "work-order.status-changed"
        );
        assert_eq!(entries[2]["causationId"], entries[1]["eventId"]);
    });
}

#[test]
fn stuck_until_it_comes() {
    world(1, async |world| {
        let rig = Rig::new(&world).await;
        let order = rig.opened().await;
        world.advance(6 * MINUTE).await;
        let stuck = rig.sagas("stuck").await;
        assert_eq!(stuck[0]["workOrderId"], order.as_str());
        assert_eq!(stuck[0]["reason"], "there is no quote");
        rig.quoted(&order, Cause::root(order.as_str())).await;
        let saga = rig.saga(&order).await;
        assert_eq!(
            (&saga["state"], &saga["late"][0]["expectation"]),
            (&json!("running"), &json!("quote"))
        );
        rig.approved_and_paid(&order, false).await;
        world.advance(61 * MINUTE).await;
        assert_eq!(
            rig.sagas("stuck").await[0]["reason"],
            "the approved quote is not paid"
        );
        rig.approved_and_paid(&order, true).await;
        assert!(rig.sagas("stuck").await.is_empty());
        world.advance(121 * MINUTE).await;
        assert_eq!(
            rig.sagas("stuck").await[0]["reason"],
            "the execution stands still"
        );
        assert_eq!(rig.status(&order).await, "IN_PROGRESS");
    });
}

/// Without an estimate the quote waits for the staff, and has the time of a quote.
#[test]
fn a_quote_by_hand() {
    world(1, async |world| {
        let rig = Rig::new(&world).await;
        let body = json!({ "customerId": 1, "vehicleId": 1, "description": "x" });
        rig.ask(STAFF, "POST", "/work-orders", &body).await;
        world.advance(6 * MINUTE).await;
        assert!(rig.sagas("stuck").await.is_empty());
        world.advance(180 * MINUTE).await;
        assert_eq!(rig.sagas("stuck").await.len(), 1);
    });
}

#[test]
fn a_refund_that_fails() {
    world(1, async |world| {
        let rig = Rig::new(&world).await;
        let order = rig.opened().await;
        rig.quoted(&order, Cause::root(order.as_str())).await;
        rig.approved_and_paid(&order, true).await;
        rig.ask(
            ADMIN,
            "DELETE",
            &format!("/work-orders/{order}"),
            &Value::Null,
        )
        .await;
        assert_eq!(rig.saga(&order).await["state"], "running");
        world.advance(6 * MINUTE).await;
        let reason = &rig.saga(&order).await["reason"];
        assert_eq!(
            *reason,
            "the payment of a cancelled work order is not refunded"
        );
        let payment_id = ids(&order).1;
        let failed = PaymentRefundFailed {
            payment_id: payment_id.clone(),
            work_order_id: order.clone(),
            amount: Money(100),
            error: "the gateway is broken".into(),
        };
        rig.publish(BILLING, &failed, 3, &order).await;
        world.advance(MINUTE).await;
        let stuck = rig.sagas("stuck").await;
        assert_eq!(
            stuck[0]["reason"],
            "payment.refund-failed: the gateway is broken"
        );
        let refunded = PaymentRefunded {
            payment_id,
            work_order_id: order.clone(),
            amount: Money(100),
            reason: "cancelled".into(),
        };
        rig.publish(BILLING, &refunded, 4, &order).await;
        let saga = rig.saga(&order).await;
        assert_eq!(
            (&saga["state"], &saga["end"]),
            (&json!("ended"), &json!("cancelled"))
        );
    });
}

#[test]
fn what_is_refused() {
    world(1, async |world| {
        let rig = Rig::new(&world).await;
        let nobody = Id::derived(&["nobody"]);
        rig.refused(
            "GET",
            &format!("/sagas/{nobody}"),
            &Value::Null,
            (404, "Saga"),
        )
        .await;
        rig.refused("GET", "/sagas/x", &Value::Null, (400, "no uuid"))
            .await;
        rig.refused(
            "GET",
            "/sagas?state=odd",
            &Value::Null,
            (400, "running, ended, stuck"),
        )
        .await;
        let (status, _) = rig.ask(STAFF, "GET", "/sagas", &Value::Null).await;
        assert_eq!(status, StatusCode::FORBIDDEN);
        // An event in no work order's course is none of a saga.
        rig.rejected(&nobody, None).await;
        world.finish().await;
        let letters = world.dead_letters(crate::os::sagas::QUEUE).await;
        let headers = format!("{:?}", letters[0].headers);
        assert!(headers.contains("is no work order"), "{headers}");
        rig.refused(
            "GET",
            &format!("/sagas/{nobody}"),
            &Value::Null,
            (404, "Saga"),
        )
        .await;
    });
}
