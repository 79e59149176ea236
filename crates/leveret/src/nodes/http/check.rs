//! What of the parameters of `http` can be checked when the workflow is loaded.

use leveret_core::{parse::ParamProblem, suggest::nearest};
use reqwest::{
    Method,
    header::{HeaderName, HeaderValue},
};
use serde_json::Value;

use super::{
    body, client,
    headers::{is_ours, unfit},
    params::{BODIES, PARAMS, text_of, timeout},
};
use crate::nodes::check::{Check, Wanted, is_template};

/// All that is wrong with the parameters as they are written.
pub(super) fn problems(params: &Value) -> Vec<ParamProblem> {
    let mut check = Check::of(params, PARAMS);
    check.needs("url");
    check.expect("url", check.literal("url"), Wanted::Text);
    if let Some(fault) = check
        .literal("url")
        .and_then(Value::as_str)
        .and_then(url_fault)
    {
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
    check_bodies(&mut check);
    if let Err(message) = timeout(check.optional("timeout")) {
        check.tell(&["timeout"], message);
    }
    check_status(&mut check);
    let bytes_max = check.optional("response_bytes_max");
    check.expect("response_bytes_max", bytes_max, Wanted::WholeNumber);
    let key = check.literal("idempotency_key");
    check.expect("idempotency_key", key, Wanted::Truth);
    check.expect("ca", check.optional("ca"), Wanted::Text);
    let ca = check.optional("ca").and_then(Value::as_str);
    if let Some(Err(fault)) = ca.map(client::certificates) {
        check.tell(&["ca"], fault);
    }
    check.end()
}

/// What is wrong with a URL. Does not quote it: paths and queries may hold secrets.
pub(super) fn url_fault(url: &str) -> Option<&'static str> {
    let url = reqwest::Url::parse(url).ok();
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
    let Ok(known) = HeaderName::from_bytes(name.as_bytes()) else {
        return Some(format!("'{name}' is no header name"));
    };
    if is_ours(&known) {
        return Some(format!("header '{name}' is the node's own to send"));
    }
    let mut values = match value {
        Value::Array(several) => several.iter().collect(),
        one => vec![one],
    }
    .into_iter();
    values
        .any(|value| !is_template(value) && HeaderValue::from_str(&text_of(value)).is_err())
        .then(|| unfit(name))
}

fn check_bodies(check: &mut Check<'_>) {
    let given = BODIES.map(|name| check.optional(name).is_some());
    let mut given = BODIES.iter().zip(given).filter(|(_, given)| *given);
    if let (Some((first, _)), Some((second, _))) = (given.next(), given.next()) {
        let fault = format!("a request has one body, and there is '{first}' already");
        check.tell(&[second], fault);
    }
    check.expect("form", check.optional("form"), Wanted::Object);
    let base64 = check.optional("base64");
    if let Some(Err(fault)) = base64.filter(|value| value.is_string()).map(body::bytes_of) {
        check.tell(&["base64"], fault);
    }
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
