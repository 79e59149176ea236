//! From a response to a step's output, or to why it is none.

use leveret_core::time::Timestamp;
use reqwest::{
    Response, Url,
    header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName},
};
use serde_json::{Value, json};

use super::{
    coding::{self, Fault},
    content::{Media, value_of},
    failure::{of_status, of_transport, origin},
    headers::readable,
    params::Params,
};
use crate::nodes::NodeError;

/// What a coding may add to a body that it cannot make smaller.
const CODING_BYTES_MAX: usize = 64 << 10;

/// Reads a response within its bound, which is that of the decoded body, and gives the output.
pub(super) async fn output(
    mut response: Response,
    url: &Url,
    params: &Params,
    now: Timestamp,
) -> Result<Value, NodeError> {
    let status = response.status();
    let headers = response.headers().clone();
    let codings = joined(&headers, &CONTENT_ENCODING);
    let bytes_max = params.response_bytes_max();
    let coded_max = match &*codings {
        "" => bytes_max,
        _ => bytes_max.saturating_add(CODING_BYTES_MAX),
    };
    let coded = read(&mut response, coded_max)
        .await
        .map_err(|error| of_transport(error, url))?;
    let decoded = if coded.len() > coded_max {
        Err((coded, Fault::TooLong))
    } else {
        coding::decode(coded, &codings, bytes_max)
    };
    // First: a long page that tells of an outage tells of an outage.
    if !params.expects(status) {
        let body = decoded.unwrap_or_else(|(part, _)| part);
        let body = String::from_utf8_lossy(&body);
        return Err(of_status(status, url, &headers, &body, now));
    }
    let body = decoded.map_err(|(_, fault)| of_fault(&fault, url, bytes_max))?;
    let media = Media::of(&first(&headers, &CONTENT_TYPE));
    let body = value_of(&body, &media).map_err(|fault| {
        NodeError::transient(format!(
            "the response of {} is not the JSON it says: {fault}",
            origin(url)
        ))
    })?;
    Ok(json!({ "status": status.as_u16(), "headers": readable(&headers), "body": body }))
}

/// The body, and no more than what shows that it is too long.
async fn read(response: &mut Response, bytes_max: usize) -> reqwest::Result<Vec<u8>> {
    let mut body = Vec::new();
    while body.len() <= bytes_max
        && let Some(chunk) = response.chunk().await?
    {
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn of_fault(fault: &Fault, url: &Url, bytes_max: usize) -> NodeError {
    let origin = origin(url);
    match fault {
        Fault::TooLong => NodeError::permanent(format!(
            "the response of {origin} has more than response_bytes_max = {bytes_max} bytes"
        )),
        Fault::Broken(coding) => NodeError::transient(format!(
            "the response of {origin} is not the '{coding}' it says"
        )),
        Fault::Unknown(coding) => NodeError::permanent(format!(
            "the response of {origin} has the content coding '{coding}', which was not asked for"
        )),
    }
}

fn joined(headers: &HeaderMap, name: &HeaderName) -> String {
    let values = headers.get_all(name).iter();
    let texts: Vec<&str> = values.filter_map(|value| value.to_str().ok()).collect();
    texts.join(",")
}

fn first(headers: &HeaderMap, name: &HeaderName) -> String {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default().to_owned()
}
