//! The OpenAPI document, by role.

use axum::{Json, Router, routing::get};
use serde_json::{Map, Value, json};

use crate::stack::Role;

/// `/api/openapi.json` for these roles.
pub(crate) fn router(roles: &[Role]) -> Router {
    let document = document(roles);
    Router::new().route(
        "/api/openapi.json",
        get(move || {
            let document = document.clone();
            async move { Json(document) }
        }),
    )
}

fn document(roles: &[Role]) -> Value {
    let mut paths = Map::new();
    for role in roles {
        let of_role = match role {
            Role::Order => order_paths(),
            Role::Payment => payment_paths(),
            Role::Inventory => inventory_paths(),
        };
        if let Value::Object(of_role) = of_role {
            paths.extend(of_role);
        }
    }
    for (path, id, what) in [
        ("/health/live", "live", "The process lives"),
        (
            "/health/ready",
            "ready",
            "Every subscription is live and the database answers",
        ),
        (
            "/metrics",
            "metrics",
            "Metrics in the Prometheus text format",
        ),
    ] {
        let operation = json!({ "get": {
            "operationId": id,
            "summary": what,
            "responses": { "200": { "description": what } },
        }});
        paths.insert(path.to_owned(), operation);
    }
    let mut schemas = schemas();
    add_dead_letters(&mut paths, &mut schemas);
    json!({
        "openapi": "3.1.0",
        "info": { "title": "Orders", "version": env!("CARGO_PKG_VERSION"), "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" } },
        "paths": paths,
        "components": { "schemas": schemas },
    })
}

/// Adds the library's routes for dead letters, with the schemas that they name.
fn add_dead_letters(paths: &mut Map<String, Value>, schemas: &mut Map<String, Value>) {
    let library = serde_json::to_value(leveret::http::document()).expect("a document prints");
    let of_dead_letters = library["paths"].as_object().into_iter().flatten();
    let of_dead_letters = of_dead_letters.filter(|(path, _)| path.starts_with("/api/v1/dlq"));
    for (path, item) in of_dead_letters {
        add_schemas(item, &library["components"]["schemas"], schemas);
        paths.insert(path.clone(), item.clone());
    }
}

/// Adds the schemas that a value refers to, and what these refer to.
fn add_schemas(value: &Value, known: &Value, schemas: &mut Map<String, Value>) {
    match value {
        Value::Object(fields) => {
            let reference = fields.get("$ref").and_then(Value::as_str);
            let name = reference.and_then(|path| path.strip_prefix("#/components/schemas/"));
            if let Some(name) = name
                && !schemas.contains_key(name)
            {
                schemas.insert(name.to_owned(), known[name].clone());
                add_schemas(&known[name], known, schemas);
            }
            fields
                .values()
                .for_each(|field| add_schemas(field, known, schemas));
        }
        Value::Array(items) => items
            .iter()
            .for_each(|item| add_schemas(item, known, schemas)),
        _ => {}
    }
}

fn path_id(name: &str) -> Value {
    json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string", "minLength": 1, "maxLength": 128 } })
}

fn ok(schema: &str) -> Value {
    json!({ "description": "Found", "content": { "application/json": { "schema": reference(schema) } } })
}

fn problem(what: &str) -> Value {
    json!({ "description": what, "content": { "application/problem+json": { "schema": reference("Problem") } } })
}

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

fn order_paths() -> Value {
    let query = |name: &str, schema: Value| json!({ "name": name, "in": "query", "required": false, "schema": schema });
    json!({
        "/orders": {
            "post": {
                "operationId": "placeOrder",
                "summary": "Places an order: durable when answered, whatever the broker does",
                "parameters": [{
                    "name": "Idempotency-Key", "in": "header", "required": false,
                    "description": "The same key with the same body is the same order",
                    "schema": { "type": "string", "minLength": 1, "maxLength": 255 },
                }],
                "requestBody": { "required": true, "content": { "application/json": { "schema": reference("NewOrder") } } },
                "responses": {
                    "202": { "description": "Accepted", "content": { "application/json": { "schema": reference("Order") } } },
                    "400": problem("Unreadable"),
                    "409": problem("The key belongs to another order"),
                    "422": problem("A field says what cannot be"),
                    "503": problem("The database does not answer"),
                },
            },
            "get": {
                "operationId": "listOrders",
                "summary": "Lists orders, newest first",
                "parameters": [
                    query("status", json!({ "type": "string", "enum": ["PENDING", "PAID", "COMPLETED", "PAYMENT_FAILED", "CANCELLED"] })),
                    query("user_id", json!({ "type": "string" })),
                    query("limit", json!({ "type": "integer", "minimum": 1, "maximum": 500, "default": 50 })),
                    query("after", json!({ "type": "string", "description": "`next` of the page before" })),
                ],
                "responses": {
                    "200": { "description": "A page", "content": { "application/json": { "schema": reference("Orders") } } },
                    "400": problem("A parameter is wrong"),
                },
            },
        },
        "/orders/{id}": { "get": {
            "operationId": "getOrder",
            "summary": "An order with its timeline",
            "parameters": [path_id("id")],
            "responses": { "200": ok("Order"), "404": problem("No such order") },
        }},
    })
}

fn payment_paths() -> Value {
    json!({ "/payments/{order_id}": { "get": {
        "operationId": "getPayment",
        "summary": "What became of an order's payment",
        "parameters": [path_id("order_id")],
        "responses": { "200": ok("Payment"), "404": problem("No payment for this order") },
    }}})
}

fn inventory_paths() -> Value {
    json!({ "/stock/{item}": {
        "get": {
            "operationId": "getStock",
            "summary": "How many of an item are there",
            "parameters": [path_id("item")],
            "responses": { "200": ok("Stock"), "404": problem("No such item") },
        },
        "put": {
            "operationId": "setStock",
            "summary": "Sets how many of an item are there",
            "parameters": [path_id("item")],
            "requestBody": { "required": true, "content": { "application/json": { "schema": {
                "type": "object", "required": ["quantity"], "additionalProperties": false,
                "properties": { "quantity": { "type": "integer", "minimum": 0 } },
            }}}},
            "responses": {
                "200": ok("Stock"),
                "400": problem("Unreadable"),
                "409": problem("More than that are reserved"),
                "422": problem("A field says what cannot be"),
            },
        },
    }})
}

fn schemas() -> Map<String, Value> {
    let text = json!({ "type": "string" });
    let nullable = json!({ "type": ["string", "null"] });
    let minor = json!({ "type": "integer", "minimum": 1, "description": "In minor units" });
    let status = json!({ "type": "string", "enum": ["PENDING", "PAID", "COMPLETED", "PAYMENT_FAILED", "CANCELLED"] });
    let id = json!({ "type": ["string", "integer"] });
    let schemas = json!({
        "NewOrder": {
            "type": "object", "additionalProperties": false, "required": ["user_id", "currency", "items"],
            "properties": {
                "user_id": text, "currency": { "type": "string", "description": "ISO 4217" },
                "items": { "type": "array", "minItems": 1, "maxItems": 100, "items": reference("Item") },
            },
        },
        "Item": {
            "type": "object", "additionalProperties": false, "required": ["id", "quantity", "unit_price"],
            "properties": { "id": text, "quantity": { "type": "integer", "minimum": 1, "maximum": 1_000_000 }, "unit_price": minor },
        },
        "Order": {
            "type": "object",
            "required": ["order_id", "status", "user_id", "currency", "total", "transaction_id", "reason", "items", "timeline"],
            "properties": {
                "order_id": text, "status": status, "user_id": text, "currency": text, "total": minor,
                "transaction_id": nullable, "reason": nullable,
                "items": { "type": "array", "items": reference("Item") },
                "timeline": { "type": "array", "items": {
                    "type": "object", "required": ["at", "status", "cause"],
                    "properties": { "at": { "type": "string", "format": "date-time" }, "status": status, "cause": text },
                }},
            },
        },
        "Orders": {
            "type": "object", "required": ["items", "next"],
            "properties": { "items": { "type": "array", "items": reference("Order") }, "next": nullable },
        },
        "Payment": {
            "type": "object",
            "required": ["order_id", "user_id", "amount", "currency", "status", "transaction_id", "reason"],
            "properties": {
                "order_id": id, "user_id": id, "amount": minor, "currency": text,
                "status": { "type": "string", "enum": ["charging", "settling", "paid", "declined", "failed", "refunding", "refunded"] },
                "transaction_id": nullable, "reason": nullable, "idempotency_key": text,
                "timeline": { "type": "array", "items": { "type": "object" } },
            },
        },
        "Stock": {
            "type": "object", "required": ["quantity", "reserved", "available"],
            "properties": { "quantity": { "type": "integer" }, "reserved": { "type": "integer" }, "available": { "type": "integer" } },
        },
        "Problem": {
            "type": "object", "required": ["type", "title", "status", "detail"],
            "properties": { "type": text, "title": text, "status": { "type": "integer" }, "detail": text, "field": text },
        },
    });
    match schemas {
        Value::Object(schemas) => schemas,
        _ => Map::new(),
    }
}
