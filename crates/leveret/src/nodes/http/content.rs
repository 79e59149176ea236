//! From a response's bytes to a value, by its media type.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use encoding_rs::{Encoding, UTF_8};
use leveret_core::json::{beyond, unkept_number};
use serde_json::{Value, json};

/// A `content-type`, in lower case.
#[derive(Debug, Default)]
pub(super) struct Media {
    /// Type and subtype; empty if the response does not tell.
    essence: String,
    charset: Option<String>,
}

/// What a body of a media type becomes.
#[derive(Clone, Copy)]
enum Shape {
    Json,
    /// A JSON value on each line.
    Lines,
    /// JSON values that each begin with a record separator (RFC 7464).
    Sequence,
    Text,
    Bytes,
}

impl Media {
    pub(super) fn of(content_type: &str) -> Media {
        let mut parts = content_type.split(';').map(str::trim);
        let essence = parts.next().unwrap_or_default().to_ascii_lowercase();
        let charset = parts.find_map(|part| {
            let (name, value) = part.split_once('=')?;
            let is_charset = name.trim().eq_ignore_ascii_case("charset");
            is_charset.then(|| value.trim().trim_matches('"').to_ascii_lowercase())
        });
        Media { essence, charset }
    }

    fn shape(&self) -> Shape {
        let (kind, subtype) = self.essence.split_once('/').unwrap_or_default();
        let suffix = subtype
            .rsplit_once('+')
            .map_or(subtype, |(_, suffix)| suffix);
        match subtype {
            "x-ndjson" | "ndjson" | "jsonl" | "x-jsonl" | "jsonlines" | "x-jsonlines"
            | "json-lines" | "stream+json" | "x-json-stream" => Shape::Lines,
            _ if suffix == "json-seq" => Shape::Sequence,
            _ if suffix == "json" || self.essence == "text/x-json" => Shape::Json,
            _ if self.is_text(kind, suffix) => Shape::Text,
            _ => Shape::Bytes,
        }
    }

    /// What does not tell what it is, is text if it can be.
    fn is_text(&self, kind: &str, suffix: &str) -> bool {
        let is_known = matches!(
            suffix,
            "xml"
                | "yaml"
                | "x-yaml"
                | "toml"
                | "javascript"
                | "ecmascript"
                | "x-javascript"
                | "sql"
                | "graphql"
                | "x-www-form-urlencoded"
                | "x-sh"
        );
        self.charset.is_some() || kind == "text" || kind.is_empty() || is_known
    }

    /// The text of bytes in the charset that is told, else that of a byte order mark, else UTF-8; `None` if they are no such text.
    fn text(&self, bytes: &[u8]) -> Option<String> {
        let label = self.charset.as_deref();
        let encoding = label.map_or(Some(UTF_8), |label| Encoding::for_label(label.as_bytes()));
        let (text, _, is_malformed) = encoding?.decode(bytes);
        (!is_malformed).then(|| text.into_owned())
    }
}

/// The value of a body. No bytes are null, and so is JSON of nothing but blanks; JSON is parsed, lines and sequences of JSON are lists, text is
/// text. All else is `{base64, media_type}`, as is text that is none. Fails for JSON that is none.
pub(super) fn value_of(bytes: &[u8], media: &Media) -> Result<Value, String> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let shape = media.shape();
    match (shape, media.text(bytes)) {
        (Shape::Bytes, _) | (Shape::Text, None) => Ok(binary(bytes, media)),
        (Shape::Text, Some(text)) => Ok(Value::String(text)),
        (_, None) => Err("it is no text in its charset".to_owned()),
        (Shape::Json, Some(text)) if text.trim().is_empty() => Ok(Value::Null),
        (Shape::Json, Some(text)) => parsed(&text),
        (Shape::Lines, Some(text)) => list(text.split('\n')),
        (Shape::Sequence, Some(text)) => list(text.split('\u{1e}')),
    }
}

fn parsed(text: &str) -> Result<Value, String> {
    let value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    match unkept_number(text) {
        None => Ok(value),
        Some(number) => Err(beyond(number)),
    }
}

fn list<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Value, String> {
    let given = texts.filter(|text| !text.trim().is_empty());
    given.map(parsed).collect()
}

fn binary(bytes: &[u8], media: &Media) -> Value {
    let media_type = match &*media.essence {
        "" => "application/octet-stream",
        essence => essence,
    };
    json!({ "base64": STANDARD.encode(bytes), "media_type": media_type })
}
