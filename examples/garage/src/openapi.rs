//! The APIs in words: an OpenAPI document a service at `/api/openapi.json`, and a page of it at `/api`.

use std::fmt::Write as _;

use axum::{
    Json, Router,
    http::header,
    response::{Html, IntoResponse},
    routing::get,
};
use serde_json::{Map, Value, json};

use crate::{billing, execution, os, stack::Role};

/// Something that a service can be asked.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    /// In small letters: `get`.
    pub(crate) method: &'static str,
    /// With its parameters in braces: `/work-orders/{id}`.
    pub(crate) path: &'static str,
    /// What it does, in a sentence.
    pub(crate) summary: &'static str,
    /// The parameters of its query.
    pub(crate) query: &'static [&'static str],
    /// The JSON schema of its body.
    pub(crate) body: Option<Value>,
    /// What it answers when all is well.
    pub(crate) status: u16,
    /// Whether it needs no token.
    pub(crate) public: bool,
}

impl Operation {
    /// One that answers 200, without a body.
    pub(crate) fn new(
        method: &'static str,
        path: &'static str,
        summary: &'static str,
    ) -> Operation {
        Operation {
            method,
            path,
            summary,
            query: &[],
            body: None,
            status: 200,
            public: false,
        }
    }

    /// With a body of this JSON schema.
    pub(crate) fn body(mut self, schema: Value) -> Operation {
        self.body = Some(schema);
        self
    }

    /// With these parameters in its query.
    pub(crate) fn query(mut self, names: &'static [&'static str]) -> Operation {
        self.query = names;
        self
    }

    /// That answers 201.
    pub(crate) fn created(mut self) -> Operation {
        self.status = 201;
        self
    }

    /// For everybody.
    pub(crate) fn public(mut self) -> Operation {
        self.public = true;
        self
    }
}

/// The document and its page. Public.
pub(crate) fn router(role: Role) -> Router {
    let document = document(role);
    let page = page(role, &operations(role));
    let json = move || async move { Json(document.clone()) };
    let show = move || async move {
        let safe = "default-src 'none'; style-src 'unsafe-inline'";
        (
            [(header::CONTENT_SECURITY_POLICY, safe)],
            Html(page.clone()),
        )
            .into_response()
    };
    Router::new()
        .route("/api", get(show))
        .route("/api/openapi.json", get(json))
}

fn operations(role: Role) -> Vec<Operation> {
    let mut operations = vec![
        Operation::new(
            "get",
            "/health",
            "Whether the service and what it needs are there.",
        )
        .public(),
    ];
    operations.extend(match role {
        Role::Os => os::operations(),
        Role::Billing => billing::operations(),
        Role::Execution => execution::operations(),
    });
    operations
}

fn document(role: Role) -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for operation in operations(role) {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method] = described(&operation);
    }
    json!({
        "openapi": "3.1.0",
        "info": { "title": format!("Garage: {} service", role.name()), "version": env!("CARGO_PKG_VERSION") },
        "paths": paths,
        "components": {
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT" } },
            "schemas": { "Failure": {
                "type": "object",
                "required": ["message", "error", "statusCode"],
                "properties": {
                    "message": { "type": "string" }, "error": { "type": "string" }, "statusCode": { "type": "integer" },
                },
            } },
        },
    })
}

fn described(operation: &Operation) -> Value {
    let in_path = operation.path.split('/').filter_map(|part| {
        let name = part.strip_prefix('{')?.strip_suffix('}')?;
        Some(
            json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }),
        )
    });
    let in_query = operation.query.iter();
    let in_query =
        in_query.map(|name| json!({ "name": name, "in": "query", "schema": { "type": "string" } }));
    let mut parameters: Vec<Value> = in_path.chain(in_query).collect();
    if operation.method == "post" {
        parameters.push(json!({
            "name": "Idempotency-Key", "in": "header", "schema": { "type": "string", "maxLength": 255 },
        }));
    }
    let failure = json!({
        "description": "Why it comes to nothing",
        "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Failure" } } },
    });
    let mut described = json!({
        "summary": operation.summary,
        "operationId": operation_id(operation),
        "parameters": parameters,
        "responses": { operation.status.to_string(): {
            "description": "Done", "content": { "application/json": {} },
        }, "default": failure },
        "security": if operation.public { json!([]) } else { json!([{ "token": [] }]) },
    });
    if let Some(schema) = &operation.body {
        described["requestBody"] = json!({
            "required": true, "content": { "application/json": { "schema": schema } },
        });
    }
    described
}

/// `get /work-orders/{id}/history` as `get-work-orders-id-history`.
fn operation_id(operation: &Operation) -> String {
    let path = operation.path.replace(['{', '}'], "").replace('/', "-");
    format!("{}{path}", operation.method)
}

fn page(role: Role, operations: &[Operation]) -> String {
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Garage: {0}</title>\
        <style>body{{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}}\
        td{{padding:.2rem .8rem .2rem 0;vertical-align:top}}code{{font-size:.95em}}</style>\
        <h1>The {0} service</h1><p>The document for machines: <a href=\"api/openapi.json\">openapi.json</a>. \
        Each path is there with <code>/{0}</code> before it, too.</p><table>",
        role.name()
    );
    for operation in operations {
        let _ = write!(
            page,
            "<tr><td><code>{}</code><td><code>{}</code><td>{}{}",
            operation.method.to_uppercase(),
            operation.path,
            operation.summary,
            if operation.public { " Public." } else { "" }
        );
    }
    page.push_str("</table>");
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_there_once() {
        for role in Role::ALL {
            let operations = operations(role);
            let document = document(role);
            let paths = document["paths"].as_object().unwrap();
            let described: usize = paths
                .values()
                .map(|path| path.as_object().unwrap().len())
                .sum();
            assert_eq!(described, operations.len(), "{}", role.name());
        }
    }
}
