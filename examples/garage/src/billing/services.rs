//! `/services`: what the garage does, at which price.

use axum::{
    Router,
    extract::State,
    http::StatusCode,
    routing::{get, post},
};
use leveret::service::{Kind, Refusal, Service};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    http::money,
    register::{self, Answer, Ask, Entry, What, ask},
};
use crate::{
    auth::Staff,
    failure::Failure,
    ids::Id,
    money::Money,
    openapi::Operation,
    request::{Body, IdempotencyKey, Keyed, Params, PathId, TEXT_BYTES_MAX, check_text},
};

/// What services are found by.
const ACTIVE: &str = "active";
/// The longest name, in bytes.
const NAME_BYTES_MAX: usize = 200;
/// The longest duration, in minutes.
const DURATION_MAX: i64 = 1_000_000;

/// A service, as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Offered {
    name: String,
    price: Money,
    /// In minutes.
    duration: i64,
    description: Option<String>,
    active: bool,
}

/// What is changed of one.
pub(super) struct OfferedChange {
    name: Option<String>,
    price: Option<Money>,
    duration: Option<i64>,
    description: Option<String>,
    active: Option<bool>,
}

impl Entry for Offered {
    const KIND: &'static str = "service";
    const NAME: &'static str = "Service";
    type Change = OfferedChange;

    fn fields(&self) -> Vec<(&'static str, String)> {
        vec![(ACTIVE, self.active.to_string())]
    }

    fn change(&mut self, change: &OfferedChange) -> Result<(), Refusal> {
        if let Some(name) = &change.name {
            self.name.clone_from(name);
        }
        self.price = change.price.unwrap_or(self.price);
        self.duration = change.duration.unwrap_or(self.duration);
        self.active = change.active.unwrap_or(self.active);
        if change.description.is_some() {
            self.description.clone_from(&change.description);
        }
        Ok(())
    }

    fn shown(&self) -> Value {
        serde_json::to_value(self).expect("a service prints as JSON")
    }
}

/// The kind of its documents.
pub(super) fn kind() -> Kind {
    Kind::new(Offered::KIND, &[ACTIVE])
}

/// Its routes. All need a token.
pub(super) fn router(service: &Service) -> Router {
    Router::new()
        .route("/services", post(make).get(list))
        .route(
            "/services/{id}",
            get(register::show::<Offered>)
                .put(change)
                .patch(change)
                .delete(register::remove::<Offered>),
        )
        .with_state(service.clone())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfferedBody {
    name: Option<String>,
    price: Option<Value>,
    duration: Option<i64>,
    description: Option<String>,
    active: Option<bool>,
}

impl OfferedBody {
    fn read(self) -> Result<OfferedChange, Failure> {
        if let Some(name) = &self.name {
            check_text("name", name, NAME_BYTES_MAX)?;
        }
        if let Some(description) = &self.description {
            check_text("description", description, TEXT_BYTES_MAX)?;
        }
        let is_possible = |duration| (1..=DURATION_MAX).contains(&duration);
        if !self.duration.is_none_or(is_possible) {
            let message = format!("duration is 1 to {DURATION_MAX} minutes");
            return Err(Failure::bad_request(message));
        }
        let price = self.price.map(|price| money("price", &price));
        Ok(OfferedChange {
            name: self.name,
            price: price.transpose()?,
            duration: self.duration,
            description: self.description,
            active: self.active,
        })
    }
}

fn missing(name: &str) -> Failure {
    Failure::bad_request(format!("{name} is missing"))
}

async fn make(
    State(service): State<Service>,
    Staff(caller): Staff,
    key: IdempotencyKey,
    body: Body<OfferedBody>,
) -> Answer {
    let keyed = Keyed::of(&key, &caller.sub, "make", &body.fingerprint);
    let read = body.value.read()?;
    let offered = Offered {
        name: read.name.ok_or_else(|| missing("name"))?,
        price: read.price.ok_or_else(|| missing("price"))?,
        duration: read.duration.ok_or_else(|| missing("duration"))?,
        description: read.description,
        active: read.active.unwrap_or(true),
    };
    let id = keyed
        .as_ref()
        .map_or_else(Id::new, |keyed| keyed.id("service"));
    let what = What::Make(offered);
    ask(&service, &Ask { id, keyed, what }, StatusCode::CREATED).await
}

async fn change(
    State(service): State<Service>,
    Staff(caller): Staff,
    PathId(id): PathId,
    key: IdempotencyKey,
    body: Body<OfferedBody>,
) -> Answer {
    let keyed = Keyed::of(&key, &caller.sub, "change", &body.fingerprint);
    let what = What::<Offered>::Change(body.value.read()?);
    ask(&service, &Ask { id, keyed, what }, StatusCode::OK).await
}

async fn list(State(service): State<Service>, _: Staff, params: Params) -> Answer {
    let params = params.known(&["active", "limit", "after"])?;
    let active = params.get("active");
    if active.is_some_and(|active| !["true", "false"].contains(&active)) {
        return Err(Failure::bad_request("active is one of true, false"));
    }
    let filter = active.map(|active| (ACTIVE, active)).into_iter().collect();
    register::list::<Offered>(&service, &params, filter).await
}

/// What it can be asked.
pub(super) fn operations() -> Vec<Operation> {
    let body = |required: &[&str]| {
        json!({
            "type": "object", "required": required, "additionalProperties": false,
            "properties": {
                "name": { "type": "string" }, "price": { "type": ["string", "number"] }, "duration": { "type": "integer", "minimum": 1 },
                "description": { "type": "string" }, "active": { "type": "boolean" },
            },
        })
    };
    vec![
        Operation::new(
            "post",
            "/services",
            "Offers a service; its duration in minutes.",
        )
        .created()
        .body(body(&["name", "price", "duration"])),
        Operation::new(
            "get",
            "/services",
            "The newest services. The header x-next is the `after` of the next page.",
        )
        .query(&["active", "limit", "after"]),
        Operation::new("get", "/services/{id}", "A service."),
        Operation::new(
            "put",
            "/services/{id}",
            "Changes what is said of a service.",
        )
        .body(body(&[])),
        Operation::new("patch", "/services/{id}", "The same.").body(body(&[])),
        Operation::new(
            "delete",
            "/services/{id}",
            "Takes a service away. For administrators.",
        ),
    ]
}
