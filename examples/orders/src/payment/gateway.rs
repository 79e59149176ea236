//! The gateway's client: performs intents over HTTP, each with its idempotency key, within a time.

use std::time::Duration;

use async_trait::async_trait;
use leveret::{
    broker::Message,
    service::{Effect, Of, Performed},
};
use reqwest::{Client, Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Payment, PaymentMessage};

/// How long the gateway may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// What the gateway is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Action {
    /// To charge.
    Charge,
    /// Whether it has charged.
    LookUp,
    /// To give the money back.
    Refund,
}

/// What is to be done, as it is in the queue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Intent {
    pub(super) action: Action,
    pub(super) order_id: String,
    pub(super) amount: i64,
    pub(super) currency: String,
    pub(super) key: String,
    pub(super) transaction_id: Option<String>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The money is here.
    Charged { transaction_id: String },
    /// The customer's bank said no.
    Declined { reason: String },
    /// No money moved, and none will.
    NotCharged { reason: String },
    /// The money is back.
    Refunded,
    /// The gateway does not say, after so many attempts.
    Unknown { reason: String, attempts: u32 },
}

/// The client.
#[derive(Clone, Debug)]
pub(crate) struct Gateway {
    client: Client,
    url: String,
    attempts_max: u32,
}

/// A charge, as the gateway tells it.
#[derive(Debug, Deserialize)]
struct Charge {
    id: String,
    #[serde(default)]
    order_id: serde_json::Value,
    status: String,
}

#[derive(Debug, Deserialize)]
struct Charges {
    charges: Vec<Charge>,
}

type Tried = Result<Outcome, String>;

impl Gateway {
    /// A client of the gateway at this URL, which is asked so often at most.
    pub(crate) fn new(url: &str, attempts_max: u32) -> anyhow::Result<Gateway> {
        let client = Client::builder()
            .timeout(TIMEOUT)
            .no_proxy()
            .pool_max_idle_per_host(512)
            .build()?;
        Ok(Gateway {
            client,
            url: url.trim_end_matches('/').to_owned(),
            attempts_max,
        })
    }

    async fn charge(&self, intent: &Intent, attempts: u32) -> Tried {
        let body = json!({
            "order_id": intent.order_id,
            "amount": intent.amount,
            "currency": intent.currency,
        });
        let request = self
            .client
            .post(format!("{}/charges", self.url))
            .header("idempotency-key", &intent.key)
            .json(&body);
        let response = sent(request.send().await)?;
        let status = response.status();
        if status == StatusCode::PAYMENT_REQUIRED {
            let reason = "the customer's bank declined".to_owned();
            return Ok(Outcome::Declined { reason });
        }
        if status.is_client_error() {
            // An earlier call by this key may have charged.
            let reason = format!("the gateway refused the charge with {status}");
            return Ok(Outcome::Unknown { reason, attempts });
        }
        let charge: Charge = read(response).await?;
        Ok(match charge.status.as_str() {
            "declined" => Outcome::Declined {
                reason: "the customer's bank declined".to_owned(),
            },
            _ => Outcome::Charged {
                transaction_id: charge.id,
            },
        })
    }

    async fn look_up(&self, intent: &Intent) -> Tried {
        let request = self
            .client
            .get(format!("{}/charges", self.url))
            .query(&[("key", &intent.key)]);
        // A gateway that does not know the parameter lists the charges of others, too.
        let found: Charges = read(sent(request.send().await)?).await?;
        let charged = found
            .charges
            .into_iter()
            .find(|charge| charge.order_id == *intent.order_id && charge.status != "declined");
        Ok(match charged {
            Some(charge) => Outcome::Charged {
                transaction_id: charge.id,
            },
            None => Outcome::NotCharged {
                reason: "the gateway has not charged".to_owned(),
            },
        })
    }

    async fn refund(&self, intent: &Intent) -> Tried {
        let transaction_id = intent.transaction_id.as_deref().unwrap_or_default();
        let mut url = reqwest::Url::parse(&self.url).map_err(|error| error.to_string())?;
        url.path_segments_mut()
            .map_err(|()| "the gateway's URL has no path".to_owned())?
            .pop_if_empty()
            .extend(["charges", transaction_id, "refund"]);
        let request = self
            .client
            .post(url)
            .header("idempotency-key", format!("{}/refund", intent.key));
        let response = sent(request.send().await)?;
        let status = response.status();
        if status.is_success() {
            Ok(Outcome::Refunded)
        } else {
            Err(format!("the gateway answered the refund with {status}"))
        }
    }
}

fn sent(response: reqwest::Result<Response>) -> Result<Response, String> {
    let response = response.map_err(|error| {
        if error.is_timeout() {
            format!("the gateway gave no answer within {TIMEOUT:?}")
        } else {
            format!("the gateway cannot be reached: {error}")
        }
    })?;
    let status = response.status();
    if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        return Err(format!("the gateway answered {status}"));
    }
    Ok(response)
}

async fn read<T: serde::de::DeserializeOwned>(response: Response) -> Result<T, String> {
    let bytes = response.bytes().await.map_err(|error| error.to_string())?;
    serde_json::from_slice(&bytes)
        .map_err(|error| format!("the gateway's answer is not what is expected: {error}"))
}

#[async_trait]
impl Effect for Gateway {
    type Decider = Of<Payment>;

    async fn perform(&self, intent: &Message, attempt: u32) -> Performed<Of<Payment>> {
        let intent: Intent = match serde_json::from_slice(&intent.body) {
            Ok(intent) => intent,
            Err(error) => {
                let reason = format!("no intent: {error}");
                return Performed::Malformed { reason };
            }
        };
        let tried = match intent.action {
            Action::Charge => self.charge(&intent, attempt).await,
            Action::LookUp => self.look_up(&intent).await,
            Action::Refund => self.refund(&intent).await,
        };
        match tried {
            Ok(outcome) => Performed::Outcome(PaymentMessage::Outcome(intent.order_id, outcome)),
            Err(reason) => Performed::Retry { reason },
        }
    }

    fn given_up(&self, intent: &Message, reason: &str) -> Option<PaymentMessage> {
        let intent: Intent = serde_json::from_slice(&intent.body).ok()?;
        let outcome = Outcome::Unknown {
            reason: reason.to_owned(),
            attempts: self.attempts_max,
        };
        Some(PaymentMessage::Outcome(intent.order_id, outcome))
    }
}
