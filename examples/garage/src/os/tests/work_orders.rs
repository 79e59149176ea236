//! `/work-orders` and the public status.

use axum::http::StatusCode;
use leveret::service::testing::world;
use serde_json::{Value, json};

use super::{ADMIN, Rig, Role, STAFF, read};
use crate::ids::Id;

fn opening() -> Value {
    json!({ "customerId": 1, "vehicleId": 1, "description": "It rattles" })
}

/// The opening with one member more, or another one.
fn with(member: &str, value: Value) -> Value {
    let mut body = opening();
    body[member] = value;
    body
}

#[test]
fn opened() {
    world(1, async |world| {
        let rig = Rig::new(&world).await;
        let body = json!({
            "customerId": 1, "vehicleId": 1, "description": "It rattles", "estimatedCost": 150.5,
            "assignedTechnicianId": "t1", "estimatedCompletionDate": "2026-12-01", "metadata": { "a": [1] },
        });
        let (status, order) = rig.ask(STAFF, "POST", "/os/work-orders", &body).await;
        assert_eq!(status, StatusCode::CREATED, "{order}");
        assert_eq!(order["status"], "PENDING");
        assert_eq!(order["estimatedCost"], "150.50");
        assert_eq!(order["estimatedCompletionDate"], "2026-12-01T00:00:00.000Z");
        assert_eq!(order["actualCost"], Value::Null);
        assert_eq!(rig.told().await, ["work-order.created"]);
        for (body, status, words) in [
            (with("customerId", json!(9)), 404, "Customer 9 not found"),
            (with("vehicleId", json!(9)), 404, "Vehicle 9 not found"),
            (with("customerId", json!("1")), 400, "expected i64"),
            (with("customerId", json!(0)), 400, "customerId"),
            (
                with("description", json!(" ")),
                400,
                "description should not be empty",
            ),
            (
                with("status", json!("COMPLETED")),
                400,
                "unknown field `status`",
            ),
            (
                with("customerApproval", json!(true)),
                400,
                "customerApproval",
            ),
            (with("estimatedCost", json!("1.001")), 400, "is no amount"),
            (with("estimatedCost", json!(-1)), 400, "is no amount"),
            (
                with("estimatedCompletionDate", json!("soon")),
                400,
                "no date",
            ),
            (
                with("metadata", json!({ "a": "x".repeat(10_000) })),
                400,
                "metadata has",
            ),
            (json!({}), 400, "missing field `customerId`"),
        ] {
            rig.refused("POST", "/work-orders", &body, (status, words))
                .await;
        }
        rig.add_customer("5").await;
        let others = with("customerId", json!(2));
        let words = "Vehicle 1 does not belong to customer 2";
        rig.refused("POST", "/work-orders", &others, (400, words))
            .await;
        assert_eq!(rig.told().await, [""; 0]);
    });
}

#[test]
fn opened_once_by_a_key() {
    world(1, async |world| {
        let rig = Rig::new(&world).await;
        let (_, first) = rig.ask_keyed("k", "/work-orders", &opening()).await;
        let (status, again) = rig.ask_keyed("k", "/work-orders", &opening()).await;
        assert_eq!((status, &again), (StatusCode::CREATED, &first));
        let other = with("description", json!("It smokes"));
        let (status, answer) = rig.ask_keyed("k", "/work-orders", &other).await;
        assert_eq!(status, StatusCode::CONFLICT, "{answer}");
        let path = format!("/work-orders/{}/approve", first["id"].as_str().unwrap());
        let (status, _) = rig.ask_keyed("a", &path, &Value::Null).await;
        assert_eq!(status, StatusCode::CREATED);
        let (status, _) = rig.ask_keyed("a", &path, &Value::Null).await;
        assert_eq!(status, StatusCode::CREATED);
        rig.refused("POST", &path, &Value::Null, (409, "APPROVED"))
            .await;
        let told = [
            "work-order.created",
            "work-order.status-changed APPROVED",
            "work-order.approved",
        ];
        assert_eq!(rig.told().await, told);
    });
}

#[test]
fn statuses_that_a_request_may_set() {
    world(1, async |world| {
        let rig = Rig::new(&world).await;
        let path = format!("/work-orders/{}", rig.opened().await);
        rig.told().await;
        let to = |status: &str| json!({ "status": status });
        for status in [
            "APPROVED",
            "COMPLETED",
            "IN_PROGRESS",
            "QUOTE_SENT",
            "RECEIVED",
            "DELIVERED",
        ] {
            let words = format!("A work order in PENDING cannot become {status}");
            rig.refused("PATCH", &path, &to(status), (409, &words))
                .await;
        }
        rig.refused("PATCH", &path, &to("BROKEN"), (400, "unknown variant"))
            .await;
        assert_eq!(rig.told().await, [""; 0]);
        let (status, order) = rig.ask(STAFF, "PUT", &path, &to("DIAGNOSIS")).await;
        assert_eq!(
            (status, &order["status"]),
            (StatusCode::OK, &json!("DIAGNOSIS"))
        );
        let (status, _) = rig.ask(STAFF, "PATCH", &path, &to("DIAGNOSIS")).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(rig.told().await, ["work-order.status-changed DIAGNOSIS"]);
        rig.refused(
            "POST",
            &format!("{path}/approve"),
            &Value::Null,
            (409, "DIAGNOSIS"),
        )
        .await;
        rig.ask(STAFF, "PATCH", &path, &to("CANCELLED")).await;
        let told = [
            "work-order.status-changed CANCELLED",
            "work-order.cancelled",
        ];
        assert_eq!(rig.told().await, told);
    });
}

#[test]
fn changed() {
    world(1, async |world| {
        let rig = Rig::new(&world).await;
        let path = format!("/work-orders/{}", rig.opened().await);
        rig.told().await;
        let part = json!({ "partId": "p", "partName": "Belt", "quantity": 2, "unitPrice": 10 });
        let service = json!({ "serviceId": "s", "serviceName": "Oil", "quantity": 1, "unitPrice": "5.50", "estimatedDuration": 30 });
        let body = json!({
            "diagnosis": "belt", "actualCost": 12, "laborCost": "1.5", "partsCost": "20.00", "technicianNotes": "n",
            "customerApproval": true, "parts": [part], "services": [service], "metadata": { "k": 1 },
        });
        let (status, order) = rig.ask(STAFF, "PATCH", &path, &body).await;
        assert_eq!(status, StatusCode::OK, "{order}");
        assert_eq!(order["parts"][0]["totalPrice"], "20.00");
        assert_eq!(order["services"][0]["status"], "PENDING");
        assert_eq!(order["laborCost"], "1.50");
        // Without another status nothing is told.
        assert_eq!(rig.told().await, [""; 0]);
        for (body, words) in [
            (
                json!({ "parts": [{ "partId": "p" }] }),
                "missing field `partName`",
            ),
            (
                json!({ "parts": [{ "partId": "p", "partName": "b", "quantity": 0, "unitPrice": 1 }] }),
                "parts[0].quantity",
            ),
            (
                json!({ "parts": [{ "partId": "p", "partName": "b", "quantity": 2, "unitPrice": 1, "totalPrice": 3 }] }),
                "parts[0].totalPrice",
            ),
            (
                json!({ "services": vec![service.clone(); 101] }),
                "services has 101 items",
            ),
            (json!({ "id": "x" }), "unknown field `id`"),
            (
                json!({ "description": "" }),
                "description should not be empty",
            ),
            (json!([]), "no JSON object"),
        ] {
            rig.refused("PATCH", &path, &body, (400, words)).await;
        }
        let nobody = Id::derived(&["nobody"]);
        let words = format!("Work order {nobody} not found");
        rig.refused(
            "PATCH",
            &format!("/work-orders/{nobody}"),
            &json!({}),
            (404, &words),
        )
        .await;
        rig.refused("PATCH", "/work-orders/17", &json!({}), (400, "no uuid"))
            .await;
    });
}

#[test]
fn listed() {
    world(1, async |world| {
        let rig = Rig::new(&world).await;
        rig.add_customer("5").await;
        rig.add_vehicle("XYZ", 2).await;
        let first = rig.opened().await;
        let other = json!({ "customerId": 2, "vehicleId": 2, "description": "x" });
        rig.ask(STAFF, "POST", "/work-orders", &other).await;
        rig.ask(
            STAFF,
            "DELETE",
            &format!("/work-orders/{first}"),
            &Value::Null,
        )
        .await;
        let count = async |query: &str| {
            let list = rig.get(&format!("/work-orders{query}")).await;
            list.as_array().unwrap().len()
        };
        assert_eq!(count("").await, 2);
        assert_eq!(count("?status=CANCELLED&customerId=2").await, 1);
        assert_eq!(count("?customerId=2&vehicleId=1").await, 1);
        assert_eq!(count("?vehicleId=1").await, 1);
        assert_eq!(count("?vehicleId=7").await, 0);
        assert_eq!(count("?limit=1").await, 1);
        for (query, words) in [
            ("status=BROKEN", "status is one of RECEIVED"),
            ("customerId=x", "customerId is no whole number"),
            ("status=PENDING&vehicleId=0", "vehicleId is no whole number"),
            ("limit=501", "limit is a whole number from 1 to 500"),
            ("after=x", ""),
            ("color=red", "there is no parameter 'color'"),
        ] {
            let path = format!("/work-orders?{query}");
            rig.refused("GET", &path, &Value::Null, (400, words)).await;
        }
        let request = Rig::request(STAFF, "GET", "/work-orders?limit=1", &Value::Null);
        let response = rig.respond(request).await;
        let next = response.headers()["x-next"].to_str().unwrap().to_owned();
        let rest = rig.get(&format!("/work-orders?after={next}")).await;
        assert_eq!(rest[0]["id"], first.as_str());
    });
}

#[test]
fn whose_they_are() {
    world(1, async |world| {
        let rig = Rig::new(&world).await;
        let order = rig.opened().await;
        let path = format!("/work-orders/{order}");
        let (his, other) = (("1", Role::Customer), ("2", Role::Customer));
        for (who, expected) in [(his, StatusCode::OK), (other, StatusCode::NOT_FOUND)] {
            for path in [path.clone(), format!("{path}/history")] {
                assert_eq!(rig.ask(who, "GET", &path, &Value::Null).await.0, expected);
            }
        }
        let list = async |who, query: &str| {
            let path = format!("/work-orders{query}");
            rig.ask(who, "GET", &path, &Value::Null)
                .await
                .1
                .as_array()
                .unwrap()
                .len()
        };
        assert_eq!(list(his, "").await, 1);
        assert_eq!(list(other, "").await, 0);
        assert_eq!(list(other, "?customerId=1").await, 0);
        assert_eq!(list(other, "?status=PENDING").await, 0);
        let (status, _) = rig.ask(other, "POST", "/work-orders", &opening()).await;
        assert_eq!(status, StatusCode::FORBIDDEN);
        let (status, _) = rig.ask(his, "PATCH", &path, &json!({})).await;
        assert_eq!(status, StatusCode::FORBIDDEN);
        let approve = format!("{path}/approve");
        assert_eq!(
            rig.ask(other, "POST", &approve, &Value::Null).await.0,
            StatusCode::NOT_FOUND
        );
        assert_eq!(
            rig.ask(other, "DELETE", &path, &Value::Null).await.0,
            StatusCode::NOT_FOUND
        );
        assert_eq!(
            rig.ask(his, "POST", &approve, &Value::Null).await.0,
            StatusCode::CREATED
        );
        assert_eq!(
            rig.ask(his, "DELETE", &path, &Value::Null).await.0,
            StatusCode::OK
        );
        let mut request = Rig::request(ADMIN, "GET", &path, &Value::Null);
        request.headers_mut().remove("authorization");
        let (status, body) = read(rig.respond(request).await).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        assert_eq!(body["message"], "Missing authorization header");
    });
}

#[test]
fn status_for_everybody() {
    world(1, async |world| {
        let rig = Rig::new(&world).await;
        let order = rig.opened().await;
        let service = rig.os.service();
        let broker = world.broker();
        let router = crate::stack::router(crate::stack::Role::Os, &service, &broker, &rig.settings);
        let ask = async |query: &str| {
            let uri = format!("/public/work-orders/{order}/status{query}");
            let request = axum::http::Request::builder().uri(uri);
            let request = request.body(axum::body::Body::empty()).unwrap();
            tower::ServiceExt::oneshot(router.clone(), request)
                .await
                .unwrap()
        };
        let (status, body) = read(ask("?document=11122233344").await).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        assert_eq!(body["status"], "PENDING");
        assert_eq!(body["estimatedCost"], "150.00");
        assert_eq!(body.as_object().unwrap().len(), 6);
        assert_eq!(ask("?document=9").await.status(), StatusCode::NOT_FOUND);
        assert_eq!(ask("?document=").await.status(), StatusCode::BAD_REQUEST);
        for _ in 3..30 {
            assert_eq!(ask("").await.status(), StatusCode::BAD_REQUEST);
        }
        let refused = ask("?document=11122233344").await;
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
        assert!(refused.headers().contains_key("retry-after"));
        world.advance(std::time::Duration::from_secs(61)).await;
        assert_eq!(
            ask("?document=111.222.333-44").await.status(),
            StatusCode::OK
        );
    });
}
