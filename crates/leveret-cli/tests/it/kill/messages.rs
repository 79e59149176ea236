//! Messages that are no jobs are dead-lettered with the reason, and the consumer goes on.

use std::collections::BTreeMap;

use lapin::{
    BasicProperties, Connection, ConnectionProperties,
    options::{
        BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions,
        QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable},
};
use leveret::{
    broker::{ConsumeOptions, Consumer, Header, Message, Publication},
    core::json::Json,
    runtime::{Engine, StartRequest},
    store::RunStatus,
};

use serde_json::json;

use super::{
    foreign::{Foreign, long, only, short, table},
    load::{definition, workflow},
    rig::{NEVER, PATIENCE, Rig, Worker},
    servers::Place,
};

/// Each is dead-lettered for what is wrong with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_messages_are_dead_lettered_with_the_reason() {
    let Some(place) = Place::shared("kill-malformed").await else {
        return;
    };
    let rig = Rig::start(place, NEVER).await;
    let (engine, names) = (&rig.engine, rig.engine.names().clone());
    let bad = [
        ("not json", "not a job"),
        (r#"{"workflow_id":"w","execution_id":"e"}"#, "node_id"),
        (
            r#"{"workflow_id":"w","execution_id":"no-such-run","node_id":"a"}"#,
            "is not recorded",
        ),
        (
            r#"{"workflow_id":"w","execution_id":"e","node_id":"a","workflow":{"id":"w","nodes":[{"uses":"log"}]}}"#,
            "not valid",
        ),
        (
            r#"{"workflow_id":"w","execution_id":"e","node_id":"a","via":7,"workflow":{"id":"w","nodes":[{"id":"a","uses":"log"}]}}"#,
            "no edge into node 'a'",
        ),
        (
            r#"{"workflow_id":"w","execution_id":"e","node_id":"a","input":[1e999],"workflow":{"id":"w","nodes":[{"id":"a","uses":"log"}]}}"#,
            "number out of range",
        ),
    ];
    let publish = |(body, _): &(&str, _)| {
        Publication::to_queue(names.execution.clone(), Message::json((*body).to_owned()))
    };
    let batch = bad.iter().map(publish).collect();
    for result in engine.broker().publish(batch).await {
        result.expect("publishes");
    }
    let worker = Worker::start(&rig.place);
    assert_goes_on(engine).await;
    let mut letters = letters(engine).await;
    let mut reasons = Vec::new();
    while reasons.len() < bad.len() {
        reasons.push(next(&mut letters).await.1);
    }
    for (_, expect) in bad {
        assert!(
            reasons.iter().any(|reason| reason.contains(expect)),
            "{expect} is not in {reasons:?}"
        );
    }
    drop(worker);
    rig.end().await;
}

/// Larger than anything that Leveret publishes: the dead letter is the whole message. With more headers than a dead letter has room for: those
/// are left out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversized_messages_of_others_are_dead_lettered() {
    let Some(place) = Place::shared("kill-oversized").await else {
        return;
    };
    let rig = Rig::start(place, NEVER).await;
    let mut headers = FieldTable::default();
    let text = AMQPValue::LongString("h".repeat(HEADER_BYTES).as_str().into());
    headers.insert("x-much".into(), text);
    let much = BasicProperties::default().with_headers(headers);
    let bodies = [vec![b'x'; BODY_BYTES], b"not json".to_vec()];
    let properties = [BasicProperties::default(), much];
    let foreign = foreign_channel(&rig.place.amqp).await;
    for (body, properties) in bodies.iter().zip(properties) {
        let (queue, options) = (
            &rig.engine.names().execution,
            BasicPublishOptions::default(),
        );
        let sent = foreign.basic_publish("".into(), (&**queue).into(), options, body, properties);
        let confirm = sent.await.expect("publishes").await.expect("is confirmed");
        assert!(confirm.is_ack(), "{confirm:?}");
    }
    let mut worker = Worker::start(&rig.place);
    let mut letters = letters(&rig.engine).await;
    let mut expected = BTreeMap::from([
        (bodies[0].len(), ("more than the 16777216 allowed", None)),
        (bodies[1].len(), ("not a job", Some(&Header::Int(1)))),
    ]);
    while !expected.is_empty() {
        let (message, reason) = next(&mut letters).await;
        let (why, left_out) = expected.remove(&message.body.len()).expect("is whole");
        assert!(reason.contains(why), "{reason}");
        let headers = &message.headers;
        assert_eq!(headers.get("x-leveret-headers-left-out"), left_out);
    }
    assert_goes_on(&rig.engine).await;
    assert!(worker.is_alive());
    drop(worker);
    rig.end().await;
}

/// With properties, or a way to the queue, that AMQP allows nobody, or that are more than the client library reads. Each of them is a job that
/// could be executed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreadable_properties_are_dead_lettered_with_the_reason() {
    let Some(place) = Place::shared("kill-unreadable").await else {
        return;
    };
    let rig = Rig::start(place, NEVER).await;
    let queue = rig.engine.names().execution.to_string();
    let (fanout, grower) = (format!("{queue}.fanout"), format!("{queue}.grower"));
    declare_ways(&rig.place.amqp, &queue, &fanout, &grower).await;

    let not_text: &[u8] = b"\xff\xfe";
    let void = b"V".to_vec();
    let nested = (0..20_000).fold(void.clone(), |inner, _| [b"A", &long(&inner)[..]].concat());
    let much = [b"S", &long(&vec![b'h'; MUCH_BYTES])[..]].concat();
    let plain = only(3, &[2]);
    let (queue, fanout, grower) = (queue.as_bytes(), &*fanout, grower.as_bytes());
    let cases = [
        (
            "",
            queue,
            only(8, &short(not_text)),
            "its message id is not UTF-8",
        ),
        (
            "",
            queue,
            only(2, &table(&[(not_text, void)])),
            "the name of a header is not UTF-8",
        ),
        (
            "",
            queue,
            only(2, &table(&[(b"deep", nested)])),
            "more than 32 deep",
        ),
        (fanout, not_text, plain, "its routing key is not UTF-8"),
        (
            "",
            grower,
            only(2, &table(&[(b"much", much)])),
            "a frame takes 131072",
        ),
    ];
    let mut foreign = Foreign::connect(&rig.place.amqp);
    let mut expected = BTreeMap::new();
    for (case, (exchange, key, properties, why)) in cases.iter().enumerate() {
        let body = json!({
            "workflow_id": "w", "execution_id": format!("unreadable-{case}"), "node_id": "a",
            "workflow": definition("w", &[]),
        });
        let body = body.to_string().into_bytes();
        foreign.publish(exchange, key, properties, &body);
        expected.insert(body, why);
    }

    let mut worker = Worker::start(&rig.place);
    let mut letters = letters(&rig.engine).await;
    while !expected.is_empty() {
        let (message, reason) = next(&mut letters).await;
        let why = expected
            .remove(&message.body[..])
            .expect("is whole, and comes once");
        assert!(reason.contains(why), "{reason}");
    }
    assert_goes_on(&rig.engine).await;
    assert!(worker.is_alive());
    drop(worker);
    rig.end().await;
}

/// Ways into the queue: an exchange that heeds no routing key, and a queue from which the broker passes messages on, with a header more.
async fn declare_ways(url: &str, queue: &str, fanout: &str, grower: &str) {
    let channel = foreign_channel(url).await;
    let options = ExchangeDeclareOptions {
        auto_delete: true,
        ..Default::default()
    };
    let kind = lapin::ExchangeKind::Fanout;
    let declared = channel.exchange_declare(fanout.into(), kind, options, FieldTable::default());
    declared.await.expect("declares");
    let bind = QueueBindOptions::default();
    let bound = channel.queue_bind(
        queue.into(),
        fanout.into(),
        "".into(),
        bind,
        FieldTable::default(),
    );
    bound.await.expect("binds");
    let mut passing_on = FieldTable::default();
    for (name, value) in [
        ("x-dead-letter-exchange", ""),
        ("x-dead-letter-routing-key", queue),
    ] {
        passing_on.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    passing_on.insert("x-message-ttl".into(), AMQPValue::LongInt(0));
    passing_on.insert("x-expires".into(), AMQPValue::LongInt(60_000));
    let declared = channel.queue_declare(grower.into(), QueueDeclareOptions::default(), passing_on);
    declared.await.expect("declares");
}

/// With what the broker adds, more than fits into a frame.
const MUCH_BYTES: usize = 130_950;
/// More than a worker takes.
const BODY_BYTES: usize = (16 << 20) + 1;
/// With what is added for a dead letter, more than fits into a frame.
const HEADER_BYTES: usize = 130_800;

async fn foreign_channel(url: &str) -> lapin::Channel {
    let connection = Connection::connect(url, ConnectionProperties::default()).await;
    let channel = connection.expect("connects").create_channel().await;
    let channel = channel.expect("opens a channel");
    let confirms = channel.confirm_select(ConfirmSelectOptions::default());
    confirms.await.expect("confirms");
    channel
}

/// The consumer works on.
async fn assert_goes_on(engine: &Engine) {
    let request = StartRequest {
        workflow: workflow("goes-on", &[]),
        input: Json::null(),
        run_id: None,
    };
    let result = tokio::time::timeout(PATIENCE, engine.start_and_wait(request)).await;
    let result = result.expect("the run ends").expect("the run starts");
    assert_eq!(result.status, RunStatus::Completed);
}

async fn letters(engine: &Engine) -> Consumer {
    let queue = ConsumeOptions::queue(engine.names().dead_letters.clone());
    engine.broker().consume(queue).await.expect("consumes")
}

/// The next dead letter and its reason.
async fn next(letters: &mut Consumer) -> (Message, String) {
    let letter = tokio::time::timeout(PATIENCE, letters.next()).await;
    let letter = letter.expect("a letter comes").expect("the consumer lives");
    let reason = match letter.message.headers.get("x-leveret-reason") {
        Some(Header::Text(reason)) => reason.clone(),
        other => panic!("no reason: {other:?}"),
    };
    letter.receipt.ack();
    (letter.message, reason)
}
