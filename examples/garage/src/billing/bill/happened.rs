//! What happened elsewhere, and what it means to a bill.
//!
//! | event | work order unknown | known | ended |
//! |---|---|---|---|
//! | `work-order.created` | a quote, if the cost is estimated | nothing | no quote |
//! | `work-order.status-changed` | waits | read model, if it is newer | the same |
//! | `work-order.approved` | waits | approves the live quote; waits while there is none | nothing |
//! | `work-order.cancelled` | ended from the beginning | ended | nothing |
//! | `execution.failed` | waits | ended | nothing |

use std::time::Duration;

use leveret::{
    core::{event::Event, time::Timestamp},
    service::{Next, Refusal, events::Cause},
};

use super::{BillState, Item, NewQuote, Telling};
use crate::{
    events::{
        ExecutionFailed, WorkOrderApproved, WorkOrderCancelled, WorkOrderCreated,
        WorkOrderStatusChanged,
    },
    ids::Id,
    statuses::WorkOrderStatus,
};

/// An event of another service.
#[derive(Clone, Debug)]
pub(crate) struct Happened {
    cause: Cause,
    /// Of the aggregate that the event is about.
    version: u64,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    /// The quote that is made of it is valid for so long.
    Created(WorkOrderCreated, Duration),
    StatusChanged(WorkOrderStatusChanged),
    Approved(WorkOrderApproved),
    Cancelled(WorkOrderCancelled),
    ExecutionFailed(ExecutionFailed),
}

impl Happened {
    fn new(event: &Event, what: What) -> Happened {
        Happened {
            cause: Cause::of(event),
            version: event.aggregate.version,
            what,
        }
    }

    /// A quote that is made of it is valid for so long.
    pub(crate) fn created(event: &Event, data: WorkOrderCreated, valid_for: Duration) -> Happened {
        Happened::new(event, What::Created(data, valid_for))
    }

    pub(crate) fn status_changed(event: &Event, data: WorkOrderStatusChanged) -> Happened {
        Happened::new(event, What::StatusChanged(data))
    }

    pub(crate) fn approved(event: &Event, data: WorkOrderApproved) -> Happened {
        Happened::new(event, What::Approved(data))
    }

    pub(crate) fn cancelled(event: &Event, data: WorkOrderCancelled) -> Happened {
        Happened::new(event, What::Cancelled(data))
    }

    pub(crate) fn execution_failed(event: &Event, data: ExecutionFailed) -> Happened {
        Happened::new(event, What::ExecutionFailed(data))
    }

    pub(super) fn work_order_id(&self) -> &Id {
        match &self.what {
            What::Created(data, _) => &data.work_order_id,
            What::StatusChanged(data) => &data.work_order_id,
            What::Approved(data) => &data.work_order_id,
            What::Cancelled(data) => &data.work_order_id,
            What::ExecutionFailed(data) => &data.work_order_id,
        }
    }
}

pub(super) fn decide(
    state: Option<BillState>,
    happened: &Happened,
    now: Timestamp,
) -> Result<Next<BillState>, Refusal> {
    let Happened {
        cause,
        version,
        what,
    } = happened;
    let telling = |state| Telling::new(state, cause.clone(), now);
    match what {
        What::Created(data, valid_for) => {
            let state =
                state.unwrap_or_else(|| BillState::new(&data.work_order_id, data.customer_id));
            created(telling(state), *version, data, *valid_for)
        }
        What::Cancelled(data) => {
            let state =
                state.unwrap_or_else(|| BillState::new(&data.work_order_id, data.customer_id));
            cancelled(telling(state), *version, data)
        }
        What::StatusChanged(data) => {
            status_changed(telling(known(state, *version)?), *version, data)
        }
        What::Approved(_) => approved(telling(known(state, *version)?), *version),
        What::ExecutionFailed(data) => {
            let mut bill = telling(known(state, *version)?);
            if bill.state.ended.is_some() {
                return Err(Refusal::stale("the work order has ended"));
            }
            bill.end(&data.reason);
            Ok(bill.next())
        }
    }
}

/// The bill of a work order that is known; until it is, the event waits.
fn known(state: Option<BillState>, version: u64) -> Result<BillState, Refusal> {
    let known = state.filter(|state| state.created);
    known.ok_or_else(|| early(version, "the work order is not known yet"))
}

fn early(order: u64, reason: &str) -> Refusal {
    Refusal::Early {
        order,
        reason: reason.to_owned(),
    }
}

fn created(
    mut bill: Telling,
    version: u64,
    data: &WorkOrderCreated,
    valid_for: Duration,
) -> Result<Next<BillState>, Refusal> {
    if bill.state.created {
        return Err(Refusal::stale("the work order is known"));
    }
    bill.state.created = true;
    bill.state.customer_id = data.customer_id;
    bill.state.see(WorkOrderStatus::Pending, version);
    // A charge of nothing is never made: staff quotes what costs nothing, or what nobody has estimated.
    let estimated = data.estimated_cost.filter(|cost| cost.0 > 0);
    if let (Some(cost), None) = (estimated, &bill.state.ended) {
        let quote = NewQuote {
            id: Id::derived(&["quote", data.work_order_id.as_str()]),
            customer_id: data.customer_id,
            items: vec![Item::diagnosis(&data.description, cost)],
            total: cost,
            valid_until: bill.now + valid_for,
            metadata: None,
        };
        bill.quote(&quote)?;
    }
    Ok(bill.next())
}

fn status_changed(
    mut bill: Telling,
    version: u64,
    data: &WorkOrderStatusChanged,
) -> Result<Next<BillState>, Refusal> {
    if !bill.state.see(data.new_status, version) {
        return Err(Refusal::stale("a newer status is known"));
    }
    Ok(bill.next())
}

fn approved(mut bill: Telling, version: u64) -> Result<Next<BillState>, Refusal> {
    let state = &bill.state;
    if state.ended.is_some() {
        return Err(Refusal::stale("the work order has ended"));
    }
    match state.live_quote() {
        Some(at) => bill.approve_at(at),
        None if state.quotes.is_empty() => {
            return Err(early(version, "there is no quote yet"));
        }
        None => return Err(Refusal::stale("no quote waits for an answer")),
    }
    Ok(bill.next())
}

fn cancelled(
    mut bill: Telling,
    version: u64,
    data: &WorkOrderCancelled,
) -> Result<Next<BillState>, Refusal> {
    let is_news = bill.state.see(WorkOrderStatus::Cancelled, version);
    if !is_news && bill.state.ended.is_some() {
        return Err(Refusal::stale("the work order is known to be cancelled"));
    }
    let reason = data.reason.as_deref();
    bill.end(reason.unwrap_or("the work order is cancelled"));
    Ok(bill.next())
}

impl BillState {
    /// Keeps a status of the work order, if it is news.
    fn see(&mut self, status: WorkOrderStatus, version: u64) -> bool {
        let is_news = version > self.work_order_version;
        if is_news {
            self.work_order_version = version;
            self.work_order = status;
        }
        is_news
    }
}
