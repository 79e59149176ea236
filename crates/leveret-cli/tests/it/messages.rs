//! The flow of `docs/MESSAGES.md`, played by the client that stands there, in Python: what is printed is what the document says. Needs
//! RabbitMQ, PostgreSQL, and Python with pip.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use leveret::{
    broker::{
        Broker,
        rabbitmq::{RabbitMq, RabbitMqOptions},
        work::WorkOptions,
    },
    runtime::Names,
};

use crate::{
    kill::Place,
    support::{Server, leveret, root},
};

/// The version of the client library.
const PIKA: &str = "pika==1.3.2";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_flow_of_the_document_is_played_with_pika() {
    let Some(place) = Place::shared("messages").await else {
        return;
    };
    let python = match python_with_pika() {
        Ok(python) => python,
        Err(why) => {
            println!("skipped: {why}");
            return place.remove().await;
        }
    };
    let text = std::fs::read_to_string(root().join("docs/MESSAGES.md")).unwrap();
    let migrated = leveret(&["migrate", "--store", &place.postgres]);
    assert_eq!(migrated.code, Some(0), "{migrated:?}");
    let server = up(&place);
    let played = Command::new(python)
        .args(["-c", block(&text, "python")])
        .env("AMQP_URL", &place.amqp)
        .env("LEVERET_PREFIX", &place.prefix)
        .output()
        .unwrap();
    let printed = String::from_utf8(played.stdout).unwrap();
    assert!(
        played.status.success(),
        "{printed}{}",
        String::from_utf8_lossy(&played.stderr)
    );
    assert_eq!(printed, block(&text, "text"));
    server.terminate();
    assert_eq!(server.wait().0, Some(0));
    remove(place).await;
}

/// Removes what was made at the servers.
async fn remove(place: Place) {
    let broker = RabbitMq::connect(RabbitMqOptions::new(&place.amqp)).await;
    let broker = broker.expect("RabbitMQ answers");
    let Names {
        exchange,
        execution,
        status,
        completion,
        dead_letters,
        signal,
        events,
    } = Names::with_prefix(&place.prefix);
    let signals = WorkOptions::queue(signal).topology().queues.into_iter();
    let queues = [execution, status, completion, dead_letters].into_iter();
    for queue in queues.chain(signals.map(|queue| queue.name)) {
        broker.delete_queue(&queue).await.expect("deletes");
    }
    for exchange in [exchange, events] {
        broker.delete_exchange(&exchange).await.expect("deletes");
    }
    broker.close().await;
    place.remove().await;
}

fn up(place: &Place) -> Server {
    Server::start(&[
        "up",
        "--listen",
        "127.0.0.1:0",
        "--broker",
        &place.amqp,
        "--store",
        &place.postgres,
        "--prefix",
        &place.prefix,
        "--log",
        "error,lapin=off",
    ])
}

/// The first block of this language.
fn block<'a>(text: &'a str, language: &str) -> &'a str {
    let (_, after) = text.split_once(&format!("```{language}\n")).unwrap();
    after.split_once("```").unwrap().0
}

/// A Python of this test's own, with pika. `Err`: why there is none.
fn python_with_pika() -> Result<PathBuf, String> {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pika");
    let python = home.join("bin/python");
    let has_pika = || run(Command::new(&python).args(["-c", "import pika"])).is_ok();
    if !has_pika() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&home))?;
        let pip = ["-m", "pip", "install", "--quiet", PIKA];
        run(Command::new(&python).args(pip))?;
    }
    Ok(python)
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output();
    let output = output.map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?}: {stderr}"))
}
