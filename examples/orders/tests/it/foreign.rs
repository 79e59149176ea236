//! Services in other languages at either end of the queues.

use lapin::BasicProperties;
use serde_json::{Value, json};

use crate::rig::{Foreign, Place, Process, json_of, next};

fn charge(order_id: impl Into<Value>, amount: i64) -> String {
    json!({ "order_id": order_id.into(), "amount": amount, "user_id": "u1" }).to_string()
}

/// Takes results until that of the last order has come: the orders of all, in their order.
async fn results_until(foreign: &Foreign, last: &str) -> Vec<Value> {
    let mut results = Vec::new();
    loop {
        let result = json_of(&foreign.take("order_queue").await.data);
        let is_last = result["order_id"] == last;
        results.push(result);
        if is_last {
            return results;
        }
    }
}

/// How often an order was charged.
async fn charges(gateway: &Process, order_id: &str) -> usize {
    let (_, told) = gateway.get("/charges").await;
    let charges = told["charges"].as_array().expect("charges");
    let of_order = charges
        .iter()
        .filter(|charge| charge["order_id"] == order_id);
    of_order.count()
}

#[tokio::test]
async fn a_bare_request_is_charged_once_and_answered_once() {
    let Some(place) = Place::new("bare").await else {
        return;
    };
    let (gateway, foreign) = (Process::gateway(), place.foreign().await);
    let payment = place.role("payment", &gateway);
    payment.ready().await;

    for _ in 0..2 {
        foreign.bare("payment_queue", charge("f-1", 1500)).await;
    }
    let first = foreign.take("order_queue").await;
    let properties = &first.delivery.properties;
    assert!(properties.message_id().is_some());
    assert_eq!(*properties.delivery_mode(), Some(2), "persistent");
    let paid = json_of(&first.delivery.data);
    assert_eq!(paid.as_object().expect("an object").len(), 3, "{paid}");
    assert_eq!(
        (&paid["order_id"], &paid["status"]),
        (&json!("f-1"), &json!("paid"))
    );
    assert!(paid["transaction_id"].is_string(), "{paid}");

    foreign.bare("payment_queue", charge("f-1", 1500)).await;
    foreign.bare("payment_queue", charge(17, 1501)).await;
    let declined = json_of(&foreign.take("order_queue").await.data);
    let expected = json!({ "order_id": 17, "status": "declined", "transaction_id": null });
    assert_eq!(declined, expected, "an integer comes back as one");

    assert_eq!(charges(&gateway, "f-1").await, 1);
    assert_eq!(foreign.count("order_queue").await, 0);
    assert_eq!(payment.get("/payments/f-1").await.1["status"], "paid");
    assert_eq!(payment.get("/payments/17").await.1["order_id"], 17);
    drop(payment);
    place.remove().await;
}

#[tokio::test]
async fn an_answer_goes_where_the_request_says() {
    let Some(place) = Place::new("reply_to").await else {
        return;
    };
    let (gateway, foreign) = (Process::gateway(), place.foreign().await);
    let payment = place.role("payment", &gateway);
    payment.ready().await;
    foreign.own_queue("foreign.replies").await;

    let asked = BasicProperties::default().with_reply_to("foreign.replies".into());
    let both = asked
        .clone()
        .with_correlation_id("c-1".into())
        .with_message_id("m-1".into());
    foreign
        .publish("payment_queue", charge("r-1", 1500), both)
        .await;
    let reply = foreign.take("foreign.replies").await.delivery;
    let correlation = reply.properties.correlation_id().clone();
    assert_eq!(correlation.expect("one").as_str(), "c-1");
    assert_eq!(json_of(&reply.data)["status"], "paid");

    let only_id = asked.clone().with_message_id("m-2".into());
    foreign
        .publish("payment_queue", charge("r-2", 1500), only_id)
        .await;
    let reply = foreign.take("foreign.replies").await.delivery;
    let correlation = reply.properties.correlation_id().clone();
    assert_eq!(correlation.expect("one").as_str(), "m-2");

    // The same order again, by another message: the stored result.
    let again = asked.with_message_id("m-3".into());
    foreign
        .publish("payment_queue", charge("r-2", 1500), again)
        .await;
    let again = foreign.take("foreign.replies").await.delivery;
    assert_eq!(again.data, reply.data);

    let mut direct = foreign.direct_replies().await;
    let asked = BasicProperties::default()
        .with_reply_to("amq.rabbitmq.reply-to".into())
        .with_correlation_id("c-4".into());
    foreign
        .publish("payment_queue", charge("r-4", 1500), asked)
        .await;
    let reply = next(&mut direct).await;
    assert_eq!(json_of(&reply.data)["order_id"], "r-4");

    foreign.bare("payment_queue", charge("last", 1500)).await;
    let results = results_until(&foreign, "last").await;
    assert_eq!(
        results.len(),
        1,
        "nothing else went to the order queue: {results:?}"
    );
    for order in ["r-1", "r-2", "r-4"] {
        assert_eq!(charges(&gateway, order).await, 1);
    }
    drop(payment);
    place.remove().await;
}

#[tokio::test]
async fn a_reply_queue_that_is_gone_stops_nothing() {
    let Some(place) = Place::new("gone").await else {
        return;
    };
    let (gateway, foreign) = (Process::gateway(), place.foreign().await);
    let payment = place.role("payment", &gateway);
    payment.ready().await;

    let odd = ["nowhere", "amq.rabbitmq.reply-to.g1h2", "  "];
    for (at, queue) in odd.into_iter().enumerate() {
        for copy in 0..3 {
            let asked = BasicProperties::default()
                .with_reply_to(queue.into())
                .with_message_id(format!("gone-{at}-{copy}").into());
            let body = charge(format!("g-{at}"), 1500);
            foreign.publish("payment_queue", body, asked).await;
        }
    }
    foreign.bare("payment_queue", charge("last", 1500)).await;
    let results = results_until(&foreign, "last").await;
    assert_eq!(results.len(), 1, "{results:?}");
    crate::rig::until("the outbox is empty", async || {
        let metrics = payment.text("/metrics").await;
        let mut lines = metrics.lines();
        lines.any(|line| {
            line.starts_with("leveret_service_outbox_messages{") && line.ends_with(" 0")
        })
    })
    .await;
    let dead = foreign.count("payment_queue.dlq").await;
    for (at, queue) in odd.into_iter().enumerate() {
        let charged = charges(&gateway, &format!("g-{at}")).await;
        assert_eq!(charged, 1, "by reply_to {queue:?}; {dead} dead letters");
    }
    payment.ready().await;
    drop(payment);
    place.remove().await;
}

#[tokio::test]
async fn properties_with_odd_characters_stop_nothing() {
    let Some(place) = Place::new("odd").await else {
        return;
    };
    let (gateway, foreign) = (Process::gateway(), place.foreign().await);
    let payment = place.role("payment", &gateway);
    payment.ready().await;

    let long = "x".repeat(255);
    let odd = ["a\0b", "\u{1}\u{7f}", "ü€", &long, " "];
    for (at, text) in odd.into_iter().enumerate() {
        let properties = BasicProperties::default()
            .with_message_id(text.into())
            .with_correlation_id(text.into())
            .with_content_type(text.into())
            .with_type(text.into());
        let body = charge(format!("o-{at}"), 1500);
        foreign.publish("payment_queue", body, properties).await;
    }
    let nobody = BasicProperties::default().with_reply_to("a\0b".into());
    foreign
        .publish("payment_queue", charge("nobody", 1500), nobody)
        .await;
    foreign.bare("payment_queue", charge("last", 1500)).await;
    // Each is charged, or a dead letter: the service goes on.
    let mut ended = 0;
    crate::rig::until("each has ended", async || {
        while foreign.try_take("order_queue").await.is_some() {
            ended += 1;
        }
        ended + foreign.count("payment_queue.dlq").await == 7
    })
    .await;
    drop(payment);
    place.remove().await;
}

#[tokio::test]
async fn a_foreign_payment_service_moves_our_orders() {
    let Some(place) = Place::new("foreign_payment").await else {
        return;
    };
    let (gateway, foreign) = (Process::gateway(), place.foreign().await);
    let order = place.role("order", &gateway);
    let inventory = place.role("inventory", &gateway);
    order.ready().await;
    inventory.ready().await;
    inventory.stock("sku", 5).await;

    let paid = order.order("sku", 1200).await;
    let declined = order.order("sku", 1300).await;
    for _ in 0..2 {
        let request = foreign.take("payment_queue").await.delivery;
        let properties = &request.properties;
        assert!(properties.message_id().is_some());
        assert_eq!(*properties.delivery_mode(), Some(2), "persistent");
        let reply_to = properties.reply_to().clone().expect("one");
        assert_eq!(reply_to.as_str(), "order_queue");
        let request = json_of(&request.data);
        assert_eq!(
            request.as_object().expect("an object").len(),
            3,
            "{request}"
        );
        let answer = match request["amount"].as_i64() {
            Some(1200) => {
                json!({ "order_id": request["order_id"], "status": "paid", "transaction_id": "tx-1" })
            }
            _ => {
                json!({ "order_id": request["order_id"], "status": "declined", "transaction_id": null })
            }
        };
        for _ in 0..3 {
            foreign.bare("order_queue", answer.to_string()).await;
        }
    }
    let unknown = json!({ "order_id": 99, "status": "paid", "transaction_id": "t" });
    foreign.bare("order_queue", unknown.to_string()).await;

    let order_of_paid = order.ends(&paid, "COMPLETED").await;
    assert_eq!(order_of_paid["transaction_id"], "tx-1");
    let passed: Vec<_> = order_of_paid["timeline"]
        .as_array()
        .expect("a timeline")
        .iter()
        .map(|entry| entry["status"].as_str().expect("a status"))
        .collect();
    assert_eq!(passed, ["PENDING", "PAID", "COMPLETED"]);
    order.ends(&declined, "PAYMENT_FAILED").await;
    crate::rig::until("all results are taken", async || {
        foreign.count("order_queue").await == 0
    })
    .await;
    assert_eq!(foreign.count("order_queue.dlq").await, 0);
    assert_eq!(inventory.get("/stock/sku").await.1["reserved"], 1);
    drop((order, inventory));
    place.remove().await;
}
