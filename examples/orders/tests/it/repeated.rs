//! Every message between the services comes five times, at two processes of the service at once.

use lapin::message::BasicGetMessage;

use crate::rig::{Foreign, Place, Process, books, json_of, sum, until};

const ORDERS: usize = 12;
const COPIES: usize = 5;

/// Takes all messages of a queue, once it has so many, and puts each back five times, as it was.
async fn multiply(foreign: &Foreign, queue: &str, expected: usize) {
    until(&format!("{expected} messages in {queue}"), async || {
        foreign.count(queue).await as usize >= expected
    })
    .await;
    let mut taken: Vec<BasicGetMessage> = Vec::new();
    while let Some(message) = foreign.try_take(queue).await {
        taken.push(message);
    }
    assert_eq!(taken.len(), expected, "in {queue}");
    taken.reverse();
    for message in taken {
        let delivery = message.delivery;
        for _ in 0..COPIES {
            let properties = delivery.properties.clone();
            foreign.publish(queue, &delivery.data, properties).await;
        }
    }
}

/// Two processes of a service handle so many copies, and end by `kill -9` when nothing is left to say.
async fn work(place: &Place, gateway: &Process, role: &str, queue: &str, messages: usize) {
    let both = [place.role(role, gateway), place.role(role, gateway)];
    until(&format!("{role} has handled all of {queue}"), async || {
        let mut handled = 0;
        for process in &both {
            let metrics = process.text("/metrics").await;
            handled += sum(
                &metrics,
                "leveret_work_handled_total",
                &format!("\"{queue}\""),
            );
        }
        handled >= (messages * COPIES) as u64
    })
    .await;
    if role == "payment" {
        until("nothing is left for the gateway", async || {
            let mut handled = 0;
            for process in &both {
                let metrics = process.text("/metrics").await;
                handled += sum(
                    &metrics,
                    "leveret_work_handled_total",
                    "\"payment.gateway\"",
                );
            }
            handled >= messages as u64
        })
        .await;
    }
    for process in both {
        until("the outbox is empty", async || {
            let metrics = process.text("/metrics").await;
            sum(&metrics, "leveret_service_outbox_messages", "") == 0
        })
        .await;
        process.kill();
    }
}

#[tokio::test]
async fn what_comes_five_times_takes_effect_once() {
    let Some(place) = Place::new("repeated").await else {
        return;
    };
    let (gateway, foreign) = (Process::gateway(), place.foreign().await);
    let (order, inventory) = (
        place.role("order", &gateway),
        place.role("inventory", &gateway),
    );
    order.ready().await;
    inventory.ready().await;
    inventory.stock("sku", 8).await;
    let mut ids = Vec::new();
    for _ in 0..ORDERS {
        ids.push(order.order("sku", 1000).await);
    }
    until("all are asked for", async || {
        foreign.count("payment_queue").await as usize == ORDERS
    })
    .await;
    order.kill();
    inventory.kill();

    multiply(&foreign, "payment_queue", ORDERS).await;
    work(&place, &gateway, "payment", "payment_queue", ORDERS).await;
    multiply(&foreign, "order_queue", ORDERS).await;
    work(&place, &gateway, "order", "order_queue", ORDERS).await;
    multiply(&foreign, "inventory_queue", ORDERS).await;
    work(&place, &gateway, "inventory", "inventory_queue", ORDERS).await;
    multiply(&foreign, "order_queue", ORDERS).await;
    work(&place, &gateway, "order", "order_queue", ORDERS).await;
    multiply(&foreign, "refund_queue", 4).await;
    work(&place, &gateway, "payment", "refund_queue", 4).await;
    multiply(&foreign, "order_queue", 4).await;

    let (order, inventory) = (
        place.role("order", &gateway),
        place.role("inventory", &gateway),
    );
    let mut completed = 0;
    for id in &ids {
        let path = format!("/orders/{id}");
        until("the order ends", async || {
            let (_, order) = order.get(&path).await;
            ["COMPLETED", "CANCELLED"].contains(&order["status"].as_str().expect("a status"))
        })
        .await;
        let (_, order) = order.get(&path).await;
        assert_eq!(order["timeline"].as_array().expect("a timeline").len(), 3);
        completed += usize::from(order["status"] == "COMPLETED");
    }
    assert_eq!(completed, 8);
    assert_eq!(inventory.get("/stock/sku").await.1["reserved"], 8);
    assert_eq!(books(&gateway).await, (ORDERS, 4));
    for queue in [
        "payment_queue",
        "order_queue",
        "inventory_queue",
        "refund_queue",
    ] {
        assert_eq!(foreign.count(&format!("{queue}.dlq")).await, 0, "{queue}");
    }
    drop((order, inventory));
    place.remove().await;
}

#[tokio::test]
async fn bare_requests_for_stock_are_known_by_their_order() {
    let Some(place) = Place::new("bare_stock").await else {
        return;
    };
    let (gateway, foreign) = (Process::gateway(), place.foreign().await);
    let both = [
        place.role("inventory", &gateway),
        place.role("inventory", &gateway),
    ];
    both[0].ready().await;
    both[1].ready().await;
    both[0].stock("sku", 5).await;
    for id in 1..=3 {
        let body = format!(r#"{{"order_id": {id}, "items": [{{"id": "sku", "quantity": 2}}]}}"#);
        for _ in 0..COPIES {
            foreign.bare("inventory_queue", &body).await;
        }
    }
    until("all are handled", async || {
        let mut handled = 0;
        for process in &both {
            let metrics = process.text("/metrics").await;
            handled += sum(
                &metrics,
                "leveret_work_handled_total",
                "\"inventory_queue\"",
            );
        }
        handled >= 15
    })
    .await;
    let (mut told, mut orders) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let result = json_of(&foreign.take("order_queue").await.data);
        assert!(result["transaction_id"].is_null());
        orders.push(result["order_id"].as_i64().expect("an integer"));
        told.push(result["status"].as_str().expect("a status").to_owned());
    }
    orders.sort_unstable();
    assert_eq!(orders, [1, 2, 3], "{told:?}");
    told.sort();
    assert_eq!(told, ["out_of_stock", "reserved", "reserved"]);
    assert_eq!(foreign.count("order_queue").await, 0);
    assert_eq!(both[1].get("/stock/sku").await.1["available"], 1);
    drop(both);
    place.remove().await;
}
