//! The execution service: what is diagnosed and repaired, by whom, and in which turn.
//!
//! One document a work order, made by whichever comes first of `quote.approved`, `payment.approved` and `POST /executions`; nothing is done to it
//! before it is paid. A work order that is cancelled first never gets one.

mod decide;
mod http;
mod state;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use leveret::{
    broker::Broker,
    service::{
        Documents, Key, Kind, Of, Service, ServiceOptions,
        events::{Subscriptions, queue_name},
    },
};

pub(crate) use self::http::{operations, router};
use self::{
    decide::{Executions, Message},
    state::{ACTIVE, CREATED, KIND, STATUS},
};
use crate::{
    events::{
        CATALOGUE, EXECUTION, PaymentApproved, QuoteApproved, WorkOrderCancelled,
        WorkOrderStatusChanged,
    },
    ids::Id,
    settings::Settings,
};

/// The document of a work order's execution.
pub(crate) fn key_of_work_order(id: &Id) -> Key {
    state::key_of(&state::id_of(id))
}

/// The kinds of its documents.
pub(crate) fn kinds() -> Vec<Kind> {
    vec![Kind::new(KIND, &[CREATED, ACTIVE, STATUS])]
}

/// The queues that it reads.
pub(crate) fn queues() -> Vec<String> {
    let consumed = CATALOGUE.consumed_by(EXECUTION);
    consumed
        .map(|event| queue_name(EXECUTION, event.name))
        .collect()
}

/// The service.
pub(crate) fn service(
    documents: Arc<dyn Documents>,
    broker: Arc<dyn Broker>,
    settings: &Settings,
) -> anyhow::Result<Service> {
    let mut options = ServiceOptions::new(EXECUTION.name, settings.work.now.clone());
    options.topology = CATALOGUE.topology();
    let builder = Service::builder(options, documents, broker);
    let work = settings.work.clone();
    let executions = Of::<Executions>::default;
    let subscriptions = Subscriptions::new(&CATALOGUE, EXECUTION, builder, move |queue| {
        work.apply(queue);
    })
    .on::<QuoteApproved, _>(executions(), Message::QuoteApproved)
    .on::<PaymentApproved, _>(executions(), Message::PaymentApproved)
    .on::<WorkOrderCancelled, _>(executions(), Message::WorkOrderCancelled)
    .on::<WorkOrderStatusChanged, _>(executions(), Message::WorkOrderStatusChanged);
    Ok(subscriptions.finish()?.build())
}
