//! `/customers` and `/vehicles`.

use axum::http::StatusCode;
use leveret::service::testing::world;
use serde_json::{Value, json};

use super::{ADMIN, Rig, Role, STAFF};

#[test]
fn customers() {
    world(1, async |world| {
        let rig = Rig::new(&world).await;
        let other = rig.add_customer("999").await;
        assert_eq!(other["id"], 2);
        assert_eq!(other["status"], true);
        let body = |member: &str, value: Value| {
            let mut body =
                json!({ "name": "B", "personType": "COMPANY", "document": "7", "phone": "1" });
            body[member] = value;
            body
        };
        for (body, status, words) in [
            (body("document", json!("111 222 333 44")), 409, "exists"),
            (body("document", json!("-")), 400, "document"),
            (body("name", json!("")), 400, "name should not be empty"),
            (
                body("email", json!("nobody")),
                400,
                "email must be an email",
            ),
            (body("personType", json!("DOG")), 400, "unknown variant"),
            (body("phone", json!("")), 400, "phone should not be empty"),
            (body("id", json!(1)), 400, "unknown field `id`"),
        ] {
            rig.refused("POST", "/customers", &body, (status, words))
                .await;
        }
        // What was refused took no number.
        assert_eq!(rig.add_customer("8").await["id"], 3);
        assert_eq!(rig.get("/customers/document/111.222.333-44").await["id"], 1);
        rig.refused(
            "GET",
            "/customers/document/5",
            &Value::Null,
            (404, "not found"),
        )
        .await;
        assert_eq!(rig.get("/customers").await.as_array().unwrap().len(), 3);
        let (status, changed) = rig
            .ask(
                STAFF,
                "PATCH",
                "/customers/2",
                &json!({ "name": "C", "status": false }),
            )
            .await;
        assert_eq!(status, StatusCode::OK, "{changed}");
        assert_eq!(
            (&changed["name"], &changed["status"]),
            (&json!("C"), &json!(false))
        );
        rig.refused(
            "PATCH",
            "/customers/2",
            &json!({ "document": "1" }),
            (400, "unknown field"),
        )
        .await;
        rig.refused(
            "PATCH",
            "/customers/77",
            &json!({}),
            (404, "Customer 77 not found"),
        )
        .await;
        rig.refused(
            "GET",
            "/customers/x",
            &Value::Null,
            (400, "no whole number"),
        )
        .await;
        let (status, _) = rig.ask(STAFF, "DELETE", "/customers/2", &Value::Null).await;
        assert_eq!(status, StatusCode::FORBIDDEN);
        let (status, _) = rig
            .ask(("1", Role::Customer), "GET", "/customers/1", &Value::Null)
            .await;
        assert_eq!(status, StatusCode::FORBIDDEN);
    });
}

#[test]
fn made_once_by_a_key() {
    world(1, async |world| {
        let rig = Rig::new(&world).await;
        let body = json!({ "name": "B", "personType": "COMPANY", "document": "7", "phone": "1" });
        let (_, first) = rig.ask_keyed("k", "/customers", &body).await;
        let (status, again) = rig.ask_keyed("k", "/customers", &body).await;
        assert_eq!((status, &again), (StatusCode::CREATED, &first));
        let other = json!({ "name": "C", "personType": "COMPANY", "document": "8", "phone": "1" });
        let (status, _) = rig.ask_keyed("k", "/customers", &other).await;
        assert_eq!(status, StatusCode::CONFLICT);
        let body =
            json!({ "plate": "K", "brand": "b", "model": "m", "year": 2000, "customerId": 1 });
        let (_, first) = rig.ask_keyed("v", "/vehicles", &body).await;
        let (_, again) = rig.ask_keyed("v", "/vehicles", &body).await;
        assert_eq!((&again, &again["id"]), (&first, &json!(2)));
    });
}

#[test]
fn vehicles() {
    world(1, async |world| {
        let rig = Rig::new(&world).await;
        rig.add_customer("999").await;
        assert_eq!(rig.add_vehicle("XYZ", 1).await["id"], 2);
        let body = |member: &str, value: Value| {
            let mut body =
                json!({ "plate": "N", "brand": "b", "model": "m", "year": 2000, "customerId": 1 });
            body[member] = value;
            body
        };
        for (body, status, words) in [
            (body("plate", json!("abc 1234")), 409, "exists"),
            (body("customerId", json!(9)), 404, "Customer 9 not found"),
            (body("year", json!(1700)), 400, "year is 1886"),
            (body("year", json!("2000")), 400, "expected i64"),
            (body("brand", json!("")), 400, "brand"),
        ] {
            rig.refused("POST", "/vehicles", &body, (status, words))
                .await;
        }
        let (status, changed) = rig
            .ask(
                STAFF,
                "PUT",
                "/vehicles/2",
                &json!({ "plate": "NEW", "year": 1999, "customerId": 2 }),
            )
            .await;
        assert_eq!(status, StatusCode::OK, "{changed}");
        assert_eq!(
            (&changed["plate"], &changed["customerId"]),
            (&json!("NEW"), &json!(2))
        );
        assert_eq!(
            rig.get("/vehicles/customer/2")
                .await
                .as_array()
                .unwrap()
                .len(),
            1
        );
        assert_eq!(rig.get("/vehicles").await.as_array().unwrap().len(), 2);
        // The old plate is free, the new one is not.
        rig.add_vehicle("XYZ", 1).await;
        rig.refused(
            "PATCH",
            "/vehicles/1",
            &json!({ "plate": "new" }),
            (409, "exists"),
        )
        .await;
        rig.refused(
            "PATCH",
            "/vehicles/9",
            &json!({}),
            (404, "Vehicle 9 not found"),
        )
        .await;
    });
}

#[test]
fn what_is_needed_is_not_removed() {
    world(1, async |world| {
        let rig = Rig::new(&world).await;
        let order = rig.opened().await;
        rig.refused(
            "DELETE",
            "/vehicles/1",
            &Value::Null,
            (409, "work orders that are not ended: 1"),
        )
        .await;
        rig.refused(
            "DELETE",
            "/customers/1",
            &Value::Null,
            (409, "work orders that are not ended: 1"),
        )
        .await;
        rig.add_customer("999").await;
        let moved = json!({ "customerId": 2 });
        rig.refused("PUT", "/vehicles/1", &moved, (409, "work orders"))
            .await;
        rig.ask(
            ADMIN,
            "DELETE",
            &format!("/work-orders/{order}"),
            &Value::Null,
        )
        .await;
        rig.refused(
            "DELETE",
            "/customers/1",
            &Value::Null,
            (409, "Customer 1 has vehicles"),
        )
        .await;
        for path in ["/vehicles/1", "/customers/1"] {
            let (status, removed) = rig.ask(ADMIN, "DELETE", path, &Value::Null).await;
            assert_eq!(status, StatusCode::OK, "{removed}");
            rig.refused("GET", path, &Value::Null, (404, "not found"))
                .await;
        }
        // Document and plate are free again.
        rig.add_customer("111.222.333-44").await;
        rig.add_vehicle("ABC-1234", 2).await;
    });
}
