//! The OS service: customers, vehicles, work orders; what it hears from the others moves a work order on. It also watches the course of every
//! saga.

mod operations;
mod registers;
pub(crate) mod sagas;
mod stored;
#[cfg(test)]
mod tests;
mod work_orders;

use std::sync::Arc;

use axum::Router;
use leveret::{
    broker::Broker,
    service::{
        Documents, Kind, Service, ServiceOptions,
        events::{Subscriptions, queue_name, sagas::SagaMessage},
    },
};

pub(crate) use self::operations::operations;
use self::{
    sagas::WorkOrderSagas,
    work_orders::{Fact, Message, WorkOrders},
};
use crate::{
    events::{
        CATALOGUE, ExecutionCompleted, ExecutionFailed, ExecutionStatusChanged, OS,
        PaymentApproved, PaymentFailed, PaymentRejected, QuoteApproved, QuoteCreated,
        QuoteRejected, QuoteSent,
    },
    settings::Settings,
};

/// The kinds of its documents.
pub(crate) fn kinds() -> Vec<Kind> {
    let mut kinds = registers::kinds();
    kinds.push(work_orders::kind());
    kinds.push(WorkOrderSagas::kind());
    kinds
}

/// The queues that it reads.
pub(crate) fn queues() -> Vec<String> {
    let consumed = CATALOGUE.consumed_by(OS);
    let queues = consumed.map(|event| queue_name(OS, event.name));
    queues.chain([sagas::QUEUE.to_owned()]).collect()
}

/// The service.
pub(crate) fn service(
    documents: Arc<dyn Documents>,
    broker: Arc<dyn Broker>,
    settings: &Settings,
) -> anyhow::Result<Service> {
    let mut options = ServiceOptions::new("os", settings.work.now.clone());
    options.topology = CATALOGUE.topology();
    let builder = Service::builder(options, documents, broker);
    let work = settings.work.clone();
    let subscriptions = Subscriptions::new(&CATALOGUE, OS, builder, move |queue| work.apply(queue));
    let builder = subscriptions
        .on(WorkOrders, |event, data: QuoteCreated| {
            let id = data.work_order_id.clone();
            Message::heard::<QuoteCreated>(&event, id, Fact::QuoteCreated)
        })
        .on(WorkOrders, |event, data: QuoteSent| {
            let id = data.work_order_id.clone();
            Message::heard::<QuoteSent>(&event, id, Fact::QuoteSent)
        })
        .on(WorkOrders, |event, data: QuoteApproved| {
            let id = data.work_order_id.clone();
            Message::heard::<QuoteApproved>(&event, id, Fact::QuoteApproved(data))
        })
        .on(WorkOrders, |event, data: QuoteRejected| {
            let id = data.work_order_id.clone();
            Message::heard::<QuoteRejected>(&event, id, Fact::QuoteRejected(data))
        })
        .on(WorkOrders, |event, data: PaymentApproved| {
            let id = data.work_order_id.clone();
            Message::heard::<PaymentApproved>(&event, id, Fact::PaymentApproved(data))
        })
        .on(WorkOrders, |event, data: PaymentRejected| {
            let payment_id = data.payment_id;
            let fact = Fact::NotPaid { payment_id };
            Message::heard::<PaymentRejected>(&event, data.work_order_id, fact)
        })
        .on(WorkOrders, |event, data: PaymentFailed| {
            let payment_id = data.payment_id;
            let fact = Fact::NotPaid { payment_id };
            Message::heard::<PaymentFailed>(&event, data.work_order_id, fact)
        })
        .on(WorkOrders, |event, data: ExecutionStatusChanged| {
            let id = data.work_order_id.clone();
            Message::heard::<ExecutionStatusChanged>(&event, id, Fact::ExecutionMoved(data))
        })
        .on(WorkOrders, |event, data: ExecutionCompleted| {
            let id = data.work_order_id.clone();
            Message::heard::<ExecutionCompleted>(&event, id, Fact::ExecutionCompleted(data))
        })
        .on(WorkOrders, |event, data: ExecutionFailed| {
            let id = data.work_order_id.clone();
            Message::heard::<ExecutionFailed>(&event, id, Fact::ExecutionFailed(data))
        })
        .finish()?;
    let sagas = WorkOrderSagas::new(&settings.patience);
    let mut timeline = sagas::subscription(sagas.clone());
    settings.work.apply(&mut timeline.options);
    Ok(builder
        .subscribe(timeline)
        .deadlines(sagas::KIND, sagas, SagaMessage::due)
        .build())
}

/// Routes that need a token.
pub(crate) fn router(service: &Service, settings: &Settings) -> Router {
    work_orders::router(service)
        .merge(registers::router(service))
        .merge(sagas::router(service, &settings.patience))
}

/// Routes for everybody.
pub(crate) fn public(service: &Service, _settings: &Settings) -> Router {
    work_orders::public_status(service)
}
