//! Each route, when all is well and when not.

use super::*;
use crate::billing::signature;

/// Checks statuses of the same call with several bodies.
async fn refused(
    garage: &Garage,
    who: Who,
    method: &str,
    path: &str,
    table: Vec<(Value, u16, &str)>,
) {
    for (body, status, word) in table {
        let (answered, told) = garage.ask(who, method, path, body.clone()).await;
        assert_eq!(answered, status, "{body}: {told}");
        assert_eq!(told["statusCode"], json!(status), "{body}: {told}");
        let message = told["message"].as_str().unwrap();
        assert!(message.contains(word), "{body}: {told}");
    }
}

fn with(body: &Value, name: &str, value: Value) -> Value {
    let mut body = body.clone();
    body[name] = value;
    body
}

fn without(body: &Value, name: &str) -> Value {
    let mut body = body.clone();
    body.as_object_mut().unwrap().remove(name);
    body
}

#[test]
fn quotes() {
    world(1, async |world| {
        let garage = Garage::new(world.clone()).await;
        let body = json!({
            "workOrderId": id("order"), "customerId": 7,
            "items": [
                { "name": "pump", "description": "a new one", "quantity": 2, "unitPrice": 50.25 },
                { "name": "work", "description": "an hour", "quantity": 1, "unitPrice": "49.50" },
            ],
        });
        // Its work order is not known, and does not come.
        let unknown = vec![(body.clone(), 404, "Work order")];
        refused(&garage, Who::Staff, "POST", "/quotes", unknown).await;
        let of_order = format!("/quotes/work-order/{}", id("order"));
        let none = garage.ask(Who::Staff, "GET", &of_order, Value::Null).await;
        assert_eq!(none, (200, json!([])));
        // It comes a moment later.
        let (made, ()) = tokio::join!(
            garage.ask(Who::Staff, "POST", "/quotes", body.clone()),
            async {
                tokio::time::sleep(Duration::from_millis(700)).await;
                garage.created(None).await;
            }
        );
        let (status, quote) = made;
        assert_eq!(status, 201, "{quote}");
        assert_eq!(quote["totalAmount"], "150.00");
        assert_eq!(quote["status"], "PENDING");
        assert_eq!(quote["_id"], quote["id"]);
        assert_eq!(quote["items"][0]["totalPrice"], "100.50");
        let bad = vec![
            (without(&body, "customerId"), 400, "customerId"),
            (with(&body, "customerId", json!(8)), 400, "customerId"),
            (with(&body, "workOrderId", json!("7")), 400, "workOrderId"),
            (
                with(&body, "workOrderId", json!(id("other"))),
                404,
                "not found",
            ),
            (with(&body, "items", json!([])), 400, "items"),
            (
                with(
                    &body,
                    "items",
                    json!([{ "name": "", "description": "x", "quantity": 1, "unitPrice": 1 }]),
                ),
                400,
                "items.name",
            ),
            (
                with(
                    &body,
                    "items",
                    json!([{ "name": "x", "description": "x", "quantity": 0, "unitPrice": 1 }]),
                ),
                400,
                "items.quantity",
            ),
            (
                with(
                    &body,
                    "items",
                    json!([{ "name": "x", "description": "x", "quantity": 1, "unitPrice": 1.005 }]),
                ),
                400,
                "items.unitPrice",
            ),
            (
                with(
                    &body,
                    "items",
                    json!([{ "name": "x", "description": "x", "quantity": 1, "unitPrice": 0 }]),
                ),
                400,
                "above zero",
            ),
            (
                with(
                    &body,
                    "items",
                    json!([{ "name": "x", "description": "x", "quantity": 1_000_000, "unitPrice": "90071992547409.91" }]),
                ),
                400,
                "counted",
            ),
            (
                with(&body, "validUntil", json!("2020-01-01")),
                400,
                "validUntil",
            ),
            (with(&body, "validUntil", json!("soon")), 400, "validUntil"),
            (with(&body, "status", json!("APPROVED")), 400, "status"),
            (json!("a text"), 400, "invalid type"),
        ];
        refused(&garage, Who::Staff, "POST", "/quotes", bad).await;
        let customer = vec![(body.clone(), 403, "staff")];
        refused(&garage, Who::Customer, "POST", "/quotes", customer).await;

        // The same request again makes nothing, another one by its key is refused.
        let key = [("idempotency-key", "k")];
        let dated = with(&body, "validUntil", json!("2026-01-20"));
        let first = garage
            .ask_with(Who::Staff, "POST", "/quotes", dated.clone(), &key)
            .await;
        assert_eq!(first.1["validUntil"], "2026-01-20T23:59:59.999Z");
        let again = garage
            .ask_with(Who::Staff, "POST", "/quotes", dated, &key)
            .await;
        assert_eq!((again.0, &again.1), (201, &first.1));
        let other = garage
            .ask_with(Who::Staff, "POST", "/quotes", body, &key)
            .await;
        assert_eq!(other.0, 409, "{}", other.1);
        let quote = first.1;

        let path = format!("/quotes/{}", quote["id"].as_str().unwrap());
        assert_eq!(
            garage.ask(Who::Customer, "GET", &path, Value::Null).await,
            (200, quote)
        );
        assert_eq!(
            garage
                .ask(Who::Staff, "GET", "/quotes/7", Value::Null)
                .await
                .0,
            400
        );
        let unknown = format!("/quotes/{}", id("unknown"));
        assert_eq!(
            garage.ask(Who::Staff, "GET", &unknown, Value::Null).await.0,
            404
        );
        let (_, all) = garage.ask(Who::Staff, "GET", &of_order, Value::Null).await;
        let statuses: Vec<_> = all
            .as_array()
            .unwrap()
            .iter()
            .map(|quote| &quote["status"])
            .collect();
        assert_eq!(
            statuses,
            ["PENDING", "REJECTED"],
            "the newest is first, and took the other's place"
        );

        let verb = async |who, method: &str, verb: &str, body| {
            let path = format!("{path}/{verb}");
            let (status, told) = garage.ask(who, method, &path, body).await;
            (status, told["status"].clone())
        };
        assert_eq!(verb(Who::Customer, "PUT", "send", Value::Null).await.0, 403);
        assert_eq!(
            verb(Who::Staff, "PATCH", "send", json!({})).await,
            (200, json!("SENT"))
        );
        assert_eq!(verb(Who::Staff, "PUT", "send", Value::Null).await.0, 409);
        assert_eq!(
            verb(Who::Customer, "PUT", "approve", json!({ "status": "PAID" }))
                .await
                .0,
            400
        );
        assert_eq!(
            verb(Who::Customer, "PUT", "approve", Value::Null).await,
            (200, json!("APPROVED"))
        );
        assert_eq!(
            verb(Who::Customer, "PATCH", "approve", Value::Null).await.0,
            409
        );
        assert_eq!(
            verb(Who::Customer, "PATCH", "reject", json!({ "reason": "no" }))
                .await
                .0,
            409
        );
        assert_eq!(
            verb(Who::Staff, "POST", "approve", Value::Null).await.0,
            405
        );
        world.finish().await;
        let expected = [
            "quote.approved",
            "quote.created",
            "quote.created",
            "quote.sent",
        ];
        assert_eq!(garage.told_types().await, expected);
    });
}

/// Approving too late is refused, and the quote is told to be rejected.
#[test]
fn too_late() {
    world(2, async |world| {
        let garage = Garage::new(world.clone()).await;
        let mut state = None;
        // The deadline is due at the same time: whoever comes first, one says so.
        for verb in ["approve", "reject"] {
            garage.created(Some(15_000)).await;
            world.settle().await;
            let quote = garage.state().await.quotes[0].id.clone();
            if state.is_none() {
                world.advance(VALID_FOR).await;
            }
            let path = format!("/quotes/{quote}/{verb}");
            assert_eq!(
                garage.ask(Who::Customer, "PUT", &path, Value::Null).await.0,
                409
            );
            state = Some(garage.state().await.quotes[0].status);
            assert_eq!(state, Some(QuoteStatus::Expired));
        }
        world.finish().await;
        assert_eq!(
            garage.told_types().await,
            ["quote.created", "quote.rejected"]
        );
    });
}

#[test]
fn payments() {
    world(3, async |world| {
        let garage = Garage::new(world.clone()).await;
        garage.created(Some(15_000)).await;
        world.settle().await;
        let body = without(&Garage::payment("150.00"), "process");
        let early = vec![(body.clone(), 409, "PENDING")];
        refused(&garage, Who::Customer, "POST", "/payments", early).await;
        garage.agreed().await;
        world.settle().await;
        let bad = vec![
            (without(&body, "quoteId"), 400, "quoteId"),
            (with(&body, "quoteId", json!("x")), 400, "quoteId"),
            (with(&body, "quoteId", json!(id("other"))), 404, "Quote"),
            (
                with(&body, "workOrderId", json!(id("other"))),
                404,
                "Work order",
            ),
            (with(&body, "customerId", json!(8)), 403, "another customer"),
            (with(&body, "amount", json!("149.99")), 400, "amount"),
            (with(&body, "amount", json!(-150)), 400, "amount"),
            (with(&body, "paymentMethod", json!("GOLD")), 400, "GOLD"),
            (with(&body, "status", json!("APPROVED")), 400, "status"),
            (with(&body, "metadata", json!(1)), 400, "invalid type"),
        ];
        refused(&garage, Who::Customer, "POST", "/payments", bad).await;
        let elsewhere = vec![(with(&body, "customerId", json!(8)), 400, "customerId")];
        refused(&garage, Who::Staff, "POST", "/payments", elsewhere).await;

        let amount = with(&body, "amount", json!(150));
        let (status, made) = garage.ask(Who::Customer, "POST", "/payments", amount).await;
        assert_eq!(
            (status, &made["status"]),
            (201, &json!("PENDING")),
            "{made}"
        );
        assert_eq!(made["amount"], "150.00");
        let second = vec![(body, 409, "has a payment already")];
        refused(&garage, Who::Customer, "POST", "/payments", second).await;
        let path = format!("/payments/{}", made["id"].as_str().unwrap());
        let shown = garage.ask(Who::Customer, "GET", &path, Value::Null).await;
        assert_eq!(shown, (200, made.clone()));
        let verb = async |method: &str, verb: &str| {
            let path = format!("{path}/{verb}");
            let (status, told) = garage.ask(Who::Customer, method, &path, Value::Null).await;
            (status, told["status"].clone())
        };
        assert_eq!(verb("PATCH", "verify").await, (200, json!("PENDING")));
        assert_eq!(verb("POST", "process").await, (201, json!("APPROVED")));
        assert_eq!(verb("POST", "process").await.0, 409);
        assert_eq!(verb("PUT", "verify").await, (200, json!("APPROVED")));
        let of_order = format!("/payments/work-order/{}", id("order"));
        let (_, all) = garage
            .ask(Who::Customer, "GET", &of_order, Value::Null)
            .await;
        assert_eq!(all[0]["mercadoPagoStatus"], "approved");
        let unknown = format!("/payments/{}", id("unknown"));
        assert_eq!(
            garage.ask(Who::Staff, "GET", &unknown, Value::Null).await.0,
            404
        );
        assert_eq!(
            garage
                .ask(Who::Staff, "GET", "/payments/x", Value::Null)
                .await
                .0,
            400
        );
        world.finish().await;
        assert_eq!(
            garage.books.report()["charges"].as_array().unwrap().len(),
            1
        );
    });
}

/// What `process` answers for each ending of the amount.
#[test]
fn charged_at_once() {
    for (minor, status, word) in [
        (15_000, 201, "APPROVED"),
        (15_001, 400, "cc_rejected_insufficient_amount"),
        (15_002, 201, "APPROVED"),
        (15_003, 202, "PROCESSING"),
        (15_004, 201, "APPROVED"),
    ] {
        world(4, async |world| {
            let garage = Garage::new(world.clone()).await;
            let (answered, told) = garage.paid(minor).await;
            assert_eq!(answered, status, "{minor}: {told}");
            assert!(told.to_string().contains(word), "{minor}: {told}");
        });
    }
}

/// Somebody else's is not found, and not in lists.
#[test]
fn others() {
    world(5, async |world| {
        let garage = Garage::new(world.clone()).await;
        let data = WorkOrderCreated {
            work_order_id: id("order"),
            customer_id: 8,
            vehicle_id: 1,
            description: "it squeaks".into(),
            estimated_cost: Some(Money(15_000)),
        };
        garage.tell(&data, 1).await;
        world.settle().await;
        let quote = garage.state().await.quotes[0].id.clone();
        let of_order = id("order");
        for (method, path) in [
            ("GET", format!("/quotes/{quote}")),
            ("PUT", format!("/quotes/{quote}/approve")),
            ("PATCH", format!("/quotes/{quote}/reject")),
            ("GET", format!("/quotes/work-order/{of_order}")),
            ("GET", format!("/payments/work-order/{of_order}")),
        ] {
            let (status, told) = garage.ask(Who::Customer, method, &path, Value::Null).await;
            assert_eq!(status, 404, "{method} {path}: {told}");
        }
        for path in ["/quotes", "/payments"] {
            assert_eq!(
                garage.ask(Who::Customer, "GET", path, Value::Null).await,
                (200, json!([]))
            );
        }
        let (_, all) = garage.ask(Who::Staff, "GET", "/quotes", Value::Null).await;
        assert_eq!(all.as_array().unwrap().len(), 1);
    });
}

/// Pages of any size have each quote once, also where a bill has several.
#[test]
fn pages() {
    world(6, async |world| {
        let garage = Garage::new(world.clone()).await;
        for number in 0..4 {
            let order = id(&format!("order-{number}"));
            let data = WorkOrderCreated {
                work_order_id: order.clone(),
                customer_id: 7,
                vehicle_id: 1,
                description: "it squeaks".into(),
                estimated_cost: Some(Money(15_000)),
            };
            garage.tell(&data, 1).await;
            world.settle().await;
            let body = json!({
                "workOrderId": order, "customerId": 7,
                "items": [{ "name": "x", "description": "x", "quantity": 1, "unitPrice": 1 }],
            });
            for _ in 0..number {
                let made = garage
                    .ask(Who::Staff, "POST", "/quotes", body.clone())
                    .await;
                assert_eq!(made.0, 201);
            }
        }
        let mut whole: Option<Vec<String>> = None;
        for limit in [500, 1, 2, 3, 4, 9, 10] {
            let (mut ids, mut after) = (Vec::new(), String::new());
            loop {
                let path = format!("/quotes?limit={limit}{after}");
                let (status, page, headers) = garage
                    .ask_with(Who::Customer, "GET", &path, Value::Null, &[])
                    .await;
                assert_eq!(status, 200, "{page}");
                let page = page.as_array().unwrap();
                assert!(page.len() <= limit);
                ids.extend(page.iter().map(|quote| quote["id"].to_string()));
                let Some(next) = headers.get("x-next") else {
                    break;
                };
                after = format!("&after={}", next.to_str().unwrap());
            }
            assert_eq!(ids.len(), 10, "limit {limit}");
            assert_eq!(
                *whole.get_or_insert_with(|| ids.clone()),
                ids,
                "limit {limit}"
            );
        }
        for bad in [
            "limit=0",
            "limit=501",
            "limit=x",
            "after=x",
            "status=SENT",
            "limit=1&limit=2",
        ] {
            let path = format!("/quotes?{bad}");
            assert_eq!(
                garage.ask(Who::Staff, "GET", &path, Value::Null).await.0,
                400,
                "{bad}"
            );
        }
    });
}

/// A webhook is believed when it is signed, and wakes the payment before its time.
#[test]
fn webhooks() {
    world(7, async |world| {
        let garage = Garage::new(world.clone()).await;
        garage.created(Some(15_002)).await;
        garage.agreed().await;
        world.settle().await;
        let begun = world.now();
        let send = async |headers: &[(&str, &str)], path: &str, body: Value| {
            let answer = garage.ask_with(Who::Staff, "POST", path, body, headers);
            answer.await.0
        };
        let hook = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let charge_id = garage.state().await.payments[0].charge_id.clone().unwrap();
            let v1 = signature::sign(SECRET, &charge_id, "r-1", "17");
            let signed = format!("ts=17,v1={v1}");
            let body = json!({ "type": "payment", "data": { "id": charge_id } });
            let path = "/webhooks/mercadopago";
            for (headers, why) in [
                (vec![], "not signed"),
                (vec![("x-signature", &*signed)], "no request id"),
                (vec![("x-request-id", "r-1")], "no signature"),
                (
                    vec![("x-request-id", "r-2"), ("x-signature", &*signed)],
                    "another request",
                ),
                (
                    vec![("x-request-id", "r-1"), ("x-signature", "ts=17,v1=00")],
                    "another signature",
                ),
            ] {
                assert_eq!(send(&headers, path, body.clone()).await, 401, "{why}");
            }
            let headers = [("x-request-id", "r-1"), ("x-signature", &*signed)];
            let other = json!({ "data": { "id": "1300000099" } });
            assert_eq!(send(&headers, path, other).await, 401);
            assert_eq!(send(&headers, path, Value::Null).await, 401);
            let query = format!("{path}?data.id={charge_id}&type=payment");
            assert_eq!(send(&headers, &query, Value::Null).await, 200);
            assert_eq!(send(&headers, path, body).await, 200);
        };
        let payment = Garage::payment("150.02");
        let ((status, paid), ()) = tokio::join!(
            garage.ask(Who::Customer, "POST", "/payments", payment),
            hook
        );
        assert_eq!(
            (status, &paid["status"]),
            (201, &json!("APPROVED")),
            "{paid}"
        );
        let took = world.now().ms_since(begun);
        assert!(took < 4000, "before it is looked at by itself: {took} ms");
    });
}

#[test]
fn parts() {
    world(8, async |world| {
        let garage = Garage::new(world.clone()).await;
        let body = json!({
            "name": "pump", "partNumber": "P-1", "price": 50, "costPrice": "30.00", "stockQuantity": 5, "category": "water",
        });
        let (status, part) = garage.ask(Who::Staff, "POST", "/parts", body.clone()).await;
        assert_eq!(status, 201, "{part}");
        assert_eq!(
            (&part["price"], &part["minStockLevel"], &part["unit"]),
            (&json!("50.00"), &json!(5), &json!("unit"))
        );
        let bad = vec![
            (body.clone(), 409, "already"),
            (without(&body, "name"), 400, "name"),
            (without(&body, "partNumber"), 400, "partNumber"),
            (with(&body, "price", json!("x")), 400, "price"),
            (
                with(&body, "stockQuantity", json!(-1)),
                400,
                "stockQuantity",
            ),
            (with(&body, "colour", json!("red")), 400, "colour"),
            (with(&body, "status", json!("GONE")), 400, "GONE"),
        ];
        refused(&garage, Who::Staff, "POST", "/parts", bad).await;
        refused(
            &garage,
            Who::Customer,
            "POST",
            "/parts",
            vec![(body.clone(), 403, "staff")],
        )
        .await;
        let path = format!("/parts/{}", part["id"].as_str().unwrap());
        assert_eq!(
            garage.ask(Who::Staff, "GET", &path, Value::Null).await,
            (200, part)
        );
        let count = async |query: &str| {
            let (status, list) = garage.ask(Who::Staff, "GET", query, Value::Null).await;
            assert_eq!(status, 200, "{query}: {list}");
            list.as_array().unwrap().len()
        };
        // As many as the least that should be are few.
        assert_eq!(count("/parts/low-stock").await, 1);
        let stock = format!("{path}/stock");
        let (status, told) = garage
            .ask(Who::Staff, "PUT", &stock, json!({ "quantity": 6 }))
            .await;
        assert_eq!((status, &told["stockQuantity"]), (200, &json!(6)));
        assert_eq!(count("/parts/low-stock").await, 0);
        assert_eq!(
            garage
                .ask(Who::Staff, "PATCH", &stock, json!({ "quantity": 2 }))
                .await
                .0,
            200
        );
        assert_eq!(count("/parts/low-stock").await, 1);
        refused(
            &garage,
            Who::Staff,
            "PUT",
            &stock,
            vec![
                (json!({}), 400, "quantity"),
                (json!({ "quantity": -1 }), 400, "quantity"),
            ],
        )
        .await;
        let (_, told) = garage
            .ask(
                Who::Staff,
                "PATCH",
                &path,
                json!({ "status": "INACTIVE", "supplier": "ada" }),
            )
            .await;
        assert_eq!(
            (&told["status"], &told["supplier"], &told["name"]),
            (&json!("INACTIVE"), &json!("ada"), &json!("pump"))
        );
        refused(
            &garage,
            Who::Staff,
            "PUT",
            &path,
            vec![(json!({ "partNumber": "P-2" }), 409, "partNumber")],
        )
        .await;
        assert_eq!(count("/parts?status=INACTIVE&category=water").await, 1);
        assert_eq!(count("/parts?status=ACTIVE").await, 0);
        assert_eq!(
            garage
                .ask(Who::Staff, "GET", "/parts?status=X", Value::Null)
                .await
                .0,
            400
        );
        assert_eq!(
            garage.ask(Who::Staff, "DELETE", &path, Value::Null).await.0,
            403
        );
        assert_eq!(
            garage.ask(Who::Admin, "DELETE", &path, Value::Null).await.0,
            200
        );
        assert_eq!(
            garage.ask(Who::Admin, "DELETE", &path, Value::Null).await.0,
            404
        );
        assert_eq!(
            garage.ask(Who::Staff, "GET", &path, Value::Null).await.0,
            404
        );
        assert_eq!(garage.ask(Who::Staff, "POST", "/parts", body).await.0, 201);
    });
}

#[test]
fn services() {
    world(9, async |world| {
        let garage = Garage::new(world.clone()).await;
        let body = json!({ "name": "brakes", "price": "80.50", "duration": 90 });
        let key = [("idempotency-key", "k")];
        let first = garage
            .ask_with(Who::Staff, "POST", "/services", body.clone(), &key)
            .await;
        assert_eq!((first.0, &first.1["active"]), (201, &json!(true)));
        let again = garage
            .ask_with(Who::Staff, "POST", "/services", body.clone(), &key)
            .await;
        assert_eq!((again.0, &again.1), (201, &first.1));
        let bad = vec![
            (without(&body, "price"), 400, "price"),
            (with(&body, "duration", json!(0)), 400, "duration"),
            (with(&body, "name", json!(" ")), 400, "name"),
            (with(&body, "active", json!("yes")), 400, "invalid type"),
        ];
        refused(&garage, Who::Staff, "POST", "/services", bad).await;
        let path = format!("/services/{}", first.1["id"].as_str().unwrap());
        let (_, told) = garage
            .ask(Who::Staff, "PUT", &path, json!({ "active": false }))
            .await;
        assert_eq!(
            (&told["active"], &told["price"]),
            (&json!(false), &json!("80.50"))
        );
        assert_eq!(
            garage.ask(Who::Staff, "GET", &path, Value::Null).await,
            (200, told)
        );
        for (query, count) in [("", 1), ("?active=false", 1), ("?active=true", 0)] {
            let path = format!("/services{query}");
            let (_, list) = garage.ask(Who::Staff, "GET", &path, Value::Null).await;
            assert_eq!(list.as_array().unwrap().len(), count, "{query}");
        }
        assert_eq!(
            garage
                .ask(Who::Staff, "GET", "/services?active=x", Value::Null)
                .await
                .0,
            400
        );
        assert_eq!(
            garage.ask(Who::Customer, "GET", &path, Value::Null).await.0,
            403
        );
        assert_eq!(
            garage.ask(Who::Staff, "DELETE", &path, Value::Null).await.0,
            403
        );
        assert_eq!(
            garage.ask(Who::Admin, "DELETE", &path, Value::Null).await.0,
            200
        );
    });
}
