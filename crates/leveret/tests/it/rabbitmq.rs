//! RabbitMQ behind the broker seam, against a real server.

mod bench;
mod chaos;
mod errors;
mod links;
mod lives;
mod proxy;

use std::{sync::Arc, time::Duration};

use leveret::broker::{
    Broker, Delivery, Message, Publication, Queue, Topology, conformance,
    rabbitmq::{RabbitMq, RabbitMqOptions},
};

/// The longest that a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(30);

/// The server's URL; says that the test is skipped if there is none.
fn url() -> Option<String> {
    let url = std::env::var("LEVERET_TEST_AMQP_URL").ok();
    if url.is_none() {
        println!("skipped: LEVERET_TEST_AMQP_URL is not set");
    }
    url
}

async fn connect(url: &str) -> RabbitMq {
    RabbitMq::connect(RabbitMqOptions::new(url)).await.unwrap()
}

/// A queue with a name that nobody else uses.
async fn declare_queue(broker: &dyn Broker, name: &str) -> Arc<str> {
    let name: Arc<str> = format!("leveret-test.{name}.{:016x}", fastrand::u64(..)).into();
    let topology = Topology {
        queues: vec![Queue::plain(name.clone())],
        ..Topology::default()
    };
    broker.declare(&topology).await.unwrap();
    name
}

fn to(queue: &Arc<str>, body: impl Into<String>) -> Publication {
    Publication::to_queue(queue.clone(), Message::json(body.into()))
}

fn body(delivery: &Delivery) -> String {
    String::from_utf8(delivery.message.body.to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    let Some(url) = url() else { return };
    exercise(url).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_with_quorum_queues() {
    let Some(url) = url() else { return };
    exercise(format!("{url}?queue_type=quorum")).await;
}

async fn exercise(url: String) {
    conformance::exercise(move || {
        let url = url.clone();
        async move { Arc::new(connect(&url).await) as Arc<dyn Broker> }
    })
    .await;
}
