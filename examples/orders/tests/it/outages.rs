//! What is away for a while, or comes late: a service, the database, the broker. What was accepted ends, once; what cannot be accepted is told so.

use std::time::Duration;

use tokio::{task::JoinSet, time::Instant};

use crate::{
    killed::Wire,
    rig::{PATIENCE, PAUSE, Place, Process, books, client, order, sum, until},
    servers::Servers,
};

/// Orders wait for the payment service, however long it is down, and end when it is back.
#[tokio::test]
async fn orders_wait_for_the_payment_service() {
    const ORDERS: usize = 20;
    let Some(place) = Place::new("waiting").await else {
        return;
    };
    let (gateway, foreign) = (Process::gateway(), place.foreign().await);
    let order = place.role("order", &gateway);
    let inventory = place.role("inventory", &gateway);
    let payment = place.role("payment", &gateway);
    payment.ready().await;
    inventory.stock("sku", ORDERS as i64).await;
    let first = order.order("sku", 1000).await;
    order.ends(&first, "COMPLETED").await;
    payment.kill();
    let mut ids = Vec::new();
    for _ in 1..ORDERS {
        ids.push(order.order("sku", 1000).await);
    }
    until("all requests wait in the queue", async || {
        foreign.count("payment_queue").await as usize == ORDERS - 1
    })
    .await;
    let (_, waiting) = order.get("/orders?status=PENDING&limit=500").await;
    let waiting = waiting["items"].as_array().expect("items").len();
    assert_eq!(waiting, ORDERS - 1);

    let payment = place.role("payment", &gateway);
    for id in &ids {
        order.ends(id, "COMPLETED").await;
    }
    assert_eq!(books(&gateway).await, (ORDERS, 0));
    assert_eq!(foreign.count("payment_queue.dlq").await, 0);
    drop((order, inventory, payment));
    place.remove().await;
}

/// PostgreSQL stops under load and comes back: nothing is dead-lettered, what was accepted ends, and the books add up. The server is this test's
/// own.
#[tokio::test]
async fn the_database_goes_away_under_load() {
    const ORDERS: usize = 60;
    let Some(servers) = Servers::private("postgres").await else {
        return;
    };
    let url = servers.exported("LEVERET_TEST_POSTGRES_URL");
    let Some(place) = Place::at("database", &url).await else {
        return;
    };
    let (gateway, foreign) = (Process::gateway(), place.foreign().await);
    let up = place.up(&gateway);
    up.ready().await;
    up.stock("sku", ORDERS as i64).await;
    let mut placing = JoinSet::new();
    for at in 0..ORDERS {
        let url = up.url.clone();
        placing.spawn(async move { place_until_accepted(&url, at).await });
    }
    until("some are under way", async || {
        let (_, list) = up.get("/orders?limit=1").await;
        list["items"]
            .as_array()
            .is_some_and(|items| !items.is_empty())
    })
    .await;
    servers.order("stop", "postgres").await;
    until("it tells", async || up.get("/health/ready").await.0 == 503).await;
    let body = order("sku", 1000).to_string();
    let (status, told) = up.send("POST", "/orders", None, body).await;
    assert_eq!(status, 503, "{told}");
    assert_eq!(up.get("/health/live").await.0, 200);
    servers.order("start", "postgres").await;

    let ids = placing.join_all().await;
    for id in &ids {
        up.ends(id, "COMPLETED").await;
    }
    up.ready().await;
    assert_eq!(books(&gateway).await, (ORDERS, 0));
    assert_eq!(up.get("/stock/sku").await.1["available"], 0);
    for queue in [
        "payment_queue",
        "order_queue",
        "inventory_queue",
        "payment.gateway",
    ] {
        assert_eq!(foreign.count(&format!("{queue}.dlq")).await, 0, "{queue}");
        assert_eq!(
            foreign.count(&format!("{queue}.suspects")).await,
            0,
            "{queue}"
        );
    }
    drop(up);
}

async fn place_until_accepted(url: &str, at: usize) -> String {
    let client = client();
    let end = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < end, "not accepted in time");
        let request = client
            .post(format!("{url}/orders"))
            .header("idempotency-key", format!("key-{at}"))
            .body(order("sku", 1000).to_string());
        let answer = request.send().await.expect("answers");
        if answer.status() == 202 {
            let text = answer.text().await.expect("text");
            let order: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            return order["order_id"].as_str().expect("an id").to_owned();
        }
        assert_eq!(answer.status(), 503);
        tokio::time::sleep(PAUSE).await;
    }
}

/// Started before there is a database, it connects when there is one.
#[tokio::test]
async fn it_starts_before_the_database() {
    let Some(place) = Place::new("early").await else {
        return;
    };
    let gateway = Process::gateway();
    let wire = Wire::to(&place.store, false).await;
    let (amqp, store, url) = (
        place.amqp.clone(),
        wire.address.clone(),
        gateway.url.clone(),
    );
    let starting = tokio::task::spawn_blocking(move || Process::service("up", &amqp, &store, &url));
    until("it has tried twice", async || wire.tries() >= 2).await;
    assert!(!starting.is_finished());
    wire.set(true);
    let up = starting.await.expect("starts");
    up.ready().await;
    up.stock("sku", 1).await;
    let id = up.order("sku", 1000).await;
    up.ends(&id, "COMPLETED").await;
    drop(up);
    place.remove().await;
}

/// A process is killed that holds messages of the outbox; another one of its service sends them, long before the lease of half a minute is over.
#[tokio::test]
async fn what_a_killed_process_held_leaves_soon() {
    const ORDERS: usize = 30;
    let Some(place) = Place::new("held").await else {
        return;
    };
    let gateway = Process::gateway();
    // Its way to the broker is cut without a word, so that what it commits stays with it.
    let wire = Wire::to(&place.amqp, true).await;
    let dying = Process::service("order", &wire.address, &place.store, &gateway.url);
    let order = place.role("order", &gateway);
    let others = [
        place.role("payment", &gateway),
        place.role("inventory", &gateway),
    ];
    dying.ready().await;
    order.ready().await;
    others[1].stock("sku", ORDERS as i64).await;
    wire.stall();
    let mut ids = Vec::new();
    for _ in 0..ORDERS {
        ids.push(dying.order("sku", 1000).await);
    }
    let metrics = dying.text("/metrics").await;
    assert!(sum(&metrics, "leveret_service_outbox_messages", "") > 0);
    dying.kill();
    // What it was delivered goes back.
    wire.set(false);
    let killed = Instant::now();
    for id in &ids {
        order.ends(id, "COMPLETED").await;
    }
    let took = killed.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?}");
    assert_eq!(books(&gateway).await, (ORDERS, 0));
    drop((order, others));
    place.remove().await;
}
