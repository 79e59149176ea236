//! What the gateway is to do, as it is in the service's own queue, and what came of it.

use leveret::{
    broker::{
        Header, Message, dead_letter_queue_name,
        work::{
            HEADER_ATTEMPTS, HEADER_DEAD_AT, HEADER_EXCHANGE, HEADER_QUEUE, HEADER_REASON,
            HEADER_ROUTING_KEY,
        },
    },
    core::time::Timestamp,
    service::Publish,
};
use serde::{Deserialize, Serialize};

use super::bill::Method;
use crate::{ids::Id, money::Money};

/// The queue of intents.
pub(crate) const GATEWAY_QUEUE: &str = "billing-gateway";

/// What the gateway is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Action {
    /// To charge.
    Charge,
    /// What became of a charge.
    LookUp,
    /// To give the money back.
    Refund,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Intent {
    pub(crate) action: Action,
    pub(crate) work_order_id: Id,
    pub(crate) payment_id: Id,
    pub(crate) quote_id: Id,
    pub(crate) customer_id: i64,
    pub(crate) amount: Money,
    pub(crate) method: Method,
    /// The idempotency key of the charge.
    pub(crate) key: String,
    /// What the gateway calls the charge, if that is known.
    pub(crate) charge_id: Option<String>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The money is here.
    Charged { charge_id: String },
    /// The gateway said no.
    Rejected {
        charge_id: Option<String>,
        reason: String,
    },
    /// The gateway has not decided.
    InProcess { charge_id: String, status: String },
    /// The gateway knows of no charge.
    NotCharged,
    /// The gateway does not say, after so many attempts.
    Unknown {
        of: Action,
        reason: String,
        attempts: u32,
    },
    /// The money is back.
    Refunded,
    /// The gateway does not give the money back, after so many attempts.
    RefundFailed { reason: String, attempts: u32 },
}

impl Intent {
    /// Goes out to be performed.
    pub(super) fn publish(&self) -> Publish {
        Publish::to_queue(GATEWAY_QUEUE, self.message())
    }

    /// The dead letter that stands for what did not work. It has a name of its own, so that what comes of it is news when it is put back.
    pub(super) fn dead_letter(
        &self,
        name: &str,
        reason: &str,
        attempts: u32,
        now: Timestamp,
    ) -> Publish {
        let mut message = self.message();
        message.message_id = Some(name.into());
        for (header, text) in [
            (HEADER_REASON, reason),
            (HEADER_QUEUE, GATEWAY_QUEUE),
            (HEADER_EXCHANGE, ""),
            (HEADER_ROUTING_KEY, GATEWAY_QUEUE),
            (HEADER_DEAD_AT, &now.to_string()),
        ] {
            let text = Header::Text(text.to_owned());
            message.headers.insert(header.to_owned(), text);
        }
        let attempts = Header::Int(attempts.into());
        message.headers.insert(HEADER_ATTEMPTS.to_owned(), attempts);
        Publish::to_queue(&dead_letter_queue_name(GATEWAY_QUEUE), message)
    }

    fn message(&self) -> Message {
        let body = serde_json::to_vec(self).expect("an intent prints as JSON");
        Message {
            correlation_id: Some(self.work_order_id.as_str().into()),
            ..Message::json(body)
        }
    }
}
