//! A body of several parts: `multipart/form-data` (RFC 7578).

use reqwest::header::HeaderValue;
use serde_json::Value;
use uuid::Uuid;

use super::{
    body::{Body, bytes_of, media_type, not_a_type},
    params::text_of,
};

/// A part as it is sent.
struct Part {
    name: String,
    filename: Option<String>,
    content_type: Option<String>,
    bytes: Vec<u8>,
}

/// The body of these parts: a map from name to part, or a list of parts that say their `name`. A part is text, or an object with one of `text`,
/// `json` and `base64`, and with `filename` and `media_type` if it likes. The boundary is made of the parts themselves, which so cannot hold it.
pub(super) fn body(parts: &Value, seed: &str) -> Result<Body, String> {
    let parts = match parts {
        Value::Object(map) => {
            let parts = map.iter().map(|(name, value)| part(name, value));
            parts.collect::<Result<Vec<_>, _>>()?
        }
        Value::Array(list) => {
            let parts = list.iter().map(|value| {
                let name = value.get("name").and_then(Value::as_str);
                part(name.ok_or("a part of a list has a 'name'")?, value)
            });
            parts.collect::<Result<Vec<_>, String>>()?
        }
        _ => return Err("'multipart' is a map from name to part, or a list of parts".to_owned()),
    };
    let boundary = boundary(&parts, seed);
    let mut bytes = Vec::new();
    for part in &parts {
        write(&mut bytes, part, &boundary);
    }
    bytes.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    let content_type = format!("multipart/form-data; boundary={boundary}");
    Ok(Body {
        bytes: bytes.into(),
        content_type: HeaderValue::from_str(&content_type).expect("letters and digits"),
        is_only: true,
    })
}

fn part(name: &str, value: &Value) -> Result<Part, String> {
    let mut content_type = media_type(value).map(str::to_owned);
    let bytes = match value {
        Value::Object(fields) => {
            match (fields.get("text"), fields.get("json"), fields.get("base64")) {
                (Some(text), None, None) => text_of(text).into_bytes(),
                (None, Some(json), None) => {
                    content_type.get_or_insert_with(|| "application/json".to_owned());
                    json.to_string().into_bytes()
                }
                (None, None, Some(_)) => {
                    content_type.get_or_insert_with(|| "application/octet-stream".to_owned());
                    bytes_of(value).map_err(|fault| format!("part '{name}': {fault}"))?
                }
                _ => {
                    return Err(format!(
                        "part '{name}' has one of 'text', 'json' and 'base64'"
                    ));
                }
            }
        }
        plain => text_of(plain).into_bytes(),
    };
    if let Some(text) = &content_type {
        HeaderValue::from_str(text).map_err(|_| format!("part '{name}': {}", not_a_type(text)))?;
    }
    let filename = value.get("filename").and_then(Value::as_str);
    Ok(Part {
        name: name.to_owned(),
        filename: filename.map(str::to_owned),
        content_type,
        bytes,
    })
}

fn write(body: &mut Vec<u8>, part: &Part, boundary: &str) {
    let filename = part.filename.as_ref();
    let filename = filename.map(|name| format!("; filename=\"{}\"", quoted(name)));
    let content_type = part.content_type.as_ref();
    let content_type = content_type.map(|text| format!("\r\ncontent-type: {text}"));
    let head = format!(
        "--{boundary}\r\ncontent-disposition: form-data; name=\"{}\"{}{}\r\n\r\n",
        quoted(&part.name),
        filename.unwrap_or_default(),
        content_type.unwrap_or_default()
    );
    body.extend_from_slice(head.as_bytes());
    body.extend_from_slice(&part.bytes);
    body.extend_from_slice(b"\r\n");
}

/// A name between quotes, as HTML forms write it.
fn quoted(name: &str) -> String {
    let escaped = name.chars().map(|char| match char {
        '"' => "%22".to_owned(),
        '\r' => "%0D".to_owned(),
        '\n' => "%0A".to_owned(),
        other => other.to_string(),
    });
    escaped.collect()
}

/// A text that is in no part, since it depends on all of them: nobody can write a part that holds the hash of itself.
fn boundary(parts: &[Part], seed: &str) -> String {
    let start = Uuid::new_v5(&Uuid::NAMESPACE_OID, seed.as_bytes());
    let hash = parts
        .iter()
        .fold(start, |hash, part| Uuid::new_v5(&hash, &part.bytes));
    format!("leveret{}", hash.simple())
}
