//! Messages that cannot be are dead letters at once, unchanged, with the reason; the service goes on.

use lapin::{BasicProperties, types::AMQPValue};

use crate::rig::{Place, Process, books, json_of, sum, until};

const CHARGES: &[&str] = &[
    "",
    "{",
    "null",
    "[]",
    "\"text\"",
    "{}",
    r#"{"order_id": "m", "amount": 0, "user_id": "u"}"#,
    r#"{"order_id": "m", "amount": -5, "user_id": "u"}"#,
    r#"{"order_id": "m", "amount": 10.5, "user_id": "u"}"#,
    r#"{"order_id": "m", "amount": "10", "user_id": "u"}"#,
    r#"{"order_id": "m", "amount": 9223372036854775808, "user_id": "u"}"#,
    r#"{"order_id": "m", "amount": null, "user_id": "u"}"#,
    r#"{"order_id": "m", "amount": 10}"#,
    r#"{"order_id": null, "amount": 10, "user_id": "u"}"#,
    r#"{"order_id": "", "amount": 10, "user_id": "u"}"#,
    r#"{"order_id": 1.5, "amount": 10, "user_id": "u"}"#,
    r#"{"order_id": "a\u0000b", "amount": 10, "user_id": "u"}"#,
    r#"{"order_id": "m", "amount": 10, "user_id": "a\u0000b"}"#,
    r#"{"order_id": true, "amount": 10, "user_id": "u"}"#,
    r#"{"amount": 10, "user_id": "u"}"#,
    r#"{"order_id": "m", "amount": 10, "user_id": "u"} trailing"#,
];

const RESULTS: &[&str] = &[
    "no JSON",
    "{}",
    r#"{"order_id": "m"}"#,
    r#"{"order_id": "m", "status": "maybe", "transaction_id": null}"#,
    r#"{"order_id": "m", "status": "paid", "transaction_id": null}"#,
    r#"{"order_id": "m", "status": "paid", "transaction_id": "a\u0000b"}"#,
    r#"{"order_id": [], "status": "paid", "transaction_id": "t"}"#,
];

const RESERVATIONS: &[&str] = &[
    "no JSON",
    r#"{"order_id": "m", "items": []}"#,
    r#"{"order_id": "m", "items": {}}"#,
    r#"{"order_id": "m", "items": [{"id": "sku", "quantity": 0}]}"#,
    r#"{"order_id": "m", "items": [{"id": "sku", "quantity": -1}]}"#,
    r#"{"order_id": "m", "items": [{"id": "sku", "quantity": 1}, {"id": "", "quantity": 1}]}"#,
    r#"{"order_id": "m", "items": [{"id": "a\u0000b", "quantity": 1}]}"#,
    r#"{"order_id": "m", "items": [{"quantity": 1}]}"#,
    r#"{"items": [{"id": "sku", "quantity": 1}]}"#,
];

const REFUNDS: &[&str] = &[
    "no JSON",
    "{}",
    r#"{"order_id": "m", "transaction_id": "t"}"#,
    r#"{"order_id": "m", "transaction_id": "t", "amount": 0}"#,
    r#"{"order_id": "m", "transaction_id": "t", "amount": -1}"#,
    r#"{"order_id": "m", "transaction_id": "t", "amount": "10"}"#,
    r#"{"order_id": "m", "transaction_id": "", "amount": 10}"#,
    r#"{"order_id": "m", "transaction_id": null, "amount": 10}"#,
    r#"{"order_id": "", "transaction_id": "t", "amount": 10}"#,
    r#"{"transaction_id": "t", "amount": 10}"#,
];

#[tokio::test]
async fn malformed_messages_are_dead_letters_unchanged() {
    let Some(place) = Place::new("malformed").await else {
        return;
    };
    let (gateway, foreign) = (Process::gateway(), place.foreign().await);
    let up = place.up(&gateway);
    up.ready().await;
    up.stock("sku", 5).await;

    let queues = [
        ("payment_queue", CHARGES),
        ("order_queue", RESULTS),
        ("inventory_queue", RESERVATIONS),
        ("refund_queue", REFUNDS),
    ];
    let not_text: &[u8] = b"{\"order_id\": \"\xff\xfe\", \"amount\": 10, \"user_id\": \"u\"}";
    for (queue, bodies) in queues {
        for body in bodies {
            foreign.bare(queue, body).await;
        }
        // An id makes it no better.
        let named = BasicProperties::default().with_message_id("m-1".into());
        foreign.publish(queue, not_text, named).await;
    }
    for (queue, bodies) in queues {
        let dead = format!("{queue}.dlq");
        let mut sent: Vec<Vec<u8>> = bodies.iter().map(|body| body.as_bytes().to_vec()).collect();
        sent.push(not_text.to_vec());
        let mut kept = Vec::new();
        for _ in 0..sent.len() {
            let letter = foreign.take(&dead).await.delivery;
            let headers = letter.properties.headers().clone().expect("headers");
            let reason = headers.inner().get("x-leveret-reason");
            let reason = reason
                .and_then(AMQPValue::as_long_string)
                .expect("a reason");
            assert!(!reason.to_string().is_empty());
            kept.push(letter.data.clone());
        }
        sent.sort();
        kept.sort();
        assert_eq!(kept, sent, "in {dead}");
        for delay in ["100ms", "200ms", "400ms"] {
            assert_eq!(foreign.count(&format!("{queue}.retry.{delay}")).await, 0);
        }
    }
    let id = up.order("sku", 1000).await;
    up.ends(&id, "COMPLETED").await;
    for (queue, _) in queues {
        assert_eq!(
            foreign.count(&format!("{queue}.dlq")).await,
            0,
            "once, in {queue}"
        );
    }
    assert_eq!(books(&gateway).await, (1, 0));
    assert_eq!(up.get("/payments/m").await.0, 404);
    assert_eq!(up.get("/stock/sku").await.1["reserved"], 1);
    drop(up);
    place.remove().await;
}

/// An 03 is tried four times, then the request is in the dead letters, unchanged; an 04 is charged once; what is not there is refunded once.
#[tokio::test]
async fn what_the_gateway_makes_of_an_order() {
    let Some(place) = Place::new("outcomes").await else {
        return;
    };
    let (gateway, foreign) = (Process::gateway(), place.foreign().await);
    let up = place.up(&gateway);
    up.ready().await;
    up.stock("sku", 5).await;

    let failed = up.order("sku", 1003).await;
    let slow = up.order("sku", 1004).await;
    let twice = up.order("sku", 1002).await;
    let declined = up.order("sku", 1001).await;
    let absent = up.order("nobody-has-it", 1000).await;
    let bare = r#"{"user_id": 7,   "order_id": "f-3", "amount": 2003, "more": [1]}"#;
    let note = BasicProperties::default()
        .with_headers({
            let mut headers = lapin::types::FieldTable::default();
            headers.insert("count".into(), AMQPValue::LongInt(7));
            headers
        })
        .with_reply_to("nowhere".into());
    foreign.publish("payment_queue", bare, note).await;

    up.ends(&failed, "PAYMENT_FAILED").await;
    up.ends(&slow, "COMPLETED").await;
    up.ends(&twice, "COMPLETED").await;
    up.ends(&declined, "PAYMENT_FAILED").await;
    let cancelled = up.ends(&absent, "CANCELLED").await;
    assert_eq!(cancelled["reason"], "out_of_stock");

    let mut kept = Vec::new();
    for _ in 0..2 {
        let letter = foreign.take("payment_queue.dlq").await.delivery;
        let headers = letter.properties.headers().clone().expect("headers");
        let attempts = headers.inner().get("x-leveret-attempts").cloned();
        assert!(headers.inner().contains_key("x-leveret-reason"));
        kept.push((letter, attempts));
    }
    let (foreign_letter, _) = kept
        .iter()
        .find(|(letter, _)| letter.data == bare.as_bytes())
        .expect("the foreign one's bytes are as they were");
    let reply_to = foreign_letter.properties.reply_to().clone();
    assert_eq!(reply_to.expect("one").as_str(), "nowhere");
    let headers = foreign_letter
        .properties
        .headers()
        .clone()
        .expect("headers");
    assert!(headers.inner().contains_key("count"), "{headers:?}");
    let ours = kept
        .iter()
        .find(|(letter, _)| letter.data != bare.as_bytes());
    assert_eq!(json_of(&ours.expect("ours").0.data)["order_id"], failed);
    for (_, attempts) in &kept {
        let attempts = attempts.as_ref().map(|attempts| format!("{attempts:?}"));
        assert!(
            attempts.as_ref().is_some_and(|a| a.contains('4')),
            "{attempts:?}"
        );
    }
    assert_eq!(books(&gateway).await, (3, 1));
    until("no dead letters besides", async || {
        foreign.count("order_queue").await == 0
    })
    .await;
    assert_eq!(
        foreign.count("payment.gateway.dlq").await,
        0,
        "intents that were given up"
    );
    let metrics = up.text("/metrics").await;
    let asked = sum(&metrics, "leveret_work_handled_total", "\"refund_queue\"");
    assert_eq!(asked, 1, "a refund is asked for once");
    assert_eq!(up.get("/stock/sku").await.1["reserved"], 2);
    drop(up);
    place.remove().await;
}
