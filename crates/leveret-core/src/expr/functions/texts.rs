//! Functions that read texts of some form, and make such texts.

use std::{collections::BTreeMap, fmt::Write, rc::Rc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use regex_lite::RegexBuilder;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Budget, Data, EvalErrorKind, Failure, Outcome, text_of, value};
use crate::{
    expr::text::Text,
    json::{beyond, unkept_number},
    time::{Timestamp, parse_duration},
};

fn refused(message: impl Into<String>) -> Failure {
    Failure::new(EvalErrorKind::Type, message.into())
}

/// The longest regular expression, in bytes.
const REGEX_BYTES_MAX: usize = 1000;
/// The largest one, compiled.
const REGEX_SIZE_MAX: usize = 64 << 10;

/// Whether a part of a text matches. The time goes with the lengths of both, multiplied, at worst.
pub(super) fn matches<'v>(of: &Data<'v>, regex: &Data<'v>, budget: &Budget) -> Outcome<Data<'v>> {
    let (text, regex) = (text_of("matches", of)?, text_of("matches", regex)?);
    if regex.len() > REGEX_BYTES_MAX {
        return Err(refused(format!(
            "`matches` takes a regular expression of at most {REGEX_BYTES_MAX} bytes"
        )));
    }
    budget.charge(20 + 4 * regex.len())?;
    budget.charge(text.len().saturating_mul(1 + regex.len() / 4))?;
    let compiled = RegexBuilder::new(regex).size_limit(REGEX_SIZE_MAX).build();
    let compiled = compiled.map_err(|_| {
        let shown: String = regex.chars().take(60).collect();
        refused(format!(
            "'{shown}' is no regular expression that `matches` takes"
        ))
    })?;
    Ok(Data::Bool(compiled.is_match(text)))
}

/// The value that a JSON text says.
pub(super) fn parse_json<'v>(of: &Data<'v>, budget: &Budget) -> Outcome<Data<'v>> {
    let text = text_of("parseJson", of)?;
    // What it makes takes more memory than the text.
    budget.charge(text.len())?;
    let value: Value = serde_json::from_str(text)
        .map_err(|error| refused(format!("what `parseJson` is given is no JSON: {error}")))?;
    if let Some(number) = unkept_number(text) {
        return Err(refused(beyond(number)));
    }
    Ok(owned(value))
}

fn owned<'v>(value: Value) -> Data<'v> {
    match value {
        Value::Null => Data::Null,
        Value::Bool(value) => Data::Bool(value),
        Value::Number(number) => value::number_of(&number),
        Value::String(text) => Data::text(text),
        Value::Array(elements) => Data::list(elements.into_iter().map(owned).collect()),
        Value::Object(entries) => {
            let entries = entries.into_iter();
            let entries: BTreeMap<_, _> = entries
                .map(|(key, value)| (Text::from(key), owned(value)))
                .collect();
            Data::Map(Rc::new(entries))
        }
    }
}

pub(super) fn base64_encode<'v>(of: &Data<'v>, budget: &Budget) -> Outcome<Data<'v>> {
    let text = text_of("base64Encode", of)?;
    budget.charge_scan(text.len())?;
    Ok(Data::text(STANDARD.encode(text.as_bytes())))
}

pub(super) fn base64_decode<'v>(of: &Data<'v>, budget: &Budget) -> Outcome<Data<'v>> {
    let text = text_of("base64Decode", of)?;
    budget.charge_scan(text.len())?;
    let bytes = STANDARD
        .decode(text.as_bytes())
        .map_err(|_| refused("`base64Decode` takes base64 with its padding"))?;
    let text = String::from_utf8(bytes)
        .map_err(|_| refused("what `base64Decode` makes is no text in UTF-8"))?;
    Ok(Data::text(text))
}

/// All but letters, digits and `-._~` percent-encoded, as a segment of a path or a value of a query.
pub(super) fn url_encode<'v>(of: &Data<'v>, budget: &Budget) -> Outcome<Data<'v>> {
    let text = text_of("urlEncode", of)?;
    budget.charge_scan(3 * text.len())?;
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a text cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    Ok(Data::text(encoded))
}

fn hex<'v>(bytes: &[u8]) -> Data<'v> {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    Data::text(text)
}

/// In hexadecimal digits.
pub(super) fn sha256<'v>(of: &Data<'v>, budget: &Budget) -> Outcome<Data<'v>> {
    let text = text_of("sha256", of)?;
    budget.charge(10 + text.len() / 4)?;
    Ok(hex(&Sha256::digest(text.as_bytes())))
}

/// The block of SHA-256, in bytes.
const BLOCK: usize = 64;

/// HMAC (RFC 2104) with SHA-256, in hexadecimal digits.
pub(super) fn hmac_sha256<'v>(key: &Data<'v>, of: &Data<'v>, budget: &Budget) -> Outcome<Data<'v>> {
    let (key, text) = (text_of("hmacSha256", key)?, text_of("hmacSha256", of)?);
    budget.charge(40 + (key.len() + text.len()) / 4)?;
    let mut block = [0; BLOCK];
    if key.len() > BLOCK {
        block[..32].copy_from_slice(&Sha256::digest(key.as_bytes()));
    } else {
        block[..key.len()].copy_from_slice(key.as_bytes());
    }
    let padded = |pad: u8| block.map(|byte| byte ^ pad);
    let inner = Sha256::new()
        .chain_update(padded(0x36))
        .chain_update(text.as_bytes())
        .finalize();
    let outer = Sha256::new()
        .chain_update(padded(0x5c))
        .chain_update(inner)
        .finalize();
    Ok(hex(&outer))
}

/// Milliseconds of a time span, as in `90s`.
pub(super) fn duration<'v>(of: &Data<'v>) -> Outcome<Data<'v>> {
    let text = text_of("duration", of)?;
    let span = parse_duration(text).ok_or_else(|| {
        refused("`duration` takes a time span such as '250ms', '10s', '5m', '1h' or '2d'")
    })?;
    Ok(Data::Int(span.as_millis() as i128))
}

/// Milliseconds from 1970 to a point in time, as in `2026-11-21T02:24:23Z`.
pub(super) fn timestamp<'v>(of: &Data<'v>) -> Outcome<Data<'v>> {
    let text = text_of("timestamp", of)?;
    let time: Timestamp = text.parse().map_err(|_| {
        refused("`timestamp` takes a time of RFC 3339, such as '2026-11-21T02:24:23Z'")
    })?;
    Ok(Data::Int(i128::from(time.0)))
}
