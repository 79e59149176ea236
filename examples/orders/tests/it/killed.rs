//! Processes end by `kill -9` under load, and brokers go away: every order ends, once, and the books add up.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use serde_json::Value;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::rig::{PATIENCE, PAUSE, Place, Process, books, client, order, until};

const ORDERS: usize = 40;
const STOCK: i64 = 25;

/// Places orders with every outcome, each with a key of its own, again until it is accepted.
async fn place_all(orders: Arc<Mutex<String>>) -> Vec<String> {
    let client = client();
    let mut ids = Vec::new();
    let end = Instant::now() + PATIENCE;
    while ids.len() < ORDERS {
        assert!(Instant::now() < end, "not all are accepted in time");
        let at = ids.len();
        let total = 1000 + [0, 0, 1, 2, 0, 3, 0, 0, 0, 0][at % 10];
        let url = orders.lock().expect("whole").clone();
        let request = client
            .post(format!("{url}/orders"))
            .header("idempotency-key", format!("key-{at}"))
            .body(order("sku", total).to_string());
        match accepted(request).await {
            Some(id) => ids.push(id),
            None => sleep(PAUSE).await,
        }
    }
    ids
}

async fn accepted(request: reqwest::RequestBuilder) -> Option<String> {
    let answer = request.send().await.ok()?;
    if answer.status() != 202 {
        return None;
    }
    let text = answer.text().await.ok()?;
    let order: Value = serde_json::from_str(&text).expect("JSON");
    Some(order["order_id"].as_str().expect("an id").to_owned())
}

/// Waits until all have ended, and does the books.
async fn all_end(order: &Process, inventory: &Process, gateway: &Process, ids: &[String]) {
    let (mut completed, mut cancelled, mut failed) = (0, 0, 0);
    for id in ids {
        let path = format!("/orders/{id}");
        let mut status = String::new();
        until(&format!("{id} ends"), async || {
            let (_, order) = order.get(&path).await;
            let told = order["status"].as_str().unwrap_or_default();
            told.clone_into(&mut status);
            !["", "PENDING", "PAID"].contains(&status.as_str())
        })
        .await;
        match status.as_str() {
            "COMPLETED" => completed += 1,
            "CANCELLED" => cancelled += 1,
            _ => failed += 1,
        }
    }
    let unpaid = ORDERS / 10 * 2;
    assert_eq!(failed, unpaid);
    assert_eq!(completed, STOCK);
    let (charged, refunded) = books(gateway).await;
    assert_eq!((charged, refunded), (ORDERS - unpaid, cancelled));
    let (_, stock) = inventory.get("/stock/sku").await;
    assert_eq!(
        (&stock["reserved"], &stock["available"]),
        (&STOCK.into(), &0.into())
    );
}

#[tokio::test]
async fn all_in_one_process_is_killed_under_load() {
    let data = std::env::temp_dir().join(format!("orders-killed-{}", std::process::id()));
    let gateway = Process::gateway();
    let start = || {
        Process::start(&[
            "up",
            "--listen",
            "127.0.0.1:0",
            "--data",
            data.to_str().expect("text"),
            "--gateway",
            &gateway.url,
            "--retry-delays",
            "100ms,200ms,400ms",
        ])
    };
    let mut up = start();
    up.stock("sku", STOCK).await;
    let url = Arc::new(Mutex::new(up.url.clone()));
    let placing = tokio::spawn(place_all(url.clone()));
    for round in 1..=3 {
        until("the gateway has more to do", async || {
            let (_, told) = gateway.get("/charges").await;
            told["charges"].as_array().expect("charges").len() >= round * 4
        })
        .await;
        up.kill();
        up = start();
        url.lock().expect("whole").clone_from(&up.url);
    }
    let ids = placing.await.expect("places");
    all_end(&up, &up, &gateway, &ids).await;
    drop(up);
    drop(std::fs::remove_dir_all(data));
}

#[tokio::test]
async fn each_of_three_processes_is_killed_under_load() {
    let Some(place) = Place::new("three").await else {
        return;
    };
    let gateway = Process::gateway();
    let mut order = place.role("order", &gateway);
    let mut payment = place.role("payment", &gateway);
    let mut inventory = place.role("inventory", &gateway);
    inventory.stock("sku", STOCK).await;
    let url = Arc::new(Mutex::new(order.url.clone()));
    let placing = tokio::spawn(place_all(url.clone()));
    for round in 1..=2 {
        until("the gateway has more to do", async || {
            let (_, told) = gateway.get("/charges").await;
            told["charges"].as_array().expect("charges").len() >= round * 6
        })
        .await;
        payment.kill();
        payment = place.role("payment", &gateway);
        inventory.kill();
        inventory = place.role("inventory", &gateway);
        order.kill();
        order = place.role("order", &gateway);
        url.lock().expect("whole").clone_from(&order.url);
    }
    let ids = placing.await.expect("places");
    all_end(&order, &inventory, &gateway, &ids).await;
    drop((order, payment, inventory));
    place.remove().await;
}

/// A way to a server that can be cut.
pub(crate) struct Wire {
    pub(crate) address: String,
    open: watch::Sender<Way>,
    tries: Arc<AtomicUsize>,
}

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Open,
    /// Connections end.
    Cut,
    /// Connections stay, and nothing comes through.
    Stalled,
}

impl Wire {
    pub(crate) async fn to(url: &str, open: bool) -> Wire {
        let (_, rest) = url.split_once('@').expect("a user");
        let server = rest.split('/').next().expect("an address").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = url.replace(&server, &listener.local_addr().expect("bound").to_string());
        let (open, way) = watch::channel(if open { Way::Open } else { Way::Cut });
        let tries = Arc::new(AtomicUsize::new(0));
        let counted = tries.clone();
        tokio::spawn(async move {
            let mut ways = JoinSet::new();
            loop {
                let (mut near, _) = listener.accept().await.expect("accepts");
                counted.fetch_add(1, Ordering::Relaxed);
                let (mut way, server) = (way.clone(), server.clone());
                ways.spawn(async move {
                    if *way.borrow() == Way::Cut {
                        return;
                    }
                    let mut far = TcpStream::connect(server).await.expect("connects");
                    tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => {}
                        _ = way.wait_for(|way| *way != Way::Open) => {}
                    }
                    // An error only says that the test is over.
                    drop(way.wait_for(|way| *way != Way::Stalled).await);
                });
            }
        });
        Wire {
            address,
            open,
            tries,
        }
    }

    pub(crate) fn set(&self, open: bool) {
        self.open
            .send_replace(if open { Way::Open } else { Way::Cut });
    }

    /// Nothing comes through any more, and nobody is told.
    pub(crate) fn stall(&self) {
        self.open.send_replace(Way::Stalled);
    }

    /// How often somebody has connected.
    pub(crate) fn tries(&self) -> usize {
        self.tries.load(Ordering::Relaxed)
    }
}

#[tokio::test]
async fn orders_are_accepted_while_the_broker_is_away() {
    let Some(place) = Place::new("away").await else {
        return;
    };
    let gateway = Process::gateway();
    // It starts before there is a broker.
    let wire = Wire::to(&place.amqp, false).await;
    let up = Process::service("up", &wire.address, &place.store, &gateway.url);
    assert_eq!(up.get("/health/live").await.0, 200);
    assert_eq!(up.get("/health/ready").await.0, 503);
    up.stock("sku", 10).await;
    let first = up.order("sku", 1000).await;
    wire.set(true);
    up.ready().await;
    up.ends(&first, "COMPLETED").await;

    wire.set(false);
    until("it knows", async || up.get("/health/ready").await.0 == 503).await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        let began = std::time::Instant::now();
        ids.push(up.order("sku", 1000).await);
        assert!(began.elapsed().as_secs() < 2, "accepted at once");
    }
    assert_eq!(
        up.get(&format!("/orders/{}", ids[0])).await.1["status"],
        "PENDING"
    );
    wire.set(true);
    for id in &ids {
        up.ends(id, "COMPLETED").await;
    }
    assert_eq!(books(&gateway).await, (6, 0));
    drop(up);
    place.remove().await;
}
