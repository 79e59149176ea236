//! Dead letters by the services' own API: `leveret dlq` lists, shows, replays and discards them, and a request that is put back is told its
//! result again, without a second effect.

use std::{path::Path, process::Command};

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use serde_json::{Value, json};

use crate::rig::{Foreign, Place, Process, books, json_of, until};

/// What `leveret dlq` says of this server; none where the tests of `orders` are built alone.
fn dlq(server: &Process, args: &[&str]) -> Option<Value> {
    let leveret = Path::new(env!("CARGO_BIN_EXE_orders")).with_file_name("leveret");
    if !leveret.exists() {
        println!("skipped: there is no {}", leveret.display());
        return None;
    }
    let output = Command::new(leveret)
        .arg("dlq")
        .args(args)
        .args(["--json", "--server", &server.url])
        .output()
        .expect("runs");
    assert!(output.status.success(), "{output:?}");
    Some(serde_json::from_slice(&output.stdout).expect("JSON"))
}

async fn replay(server: &Process, queue: &str) -> Value {
    let path = format!("/api/v1/dlq/{queue}/replay");
    let (status, report) = server.send("POST", &path, None, "").await;
    assert_eq!(status, 200, "{report}");
    report
}

/// A broker that is a file has no other way in.
#[tokio::test]
async fn letters_of_an_embedded_broker_are_served() {
    let data = std::env::temp_dir().join(format!("orders-dlq-{}", std::process::id()));
    let up = Process::start(&[
        "up",
        "--listen",
        "127.0.0.1:0",
        "--data",
        data.to_str().expect("text"),
        "--retry-delays",
        "10ms,20ms,40ms",
    ]);
    up.ready().await;
    let failed = up.order("sku", 1003).await;
    up.ends(&failed, "PAYMENT_FAILED").await;
    until("the letter is there", async || {
        let (_, list) = up.get("/api/v1/dlq").await;
        list["items"][0]["count"] == 1
    })
    .await;
    if let Some(list) = dlq(&up, &["list"]) {
        assert_eq!(list["items"][0]["queue"], "payment_queue");
        let shown = dlq(&up, &["show", "payment_queue"]).expect("shown");
        assert_eq!(
            shown["items"][0]["body"]["json"]["order_id"], failed,
            "{shown}"
        );
        let report = dlq(&up, &["replay", "payment_queue"]).expect("replayed");
        assert_eq!(
            (&report["done"], &report["failed"]),
            (&json!(1), &json!(0)),
            "{report}"
        );
    } else {
        assert_eq!(replay(&up, "payment_queue").await["done"], 1);
    }
    until("no letter is left", async || {
        up.get("/api/v1/dlq").await.1 == json!({ "items": [] })
    })
    .await;
    let (_, order) = up.get(&format!("/orders/{failed}")).await;
    assert_eq!(order["status"], "PAYMENT_FAILED");
    let timeline = order["timeline"].as_array().expect("a timeline");
    assert_eq!(timeline.len(), 2, "{order}");
    // A page of somebody else cannot discard what is there.
    let discard = crate::rig::client()
        .post(format!("{}/api/v1/dlq/payment_queue/discard", up.url))
        .header("origin", "https://elsewhere.example");
    assert_eq!(discard.send().await.expect("answers").status(), 403);
    assert_eq!(up.get("/api/v1/dlq/nobody").await.0, 404);
    let (_, document) = up.get("/api/openapi.json").await;
    assert!(document["paths"]["/api/v1/dlq/{queue}/replay"].is_object());
    drop(up);
    drop(std::fs::remove_dir_all(data));
}

fn asks(message_id: &str, correlation_id: &str) -> BasicProperties {
    BasicProperties::default()
        .with_message_id(message_id.into())
        .with_correlation_id(correlation_id.into())
        .with_reply_to("foreign.replies".into())
}

/// A letter of a message that was handled, as a crash between the letter and the ack leaves it.
async fn letter(foreign: &Foreign, queue: &str, body: &str, asks: BasicProperties, at: &str) {
    let mut headers = FieldTable::default();
    for (name, text) in [
        ("x-leveret-queue", queue),
        ("x-leveret-dead-at", at),
        ("x-leveret-reason", "a test"),
    ] {
        headers.insert(name.into(), AMQPValue::LongString(text.into()));
    }
    let dead = format!("{queue}.dlq");
    foreign
        .publish(&dead, body, asks.with_headers(headers))
        .await;
}

/// The answer, with what it is known by.
async fn reply(foreign: &Foreign) -> (String, Value) {
    let reply = foreign.take("foreign.replies").await.delivery;
    let correlation = reply.properties.correlation_id().clone();
    (
        correlation.expect("one").as_str().to_owned(),
        json_of(&reply.data),
    )
}

#[tokio::test]
async fn what_is_put_back_is_told_its_result_again() {
    let Some(place) = Place::new("put_back").await else {
        return;
    };
    let (gateway, foreign) = (Process::gateway(), place.foreign().await);
    let up = place.up(&gateway);
    up.ready().await;
    up.stock("sku", 1).await;
    foreign.own_queue("foreign.replies").await;

    let charge = |order: &str, amount: i64| {
        json!({ "order_id": order, "amount": amount, "user_id": "u" }).to_string()
    };
    let reserve = |order: &str| {
        json!({ "order_id": order, "items": [{ "id": "sku", "quantity": 1 }] }).to_string()
    };
    let refund =
        json!({ "order_id": "back", "transaction_id": "ch_00000000", "amount": 1500 }).to_string();
    let requests = [
        ("payment_queue", charge("back", 1500), "paid"),
        ("payment_queue", charge("no", 1501), "declined"),
        ("payment_queue", charge("bad", 1503), "failed"),
        ("refund_queue", refund, "refunded"),
        ("inventory_queue", reserve("in"), "reserved"),
        ("inventory_queue", reserve("out"), "out_of_stock"),
    ];
    let mut told = Vec::new();
    for (at, (queue, body, status)) in requests.iter().enumerate() {
        let asks = asks(&format!("m-{at}"), &format!("c-{at}"));
        foreign.publish(queue, body, asks).await;
        let (correlation, answer) = reply(&foreign).await;
        assert_eq!(
            (&correlation, &answer["status"]),
            (&format!("c-{at}"), &json!(status))
        );
        told.push(answer);
    }
    let before = [
        up.get("/payments/bad").await.1,
        up.get("/payments/back").await.1,
    ];
    // The failed one is a letter already.
    for at in [2, 0, 1, 3, 4, 5] {
        let (queue, body, _) = &requests[at];
        let asks = asks(&format!("m-{at}"), &format!("c-{at}"));
        if at == 2 {
            until("the failed request is a letter", async || {
                foreign.count("payment_queue.dlq").await == 1
            })
            .await;
        } else {
            // Twice, as a replay that was cut short leaves it.
            for _ in 0..2 {
                letter(
                    &foreign,
                    queue,
                    body,
                    asks.clone(),
                    "2026-01-02T03:04:05.000Z",
                )
                .await;
            }
        }
        let letters = if at == 2 { 1 } else { 2 };
        until("the letters are there", async || {
            foreign.count(&format!("{queue}.dlq")).await == letters
        })
        .await;
        assert_eq!(replay(&up, queue).await["done"], letters);
        let (correlation, answer) = reply(&foreign).await;
        assert_eq!((&correlation, &answer), (&format!("c-{at}"), &told[at]));
    }
    // Each once: the next answer is that of another request.
    foreign
        .publish("payment_queue", charge("last", 1500), asks("m-9", "c-9"))
        .await;
    assert_eq!(reply(&foreign).await.0, "c-9");
    assert_eq!(foreign.count("foreign.replies").await, 0);
    let after = [
        up.get("/payments/bad").await.1,
        up.get("/payments/back").await.1,
    ];
    assert_eq!(after, before, "nothing took effect twice");
    assert_eq!(books(&gateway).await, (2, 1));
    assert_eq!(up.get("/stock/sku").await.1["reserved"], 1);
    for queue in [
        "payment_queue",
        "refund_queue",
        "inventory_queue",
        "order_queue",
    ] {
        assert_eq!(foreign.count(&format!("{queue}.dlq")).await, 0, "{queue}");
    }
    drop(up);
    place.remove().await;
}

/// A refund of a payment that is not there is refused; once it is there, the same letter is put back and takes effect.
#[tokio::test]
async fn what_was_refused_works_after_the_fix() {
    let Some(place) = Place::new("fixed").await else {
        return;
    };
    let (gateway, foreign) = (Process::gateway(), place.foreign().await);
    let up = place.up(&gateway);
    up.ready().await;
    foreign.own_queue("foreign.replies").await;
    let refund =
        json!({ "order_id": "f", "transaction_id": "ch_00000000", "amount": 1500 }).to_string();
    foreign
        .publish("refund_queue", &refund, asks("m-1", "c-1"))
        .await;
    until("it is a letter", async || {
        foreign.count("refund_queue.dlq").await == 1
    })
    .await;
    let (_, shown) = up.get("/api/v1/dlq/refund_queue?full=true").await;
    let reason = shown["items"][0]["reason"].as_str().expect("a reason");
    assert!(reason.contains("no payment"), "{shown}");

    let charge = json!({ "order_id": "f", "amount": 1500, "user_id": "u" }).to_string();
    foreign
        .publish("payment_queue", charge, asks("m-2", "c-2"))
        .await;
    assert_eq!(reply(&foreign).await.1["status"], "paid");
    assert_eq!(replay(&up, "refund_queue").await["done"], 1);
    let (correlation, answer) = reply(&foreign).await;
    assert_eq!(
        (correlation.as_str(), &answer["status"]),
        ("c-1", &json!("refunded"))
    );
    assert_eq!(books(&gateway).await, (1, 1));
    assert_eq!(foreign.count("refund_queue.dlq").await, 0);
    drop(up);
    place.remove().await;
}
