//! The inventory service: keeps stock, reserves all of an order or nothing.

mod http;

use std::{collections::BTreeMap, sync::Arc};

use leveret::{
    broker::{Broker, Message},
    core::time::Timestamp,
    service::{
        Change, Decider, Decision, Documents, Input, Key, Kind, Publish, Refusal, ReplyTo, Service,
        ServiceOptions, Subscription, View,
    },
};
use serde::{Deserialize, Serialize};

pub(crate) use self::http::router;
use crate::{
    settings::Work,
    wire::{self, INVENTORY_QUEUE, Id, ORDER_QUEUE, Quantity, ReserveRequest, ResultStatus},
};

const STOCK: &str = "stock";
const RESERVATION: &str = "reservation";

/// The kinds of documents of this service.
pub(crate) fn kinds() -> Vec<Kind> {
    vec![Kind::new(STOCK, &[]), Kind::new(RESERVATION, &[])]
}

/// The service.
pub(crate) fn service(
    documents: Arc<dyn Documents>,
    broker: Arc<dyn Broker>,
    work: &Work,
) -> Service {
    let mut options = ServiceOptions::new("inventory", work.now.clone());
    options.topology = wire::topology();
    let requests = Subscription::queue(INVENTORY_QUEUE, Inventory, |message| {
        let input = wire::reserve_request(message)?;
        Ok(Input {
            message: StockMessage::Reserve {
                request: input.message,
                answer_to: answer_to(message),
            },
            identity: input.identity,
        })
    });
    Service::builder(options, documents, broker)
        .subscribe(work.on(requests))
        .build()
}

/// Where the answer to a request goes: to who asked, else to the order queue.
pub(crate) fn answer_to(message: &Message) -> ReplyTo {
    ReplyTo::of(message).unwrap_or_else(|| ReplyTo {
        queue: ORDER_QUEUE.into(),
        correlation_id: leveret::service::decider::correlation_of(message),
    })
}

/// What is there of an item.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct StockState {
    pub(crate) quantity: i64,
    pub(crate) reserved: i64,
}

/// What became of an order's request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct ReservationState {
    order_id: Id,
    items: Vec<Quantity>,
    status: ResultStatus,
}

/// What is decided upon.
#[derive(Clone, Debug)]
pub(crate) enum StockMessage {
    /// Keep stock for an order.
    Reserve {
        request: ReserveRequest,
        answer_to: ReplyTo,
    },
    /// So many of an item are there.
    Set { item: String, quantity: i64 },
}

/// The decider.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inventory;

/// The document of an item.
pub(crate) fn stock(item: &str) -> Key {
    Key::new(STOCK, item)
}

/// The document of what became of a request.
fn reservation(request: &ReserveRequest) -> Key {
    Key::new(RESERVATION, request.order_id.text())
}

impl Decider for Inventory {
    type Message = StockMessage;
    type Answer = StockState;

    fn keys(&self, message: &StockMessage) -> Vec<Key> {
        match message {
            StockMessage::Set { item, .. } => vec![stock(item)],
            StockMessage::Reserve { request, .. } => {
                let wanted = wanted(&request.items);
                let items = wanted.keys().map(|item| stock(item));
                [reservation(request)].into_iter().chain(items).collect()
            }
        }
    }

    fn decide(
        &self,
        documents: &View<'_>,
        message: &StockMessage,
        _now: Timestamp,
    ) -> Result<Decision<StockState>, Refusal> {
        match message {
            StockMessage::Set { item, quantity } => set(documents, item, *quantity),
            StockMessage::Reserve { request, answer_to } => reserve(documents, request, answer_to),
        }
    }

    fn again(&self, documents: &View<'_>, message: &StockMessage) -> Result<Vec<Publish>, Refusal> {
        let StockMessage::Reserve { request, answer_to } = message else {
            return Ok(Vec::new());
        };
        let settled = documents.state::<ReservationState>(&reservation(request))?;
        let settled = settled.filter(|settled| settled.items == request.items);
        let answers = settled.iter().map(|settled| answer(settled, answer_to));
        Ok(answers.collect())
    }
}

fn set(documents: &View<'_>, item: &str, quantity: i64) -> Result<Decision<StockState>, Refusal> {
    let mut state: StockState = documents.state(&stock(item))?.unwrap_or_default();
    if quantity < state.reserved {
        let reserved = state.reserved;
        return Err(Refusal::rejected(
            "below-reserved",
            format!("`quantity` is {quantity}, and {reserved} are reserved"),
        ));
    }
    state.quantity = quantity;
    Ok(Decision {
        put: vec![Change::set(stock(item), &state, [])],
        ..Decision::answer(state)
    })
}

/// All of it or nothing. Whoever asks again is told what was settled.
fn reserve(
    documents: &View<'_>,
    request: &ReserveRequest,
    answer_to: &ReplyTo,
) -> Result<Decision<StockState>, Refusal> {
    let key = reservation(request);
    if let Some(settled) = documents.state::<ReservationState>(&key)? {
        if settled.items != request.items {
            return Err(Refusal::rejected(
                "other-items",
                "the order has a reservation of other items",
            ));
        }
        let answer = answer(&settled, answer_to);
        return Ok(Decision {
            publish: vec![answer],
            ..Decision::answer(StockState::default())
        });
    }
    let mut put = Vec::new();
    let mut enough = true;
    for (item, quantity) in wanted(&request.items) {
        let mut state: StockState = documents.state(&stock(item))?.unwrap_or_default();
        state.reserved = state.reserved.saturating_add(quantity);
        enough &= state.reserved <= state.quantity;
        put.push(Change::set(stock(item), &state, []));
    }
    if !enough {
        put.clear();
    }
    let state = ReservationState {
        order_id: request.order_id.clone(),
        items: request.items.clone(),
        status: if enough {
            ResultStatus::Reserved
        } else {
            ResultStatus::OutOfStock
        },
    };
    put.push(Change::set(key, &state, []));
    Ok(Decision {
        put,
        publish: vec![answer(&state, answer_to)],
        ..Decision::answer(StockState::default())
    })
}

fn answer(state: &ReservationState, answer_to: &ReplyTo) -> Publish {
    wire::answer(
        answer_to,
        wire::result_message(&state.order_id, state.status, None),
    )
}

/// How many of each item: one may be named twice.
fn wanted(items: &[Quantity]) -> BTreeMap<&str, i64> {
    let mut wanted = BTreeMap::new();
    for item in items {
        let sum: &mut i64 = wanted.entry(item.id.as_str()).or_default();
        *sum = sum.saturating_add(item.quantity);
    }
    wanted
}
