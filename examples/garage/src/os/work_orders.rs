//! Work orders: from the customer's request to the vehicle's delivery. Their status follows requests and the events of the other services;
//! whatever comes late, twice or in another order, it ends the same.

mod decide;
mod http;
mod order;
mod requests;

use leveret::service::{Key, Kind};

#[cfg(test)]
pub(crate) use self::order::Stored;
pub(crate) use self::{
    decide::{Fact, Message, WorkOrders},
    http::{public_status, router},
    order::WorkOrder,
};

/// The kind of their documents.
pub(crate) const KIND: &str = "work-order";
/// What they are found by.
pub(crate) const STATUS: &str = "status";
pub(crate) const CUSTOMER: &str = "customer";
pub(crate) const VEHICLE: &str = "vehicle";
/// The same, as long as nothing has ended them.
pub(crate) const OPEN_CUSTOMER: &str = "open_customer";
pub(crate) const OPEN_VEHICLE: &str = "open_vehicle";

/// The kind of their documents, declared.
pub(crate) fn kind() -> Kind {
    let fields = [STATUS, CUSTOMER, VEHICLE, OPEN_CUSTOMER, OPEN_VEHICLE];
    Kind::new(KIND, &fields)
}

/// The document of one.
pub(crate) fn key(id: &crate::ids::Id) -> Key {
    Key::new(KIND, id.as_str())
}
