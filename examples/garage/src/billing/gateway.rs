//! The client of Mercado Pago: performs intents over HTTP, each with its idempotency key, within a time.
//!
//! | | |
//! |---|---|
//! | charge | `POST /v1/payments` |
//! | look up | `GET /v1/payments/{id}`, or `GET /v1/payments/search?external_reference=…` as long as the id is not known |
//! | refund | `POST /v1/payments/{id}/refunds` |

#[cfg(test)]
pub(crate) mod in_memory;

use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use leveret::{
    broker::Message,
    service::{Effect, Of, Performed},
};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    bill::{Bill, BillMessage, Method},
    intent::{Action, Intent, Outcome},
};
use crate::{money::Money, settings::Settings};

/// How long the gateway may take to answer.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// So much of what went wrong is kept, in characters.
const REASON_CHARS_MAX: usize = 300;

/// The client.
#[derive(Clone)]
pub(crate) struct Gateway {
    client: Client,
    base: Url,
    access_token: Option<String>,
    notification_url: Option<String>,
    attempts_max: u32,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway")
            .field("base", &self.base.as_str())
            .finish_non_exhaustive()
    }
}

/// A payment, as the gateway tells it. Its id is a number or a text.
#[derive(Debug, Deserialize)]
struct Told {
    id: Value,
    status: String,
    #[serde(default)]
    status_detail: Option<String>,
    #[serde(default)]
    external_reference: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Found {
    results: Vec<Told>,
}

/// What came of a call, or why that is not known.
type Tried<T = Outcome> = Result<T, String>;

impl Gateway {
    /// The client that the settings say.
    pub(crate) fn new(settings: &Settings) -> anyhow::Result<Gateway> {
        let base = Url::parse(&settings.gateway).ok();
        let base = base.filter(|url| !url.cannot_be_a_base() && url.host().is_some());
        let base =
            base.with_context(|| format!("'{}' is no URL of a gateway", settings.gateway))?;
        let client = Client::builder()
            .timeout(TIMEOUT)
            .no_proxy()
            .pool_max_idle_per_host(512)
            .build()?;
        let mercado_pago = &settings.mercado_pago;
        if mercado_pago.access_token.is_none() {
            tracing::warn!(
                "MERCADO_PAGO_ACCESS_TOKEN is not set: the gateway is asked without one"
            );
        }
        let public_url = mercado_pago.public_url.as_deref();
        Ok(Gateway {
            client,
            base,
            access_token: mercado_pago.access_token.clone(),
            notification_url: public_url
                .map(|url| format!("{}/webhooks/mercadopago", url.trim_end_matches('/'))),
            attempts_max: settings.work.attempts_max(),
        })
    }

    /// What a charge of the gateway is for: the payment that it was made with. None: the gateway does not know it.
    pub(crate) async fn reference(&self, charge_id: &str) -> Tried<Option<String>> {
        let told = self.get(charge_id).await?;
        Ok(told.and_then(|told| told.external_reference))
    }

    async fn charge(&self, intent: &Intent, attempts: u32) -> Tried {
        let method = match intent.method {
            Method::Pix => "pix",
            Method::CreditCard => "credit_card",
            Method::DebitCard => "debit_card",
            Method::Boleto => "boleto",
        };
        let mut body = json!({
            "transaction_amount": number(intent.amount),
            "description": format!("Work order {}", intent.work_order_id),
            "payment_method_id": method,
            "external_reference": intent.payment_id,
            "payer": { "type": "customer", "id": intent.customer_id.to_string() },
            "metadata": { "work_order_id": intent.work_order_id, "quote_id": intent.quote_id },
        });
        if let Some(url) = &self.notification_url {
            body["notification_url"] = json!(url);
        }
        let request = self.client.post(self.url(&["v1", "payments"]));
        let request = request.header("x-idempotency-key", &intent.key).json(&body);
        let response = self.sent(request).await?;
        let status = response.status();
        if !status.is_success() {
            // An earlier call by this key may have charged.
            let reason = format!("the gateway refused the charge with {status}");
            return Ok(Outcome::Unknown {
                of: Action::Charge,
                reason,
                attempts,
            });
        }
        let told: Told = read(response).await?;
        told.outcome()
    }

    async fn look_up(&self, intent: &Intent) -> Tried {
        if let Some(charge_id) = &intent.charge_id {
            return match self.get(charge_id).await? {
                Some(told) => told.outcome(),
                None => Ok(Outcome::NotCharged),
            };
        }
        let mut url = self.url(&["v1", "payments", "search"]);
        url.query_pairs_mut()
            .append_pair("external_reference", intent.payment_id.as_str())
            .append_pair("sort", "date_created")
            .append_pair("criteria", "desc");
        let response = self.sent(self.client.get(url)).await?;
        let status = response.status();
        if !status.is_success() {
            return Err(format!("the gateway answered the search with {status}"));
        }
        let found: Found = read(response).await?;
        // A gateway that does not know the parameter lists the payments of others, too.
        let own = found
            .results
            .into_iter()
            .filter(|told| told.external_reference.as_deref() == Some(intent.payment_id.as_str()));
        let outcomes = own.map(|told| told.outcome());
        let outcomes = outcomes.collect::<Tried<Vec<Outcome>>>()?;
        let worst = outcomes.into_iter().max_by_key(|outcome| match outcome {
            Outcome::Charged { .. } => 2,
            Outcome::InProcess { .. } => 1,
            _ => 0,
        });
        Ok(worst.unwrap_or(Outcome::NotCharged))
    }

    async fn refund(&self, intent: &Intent) -> Tried {
        let charge_id = intent.charge_id.as_deref().unwrap_or_default();
        let request = self
            .client
            .post(self.url(&["v1", "payments", charge_id, "refunds"]))
            .header("x-idempotency-key", format!("{}-refund", intent.key))
            .json(&json!({}));
        let reason = match self.sent(request).await {
            Ok(response) if response.status().is_success() => return Ok(Outcome::Refunded),
            Ok(response) => format!("the gateway answered the refund with {}", response.status()),
            Err(reason) => reason,
        };
        // Perhaps it is refunded all the same, by an earlier call or by hand.
        match self.get(charge_id).await {
            Ok(Some(told)) if told.status == "refunded" => Ok(Outcome::Refunded),
            _ => Err(reason),
        }
    }

    /// A payment by the gateway's own id.
    async fn get(&self, charge_id: &str) -> Tried<Option<Told>> {
        let url = self.url(&["v1", "payments", charge_id]);
        let response = self.sent(self.client.get(url)).await?;
        match response.status() {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => read(response).await.map(Some),
            status => Err(format!("the gateway answered with {status}")),
        }
    }

    fn url(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url
    }

    /// An answer of a gateway that is well.
    async fn sent(&self, mut request: RequestBuilder) -> Tried<Response> {
        if let Some(token) = &self.access_token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.map_err(|error| {
            if error.is_timeout() {
                format!("the gateway gave no answer within {TIMEOUT:?}")
            } else {
                format!("the gateway cannot be reached: {}", error.without_url())
            }
        })?;
        let status = response.status();
        let passing = [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT];
        if status.is_server_error() || passing.contains(&status) {
            return Err(format!("the gateway answered {status}"));
        }
        Ok(response)
    }
}

impl Told {
    fn outcome(&self) -> Tried {
        let charge_id = match &self.id {
            Value::String(id) if !id.is_empty() => id.clone(),
            Value::Number(id) => id.to_string(),
            _ => return Err("the gateway's answer has no id".to_owned()),
        };
        let detail = self.status_detail.as_deref();
        Ok(match self.status.as_str() {
            "approved" => Outcome::Charged { charge_id },
            "rejected" | "cancelled" | "refunded" | "charged_back" => Outcome::Rejected {
                charge_id: Some(charge_id),
                reason: cut(detail.unwrap_or(&self.status)),
            },
            status => Outcome::InProcess {
                charge_id,
                status: cut(status),
            },
        })
    }
}

/// An amount as the gateway has it: a number with decimals.
fn number(amount: Money) -> Value {
    serde_json::from_str(&amount.to_string()).expect("an amount is a number")
}

async fn read<T: serde::de::DeserializeOwned>(mut response: Response) -> Tried<T> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|error| error.without_url().to_string())?
    {
        if bytes.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(format!(
                "the gateway's answer is longer than {ANSWER_BYTES_MAX} bytes"
            ));
        }
        bytes.extend_from_slice(&chunk);
    }
    serde_json::from_slice(&bytes)
        .map_err(|error| format!("the gateway's answer is not what is expected: {error}"))
}

fn cut(text: &str) -> String {
    text.chars().take(REASON_CHARS_MAX).collect()
}

#[async_trait]
impl Effect for Gateway {
    type Decider = Of<Bill>;

    async fn perform(&self, intent: &Message, attempt: u32) -> Performed<Of<Bill>> {
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
            Ok(outcome) => Performed::Outcome(intent.concluded(outcome)),
            Err(reason) => Performed::Retry {
                reason: cut(&reason),
            },
        }
    }

    fn given_up(&self, intent: &Message, reason: &str) -> Option<BillMessage> {
        let intent: Intent = serde_json::from_slice(&intent.body).ok()?;
        let outcome = intent.given_up(reason, self.attempts_max);
        Some(intent.concluded(outcome))
    }
}

impl Intent {
    /// What is decided upon.
    pub(crate) fn concluded(self, outcome: Outcome) -> BillMessage {
        BillMessage::Outcome {
            work_order_id: self.work_order_id,
            payment_id: self.payment_id,
            outcome,
        }
    }

    /// What it means that the last attempt failed.
    pub(crate) fn given_up(&self, reason: &str, attempts: u32) -> Outcome {
        let reason = reason.to_owned();
        match self.action {
            Action::Refund => Outcome::RefundFailed { reason, attempts },
            of => Outcome::Unknown {
                of,
                reason,
                attempts,
            },
        }
    }
}
