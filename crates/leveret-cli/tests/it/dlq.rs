//! `leveret dlq`: straight at a broker's file, at RabbitMQ, and through a server; and a replay that is killed in the middle.

use std::{collections::HashMap, process::Stdio, sync::Arc};

use leveret::broker::{self, ConsumeOptions, Message, Publication, Queue, Topology};
use serde_json::{Value, json};

use crate::support::{Directory, Server, command, leveret, until};

fn run(args: &[&str]) -> (Option<i32>, Value) {
    let ended = leveret(&[&["dlq"], args, &["--json"]].concat());
    let json = serde_json::from_str(&ended.stdout).unwrap_or_else(|_| panic!("{ended:?}"));
    (ended.code, json)
}

/// A broker with a queue of this name and `count` dead letters of it.
async fn fill(url: &str, queue: &str, count: usize) {
    let broker = broker::connect(url).await.expect("a broker");
    let dlq: Arc<str> = format!("{queue}.dlq").into();
    let topology = Topology {
        queues: vec![Queue::plain(queue), Queue::plain(dlq.clone())],
        ..Topology::default()
    };
    broker.declare(&topology).await.expect("declares");
    let letters = (0..count).map(|number| {
        let mut message = Message::json(format!("{{\"n\":{number}}}"));
        message.message_id = Some(number.to_string().into());
        let reason = if number % 2 == 0 {
            "timeout"
        } else {
            "no stock"
        };
        let headers = [("x-leveret-reason", reason), ("x-leveret-queue", queue)];
        message.headers = headers
            .map(|(name, text)| (name.to_owned(), broker::Header::Text(text.to_owned())))
            .into();
        Publication::to_queue(dlq.clone(), message)
    });
    for result in broker.publish(letters.collect()).await {
        result.expect("publishes");
    }
    broker.close().await;
}

#[test]
fn letters_of_a_file_are_listed_shown_replayed_and_discarded() {
    let directory = Directory::new();
    let url = format!("embedded:{}/broker.db", directory.path());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(fill(&url, "payment", 6));
    drop(runtime);
    let at = ["--broker", url.as_str()];

    let (_, listed) = run(&[&["list"], &at[..]].concat());
    assert_eq!(listed["items"][0]["queue"], "payment");
    assert_eq!(listed["items"][0]["count"], 6);
    let (_, brief) = run(&[&["list", "payment.dlq", "--reason", "stock"], &at[..]].concat());
    assert_eq!(brief["items"].as_array().unwrap().len(), 3);
    let (_, shown) = run(&[&["show", "payment", "--id", "3"], &at[..]].concat());
    assert_eq!(shown["items"][0]["body"], json!({ "json": { "n": 3 } }));
    let (_, dry) = run(&[&["replay", "payment", "--dry-run"], &at[..]].concat());
    assert_eq!((&dry["done"], &dry["dry_run"]), (&json!(6), &json!(true)));
    let (code, replayed) = run(&[&["replay", "payment", "--reason", "timeout"], &at[..]].concat());
    assert_eq!((code, &replayed["done"]), (Some(0), &json!(3)));
    let (_, discarded) = run(&[&["discard", "payment", "--limit", "2"], &at[..]].concat());
    assert_eq!(discarded["done"], 2);
    let (_, left) = run(&[&["list", "payment"], &at[..]].concat());
    assert_eq!(left["items"][0]["message_id"], "5");
    let missing = leveret(&[&["dlq", "show", "nobody"], &at[..]].concat());
    assert_eq!(missing.code, Some(2), "{missing:?}");
    assert!(missing.stderr.contains("queue 'nobody'"), "{missing:?}");
    let people = leveret(&[&["dlq", "list"], &at[..]].concat());
    assert!(people.stdout.contains("1 × no stock"), "{people:?}");
}

/// The file belongs to the process that has it open, which serves its dead letters.
#[test]
fn a_server_serves_the_letters_of_its_file() {
    let directory = Directory::new();
    let file = format!("{}/leveret.db", directory.path());
    let url = format!("embedded:{file}");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(fill(&url, "workflow.execution", 3));
    drop(runtime);
    let data = directory.path();
    let server = Server::start(&[
        "up",
        "--listen",
        "127.0.0.1:0",
        "--data",
        &data,
        "--log",
        "error",
    ]);
    let server_url = server.url();
    let at = ["--server", server_url.as_str()];

    let taken = leveret(&["dlq", "list", "--broker", &url]);
    assert_eq!(taken.code, Some(1), "{taken:?}");
    assert!(taken.stderr.contains("leave --broker out"), "{taken:?}");
    let (_, listed) = run(&[&["list"], &at[..]].concat());
    assert_eq!(listed["items"][0]["count"], 3);
    let (_, shown) = run(&[&["show", "workflow.execution"], &at[..]].concat());
    assert_eq!(shown["items"][0]["message_id"], "0");
    let (_, discarded) = run(&[
        &["discard", "workflow.execution", "--reason", "timeout"],
        &at[..],
    ]
    .concat());
    assert_eq!(discarded["done"], 2);
    // Its worker finds that it is no job, and dead-letters it again.
    let (_, replayed) = run(&[&["replay", "workflow.execution"], &at[..]].concat());
    assert_eq!(replayed["done"], 1);
    until("the letter is back", || {
        let (_, letters) = run(&[&["list", "workflow.execution"], &at[..]].concat());
        let item = &letters["items"][0];
        item["message_id"] == "1" && item["reason"] != "no stock"
    });
    let missing = leveret(&[&["dlq", "replay", "nobody"], &at[..]].concat());
    assert_eq!(missing.code, Some(2), "{missing:?}");
}

/// A replay of thousands is killed in the middle, and begun again until nothing is left: every message is in its queue, and what is there
/// twice is one batch at most for each kill.
#[test]
fn a_replay_that_is_killed_loses_nothing() {
    let directory = Directory::new();
    killed(&format!("embedded:{}/broker.db", directory.path()), 0);
    match std::env::var("LEVERET_TEST_AMQP_URL") {
        Ok(url) => killed(&url, 500),
        Err(_) => println!("skipped: LEVERET_TEST_AMQP_URL is not set"),
    }
}

const LETTERS: usize = 6000;

fn killed(url: &str, batch: usize) {
    let queue = format!("leveret-test.killed.{:016x}", fastrand::u64(..));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(fill(url, &queue, LETTERS));
    let args = ["dlq", "replay", &queue, "--broker", url, "--json"];
    let is_shared = url.starts_with("amqp");
    let (mut kills, mut moved) = (0, 0);
    for patience_ms in [60, 100, 150, 220] {
        let mut child = command(&args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        if is_shared {
            until("letters move", || {
                let before = std::mem::replace(&mut moved, runtime.block_on(count(url, &queue)));
                moved > before || child.try_wait().unwrap().is_some()
            });
        } else {
            // Nobody else can look into its file: how far it comes is left to chance.
            std::thread::sleep(std::time::Duration::from_millis(patience_ms));
        }
        if child.try_wait().unwrap().is_none() {
            child.kill().unwrap();
            kills += 1;
        }
        child.wait().unwrap();
    }
    assert!(kills > 0, "every replay ended before it was killed");
    until("what was held is back, and moved", || {
        let ended = leveret(&args);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        runtime.block_on(count(url, &format!("{queue}.dlq"))) == 0
    });
    let seen = runtime.block_on(drain(url, &queue));
    assert_eq!(seen.len(), LETTERS, "each message once at least");
    let doubles: usize = seen.values().map(|count| count - 1).sum();
    assert!(
        doubles <= kills * batch,
        "{doubles} doubles of {kills} kills"
    );
}

async fn count(url: &str, queue: &str) -> u64 {
    let broker = broker::connect(url).await.expect("a broker");
    let stats = broker.queue_stats(queue).await.expect("counts");
    broker.close().await;
    stats.ready
}

/// How often each message is in the queue, by its id. Deletes the queue.
async fn drain(url: &str, queue: &str) -> HashMap<String, usize> {
    let broker = broker::connect(url).await.expect("a broker");
    let ready = broker.queue_stats(queue).await.expect("counts").ready;
    let options = ConsumeOptions {
        prefetch: 1000,
        ..ConsumeOptions::queue(queue)
    };
    let mut consumer = broker.consume(options).await.expect("consumes");
    let mut seen = HashMap::new();
    for _ in 0..ready {
        let delivery = consumer.next().await.expect("a message");
        let id = delivery.message.message_id.as_deref().expect("an id");
        *seen.entry(id.to_owned()).or_default() += 1;
        delivery.receipt.ack();
    }
    drop(consumer);
    for name in [queue.to_owned(), format!("{queue}.dlq")] {
        broker.delete_queue(&name).await.expect("deletes");
    }
    broker.close().await;
    seen
}
