//! A gateway that is not the simulator: one that refuses a charge which it has made, and one that lists the charges of others, too.

use std::sync::{Arc, Mutex};

use axum::{
    Json, Router,
    body::Bytes,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::rig::{Place, Process, json_of};

/// Refuses every charge with 422; those of `kept` are made all the same.
#[derive(Clone, Default)]
struct Gateway {
    charges: Arc<Mutex<Vec<Value>>>,
    looks: Arc<Mutex<u32>>,
}

async fn charge(State(gateway): State<Gateway>, body: Bytes) -> Response {
    let request: Value = serde_json::from_slice(&body).expect("JSON");
    let mut charges = gateway.charges.lock().expect("whole");
    let number = charges.len();
    if request["order_id"]
        .as_str()
        .expect("an id")
        .starts_with("kept")
    {
        charges.push(json!({
            "id": format!("tx-{number}"),
            "order_id": request["order_id"],
            "amount": request["amount"],
            "status": "approved",
        }));
    }
    (StatusCode::UNPROCESSABLE_ENTITY, Json(json!({}))).into_response()
}

/// It does not know the parameter that asks for one key.
async fn list(State(gateway): State<Gateway>) -> Json<Value> {
    *gateway.looks.lock().expect("whole") += 1;
    let charges = gateway.charges.lock().expect("whole").clone();
    Json(json!({ "charges": charges }))
}

/// A refused charge is no answer: the gateway is asked what it has, and only the charge of that order counts.
#[tokio::test]
async fn a_refused_charge_is_looked_up() {
    let Some(place) = Place::new("refused").await else {
        return;
    };
    let gateway = Gateway::default();
    let routes = Router::new()
        .route("/charges", post(charge).get(list))
        .with_state(gateway.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let foreign = place.foreign().await;
    let payment = Process::service("payment", &place.amqp, &place.store, &url);
    payment.ready().await;
    let body = |order: &str| json!({ "order_id": order, "amount": 1500, "user_id": "u" });
    for (order, status, transaction_id) in [
        ("kept-1", "paid", json!("tx-0")),
        ("lost", "failed", Value::Null),
        ("kept-2", "paid", json!("tx-1")),
    ] {
        foreign.bare("payment_queue", body(order).to_string()).await;
        let result = json_of(&foreign.take("order_queue").await.data);
        let expected =
            json!({ "order_id": order, "status": status, "transaction_id": transaction_id });
        assert_eq!(result, expected);
    }
    assert_eq!(*gateway.looks.lock().expect("whole"), 3);
    let letter = json_of(&foreign.take("payment_queue.dlq").await.data);
    assert_eq!(letter, body("lost"));
    assert_eq!(foreign.count("order_queue").await, 0);
    drop(payment);
    place.remove().await;
}
