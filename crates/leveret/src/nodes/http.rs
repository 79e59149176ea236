//! `http`: one request. Carries the step's idempotency key, so that a repeated attempt can be recognised.

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use leveret_core::parse::ParamProblem;
use reqwest::{
    Method, Url,
    header::{
        ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue,
    },
};
use serde_json::Value;

use self::{client::Clients, follow::Outgoing, params::Params};
use super::{NodeContext, NodeError, NodeType, Verdict, params};

mod answer;
mod body;
mod check;
mod client;
mod coding;
mod content;
mod failure;
mod follow;
mod headers;
mod multipart;
mod params;
mod reach;

pub use self::{
    client::{HttpOptions, Proxies, ProxyError},
    reach::{Reach, ReachError},
};

/// Parameters: `url`; `method` (GET, or POST with a body); `headers`, `query`: maps; one of `json`, `form`, `text`, `base64` and `multipart`: the
/// body; `timeout`: ms or text, default 30 s; `expected_status`: a status or a list, default every 2xx; `response_bytes_max`, default 1 MiB, of
/// the decoded body; `idempotency_key`: false to leave the header out; `ca`: certificates in PEM to trust beside the system's.
/// Output: `{status, headers, body}`.
///
/// Transport errors, timeouts, 5xx, 408, 425 and 429 are transient; every other unexpected status is permanent.
pub(super) struct Http {
    clients: Clients,
}

impl Http {
    pub(super) fn new(options: HttpOptions) -> Result<Http, ProxyError> {
        let clients = Clients::new(options)?;
        Ok(Http { clients })
    }

    /// One request and all that it is redirected to.
    async fn ask(
        &self,
        params: &Params,
        url: Url,
        ctx: &NodeContext,
    ) -> Result<Verdict, NodeError> {
        let client = self.clients.get(params.ca.as_deref())?;
        let request = request(params, url, ctx)?;
        let (response, url) = follow::send(&client, &self.clients.reach, request, params).await?;
        let output = answer::output(response, &url, params, ctx.now).await?;
        Ok(output.into())
    }
}

#[async_trait]
impl NodeType for Http {
    fn check_params(&self, params: &Value) -> Vec<ParamProblem> {
        check::problems(params)
    }

    fn url_params(&self) -> &'static [&'static str] {
        &["url"]
    }

    async fn execute(&self, ctx: NodeContext) -> Result<Verdict, NodeError> {
        let params: Params = params(&ctx.params)?;
        let limit = params.timeout().map_err(NodeError::permanent)?;
        if let Some(fault) = check::url_fault(&params.url) {
            return Err(NodeError::permanent(fault));
        }
        let url = Url::parse(&params.url).expect("it has no fault");
        let origin = failure::origin(&url);
        let asked = tokio::time::timeout(limit, self.ask(&params, url, &ctx));
        asked.await.unwrap_or_else(|_| {
            let message = format!("no response from {origin} within {limit:?}");
            Err(NodeError::transient(message))
        })
    }
}

fn request(params: &Params, mut url: Url, ctx: &NodeContext) -> Result<Outgoing, NodeError> {
    let body = body::body(params, &ctx.key.idempotency_key()).map_err(NodeError::permanent)?;
    let method = match &params.method {
        None if body.is_some() => Method::POST,
        None => Method::GET,
        Some(text) => Method::from_bytes(text.to_uppercase().as_bytes())
            .map_err(|_| NodeError::permanent(format!("'{text}' is no HTTP method")))?,
    };
    let mut headers = HeaderMap::new();
    if let Some(authorization) = basic(&mut url) {
        headers.insert(AUTHORIZATION, authorization);
    }
    if params.idempotency_key {
        let key = HeaderValue::from_str(&ctx.key.idempotency_key()).map_err(|_| {
            NodeError::permanent(
                "run and node ids do not fit into an HTTP header; set idempotency_key: false",
            )
        })?;
        headers.insert("idempotency-key", key);
    }
    if let Some(body) = &body {
        headers.insert(CONTENT_TYPE, body.content_type.clone());
    }
    headers::put(&mut headers, &params.headers)?;
    headers.insert(ACCEPT_ENCODING, headers::ACCEPT_ENCODING);
    if let Some(body) = body.as_ref().filter(|body| body.is_only) {
        headers.insert(CONTENT_TYPE, body.content_type.clone());
    }
    // Of a forwarded message it tells how that came. Bytes alone may be coded.
    if params.base64.is_none() {
        headers.remove(CONTENT_ENCODING);
    }
    if !params.query.is_empty() {
        let mut pairs = url.query_pairs_mut();
        for (name, value) in &params.query {
            pairs.append_pair(name, &params::text_of(value));
        }
    }
    Ok(Outgoing {
        method,
        url,
        headers,
        body: body.map(|body| body.bytes),
    })
}

/// Takes name and password out of a URL. As a header they stay with their origin.
fn basic(url: &mut Url) -> Option<HeaderValue> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let decoded = |text: &str| percent_decoded(text);
    let (name, password) = (
        decoded(url.username()),
        decoded(url.password().unwrap_or_default()),
    );
    // Only a URL without a host has none to take out.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    let both = [&name[..], b":", &password[..]].concat();
    let mut value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(both))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = text.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        let byte = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        decoded.push(byte.unwrap_or(bytes[at]));
        at += if byte.is_some() { 3 } else { 1 };
    }
    decoded
}
