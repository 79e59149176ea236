//! What the service can be asked, for its page.

use serde_json::{Value, json};

use crate::{openapi::Operation, statuses::WorkOrderStatus};

/// What it can be asked.
pub(crate) fn operations() -> Vec<Operation> {
    const PAGE: &[&str] = &["limit", "after"];
    let new = Operation::new;
    vec![
        new("post", "/work-orders", "Opens a work order; a customer for himself.").body(opening()).created(),
        new("get", "/work-orders", "Work orders, newest first; of the filters the first one counts. A customer's own.")
            .query(&["status", "customerId", "vehicleId", "limit", "after"]),
        new("get", "/work-orders/{id}", "A work order."),
        new("patch", "/work-orders/{id}", "Changes a work order. Of the statuses only DIAGNOSIS, AWAITING_QUOTE, WAITING_PARTS, IN_PROGRESS from WAITING_PARTS, DELIVERED and CANCELLED. The staff's.")
            .body(changes()),
        new("put", "/work-orders/{id}", "The same.").body(changes()),
        new("delete", "/work-orders/{id}", "Cancels a work order; what was paid goes back. Once more, it changes nothing."),
        new("post", "/work-orders/{id}/approve", "Approves a work order, and with it its quote.").created(),
        new("get", "/work-orders/{id}/history", "A work order and the statuses that it has passed, each with its time and cause."),
        new("get", "/public/work-orders/{id}/status", "The status of a work order for who knows the customer's document; 30 requests a minute from an address.")
            .query(&["document"]).public(),
        new("post", "/customers", "Registers a customer. Customers and vehicles are the staff's.").body(customer()).created(),
        new("get", "/customers", "Customers, newest first.").query(PAGE),
        new("get", "/customers/{id}", "A customer."),
        new("patch", "/customers/{id}", "Changes a customer.").body(customer_changes()),
        new("put", "/customers/{id}", "The same.").body(customer_changes()),
        new("delete", "/customers/{id}", "Removes a customer who has no vehicles and no open work orders. An administrator's."),
        new("get", "/customers/document/{document}", "The customer of a document."),
        new("post", "/vehicles", "Registers a vehicle of a customer.").body(vehicle(true)).created(),
        new("get", "/vehicles", "Vehicles, newest first.").query(PAGE),
        new("get", "/vehicles/{id}", "A vehicle."),
        new("put", "/vehicles/{id}", "Changes what is said of a vehicle.").body(vehicle(false)),
        new("patch", "/vehicles/{id}", "The same.").body(vehicle(false)),
        new("delete", "/vehicles/{id}", "Removes a vehicle that has no open work orders. An administrator's."),
        new("get", "/vehicles/customer/{customerId}", "The vehicles of a customer.").query(PAGE),
        new("get", "/sagas", "The courses of work orders across the services: running, ended or stuck, and why. An administrator's.")
            .query(&["state", "limit", "after"]),
        new("get", "/sagas/{correlationId}", "All that happened to a work order, who reacted, what is missing and late. An administrator's."),
    ]
}

#[expect(clippy::needless_pass_by_value)] // As `json!` makes it.
fn object(required: &[&str], properties: Value) -> Value {
    json!({ "type": "object", "additionalProperties": false, "required": required, "properties": properties })
}

fn text() -> Value {
    json!({ "type": "string", "minLength": 1 })
}

fn number() -> Value {
    json!({ "type": "integer", "minimum": 1 })
}

fn money() -> Value {
    json!({ "type": ["number", "string"], "minimum": 0, "pattern": r"^\d+(\.\d{1,2})?$" })
}

fn date() -> Value {
    json!({ "type": "string", "examples": ["2026-11-21", "2026-11-21T12:00:00Z"] })
}

fn opening() -> Value {
    object(
        &["customerId", "vehicleId", "description"],
        json!({
            "customerId": number(), "vehicleId": number(), "description": text(), "estimatedCost": money(),
            "assignedTechnicianId": text(), "estimatedCompletionDate": date(), "metadata": { "type": "object" },
        }),
    )
}

fn changes() -> Value {
    let items = json!({ "type": "array", "maxItems": 100, "items": { "type": "object" } });
    object(
        &[],
        json!({
            "status": { "enum": WorkOrderStatus::ALL }, "description": text(), "estimatedCost": money(), "actualCost": money(),
            "laborCost": money(), "partsCost": money(), "diagnosis": text(), "technicianNotes": text(),
            "customerApproval": { "type": "boolean" }, "assignedTechnicianId": text(), "estimatedCompletionDate": date(),
            "services": items, "parts": items, "metadata": { "type": "object" },
        }),
    )
}

fn customer() -> Value {
    object(
        &["name", "personType", "document", "phone"],
        json!({
            "name": text(), "personType": { "enum": ["INDIVIDUAL", "COMPANY"] }, "document": text(),
            "email": { "type": "string", "format": "email" }, "phone": text(),
        }),
    )
}

fn customer_changes() -> Value {
    object(
        &[],
        json!({
            "name": text(), "email": { "type": "string", "format": "email" }, "phone": text(), "status": { "type": "boolean" },
        }),
    )
}

fn vehicle(is_new: bool) -> Value {
    let all: &[&str] = &["plate", "brand", "model", "year", "customerId"];
    object(
        if is_new { all } else { &[] },
        json!({ "plate": text(), "brand": text(), "model": text(), "year": { "type": "integer" }, "customerId": number() }),
    )
}
