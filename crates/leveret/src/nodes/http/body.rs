//! Bodies of requests: JSON, a form, text, bytes, or several parts.

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use reqwest::{Url, header::HeaderValue};
use serde_json::{Map, Value};

use super::{
    multipart,
    params::{Params, text_of},
};

/// A body and what it is.
pub(super) struct Body {
    pub(super) bytes: Bytes,
    pub(super) content_type: HeaderValue,
    /// Whether only this content type can be right, whatever the headers say: it names the boundary between the parts.
    pub(super) is_only: bool,
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const FORM: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const BYTES: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// The body that the parameters ask for, if they do. `seed` makes the boundary of parts, the same in every attempt.
pub(super) fn body(params: &Params, seed: &str) -> Result<Option<Body>, String> {
    let made = [
        params.json.as_ref().map(|value| {
            let bytes = value.to_string();
            Ok(of(bytes, JSON))
        }),
        params
            .form
            .as_ref()
            .map(|fields| Ok(of(form(fields), FORM))),
        params.text.as_ref().map(|text| Ok(of(text_of(text), TEXT))),
        params.base64.as_ref().map(|value| {
            let content_type = match media_type(value) {
                None => BYTES,
                Some(text) => HeaderValue::from_str(text).map_err(|_| not_a_type(text))?,
            };
            Ok(of(bytes_of(value)?, content_type))
        }),
        params
            .multipart
            .as_ref()
            .map(|parts| multipart::body(parts, seed)),
    ];
    let mut made = made.into_iter().flatten();
    let body = made.next().transpose()?;
    if made.next().is_some() {
        return Err("a request has one body, and there are several parameters that are one".into());
    }
    Ok(body)
}

fn of(bytes: impl Into<Bytes>, content_type: HeaderValue) -> Body {
    Body {
        bytes: bytes.into(),
        content_type,
        is_only: false,
    }
}

/// Fields as browsers send them; a list is a field that comes several times.
fn form(fields: &Map<String, Value>) -> String {
    // The serializer of the URL standard is reached through a URL's query.
    let mut url = Url::parse("http://form/").expect("a URL");
    {
        let mut pairs = url.query_pairs_mut();
        for (name, value) in fields {
            match value {
                Value::Array(several) => {
                    for value in several {
                        pairs.append_pair(name, &text_of(value));
                    }
                }
                one => {
                    pairs.append_pair(name, &text_of(one));
                }
            }
        }
    }
    url.query().unwrap_or_default().to_owned()
}

/// Both alphabets are told apart by [`bytes_of`]; padding may be there or not.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The bytes of base64, in either alphabet, with or without padding and breaks of lines: as text, or as `{base64, media_type}`, the form that
/// responses have.
pub(super) fn bytes_of(value: &Value) -> Result<Vec<u8>, String> {
    let text = value.as_str().or_else(|| value.get("base64")?.as_str());
    let text = text.ok_or("base64 is text, or an object with such a field")?;
    let standard = text.bytes().filter(|byte| !byte.is_ascii_whitespace());
    let standard = standard.map(|byte| match byte {
        b'-' => b'+',
        b'_' => b'/',
        byte => byte,
    });
    let standard: Vec<u8> = standard.collect();
    let bytes = LENIENT.decode(standard);
    bytes.map_err(|_| "this is no base64".to_owned())
}

/// What an object says that its bytes are.
pub(super) fn media_type(value: &Value) -> Option<&str> {
    value
        .get("media_type")
        .or_else(|| value.get("content_type"))?
        .as_str()
}

/// Does not quote it: an expression may have made it.
pub(super) fn not_a_type(_: &str) -> String {
    "the media type has characters that headers cannot have".to_owned()
}
