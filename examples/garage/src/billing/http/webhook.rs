//! `POST /webhooks/mercadopago`: the gateway says that something became of a payment. It is believed only that far: what became of it is looked up.

use axum::{
    Json, Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use leveret::service::{
    CallError, Of, Refusal, Service,
    documents::{Order, Query},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::read;
use crate::{
    billing::{
        bill::{Bill, BillMessage, BillState, CHARGE, KIND, PAYMENT},
        gateway::Gateway,
        signature,
    },
    failure::Failure,
    ids::Id,
    request::{Params, check_text},
    settings::Settings,
};

/// The longest id of the gateway, in bytes.
const CHARGE_ID_BYTES_MAX: usize = 100;

#[derive(Clone)]
struct Listener {
    service: Service,
    secret: Option<String>,
    gateway: Option<Gateway>,
}

/// The route, for everybody who signs.
pub(in crate::billing) fn public(service: &Service, settings: &Settings) -> Router {
    let listener = Listener {
        service: service.clone(),
        secret: settings.mercado_pago.webhook_secret.clone(),
        gateway: Gateway::new(settings).ok(),
    };
    Router::new()
        .route("/webhooks/mercadopago", post(notified))
        .with_state(listener)
}

/// What is read of its body.
#[derive(Default, Deserialize)]
struct Notice {
    #[serde(default)]
    data: Option<Data>,
}

#[derive(Deserialize)]
struct Data {
    id: Value,
}

async fn notified(
    State(listener): State<Listener>,
    headers: HeaderMap,
    params: Params,
    body: Bytes,
) -> Result<Json<Value>, Failure> {
    let charge_id = charge_id(&params, &body);
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let signed = match (
        &listener.secret,
        &charge_id,
        header("x-request-id"),
        header("x-signature"),
    ) {
        (Some(secret), Some(id), Some(request_id), Some(signature)) => {
            signature::is_signed(secret, id, request_id, signature)
        }
        _ => false,
    };
    let Some(charge_id) = charge_id.filter(|_| signed) else {
        return Err(Failure::unauthorized("The webhook is not signed"));
    };
    check_text("data.id", &charge_id, CHARGE_ID_BYTES_MAX)?;
    listener.wake(&charge_id).await?;
    Ok(Json(json!({ "received": true })))
}

/// The id that the signature is about: the query's, else the body's.
fn charge_id(params: &Params, body: &[u8]) -> Option<String> {
    if let Some(id) = params.get("data.id") {
        return Some(id.to_owned());
    }
    let notice: Notice = serde_json::from_slice(body).ok()?;
    match notice.data?.id {
        Value::String(id) => Some(id),
        Value::Number(id) => Some(id.to_string()),
        _ => None,
    }
}

impl Listener {
    /// Has a payment looked up.
    async fn wake(&self, charge_id: &str) -> Result<(), Failure> {
        let Some((state, payment_id)) = self.payment(charge_id).await? else {
            return Ok(());
        };
        let message = BillMessage::Notified {
            work_order_id: state.work_order_id,
            payment_id,
        };
        match self.service.call(&Of::<Bill>::default(), &message).await {
            Ok(_) | Err(CallError::Refused(Refusal::Stale { .. })) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The payment that a charge is for. Its id may not be known here yet: then the gateway says what it is for.
    async fn payment(&self, charge_id: &str) -> Result<Option<(BillState, Id)>, Failure> {
        if let Some(state) = self.find(CHARGE, charge_id).await? {
            let mut payments = state.payments.iter();
            let known = |charge: &Option<String>| charge.as_deref() == Some(charge_id);
            let payment = payments.find(|payment| known(&payment.charge_id));
            let payment_id = payment.map(|payment| payment.id.clone());
            return Ok(payment_id.map(|payment_id| (state, payment_id)));
        }
        let Some(gateway) = &self.gateway else {
            return Ok(None);
        };
        let reference = gateway.reference(charge_id).await.map_err(|reason| {
            tracing::warn!(
                reason,
                "a webhook cannot be followed; the gateway sends it again"
            );
            Failure::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "Not available now; try again",
            )
        })?;
        let Some(payment_id) = reference.as_deref().and_then(Id::parse) else {
            return Ok(None);
        };
        let state = self.find(PAYMENT, payment_id.as_str()).await?;
        Ok(state.map(|state| (state, payment_id)))
    }

    async fn find(&self, field: &str, value: &str) -> Result<Option<BillState>, Failure> {
        let query = Query {
            kind: KIND.into(),
            filter: vec![(field.into(), value.into())],
            order: Order::Newest,
            after: None,
            limit: 1,
        };
        let page = self.service.documents().list(&query).await?;
        Ok(page.documents.first().map(read).transpose()?.flatten())
    }
}
