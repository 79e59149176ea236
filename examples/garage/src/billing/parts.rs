//! `/parts`: what is in stock. Its number names a part: there is one of each.

use axum::{
    Router,
    extract::State,
    http::StatusCode,
    routing::{get, post, put},
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
    failure::{CONFLICT, Failure},
    ids::Id,
    money::Money,
    openapi::Operation,
    request::{Body, IdempotencyKey, Keyed, Params, PathId, TEXT_BYTES_MAX, check_text},
};

/// What parts are found by.
const STATUS: &str = "status";
const CATEGORY: &str = "category";
const LOW: &str = "low";
const YES: &str = "yes";

/// The longest name, number, unit, supplier or category, in bytes.
const NAME_BYTES_MAX: usize = 200;
/// The largest stock.
const STOCK_MAX: i64 = 1_000_000_000;
const MIN_STOCK_DEFAULT: i64 = 5;
const UNIT_DEFAULT: &str = "unit";

/// Whether a part is used any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Status {
    #[default]
    Active,
    Inactive,
}

impl Status {
    fn as_str(self) -> &'static str {
        match self {
            Status::Active => "ACTIVE",
            Status::Inactive => "INACTIVE",
        }
    }
}

/// A part, as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Part {
    name: String,
    #[serde(rename = "partNumber")]
    number: String,
    price: Money,
    cost_price: Money,
    stock_quantity: i64,
    min_stock_level: i64,
    unit: String,
    supplier: Option<String>,
    category: Option<String>,
    description: Option<String>,
    status: Status,
}

/// What is changed of one.
#[derive(Debug, Default)]
pub(super) struct PartChange {
    name: Option<String>,
    part_number: Option<String>,
    price: Option<Money>,
    cost_price: Option<Money>,
    stock_quantity: Option<i64>,
    min_stock_level: Option<i64>,
    unit: Option<String>,
    supplier: Option<String>,
    category: Option<String>,
    description: Option<String>,
    status: Option<Status>,
}

impl Entry for Part {
    const KIND: &'static str = "part";
    const NAME: &'static str = "Part";
    type Change = PartChange;

    fn fields(&self) -> Vec<(&'static str, String)> {
        let mut fields = vec![(STATUS, self.status.as_str().to_owned())];
        fields.extend(self.category.clone().map(|category| (CATEGORY, category)));
        let is_low = self.stock_quantity <= self.min_stock_level;
        fields.extend(is_low.then(|| (LOW, YES.to_owned())));
        fields
    }

    fn change(&mut self, change: &PartChange) -> Result<(), Refusal> {
        let other = |number: &String| *number != self.number;
        if change.part_number.as_ref().is_some_and(other) {
            let reason = "partNumber names the part: it cannot change";
            return Err(Refusal::rejected(CONFLICT, reason));
        }
        set(&mut self.name, change.name.as_ref());
        set(&mut self.price, change.price.as_ref());
        set(&mut self.cost_price, change.cost_price.as_ref());
        set(&mut self.stock_quantity, change.stock_quantity.as_ref());
        set(&mut self.min_stock_level, change.min_stock_level.as_ref());
        set(&mut self.unit, change.unit.as_ref());
        set(&mut self.status, change.status.as_ref());
        let texts = [
            (&mut self.supplier, &change.supplier),
            (&mut self.category, &change.category),
            (&mut self.description, &change.description),
        ];
        for (text, new) in texts {
            if new.is_some() {
                text.clone_from(new);
            }
        }
        Ok(())
    }

    fn shown(&self) -> Value {
        serde_json::to_value(self).expect("a part prints as JSON")
    }
}

fn set<T: Clone>(old: &mut T, new: Option<&T>) {
    if let Some(new) = new {
        old.clone_from(new);
    }
}

/// The kind of its documents.
pub(super) fn kind() -> Kind {
    Kind::new(Part::KIND, &[STATUS, CATEGORY, LOW])
}

/// Its routes. All need a token.
pub(super) fn router(service: &Service) -> Router {
    Router::new()
        .route("/parts", post(make).get(list))
        .route("/parts/low-stock", get(low_stock))
        .route(
            "/parts/{id}",
            get(register::show::<Part>)
                .put(change)
                .patch(change)
                .delete(register::remove::<Part>),
        )
        .route("/parts/{id}/stock", put(stock).patch(stock))
        .with_state(service.clone())
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PartBody {
    name: Option<String>,
    part_number: Option<String>,
    price: Option<Value>,
    cost_price: Option<Value>,
    stock_quantity: Option<i64>,
    min_stock_level: Option<i64>,
    unit: Option<String>,
    supplier: Option<String>,
    category: Option<String>,
    description: Option<String>,
    status: Option<Status>,
}

impl PartBody {
    fn read(self) -> Result<PartChange, Failure> {
        let texts = [
            ("name", &self.name, NAME_BYTES_MAX),
            ("partNumber", &self.part_number, NAME_BYTES_MAX),
            ("unit", &self.unit, NAME_BYTES_MAX),
            ("supplier", &self.supplier, NAME_BYTES_MAX),
            ("category", &self.category, NAME_BYTES_MAX),
            ("description", &self.description, TEXT_BYTES_MAX),
        ];
        for (name, text, most) in texts {
            if let Some(text) = text {
                check_text(name, text, most)?;
            }
        }
        check_stock("stockQuantity", self.stock_quantity)?;
        check_stock("minStockLevel", self.min_stock_level)?;
        let amount = |name, value: Option<Value>| value.map(|value| money(name, &value));
        Ok(PartChange {
            name: self.name,
            part_number: self.part_number,
            price: amount("price", self.price).transpose()?,
            cost_price: amount("costPrice", self.cost_price).transpose()?,
            stock_quantity: self.stock_quantity,
            min_stock_level: self.min_stock_level,
            unit: self.unit,
            supplier: self.supplier,
            category: self.category,
            description: self.description,
            status: self.status,
        })
    }
}

fn check_stock(name: &str, stock: Option<i64>) -> Result<(), Failure> {
    if stock.is_none_or(|stock| (0..=STOCK_MAX).contains(&stock)) {
        return Ok(());
    }
    Err(Failure::bad_request(format!("{name} is 0 to {STOCK_MAX}")))
}

fn missing(name: &str) -> Failure {
    Failure::bad_request(format!("{name} is missing"))
}

async fn make(
    State(service): State<Service>,
    Staff(caller): Staff,
    key: IdempotencyKey,
    body: Body<PartBody>,
) -> Answer {
    let keyed = Keyed::of(&key, &caller.sub, "make", &body.fingerprint);
    let read = body.value.read()?;
    let part = Part {
        name: read.name.ok_or_else(|| missing("name"))?,
        number: read.part_number.ok_or_else(|| missing("partNumber"))?,
        price: read.price.ok_or_else(|| missing("price"))?,
        cost_price: read.cost_price.ok_or_else(|| missing("costPrice"))?,
        stock_quantity: read
            .stock_quantity
            .ok_or_else(|| missing("stockQuantity"))?,
        min_stock_level: read.min_stock_level.unwrap_or(MIN_STOCK_DEFAULT),
        unit: read.unit.unwrap_or_else(|| UNIT_DEFAULT.to_owned()),
        supplier: read.supplier,
        category: read.category,
        description: read.description,
        status: read.status.unwrap_or_default(),
    };
    let make = Ask {
        id: Id::derived(&["part", &part.number]),
        keyed,
        what: What::Make(part),
    };
    ask(&service, &make, StatusCode::CREATED).await
}

async fn change(
    State(service): State<Service>,
    Staff(caller): Staff,
    PathId(id): PathId,
    key: IdempotencyKey,
    body: Body<PartBody>,
) -> Answer {
    let keyed = Keyed::of(&key, &caller.sub, "change", &body.fingerprint);
    let what = What::<Part>::Change(body.value.read()?);
    ask(&service, &Ask { id, keyed, what }, StatusCode::OK).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StockBody {
    quantity: i64,
}

/// The stock is so much now.
async fn stock(
    State(service): State<Service>,
    Staff(caller): Staff,
    PathId(id): PathId,
    key: IdempotencyKey,
    body: Body<StockBody>,
) -> Answer {
    let keyed = Keyed::of(&key, &caller.sub, "stock", &body.fingerprint);
    check_stock("quantity", Some(body.value.quantity))?;
    let what = What::<Part>::Change(PartChange {
        stock_quantity: Some(body.value.quantity),
        ..PartChange::default()
    });
    ask(&service, &Ask { id, keyed, what }, StatusCode::OK).await
}

async fn list(State(service): State<Service>, _: Staff, params: Params) -> Answer {
    let params = params.known(&["status", "category", "limit", "after"])?;
    let mut filter = Vec::new();
    if let Some(status) = params.get("status") {
        let known = [Status::Active, Status::Inactive];
        if !known.iter().any(|known| known.as_str() == status) {
            return Err(Failure::bad_request("status is one of ACTIVE, INACTIVE"));
        }
        filter.push((STATUS, status));
    }
    filter.extend(params.get("category").map(|category| (CATEGORY, category)));
    register::list::<Part>(&service, &params, filter).await
}

async fn low_stock(State(service): State<Service>, _: Staff, params: Params) -> Answer {
    let params = params.known(&["limit", "after"])?;
    register::list::<Part>(&service, &params, vec![(LOW, YES)]).await
}

/// What it can be asked.
pub(super) fn operations() -> Vec<Operation> {
    let text = || json!({ "type": "string" });
    let amount = || json!({ "type": ["string", "number"] });
    let count = || json!({ "type": "integer", "minimum": 0 });
    let body = |required: &[&str]| {
        json!({
            "type": "object", "required": required, "additionalProperties": false,
            "properties": {
                "name": text(), "partNumber": text(), "price": amount(), "costPrice": amount(), "stockQuantity": count(),
                "minStockLevel": count(), "unit": text(), "supplier": text(), "category": text(), "description": text(),
                "status": { "enum": ["ACTIVE", "INACTIVE"] },
            },
        })
    };
    let stock = || {
        json!({
            "type": "object", "required": ["quantity"], "additionalProperties": false, "properties": { "quantity": count() },
        })
    };
    let required = ["name", "partNumber", "price", "costPrice", "stockQuantity"];
    vec![
        Operation::new(
            "post",
            "/parts",
            "Takes up a part. 409 if its number is known.",
        )
        .created()
        .body(body(&required)),
        Operation::new(
            "get",
            "/parts",
            "The newest parts. The header x-next is the `after` of the next page.",
        )
        .query(&["status", "category", "limit", "after"]),
        Operation::new(
            "get",
            "/parts/low-stock",
            "Parts of which there is no more than the least that should be.",
        )
        .query(&["limit", "after"]),
        Operation::new("get", "/parts/{id}", "A part."),
        Operation::new("put", "/parts/{id}", "Changes what is said of a part.").body(body(&[])),
        Operation::new("patch", "/parts/{id}", "The same.").body(body(&[])),
        Operation::new(
            "delete",
            "/parts/{id}",
            "Takes a part away. For administrators.",
        ),
        Operation::new("put", "/parts/{id}/stock", "Says how many there are.").body(stock()),
        Operation::new("patch", "/parts/{id}/stock", "The same.").body(stock()),
    ]
}
