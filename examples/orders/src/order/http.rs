//! `/orders`: place an order, look at it, list orders.

use axum::{
    Router,
    extract::{RawQuery, State},
    http::{HeaderMap, StatusCode},
    response::Response,
    routing::{get, post},
};
use leveret::service::{Of, Service, documents::Query};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{Item, KIND, Order, OrderMessage, OrderState, OrderStatus, Place, STATUS, USER};
use crate::{
    problem::{Body, Named, Problem, answer},
    wire::{ITEMS_MAX, QUANTITY_MAX, check_text},
};

/// Names the orders whose ids are made of keys. Stored with them: it never changes.
const KEYS: Uuid = Uuid::from_u128(0x6b1f_58c0_3c0e_4d6c_9a7e_0d4a_51c2_77e1);

/// The largest total: what every JSON reader keeps exact.
const TOTAL_MAX: i64 = (1 << 53) - 1;

/// How many orders a page has, unless it is said, and at most.
const LIMIT_DEFAULT: u32 = 50;
const LIMIT_MAX: u32 = 500;

/// The currencies of ISO 4217 that are money of a country or union.
const CURRENCIES: &str = "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CLP \
    CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF IDR ILS INR IQD IRR ISK \
    JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN \
    NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS \
    TMT TND TOP TRY TTD TWD TZS UAH UGX USD UYU UZS VED VES VND VUV WST XAF XCD XOF XPF YER ZAR ZMW ZWG";

/// Whether this is a currency.
pub(crate) fn is_currency(code: &str) -> bool {
    CURRENCIES.split_whitespace().any(|known| known == code)
}

/// The service behind the routes.
#[derive(Clone, Debug)]
pub(crate) struct OrderApi(pub(crate) Service);

/// The routes of the order service.
pub(crate) fn router(service: Service) -> Router {
    Router::new()
        .route("/orders", post(place).get(list))
        .route("/orders/{id}", get(show))
        .with_state(OrderApi(service))
}

async fn place(
    State(OrderApi(service)): State<OrderApi>,
    headers: HeaderMap,
    Body(body): Body,
) -> Result<Response, Problem> {
    let mut place = read_order(&body)?;
    place.order_id = match key(&headers)? {
        Some(key) => Uuid::new_v5(&KEYS, key.as_bytes()).to_string(),
        None => Uuid::now_v7().to_string(),
    };
    let state = service
        .call(&Of::<Order>::default(), &OrderMessage::Place(place))
        .await?;
    Ok(answer(StatusCode::ACCEPTED, &shown(&state)))
}

fn key(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let Some(key) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    let key = key.to_str().ok().filter(|key| !key.trim().is_empty());
    match key {
        Some(key) if key.len() <= 255 => Ok(Some(key)),
        _ => Err(Problem::bad_request(
            "Idempotency-Key is 1 to 255 printable characters",
        )),
    }
}

async fn show(
    State(OrderApi(service)): State<OrderApi>,
    Named(id): Named,
) -> Result<Response, Problem> {
    let unknown = || Problem::not_found(format!("there is no order '{id}'"));
    if check_text(&id, "order_id").is_err() {
        return Err(unknown());
    }
    let loaded = service.documents().load(&[Of::<Order>::key(&id)]).await?;
    let state = loaded.first().and_then(|document| document.state.as_ref());
    let state = read_state(state.ok_or_else(unknown)?.text())?;
    Ok(answer(StatusCode::OK, &shown(&state)))
}

async fn list(
    State(OrderApi(service)): State<OrderApi>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let query = read_query(query.as_deref().unwrap_or_default())?;
    let page = service.documents().list(&query).await?;
    let states = page.documents.iter().filter_map(|document| {
        let state = document.state.as_ref()?;
        Some(read_state(state.text()))
    });
    let items = states
        .map(|state| state.map(|state| shown(&state)))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(answer(
        StatusCode::OK,
        &json!({ "items": items, "next": page.next }),
    ))
}

fn read_query(text: &str) -> Result<Query, Problem> {
    let mut query = Query {
        kind: KIND.into(),
        filter: Vec::new(),
        order: leveret::service::documents::Order::Newest,
        after: None,
        limit: LIMIT_DEFAULT,
    };
    let url = reqwest::Url::parse(&format!("http://local/?{text}"));
    let url = url.map_err(|error| Problem::bad_request(error.to_string()))?;
    for (name, value) in url.query_pairs() {
        match &*name {
            "status" => {
                let known = OrderStatus::ALL
                    .iter()
                    .find(|known| known.as_str() == value);
                let status = known.ok_or_else(|| {
                    let known = OrderStatus::ALL.map(OrderStatus::as_str).join(", ");
                    Problem::bad_request(format!("`status` is one of {known}, not '{value}'"))
                })?;
                query.filter.push((STATUS.into(), status.as_str().into()));
            }
            "user_id" => {
                check_text(&value, "user_id").map_err(Problem::bad_request)?;
                query.filter.push((USER.into(), (*value).into()));
            }
            "after" => query.after = Some((*value).into()),
            "limit" => {
                let limit = value.parse().ok();
                query.limit = limit
                    .filter(|limit| (1..=LIMIT_MAX).contains(limit))
                    .ok_or_else(|| {
                        Problem::bad_request(format!("`limit` is 1 to {LIMIT_MAX}, not '{value}'"))
                    })?;
            }
            other => {
                return Err(Problem::bad_request(format!(
                    "there is no parameter '{other}'; there are status, user_id, limit, after"
                )));
            }
        }
    }
    Ok(query)
}

fn read_state(text: &str) -> Result<OrderState, Problem> {
    serde_json::from_str(text).map_err(|error| {
        tracing::error!(%error, "a stored order cannot be read");
        Problem::not_found("the order cannot be read")
    })
}

fn shown(state: &OrderState) -> Value {
    let timeline = state.timeline.iter().map(|entry| {
        json!({
            "at": entry.at.to_string(),
            "status": entry.status,
            "cause": entry.cause,
        })
    });
    json!({
        "order_id": state.order_id,
        "status": state.status,
        "user_id": state.user_id,
        "currency": state.currency,
        "total": state.total,
        "transaction_id": state.transaction_id,
        "reason": state.reason,
        "items": state.items,
        "timeline": timeline.collect::<Vec<_>>(),
    })
}

/// Reads an order. Its id is still to be given.
fn read_order(body: &[u8]) -> Result<Place, Problem> {
    let value: Value = serde_json::from_slice(body)
        .map_err(|error| Problem::bad_request(format!("the body is not JSON: {error}")))?;
    let Value::Object(fields) = value else {
        return Err(Problem::field("", "the body is no JSON object"));
    };
    known(&fields, "", &["user_id", "currency", "items"])?;
    let user_id = text(&fields, "", "user_id")?;
    let currency = text(&fields, "", "currency")?;
    if !is_currency(&currency) {
        let detail = format!("'{currency}' is no currency of ISO 4217");
        return Err(Problem::field("currency", detail));
    }
    let items = match fields.get("items") {
        Some(Value::Array(items)) if (1..=ITEMS_MAX).contains(&items.len()) => items,
        Some(Value::Array(items)) => {
            let detail = format!("{} items, not 1 to {ITEMS_MAX}", items.len());
            return Err(Problem::field("items", detail));
        }
        Some(_) => return Err(Problem::field("items", "is no list")),
        None => return Err(Problem::field("items", "is missing")),
    };
    let items = items.iter().enumerate();
    let items = items.map(|(at, item)| read_item(item, &format!("items[{at}]")));
    let items = items.collect::<Result<Vec<_>, _>>()?;
    let total = items.iter().try_fold(0_i64, |total, item| {
        let price = item.quantity.checked_mul(item.unit_price)?;
        total.checked_add(price).filter(|total| *total <= TOTAL_MAX)
    });
    Ok(Place {
        order_id: String::new(),
        user_id,
        currency,
        items,
        total: total
            .ok_or_else(|| Problem::field("items", format!("the total is above {TOTAL_MAX}")))?,
    })
}

fn read_item(item: &Value, place: &str) -> Result<Item, Problem> {
    let Value::Object(fields) = item else {
        return Err(Problem::field(place, "is no JSON object"));
    };
    known(fields, place, &["id", "quantity", "unit_price"])?;
    Ok(Item {
        id: text(fields, place, "id")?,
        quantity: number(fields, place, "quantity", QUANTITY_MAX)?,
        unit_price: number(fields, place, "unit_price", TOTAL_MAX)?,
    })
}

fn named(place: &str, field: &str) -> String {
    if place.is_empty() {
        field.to_owned()
    } else {
        format!("{place}.{field}")
    }
}

fn known(fields: &Map<String, Value>, place: &str, names: &[&str]) -> Result<(), Problem> {
    match fields.keys().find(|name| !names.contains(&name.as_str())) {
        Some(other) => {
            let detail = format!("is unknown; there are {}", names.join(", "));
            Err(Problem::field(named(place, other), detail))
        }
        None => Ok(()),
    }
}

fn text(fields: &Map<String, Value>, place: &str, field: &str) -> Result<String, Problem> {
    let name = named(place, field);
    match fields.get(field) {
        Some(Value::String(text)) => {
            check_text(text, &name).map_err(|detail| Problem::field(&name, detail))?;
            Ok(text.clone())
        }
        Some(_) => Err(Problem::field(name, "is no text")),
        None => Err(Problem::field(name, "is missing")),
    }
}

fn number(
    fields: &Map<String, Value>,
    place: &str,
    field: &str,
    most: i64,
) -> Result<i64, Problem> {
    let name = named(place, field);
    let value = fields
        .get(field)
        .ok_or_else(|| Problem::field(&name, "is missing"))?;
    let number = value.as_i64().filter(|number| (1..=most).contains(number));
    number.ok_or_else(|| {
        let detail = format!("is {value}, not a whole number from 1 to {most}");
        Problem::field(name, detail)
    })
}
