//! Looking at what is stored: one document, or a page of a list.

use axum::{
    Json,
    http::{HeaderValue, StatusCode},
    response::{IntoResponse, Response},
};
use leveret::service::{
    Key, Service,
    documents::{Document, Order, Query},
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{failure::Failure, request::Params};

/// How many a list has unless it is said, and at most.
const LIMIT_DEFAULT: u32 = 100;
const LIMIT_MAX: u32 = 500;

/// The state of a document, if it has one.
pub(crate) async fn load<S: DeserializeOwned>(
    service: &Service,
    key: &Key,
) -> Result<Option<S>, Failure> {
    Ok(load_seen(service, key).await?.map(|(state, _)| state))
}

/// The same with the version that it had.
pub(crate) async fn load_seen<S: DeserializeOwned>(
    service: &Service,
    key: &Key,
) -> Result<Option<(S, u64)>, Failure> {
    let loaded = service.documents().load(std::slice::from_ref(key)).await?;
    let document = &loaded[0];
    let state = document
        .state
        .as_ref()
        .map(|_| read(document))
        .transpose()?;
    Ok(state.map(|state| (state, document.version)))
}

/// The state of a document that has one.
pub(crate) fn read<S: DeserializeOwned>(document: &Document) -> Result<S, Failure> {
    let text = document.state.as_ref().map_or("null", |state| state.text());
    serde_json::from_str(text).map_err(|error| {
        let Key { kind, id } = &document.key;
        tracing::error!(%error, "the stored state of {kind} '{id}' cannot be read");
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "Internal server error")
    })
}

/// A page of a list, newest first; the header `x-next` has the cursor of the next one.
pub(crate) async fn list(
    service: &Service,
    kind: &str,
    filter: Vec<(&str, String)>,
    params: &Params,
    show: impl Fn(&Document) -> Result<Value, Failure>,
) -> Result<Response, Failure> {
    let limit = match params.get("limit") {
        None => LIMIT_DEFAULT,
        Some(text) => {
            let limit = text.parse().ok();
            let limit = limit.filter(|limit| (1..=LIMIT_MAX).contains(limit));
            limit.ok_or_else(|| {
                Failure::bad_request(format!("limit is a whole number from 1 to {LIMIT_MAX}"))
            })?
        }
    };
    let filter = filter.into_iter();
    let query = Query {
        kind: kind.into(),
        filter: filter
            .map(|(field, value)| (field.into(), value.into()))
            .collect(),
        order: Order::Newest,
        after: params.get("after").map(Into::into),
        limit,
    };
    let page = service.documents().list(&query).await?;
    let shown = page.documents.iter().map(show);
    let shown = shown.collect::<Result<Vec<_>, _>>()?;
    let mut response = Json(shown).into_response();
    if let Some(next) = page.next
        && let Ok(next) = HeaderValue::from_str(&next)
    {
        response.headers_mut().insert("x-next", next);
    }
    Ok(response)
}

/// A whole number from 1 among the parameters.
pub(crate) fn number(params: &Params, name: &str) -> Result<Option<i64>, Failure> {
    let Some(text) = params.get(name) else {
        return Ok(None);
    };
    let number = text.parse().ok().filter(|number| *number > 0);
    let failure = || Failure::bad_request(format!("{name} is no whole number from 1"));
    number.ok_or_else(failure).map(Some)
}
