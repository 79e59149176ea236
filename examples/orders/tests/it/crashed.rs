//! Each service ends as by `kill -9` at each boundary, again and again, under load: nothing is lost, nothing is charged twice, every order ends,
//! stock is never negative, what is reserved is what is COMPLETED, and the gateway's books agree.
//!
//! `LEVERET_TEST_CRASH_ROUNDS` says how often at each boundary; 3.

use std::collections::HashMap;

use leveret::crash::Point;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::rig::{Foreign, PATIENCE, PAUSE, Place, Process, books, client, order, until};

/// Where a service can end. First those after which messages of its outbox wait until a lease is over, so that they do so while the rest goes on.
const OF_ALL: [Point; 5] = [
    Point::ServiceAfterCommit,
    Point::RelayBeforePublish,
    Point::RelayAfterPublish,
    Point::ServiceBeforeCommit,
    Point::BrokerBeforeAck,
];

/// Where the payment service can end besides.
const OF_EFFECTS: [Point; 2] = [Point::EffectBeforeCall, Point::EffectAfterCall];

/// Orders that are placed at once for each crash; more until it comes.
const ORDERS: usize = 6;

/// The last two digits of totals: most are charged, some declined, one fails twice, one always.
const ENDINGS: [i64; 10] = [0, 0, 1, 2, 0, 0, 3, 0, 0, 0];

fn rounds() -> u32 {
    let given = std::env::var("LEVERET_TEST_CRASH_ROUNDS");
    given.map_or(3, |rounds| rounds.parse().expect("a count"))
}

/// The system, with one service that is ended.
struct System {
    place: Place,
    foreign: Foreign,
    gateway: Process,
    services: HashMap<&'static str, Process>,
    /// Every order that was accepted, and whether it can be charged.
    orders: Vec<(String, bool)>,
    /// Whether it is not known if the order behind these was accepted.
    is_unanswered: bool,
    stock: i64,
}

impl System {
    async fn start(place: Place, stock: i64) -> System {
        let gateway = Process::gateway();
        let services = ["order", "payment", "inventory"]
            .map(|role| (role, place.role(role, &gateway)))
            .into();
        let system = System {
            foreign: place.foreign().await,
            place,
            gateway,
            services,
            orders: Vec::new(),
            is_unanswered: false,
            stock,
        };
        system.services["inventory"].stock("sku", stock).await;
        system
    }

    /// Runs the service until it ends there, while orders are placed; then lets it take up what it left.
    async fn crash(&mut self, role: &'static str, at: &str) {
        self.stop(role);
        let crashing = self.place.role_crashing(role, &self.gateway, at);
        self.services.insert(role, crashing);
        let end = Instant::now() + PATIENCE;
        let mut placed = 0;
        while !self.is_killed(role) {
            assert!(Instant::now() < end, "{role} does not come to {at}");
            if placed < ORDERS || self.is_idle().await {
                placed += usize::from(self.place_order().await);
            } else {
                sleep(PAUSE).await;
            }
        }
        let calm = self.place.role(role, &self.gateway);
        self.services.insert(role, calm);
        // What was not answered is placed again, with the same key.
        while placed < ORDERS || self.is_unanswered {
            placed += usize::from(self.place_order().await);
        }
        self.take_up(role).await;
        self.look_at_stock().await;
    }

    /// Waits until the service has begun with all that waited for it. What is still there when a process ends again and again counts as what
    /// ends it, and becomes a dead letter.
    async fn take_up(&self, role: &str) {
        let queues: &[&str] = match role {
            "order" => &["order_queue"],
            "payment" => &["payment_queue", "refund_queue", "payment.gateway"],
            _ => &["inventory_queue"],
        };
        for queue in queues {
            for queue in [(*queue).to_owned(), format!("{queue}.suspects")] {
                until(&format!("{queue} is empty"), async || {
                    self.foreign.count(&queue).await == 0
                })
                .await;
            }
        }
    }

    /// Lets a service finish what it has begun, and end.
    fn stop(&mut self, role: &str) {
        if let Some(service) = self.services.remove(role) {
            service.stop();
        }
    }

    fn is_killed(&mut self, role: &str) -> bool {
        self.services.get_mut(role).expect("started").is_killed()
    }

    /// Whether the last order that can end has ended: nothing leads to the crash any more but further orders.
    async fn is_idle(&self) -> bool {
        let Some((id, _)) = self.orders.last() else {
            return true;
        };
        let order = self.shown(id).await;
        order.is_some_and(|order| is_final(&order))
    }

    /// Places an order; whether it was accepted.
    async fn place_order(&mut self) -> bool {
        let at = self.orders.len();
        let ending = ENDINGS[at % ENDINGS.len()];
        self.is_unanswered = true;
        let url = &self.services["order"].url;
        let request = client()
            .post(format!("{url}/orders"))
            .header("idempotency-key", format!("key-{at}"))
            .body(order("sku", 1000 + ending).to_string());
        let Ok(answer) = request.send().await else {
            return false;
        };
        if answer.status() != 202 {
            return false;
        }
        let Ok(text) = answer.text().await else {
            return false;
        };
        let order: Value = serde_json::from_str(&text).expect("JSON");
        let id = order["order_id"].as_str().expect("an id").to_owned();
        self.is_unanswered = false;
        self.orders.push((id, ![1, 3].contains(&ending)));
        true
    }

    /// None: the order service is away.
    async fn shown(&self, id: &str) -> Option<Value> {
        let url = format!("{}/orders/{id}", self.services["order"].url);
        let answer = client().get(url).send().await.ok()?;
        serde_json::from_str(&answer.text().await.ok()?).ok()
    }

    /// What the inventory service says while it is there.
    async fn look_at_stock(&self) {
        let url = format!("{}/stock/sku", self.services["inventory"].url);
        let Ok(answer) = client().get(url).send().await else {
            return;
        };
        let text = answer.text().await.unwrap_or_default();
        let Ok(stock) = serde_json::from_str::<Value>(&text) else {
            return;
        };
        let (reserved, available) = (&stock["reserved"], &stock["available"]);
        assert!(available.as_i64().is_some_and(|left| left >= 0), "{stock}");
        assert!(
            reserved.as_i64().is_some_and(|kept| kept <= self.stock),
            "{stock}"
        );
    }

    /// Waits until all have ended, and does the books.
    async fn all_end(&self) {
        assert!(!self.is_unanswered);
        let mut counts: HashMap<String, usize> = HashMap::new();
        for (id, _) in &self.orders {
            let mut status = String::new();
            until(&format!("{id} ends"), async || {
                let order = self.shown(id).await.unwrap_or_default();
                let told = order["status"].as_str().unwrap_or_default();
                told.clone_into(&mut status);
                is_final(&order)
            })
            .await;
            *counts.entry(status).or_default() += 1;
        }
        let count = |status: &str| counts.get(status).copied().unwrap_or_default();
        let charged = self.orders.iter().filter(|(_, charged)| *charged).count();
        let completed = charged.min(self.stock as usize);
        assert_eq!(count("PAYMENT_FAILED"), self.orders.len() - charged);
        assert_eq!(count("COMPLETED"), completed);
        assert_eq!(count("CANCELLED"), charged - completed);
        assert_eq!(books(&self.gateway).await, (charged, charged - completed));
        let (_, stock) = self.services["inventory"].get("/stock/sku").await;
        assert_eq!(stock["reserved"], completed, "{stock}");
        println!("{} orders: {counts:?}", self.orders.len());
    }
}

fn is_final(order: &Value) -> bool {
    let status = order["status"].as_str();
    status.is_some_and(|status| !["PENDING", "PAID"].contains(&status))
}

/// Ends a service at each of these points, some times each, and then lets the system come to its end.
async fn crash_at_each(role: &'static str, points: &[Point]) {
    let Some(place) = Place::new(&format!("crashed_{role}")).await else {
        return;
    };
    let rounds = rounds();
    // Enough for most, so that what ends COMPLETED and what CANCELLED is about the same.
    let stock = (points.len() * rounds as usize * ORDERS / 3) as i64;
    let mut system = System::start(place, stock).await;
    for point in points {
        for round in 0..rounds {
            // Not always the first: then others are beside it.
            let at = format!("{point}:{}", 1 + (round * 2) % 5);
            system.crash(role, &at).await;
        }
    }
    system.all_end().await;
    let System { place, .. } = system;
    place.remove().await;
}

#[tokio::test]
async fn the_order_service_crashes_at_each_boundary() {
    crash_at_each("order", &OF_ALL).await;
}

#[tokio::test]
async fn the_payment_service_crashes_at_each_boundary() {
    crash_at_each("payment", &[&OF_ALL[..], &OF_EFFECTS].concat()).await;
}

#[tokio::test]
async fn the_inventory_service_crashes_at_each_boundary() {
    crash_at_each("inventory", &OF_ALL).await;
}
