//! Customers and their vehicles, each with a whole number for an id.
//!
//! - **A document and a plate are there once**: an index document is put in the commit of what it is about.
//! - **Nothing is taken away that something else needs**: a customer counts his vehicles, and both count the work orders that were opened for them,
//!   so that a commit notices what came between a look and a removal.

mod customers;
mod http;
mod vehicles;

use leveret::{
    core::time::Timestamp,
    service::{Aggregate, Change, Key, Kind, Next, Refusal, View},
};
use serde::{Deserialize, Serialize};

pub(crate) use self::{
    customers::{StoredCustomer, customer_key},
    http::router,
    vehicles::{StoredVehicle, vehicle_key},
};
use crate::{
    failure::CONFLICT,
    request::{Keyed, Seen, Served},
};

/// The kinds of their documents.
const CUSTOMER: &str = "customer";
const CUSTOMER_DOCUMENT: &str = "customer-document";
const VEHICLE: &str = "vehicle";
const VEHICLE_PLATE: &str = "vehicle-plate";
const COUNTER: &str = "counter";
const REQUEST: &str = "register-request";
/// What vehicles are found by.
const OWNER: &str = "owner";

/// The code of a refusal because something came between the look and the decision.
const CHANGED: &str = "changed";

/// The kinds of their documents, declared.
pub(crate) fn kinds() -> Vec<Kind> {
    vec![
        Kind::new(CUSTOMER, &[]),
        Kind::new(CUSTOMER_DOCUMENT, &[]),
        Kind::new(VEHICLE, &[OWNER]),
        Kind::new(VEHICLE_PLATE, &[]),
        Kind::new(COUNTER, &[]),
        Kind::new(REQUEST, &[]),
    ]
}

/// A document's or plate's letters and digits, in capitals: what makes it the same as another one.
pub(crate) fn normal(text: &str) -> String {
    let letters = text.chars().filter(|letter| letter.is_alphanumeric());
    letters.flat_map(char::to_uppercase).collect()
}

/// Gives out numbers, each once; one that is not used then is missing.
struct Numbers;

impl Aggregate for Numbers {
    const KIND: &'static str = COUNTER;
    type State = i64;
    /// Of what.
    type Message = &'static str;

    fn id(message: &&'static str) -> String {
        (*message).to_owned()
    }

    fn decide(state: Option<i64>, _: &&'static str, _: Timestamp) -> Result<Next<i64>, Refusal> {
        Ok(Next::state(state.unwrap_or(0) + 1))
    }
}

/// What an index document names.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Named {
    id: i64,
}

/// What a request with a key has made.
#[derive(Debug, Serialize, Deserialize)]
struct Made {
    id: i64,
    served: Served,
}

fn request_key(kind: &str, keyed: &Keyed) -> Key {
    Key::new(REQUEST, keyed.id(kind).as_str())
}

/// What a request with a key has made before, if it has.
fn made_before(
    documents: &View<'_>,
    kind: &str,
    keyed: Option<&Keyed>,
) -> Result<Option<i64>, Refusal> {
    let Some(keyed) = keyed else { return Ok(None) };
    let made: Option<Made> = documents.state(&request_key(kind, keyed))?;
    let Some(made) = made else { return Ok(None) };
    match made.served.look(Some(keyed)) {
        Seen::Again => Ok(Some(made.id)),
        Seen::New | Seen::Other => {
            let reason = "This Idempotency-Key belongs to another request";
            Err(Refusal::rejected(CONFLICT, reason))
        }
    }
}

/// Keeps what a request with a key has made.
fn remember(kind: &str, keyed: Option<&Keyed>, id: i64) -> Option<Change> {
    let keyed = keyed?;
    let mut served = Served::default();
    served.keep(Some(keyed));
    let made = Made { id, served };
    Some(Change::set(request_key(kind, keyed), &made, []))
}

/// Refuses when the document is not the one that was seen.
fn check_seen(documents: &View<'_>, key: &Key, seen: u64) -> Result<(), Refusal> {
    let document = documents.document(key);
    if document.map_or(0, |document| document.version) == seen {
        return Ok(());
    }
    let reason = "It is being changed by others; try again";
    Err(Refusal::rejected(CHANGED, reason))
}
