//! What clients of the API may send, and what they are told.

use serde_json::{Value, json};

use crate::rig::{Process, order};

/// All three, embedded, in a directory of its own.
fn embedded(test: &str) -> (Process, std::path::PathBuf) {
    let data = std::env::temp_dir().join(format!("orders-{test}-{}", std::process::id()));
    let up = Process::start(&[
        "up",
        "--listen",
        "127.0.0.1:0",
        "--data",
        data.to_str().expect("text"),
    ]);
    (up, data)
}

fn with(change: impl FnOnce(&mut Value)) -> String {
    let mut body = order("sku", 1000);
    change(&mut body);
    body.to_string()
}

#[tokio::test]
async fn bad_orders_are_told_which_field() {
    let (up, data) = embedded("bad");
    let many: Vec<Value> = vec![order("sku", 1)["items"][0].clone(); 101];
    let cases: Vec<(String, &str)> = vec![
        (with(|b| b["user_id"] = json!("")), "user_id"),
        (with(|b| b["user_id"] = json!(7)), "user_id"),
        (with(|b| b["user_id"] = json!("a\0b")), "user_id"),
        (with(|b| b["user_id"] = json!("u".repeat(129))), "user_id"),
        (
            with(|b| {
                b.as_object_mut().expect("object").remove("user_id");
            }),
            "user_id",
        ),
        (with(|b| b["currency"] = json!("XXX")), "currency"),
        (with(|b| b["currency"] = json!("eur")), "currency"),
        (with(|b| b["currency"] = json!("EUR USD")), "currency"),
        (with(|b| b["items"] = json!([])), "items"),
        (with(|b| b["items"] = json!({})), "items"),
        (with(|b| b["items"] = json!(many)), "items"),
        (with(|b| b["items"][0] = json!(1)), "items[0]"),
        (with(|b| b["items"][0]["id"] = json!("")), "items[0].id"),
        (
            with(|b| b["items"][0]["quantity"] = json!(0)),
            "items[0].quantity",
        ),
        (
            with(|b| b["items"][0]["quantity"] = json!(-1)),
            "items[0].quantity",
        ),
        (
            with(|b| b["items"][0]["quantity"] = json!(1.5)),
            "items[0].quantity",
        ),
        (
            with(|b| b["items"][0]["quantity"] = json!("1")),
            "items[0].quantity",
        ),
        (
            with(|b| b["items"][0]["unit_price"] = json!(0)),
            "items[0].unit_price",
        ),
        (
            with(|b| b["items"][0]["unit_price"] = json!(u64::MAX)),
            "items[0].unit_price",
        ),
        (
            with(|b| {
                b["items"][0]["unit_price"] = json!(9_007_199_254_740_991_i64);
                b["items"][0]["quantity"] = json!(2);
            }),
            "items",
        ),
        (with(|b| b["more"] = json!(1)), "more"),
        (with(|b| b["items"][0]["more"] = json!(1)), "items[0].more"),
    ];
    for (body, field) in cases {
        let (status, told) = up.send("POST", "/orders", None, body.clone()).await;
        assert_eq!(
            (status, &told["field"]),
            (422, &json!(field)),
            "{body}: {told}"
        );
        assert_eq!(told["status"], 422);
    }
    for body in ["", "{", "\u{feff}{}", "{} {}"] {
        let (status, told) = up.send("POST", "/orders", None, body).await;
        assert_eq!(status, 400, "{body}: {told}");
    }
    for body in ["null", "[]", "7"] {
        let (status, told) = up.send("POST", "/orders", None, body).await;
        assert_eq!(status, 422, "{body}: {told}");
    }
    for (body, field) in [
        (r#"{"quantity": -1}"#, "quantity"),
        (r#"{"quantity": 1.5}"#, "quantity"),
        (r#"{"quantity": null}"#, "quantity"),
        ("{}", "quantity"),
        (r#"{"quantity": 1, "more": 2}"#, "more"),
    ] {
        let (status, told) = up.send("PUT", "/stock/sku", None, body).await;
        assert_eq!(
            (status, &told["field"]),
            (422, &json!(field)),
            "{body}: {told}"
        );
    }
    for path in [
        "/orders?status=paid",
        "/orders?limit=0",
        "/orders?limit=501",
        "/orders?limit=x",
        "/orders?after=nonsense",
        "/orders?after=%00",
        "/orders?user_id=a%00b",
        "/orders?user_id=",
        "/orders?more=1",
    ] {
        let (status, told) = up.get(path).await;
        assert_eq!(status, 400, "{path}: {told}");
    }
    for path in [
        "/orders/none",
        "/orders/a%00b",
        "/payments/none",
        "/stock/none",
        "/none",
    ] {
        assert_eq!(up.get(path).await.0, 404, "{path}");
    }
    assert_eq!(up.get("/orders/%ff").await.0, 400);
    assert_eq!(up.send("DELETE", "/orders", None, "").await.0, 405);
    let huge = "x".repeat(3 << 20);
    assert_eq!(up.send("POST", "/orders", None, huge).await.0, 413);
    assert_eq!(up.get("/orders").await.1["items"], json!([]));
    drop(up);
    drop(std::fs::remove_dir_all(data));
}

#[tokio::test]
async fn a_key_is_one_order() {
    let (up, data) = embedded("key");
    let body = order("sku", 1000);
    let first = up.send("POST", "/orders", Some("k-1"), body.to_string());
    let second = up.send("POST", "/orders", Some("k-1"), body.to_string());
    let ((status, first), (again, second)) = tokio::join!(first, second);
    assert_eq!((status, again), (202, 202));
    assert_eq!(first["order_id"], second["order_id"]);
    assert_eq!(
        (&first["status"], &first["total"]),
        (&json!("PENDING"), &json!(1000))
    );

    // The same order, written differently.
    let spaced = serde_json::to_string_pretty(&body).expect("prints");
    let (status, third) = up.send("POST", "/orders", Some("k-1"), spaced).await;
    assert_eq!((status, &third["order_id"]), (202, &first["order_id"]));
    let other = order("sku", 1001).to_string();
    let (status, told) = up.send("POST", "/orders", Some("k-1"), other.clone()).await;
    assert_eq!(status, 409, "{told}");
    let (status, other) = up.send("POST", "/orders", Some("k-2"), other).await;
    assert_eq!(status, 202);
    assert_ne!(other["order_id"], first["order_id"]);
    for key in ["", " ", &"k".repeat(256)] {
        let (status, told) = up
            .send("POST", "/orders", Some(key), body.to_string())
            .await;
        assert_eq!(status, 400, "{key:?}: {told}");
    }
    // A malformed order takes no key.
    let (status, _) = up.send("POST", "/orders", Some("k-3"), "{}").await;
    assert_eq!(status, 422);
    let (status, _) = up
        .send("POST", "/orders", Some("k-3"), body.to_string())
        .await;
    assert_eq!(status, 202);
    assert_eq!(
        up.get("/orders").await.1["items"]
            .as_array()
            .expect("items")
            .len(),
        3
    );

    let (_, page) = up.get("/orders?limit=2").await;
    let (_, rest) = up
        .get(&format!(
            "/orders?limit=2&after={}",
            page["next"].as_str().expect("more")
        ))
        .await;
    assert_eq!(rest["items"].as_array().expect("items").len(), 1);
    assert_eq!(rest["next"], Value::Null);
    drop(up);
    drop(std::fs::remove_dir_all(data));
}
