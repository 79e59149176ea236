//! `http`: one request. Carries the step's idempotency key, so that a repeated attempt can be recognised.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use leveret_core::{parse::ParamProblem, suggest::nearest, time::parse_duration};
use reqwest::{
    Client, Method, StatusCode,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::OnceCell;

use super::{
    NodeContext, NodeError, NodeType, Verdict,
    check::{Check, Wanted, is_template},
    params,
};

/// Parameters: `url`; `method` (GET, or POST with a body); `headers`, `query`: maps; `json`: the body; `timeout`: ms or text, default 30 s;
/// `expected_status`: a status or a list, default every 2xx; `response_bytes_max`, default 1 MiB; `idempotency_key`: false to leave the header out.
/// Output: `{status, headers, body}`, where `body` is parsed JSON if the response says so, else text.
///
/// Transport errors, timeouts, 5xx and 429 are transient; every other unexpected status is permanent.
///
/// The client uses the proxies that the environment names (`HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`).
pub(super) struct Http {
    client: OnceCell<Client>,
}

const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
const RESPONSE_BYTES_MAX_DEFAULT: usize = 1 << 20;
/// How much of an unexpected response's body goes into the error.
const ERROR_BODY_CHARS: usize = 200;

const PARAMS: &[&str] = &[
    "url",
    "method",
    "headers",
    "query",
    "json",
    "timeout",
    "expected_status",
    "response_bytes_max",
    "idempotency_key",
];

#[derive(Deserialize)]
struct Params {
    url: String,
    method: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, Value>,
    #[serde(default)]
    query: BTreeMap<String, Value>,
    json: Option<Value>,
    timeout: Option<Value>,
    expected_status: Option<Expected>,
    response_bytes_max: Option<usize>,
    #[serde(default = "yes")]
    idempotency_key: bool,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Expected {
    One(u16),
    Many(Vec<u16>),
}

impl Expected {
    fn contains(&self, status: StatusCode) -> bool {
        match self {
            Expected::One(one) => status.as_u16() == *one,
            Expected::Many(many) => many.contains(&status.as_u16()),
        }
    }
}

impl Http {
    pub(super) fn new() -> Http {
        Http {
            client: OnceCell::new(),
        }
    }

    /// One client for all requests, made at the first: connections are reused.
    async fn client(&self) -> Result<&Client, NodeError> {
        self.client
            .get_or_try_init(|| async {
                crate::tls::install_provider();
                Client::builder()
                    .user_agent(concat!("leveret/", env!("CARGO_PKG_VERSION")))
                    .connect_timeout(Duration::from_secs(10))
                    .build()
                    .map_err(|error| {
                        NodeError::permanent(format!("HTTP client: {}", chain(&error)))
                    })
            })
            .await
    }
}

#[async_trait]
impl NodeType for Http {
    fn check_params(&self, params: &Value) -> Vec<ParamProblem> {
        let mut check = Check::of(params, PARAMS);
        check.needs("url");
        check.expect("url", check.literal("url"), Wanted::Text);
        if let Some(fault) = check.literal("url").and_then(url_fault) {
            check.tell(&["url"], fault);
        }
        check.expect("method", check.optional("method"), Wanted::Text);
        if let Some(fault) = check.optional("method").and_then(method_fault) {
            check.tell(&["method"], fault);
        }
        for name in ["headers", "query"] {
            check.expect(name, check.literal(name), Wanted::Object);
        }
        let headers = check.literal("headers").and_then(Value::as_object);
        for (name, value) in headers.into_iter().flatten() {
            if let Some(fault) = header_fault(name, value) {
                check.tell(&["headers", name], fault);
            }
        }
        if let Err(message) = timeout(check.optional("timeout")) {
            check.tell(&["timeout"], message);
        }
        check_status(&mut check);
        let bytes_max = check.optional("response_bytes_max");
        check.expect("response_bytes_max", bytes_max, Wanted::WholeNumber);
        let key = check.literal("idempotency_key");
        check.expect("idempotency_key", key, Wanted::Truth);
        check.end()
    }

    async fn execute(&self, ctx: NodeContext) -> Result<Verdict, NodeError> {
        let params: Params = params(&ctx.params)?;
        let limit = timeout(params.timeout.as_ref()).map_err(NodeError::permanent)?;
        let request = request(self.client().await?, &params, &ctx)?;
        match tokio::time::timeout(limit, send(request, &params)).await {
            Ok(result) => result.map(Into::into),
            Err(_) => Err(NodeError::transient(format!(
                "no response from {} within {limit:?}",
                origin(&params.url)
            ))),
        }
    }
}

/// What is wrong with a URL. Does not quote it: paths and queries may hold secrets.
fn url_fault(url: &Value) -> Option<&'static str> {
    let url = reqwest::Url::parse(url.as_str()?).ok();
    let good = url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let fault = "parameter 'url' is no URL of http:// or https://";
    good.is_none().then_some(fault)
}

/// The methods that everybody knows. Others are taken too, unless they look like one of these.
const METHODS: [&str; 9] = [
    "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT",
];

fn method_fault(method: &Value) -> Option<String> {
    let text = method.as_str()?;
    let upper = text.to_uppercase();
    if METHODS.contains(&upper.as_str()) {
        return None;
    }
    if let Some(near) = nearest(&upper, METHODS) {
        return Some(format!(
            "'{text}' is no HTTP method; did you mean '{near}'?"
        ));
    }
    let unknown = Method::from_bytes(upper.as_bytes()).is_err();
    unknown.then(|| format!("'{text}' is no HTTP method"))
}

fn header_fault(name: &str, value: &Value) -> Option<String> {
    if HeaderName::from_bytes(name.as_bytes()).is_err() {
        return Some(format!("'{name}' is no header name"));
    }
    let unfit = !is_template(value) && HeaderValue::from_str(&text_of(value)).is_err();
    unfit.then(|| unfit_header(name))
}

fn unfit_header(name: &str) -> String {
    format!("the value of header '{name}' has characters that headers cannot have")
}

fn check_status(check: &mut Check<'_>) {
    let is_status = |value: &Value| {
        let code = value.as_u64();
        is_template(value) || code.is_some_and(|code| (100..=599).contains(&code))
    };
    let fault = "a status is a number from 100 to 599; several are a list of them";
    match check.optional("expected_status") {
        None => {}
        Some(Value::Array(many)) => {
            for (at, _) in many.iter().enumerate().filter(|(_, one)| !is_status(one)) {
                check.tell(&["expected_status", &at.to_string()], fault);
            }
        }
        Some(one) if is_status(one) => {}
        Some(_) => check.tell(&["expected_status"], fault),
    }
}

fn timeout(value: Option<&Value>) -> Result<Duration, String> {
    match value {
        None | Some(Value::Null) => Ok(TIMEOUT_DEFAULT),
        Some(Value::Number(number)) => number
            .as_u64()
            .map(Duration::from_millis)
            .ok_or_else(|| format!("{number} is no timeout in whole milliseconds")),
        Some(Value::String(text)) => parse_duration(text)
            .ok_or_else(|| format!("'{text}' is no timeout: say milliseconds or '10s'")),
        Some(other) => Err(format!("{other} is no timeout: say milliseconds or '10s'")),
    }
}

fn request(
    client: &Client,
    params: &Params,
    ctx: &NodeContext,
) -> Result<reqwest::RequestBuilder, NodeError> {
    let method = match &params.method {
        None if params.json.is_some() => Method::POST,
        None => Method::GET,
        Some(text) => Method::from_bytes(text.to_uppercase().as_bytes())
            .map_err(|_| NodeError::permanent(format!("'{text}' is no HTTP method")))?,
    };
    let mut headers = HeaderMap::new();
    if params.idempotency_key {
        let key = HeaderValue::from_str(&ctx.key.idempotency_key()).map_err(|_| {
            NodeError::permanent(
                "run and node ids do not fit into an HTTP header; set idempotency_key: false",
            )
        })?;
        headers.insert("idempotency-key", key);
    }
    for (name, value) in &params.headers {
        let name = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| NodeError::permanent(format!("'{name}' is no header name")))?;
        let value = HeaderValue::from_str(&text_of(value))
            .map_err(|_| NodeError::permanent(unfit_header(name.as_str())))?;
        headers.insert(name, value);
    }
    let query: Vec<(&String, String)> = params
        .query
        .iter()
        .map(|(key, value)| (key, text_of(value)))
        .collect();
    let mut request = client
        .request(method, &params.url)
        .headers(headers)
        .query(&query);
    if let Some(body) = &params.json {
        request = request.json(body);
    }
    Ok(request)
}

fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

async fn send(request: reqwest::RequestBuilder, params: &Params) -> Result<Value, NodeError> {
    let mut response = request
        .send()
        .await
        .map_err(|error| of_transport(error, &params.url))?;
    let status = response.status();
    let headers = readable(response.headers());
    let is_json = response
        .headers()
        .get("content-type")
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.contains("json"));
    let bytes_max = params
        .response_bytes_max
        .unwrap_or(RESPONSE_BYTES_MAX_DEFAULT);
    let mut body = Vec::new();
    while body.len() <= bytes_max
        && let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| of_transport(error, &params.url))?
    {
        body.extend_from_slice(&chunk);
    }
    let expected = params
        .expected_status
        .as_ref()
        .map_or(status.is_success(), |expected| expected.contains(status));
    // First: a long page that tells of an outage tells of an outage.
    if !expected {
        return Err(of_status(status, &params.url, &body));
    }
    if body.len() > bytes_max {
        return Err(NodeError::permanent(format!(
            "the response of {} has more than response_bytes_max = {bytes_max} bytes",
            origin(&params.url)
        )));
    }
    let body = if is_json && !body.is_empty() {
        serde_json::from_slice(&body).map_err(|error| {
            NodeError::transient(format!(
                "the response of {} is not the JSON it says: {error}",
                origin(&params.url)
            ))
        })?
    } else {
        Value::String(String::from_utf8_lossy(&body).into_owned())
    };
    Ok(json!({ "status": status.as_u16(), "headers": headers, "body": body }))
}

fn readable(headers: &HeaderMap) -> Map<String, Value> {
    headers
        .iter()
        .filter_map(|(name, value)| Some((name.to_string(), Value::from(value.to_str().ok()?))))
        .collect()
}

fn of_status(status: StatusCode, url: &str, body: &[u8]) -> NodeError {
    let mut message = format!("{} answered {status}: ", origin(url));
    let chars_max = message.chars().count() + ERROR_BODY_CHARS;
    message.push_str(&String::from_utf8_lossy(body));
    let error = if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        NodeError::transient(message)
    } else {
        NodeError::permanent(message)
    };
    error.cut_to(chars_max)
}

fn of_transport(error: reqwest::Error, url: &str) -> NodeError {
    let permanent = error.is_builder();
    let message = format!(
        "request to {} failed: {}",
        origin(url),
        chain(&error.without_url())
    );
    if permanent {
        NodeError::permanent(message)
    } else {
        NodeError::transient(message)
    }
}

/// Scheme, host and port of a URL: paths and queries may hold secrets.
fn origin(url: &str) -> String {
    match reqwest::Url::parse(url) {
        Ok(url) => url.origin().ascii_serialization(),
        Err(_) => "the URL".to_owned(),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
