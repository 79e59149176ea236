//! What makes no sense: it becomes a dead letter with its reason, no document is touched, and it can be put back. What may not be is a 409 and tells
//! nobody.

use lapin::BasicProperties;
use serde_json::{Value, json};

use crate::{
    courses::{Course, Customer, PAUSE, State},
    rig::{Foreign, Garage, Place, ROLES, until},
};

/// An event as another one writes it.
fn event(kind: &str, subject: &str, data: &Value) -> Value {
    let id = |last: u8| format!("11111111-2222-4333-8444-5555555555{last:02x}");
    json!({
        "eventId": id(kind.len() as u8), "eventType": kind, "eventVersion": 1, "timestamp": "2026-11-21T02:24:23.755Z",
        "source": "a-foreign-service", "correlationId": data["workOrderId"], "causationId": null,
        "aggregate": { "id": data[subject], "version": 90 }, "data": data,
    })
}

#[tokio::test]
async fn what_makes_no_sense_is_a_dead_letter() {
    let Some(place) = Place::new("malformed").await else {
        return;
    };
    let garage = Garage::start(place).await;
    for role in ROLES {
        garage.ready(role).await;
    }
    let foreign = Foreign::new(&garage.place.amqp).await;
    let customer = Customer::new(&garage.api).await;
    let mut course = Course::new(0, "first");
    course.drive(&garage.api, &customer, || PAUSE).await;
    let order = course.id.clone().expect("opened");
    let before = State::look(&garage.api, &order).await.expect("answers");
    let other = "99999999-2222-4333-8444-555555555555";
    let cases = [
        ("os", "payment.failed", "paymentId", "error"),
        ("os", "quote.rejected", "quoteId", "workOrderId"),
        ("billing", "execution.failed", "executionId", "reason"),
        (
            "billing",
            "work-order.cancelled",
            "workOrderId",
            "customerId",
        ),
        ("execution", "payment.approved", "paymentId", "amount"),
        (
            "execution",
            "work-order.cancelled",
            "workOrderId",
            "customerId",
        ),
    ];
    for (role, kind, subject, member) in cases {
        let mut data = json!({
            "workOrderId": order, "paymentId": other, "quoteId": other, "executionId": other,
            "customerId": customer.id, "amount": "150.00", "error": "x", "reason": "x",
        });
        if subject == "workOrderId" {
            data["workOrderId"] = json!(order);
        }
        let good = event(kind, subject, &data);
        let spoilt = |pointer: &str, value: Value| {
            let mut event = good.clone();
            *event.pointer_mut(pointer).expect("is there") = value;
            event
        };
        let without = |member: &str| {
            let mut event = good.clone();
            event["data"].as_object_mut().expect("data").remove(member);
            event
        };
        let bad = [
            spoilt("/eventType", json!("work-order.exploded")),
            spoilt("/eventVersion", json!(2)),
            spoilt(
                "/aggregate/id",
                json!("00000000-2222-4333-8444-555555555555"),
            ),
            without("workOrderId"),
            without(member),
            good["data"].clone(),
            json!("no object"),
        ];
        let queue = format!("{role}-{}", kind.replace('.', "-"));
        let letters = format!("{queue}.dlq");
        for (at, event) in bad.iter().enumerate() {
            let body = event.to_string();
            let properties = BasicProperties::default();
            foreign
                .publish("", &queue, body.as_bytes(), properties)
                .await;
            until(
                &format!("case {at} of {queue} is a dead letter"),
                async || foreign.count(&letters).await == 1,
            )
            .await;
            // Put back, it comes again for the same reason.
            let path = format!("/api/v1/dlq/{queue}/replay");
            let asked = garage.api.ask(role, "POST", &path, &Value::Null).await;
            let (status, told) = asked.expect("answers");
            assert_eq!((status, &told["done"]), (200, &json!(1)), "{told}");
            let mut letter = None;
            until("it is back", async || {
                letter = foreign.try_take(&letters).await;
                letter.is_some()
            })
            .await;
            let delivery = letter.expect("back").delivery;
            assert_eq!(delivery.data, body.as_bytes(), "{queue}");
            let headers = delivery.properties.headers().as_ref();
            let headers = headers.expect("headers").inner();
            let reason = headers
                .iter()
                .find(|(name, _)| name.as_str().contains("reason"));
            assert!(reason.is_some(), "no reason among {headers:?}");
        }
    }
    let after = State::look(&garage.api, &order).await;
    assert_eq!(after.expect("answers"), before);
    // Nothing may become of what is COMPLETED, and nobody is told of what was asked for.
    foreign.listen("what-is-told").await;
    let path = format!("/work-orders/{order}");
    for (method, body) in [
        ("DELETE", Value::Null),
        ("PATCH", json!({ "status": "DIAGNOSIS" })),
        ("PUT", json!({ "status": "CANCELLED" })),
    ] {
        let asked = garage.api.ask("os", method, &path, &body).await;
        assert_eq!(asked.expect("answers").0, 409, "{method} {body}");
    }
    let mut fresh = Course::new(6, "fresh");
    fresh.drive(&garage.api, &customer, || PAUSE).await;
    let mut told = Vec::new();
    until("what came after is told", async || {
        while let Some(message) = foreign.try_take("what-is-told").await {
            let event: Value = serde_json::from_slice(&message.delivery.data).expect("JSON");
            told.push(event);
        }
        told.iter()
            .any(|event| event["eventType"] == "work-order.cancelled")
    })
    .await;
    let of_order = told
        .iter()
        .filter(|event| event["correlationId"] == json!(order));
    assert_eq!(of_order.count(), 0, "{told:?}");
    garage.remove().await;
}
