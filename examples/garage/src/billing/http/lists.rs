//! Lists of quotes and of payments, which are several in a bill: newest bills first, and newest first in each.

use std::sync::Arc;

use axum::{
    http::{HeaderValue, StatusCode},
    response::Response,
};
use leveret::service::{
    Service,
    documents::{Document, Order, Query},
};
use serde_json::{Value, json};

use super::{Answer, answer, own, read};
use crate::{
    auth::{Caller, Role},
    billing::bill::{BillState, CUSTOMER, HAS, KIND},
    failure::Failure,
    ids::Id,
    request::Params,
};

/// How many items a list has unless it is said, and at most.
const LIMIT_DEFAULT: u32 = 100;
const LIMIT_MAX: u32 = 500;

/// Where a list goes on: behind a bill, but for some items of the one that follows.
#[derive(Clone, Debug, Default, PartialEq)]
struct Cursor {
    /// So many items of this bill are behind, and all bills before it.
    within: Option<(usize, Id)>,
    /// Behind this place in the list of bills, or before it where bills have come in the meantime.
    after: Option<Arc<str>>,
}

impl Cursor {
    /// `ITEMS.BILL.PLACE`, each but the points may be empty.
    fn parse(text: &str) -> Option<Cursor> {
        let (items, rest) = text.split_once('.')?;
        let (bill, place) = rest.split_once('.')?;
        let within = match (items, bill) {
            ("", "") => None,
            (items, bill) => Some((items.parse().ok()?, Id::parse(bill)?)),
        };
        Some(Cursor {
            within,
            after: (!place.is_empty()).then(|| place.into()),
        })
    }

    fn text(&self) -> String {
        let within = self.within.as_ref();
        let within = within.map(|(items, bill)| (items.to_string(), bill.as_str()));
        let (items, bill) = within.unwrap_or_default();
        format!(
            "{items}.{bill}.{}",
            self.after.as_deref().unwrap_or_default()
        )
    }
}

/// A list of what bills have, for somebody.
pub(super) async fn list(
    service: &Service,
    caller: &Caller,
    params: Params,
    has: &'static str,
    items: impl Fn(&BillState) -> Vec<Value>,
) -> Answer {
    let params = params.known(&["limit", "after"])?;
    let limit = limit(&params)?;
    let cursor = params.get("after").map(|text| {
        let unknown = || Failure::bad_request("after is no x-next of this list");
        Cursor::parse(text).ok_or_else(unknown)
    });
    let cursor = cursor.transpose()?.unwrap_or_default();
    let mut filter = vec![(Arc::from(HAS), Arc::from(has))];
    if caller.role == Role::Customer {
        filter.push((CUSTOMER.into(), caller.sub.as_str().into()));
    }
    let mut query = Query {
        kind: KIND.into(),
        filter,
        order: Order::Newest,
        after: cursor.after.clone(),
        limit,
    };
    let page = service.documents().list(&query).await?;
    let (documents, mut skip) = rest(&page.documents, &cursor);
    let mut shown = Vec::new();
    let mut next = page.next.map(|after| Cursor {
        within: None,
        after: Some(after),
    });
    for (at, document) in documents.iter().enumerate() {
        let Some(state) = read(document)? else {
            continue;
        };
        let room = limit as usize - shown.len();
        let of_bill = items(&state);
        let used = (skip + room).min(of_bill.len());
        let is_whole = used == of_bill.len();
        shown.extend(of_bill.into_iter().take(used).skip(skip));
        skip = 0;
        if is_whole && (shown.len() < limit as usize || at + 1 == documents.len()) {
            continue;
        }
        let before = page.documents.len() - documents.len() + at;
        if let Ok(before @ 1..) = u32::try_from(before) {
            query.limit = before;
            query.after = service.documents().list(&query).await?.next;
        }
        next = Some(Cursor {
            within: Some((used, state.work_order_id)),
            after: query.after.clone(),
        });
        break;
    }
    Ok(paged(&shown, next.map(|next| next.text())))
}

/// The documents from which a list goes on, and how many items of the first one are behind.
fn rest<'a>(documents: &'a [Document], cursor: &Cursor) -> (&'a [Document], usize) {
    let Some((items, bill)) = &cursor.within else {
        return (documents, 0);
    };
    let mut all = documents.iter();
    match all.position(|document| &*document.key.id == bill.as_str()) {
        Some(at) => (&documents[at..], *items),
        None => (documents, 0),
    }
}

/// What the bill of a work order has, if there is one.
pub(super) fn of_bill(
    caller: &Caller,
    state: Option<&BillState>,
    items: impl Fn(&BillState) -> Vec<Value>,
) -> Answer {
    let Some(state) = state else {
        return Ok(paged(&[], None));
    };
    own(caller, state)?;
    Ok(paged(&items(state), None))
}

/// An array, with where it goes on.
pub(in crate::billing) fn paged(shown: &[Value], next: Option<String>) -> Response {
    let mut response = answer(StatusCode::OK, &json!(shown));
    if let Some(next) = next.and_then(|next| HeaderValue::from_str(&next).ok()) {
        response.headers_mut().insert("x-next", next);
    }
    response
}

pub(in crate::billing) fn limit(params: &Params) -> Result<u32, Failure> {
    let Some(text) = params.get("limit") else {
        return Ok(LIMIT_DEFAULT);
    };
    let limit = text.parse().ok();
    let limit = limit.filter(|limit| (1..=LIMIT_MAX).contains(limit));
    limit.ok_or_else(|| Failure::bad_request(format!("limit is 1 to {LIMIT_MAX}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors() {
        let bill = Id::derived(&["test"]);
        for cursor in [
            Cursor::default(),
            Cursor {
                within: None,
                after: Some("17:a.b".into()),
            },
            Cursor {
                within: Some((3, bill)),
                after: None,
            },
        ] {
            assert_eq!(Cursor::parse(&cursor.text()), Some(cursor));
        }
        for bad in ["", "1", "1.2", "1..", "x.y.z", ".7."] {
            assert_eq!(Cursor::parse(bad), None, "{bad}");
        }
    }
}
