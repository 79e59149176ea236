//! The course of every work order across the services: what has happened, who has reacted, what is missing and late.

use std::time::Duration;

use axum::{Json, Router, extract::State as Shared, response::Response, routing::get};
use leveret::{
    core::{event::Event, time::Timestamp},
    service::{
        Decider, Decision, Input, Key, Refusal, Service, Subscription, View,
        events::{
            EventData, envelope,
            sagas::{Course, Expectation, Rules, STATE, SagaMessage, Sagas, State},
        },
    },
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{stored, work_orders};
use crate::{
    auth::Admin,
    events::{
        CATALOGUE, ExecutionCompleted, ExecutionCreated, ExecutionFailed, ExecutionStatusChanged,
        PaymentApproved, PaymentRefundFailed, PaymentRefunded, QuoteApproved, QuoteCreated,
        QuoteRejected, WorkOrderCancelled, WorkOrderCreated, check,
    },
    failure::Failure,
    ids::Id,
    request::{Params, PathId},
    settings::PatienceArgs,
};

/// The kind of their documents.
pub(crate) const KIND: &str = "saga";
/// The queue that takes every event.
pub(crate) const QUEUE: &str = "os-saga-timeline";

/// How long services may take to react when nobody decides in between.
const REACTION: Duration = Duration::from_secs(300);

/// What is expected of a work order.
fn rules(patience: &PatienceArgs) -> Rules {
    let valid_for = patience.quote_valid_for;
    Rules::new()
        .end(WorkOrderCancelled::TYPE, "cancelled")
        .end(ExecutionCompleted::TYPE, "completed")
        .expect(
            Expectation::new(
                "quote",
                WorkOrderCreated::TYPE,
                &[QuoteCreated::TYPE],
                REACTION,
                "there is no quote",
            )
            // Without an estimate somebody at the garage has to make it.
            .within(move |event| {
                if has_estimate(event) {
                    REACTION
                } else {
                    valid_for
                }
            }),
        )
        .expect(Expectation::new(
            "quote-decision",
            QuoteCreated::TYPE,
            &[QuoteApproved::TYPE, QuoteRejected::TYPE],
            valid_for + REACTION,
            "the quote is neither approved nor rejected, and has not expired",
        ))
        .expect(Expectation::new(
            "payment",
            QuoteApproved::TYPE,
            &[PaymentApproved::TYPE],
            patience.payment_within,
            "the approved quote is not paid",
        ))
        .expect(
            Expectation::new(
                "execution",
                PaymentApproved::TYPE,
                &[ExecutionCompleted::TYPE, ExecutionFailed::TYPE],
                patience.execution_idle,
                "the execution stands still",
            )
            .restarted_by(&[ExecutionCreated::TYPE, ExecutionStatusChanged::TYPE]),
        )
        .expect(
            Expectation::new(
                "refund",
                WorkOrderCancelled::TYPE,
                &[PaymentRefunded::TYPE, PaymentRefundFailed::TYPE],
                REACTION,
                "the payment of a cancelled work order is not refunded",
            )
            .and_after(PaymentApproved::TYPE)
            .outlives_the_end(),
        )
        .expect(
            Expectation::new(
                "refund-settled",
                PaymentRefundFailed::TYPE,
                &[PaymentRefunded::TYPE],
                Duration::ZERO,
                "",
            )
            .because(refund_failed)
            .outlives_the_end(),
        )
        .expect(
            Expectation::new(
                "execution-stopped",
                WorkOrderCancelled::TYPE,
                &[ExecutionFailed::TYPE, ExecutionCompleted::TYPE],
                REACTION,
                "the execution of a cancelled work order is not stopped",
            )
            .and_after(ExecutionCreated::TYPE)
            .outlives_the_end(),
        )
}

fn data<D: for<'de> Deserialize<'de>>(event: &Event) -> Option<D> {
    serde_json::from_str(event.data.text()).ok()
}

fn has_estimate(event: &Event) -> bool {
    data::<WorkOrderCreated>(event).is_some_and(|data| data.estimated_cost.is_some())
}

fn refund_failed(event: &Event) -> String {
    data::<PaymentRefundFailed>(event).map_or_else(String::new, |data| {
        format!("payment.refund-failed: {}", data.error)
    })
}

/// Watches the sagas of work orders: an event in the course of none is malformed.
#[derive(Clone, Debug)]
pub(crate) struct WorkOrderSagas(Sagas);

impl WorkOrderSagas {
    pub(crate) fn new(patience: &PatienceArgs) -> WorkOrderSagas {
        WorkOrderSagas(Sagas::new(KIND, rules(patience)))
    }

    /// The kind of its documents, declared.
    pub(crate) fn kind() -> leveret::service::Kind {
        Sagas::new(KIND, Rules::new()).kind()
    }
}

fn work_order_key(event: &Event) -> Option<Key> {
    Id::parse(&event.correlation_id).map(|id| work_orders::key(&id))
}

impl Decider for WorkOrderSagas {
    type Message = SagaMessage;
    type Answer = Course;

    fn keys(&self, message: &SagaMessage) -> Vec<Key> {
        let mut keys = self.0.keys(message);
        if let SagaMessage::Happened(event) = message {
            keys.extend(work_order_key(event));
        }
        keys
    }

    fn decide(
        &self,
        documents: &View<'_>,
        message: &SagaMessage,
        now: Timestamp,
    ) -> Result<Decision<Course>, Refusal> {
        if let SagaMessage::Happened(event) = message {
            let document = work_order_key(event).and_then(|key| documents.document(&key));
            if document.is_none_or(|document| document.state.is_none()) {
                let id = &event.correlation_id;
                let reason = format!("`correlationId` is no work order: {id} not found");
                return Err(Refusal::malformed(reason));
            }
        }
        self.0.decide(documents, message, now)
    }
}

/// The queue of all events.
pub(crate) fn subscription(sagas: WorkOrderSagas) -> Subscription<WorkOrderSagas> {
    let subscription = Subscription::queue(QUEUE, sagas, |message| {
        let event = envelope(message)?;
        check(&event)?;
        let identity = event.event_id.clone();
        let happened = SagaMessage::Happened(Box::new(event));
        Ok(Input::known_by(happened, identity))
    });
    subscription.bind(CATALOGUE.exchange, "#")
}

#[derive(Clone)]
struct Api {
    service: Service,
    sagas: Sagas,
}

/// `/sagas`: an administrator's.
pub(crate) fn router(service: &Service, patience: &PatienceArgs) -> Router {
    let api = Api {
        service: service.clone(),
        sagas: WorkOrderSagas::new(patience).0,
    };
    Router::new()
        .route("/sagas", get(list))
        .route("/sagas/{correlation_id}", get(show))
        .with_state(api)
}

async fn show(
    Shared(Api { service, sagas }): Shared<Api>,
    _: Admin,
    PathId(id): PathId,
) -> Result<Json<Value>, Failure> {
    let course: Option<Course> = stored::load(&service, &sagas.key(id.as_str())).await?;
    let course = course.ok_or_else(|| Failure::not_found(format!("Saga {id} not found")))?;
    Ok(Json(named(course.shown(sagas.rules(), service.now()))))
}

async fn list(
    Shared(Api { service, sagas }): Shared<Api>,
    _: Admin,
    params: Params,
) -> Result<Response, Failure> {
    let params = params.known(&["state", "limit", "after"])?;
    let filter = match params.get("state") {
        None => Vec::new(),
        Some(word) => {
            let state = State::parse(word)
                .ok_or_else(|| Failure::bad_request("state is one of running, ended, stuck"))?;
            vec![(STATE, state.as_str().to_owned())]
        }
    };
    let now = service.now();
    stored::list(&service, KIND, filter, &params, |document| {
        let course: Course = stored::read(document)?;
        Ok(named(course.summary(sagas.rules(), now)))
    })
    .await
}

/// A saga is known by its work order.
fn named(mut shown: Value) -> Value {
    shown["workOrderId"] = json!(shown["correlationId"]);
    shown
}
