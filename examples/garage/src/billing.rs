//! The billing service: quotes and payments, each work order's in one document; parts and services.
//!
//! ```text
//! events of OS and Execution --> bill --> quote.*, payment.*
//!                                 |  ^
//!                 intent with key v  | what came of it
//!                             Mercado Pago
//! ```

mod bill;
mod gateway;
mod http;
mod intent;
mod parts;
mod register;
mod services;
pub(crate) mod signature;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use axum::Router;
use leveret::{
    broker::{Broker, work::WorkOptions},
    service::{
        Documents, Effect, Kind, Of, Service, ServiceOptions,
        events::{Subscriptions, queue_name},
    },
};

#[cfg(test)]
pub(crate) use self::gateway::in_memory::{InMemory, service as in_memory_service};
use self::{
    bill::{Bill, BillMessage, Happened},
    gateway::Gateway,
    intent::GATEWAY_QUEUE,
};
use crate::{
    events::{
        BILLING, CATALOGUE, ExecutionFailed, WorkOrderApproved, WorkOrderCancelled,
        WorkOrderCreated, WorkOrderStatusChanged,
    },
    openapi::Operation,
    settings::Settings,
};

/// The kinds of its documents.
pub(crate) fn kinds() -> Vec<Kind> {
    let bills = Kind::new(bill::KIND, &bill::FIELDS);
    vec![bills, parts::kind(), services::kind()]
}

/// The queues that it reads.
pub(crate) fn queues() -> Vec<String> {
    let events = CATALOGUE.consumed_by(BILLING);
    let mut queues: Vec<String> = events
        .map(|event| queue_name(BILLING, event.name))
        .collect();
    queues.push(GATEWAY_QUEUE.to_owned());
    queues
}

/// The service.
pub(crate) fn service(
    documents: Arc<dyn Documents>,
    broker: Arc<dyn Broker>,
    settings: &Settings,
) -> anyhow::Result<Service> {
    let gateway = Gateway::new(settings)?;
    service_with(documents, broker, settings, gateway)
}

/// The service with a gateway of some kind.
fn service_with(
    documents: Arc<dyn Documents>,
    broker: Arc<dyn Broker>,
    settings: &Settings,
    gateway: impl Effect<Decider = Of<Bill>>,
) -> anyhow::Result<Service> {
    let bills = Of::<Bill>::default;
    let mut options = ServiceOptions::new(BILLING.name, settings.work.now.clone());
    options.topology = CATALOGUE.topology();
    let mut effects = WorkOptions::queue(GATEWAY_QUEUE);
    settings.work.apply(&mut effects);
    let builder = Service::builder(options, documents, broker)
        .effect(effects, gateway, bills())
        .deadlines(bill::KIND, bills(), |due| BillMessage::Due {
            work_order_id: due.key.id.to_string(),
            at: due.at,
        });
    let (work, valid_for) = (settings.work.clone(), settings.patience.quote_valid_for);
    let happened = |happened| BillMessage::Happened(Box::new(happened));
    let subscriptions = Subscriptions::new(&CATALOGUE, BILLING, builder, move |options| {
        work.apply(options);
    })
    .on(bills(), move |event, data: WorkOrderCreated| {
        happened(Happened::created(&event, data, valid_for))
    })
    .on(bills(), move |event, data: WorkOrderStatusChanged| {
        happened(Happened::status_changed(&event, data))
    })
    .on(bills(), move |event, data: WorkOrderApproved| {
        happened(Happened::approved(&event, data))
    })
    .on(bills(), move |event, data: WorkOrderCancelled| {
        happened(Happened::cancelled(&event, data))
    })
    .on(bills(), move |event, data: ExecutionFailed| {
        happened(Happened::execution_failed(&event, data))
    });
    Ok(subscriptions.finish()?.build())
}

/// How long a quote is valid that says nothing else.
#[derive(Clone, Copy, Debug)]
struct QuoteValidFor(Duration);

/// Routes that need a token.
pub(crate) fn router(service: &Service, settings: &Settings) -> Router {
    let valid_for = QuoteValidFor(settings.patience.quote_valid_for);
    http::router(service)
        .layer(axum::Extension(valid_for))
        .merge(parts::router(service))
        .merge(services::router(service))
}

/// Routes for everybody.
pub(crate) fn public(service: &Service, settings: &Settings) -> Router {
    http::public(service, settings)
}

/// What it can be asked.
pub(crate) fn operations() -> Vec<Operation> {
    let mut operations = http::operations();
    operations.extend(parts::operations());
    operations.extend(services::operations());
    operations
}
