//! What requests say: bodies, ids in paths, parameters, idempotency keys; everything else is a 400 with its reason.

use std::fmt::Write;

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Request},
    http::request::Parts,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use crate::{failure::Failure, ids::Id};

/// The longest text of a field, in bytes.
pub(crate) const TEXT_BYTES_MAX: usize = 10_000;

/// The most that is said of a body that cannot be read, in characters.
const SAID_CHARS_MAX: usize = 500;

/// A JSON body. One that is empty is read as `{}`. It keeps what tells two bodies apart.
pub(crate) struct Body<T> {
    pub(crate) value: T,
    /// Of the bytes as they came.
    pub(crate) fingerprint: String,
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Body<T>, Failure> {
        let read = Bytes::from_request(request, state).await;
        let bytes = read.map_err(|no| Failure::new(no.status(), no.body_text()))?;
        let json: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        // A list would be read as the members in their order.
        if json.trim_ascii_start().first() == Some(&b'[') {
            return Err(Failure::bad_request("the body is no JSON object"));
        }
        Ok(Body {
            value: parse(json)?,
            fingerprint: fingerprint(&bytes),
        })
    }
}

/// One JSON value; what is wrong in it is said with the field that it is wrong in, such as `items[0].quantity`.
fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T, Failure> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let reason = error.into_inner().to_string();
        let said = match path.as_str() {
            // The whole, or a field that its reason names.
            "." => reason,
            _ => format!("{path}: {reason}"),
        };
        // It has what was sent in it.
        Failure::bad_request(said.chars().take(SAID_CHARS_MAX).collect::<String>())
    })?;
    let end = reader.end();
    end.map_err(|error| Failure::bad_request(error.to_string()))?;
    Ok(value)
}

/// What tells texts apart: the beginning of their SHA-256.
fn fingerprint(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    let mut text = String::with_capacity(32);
    for byte in &digest[..16] {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The uuid in a path.
pub(crate) struct PathId(pub(crate) Id);

impl<S: Send + Sync> FromRequestParts<S> for PathId {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<PathId, Failure> {
        let text = path_text(parts, state).await?;
        let id = Id::parse(&text).ok_or_else(|| Failure::bad_request("the id is no uuid"))?;
        Ok(PathId(id))
    }
}

/// The whole number in a path.
pub(crate) struct PathNumber(pub(crate) i64);

impl<S: Send + Sync> FromRequestParts<S> for PathNumber {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<PathNumber, Failure> {
        let text = path_text(parts, state).await?;
        let number = text.parse().ok().filter(|number| *number > 0);
        let failure = || Failure::bad_request("the id is no whole number from 1");
        Ok(PathNumber(number.ok_or_else(failure)?))
    }
}

/// The text in a path.
pub(crate) struct PathText(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for PathText {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<PathText, Failure> {
        Ok(PathText(path_text(parts, state).await?))
    }
}

async fn path_text<S: Send + Sync>(parts: &mut Parts, state: &S) -> Result<String, Failure> {
    let read = Path::<String>::from_request_parts(parts, state).await;
    let Path(text) = read.map_err(|error| Failure::bad_request(error.body_text()))?;
    check_text("the id", &text, 500)?;
    Ok(text)
}

/// The parameters of a query, each name at most once.
pub(crate) struct Params(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Params, Failure> {
        let query = parts.uri.query().unwrap_or_default();
        let url = reqwest::Url::parse(&format!("http://local/?{query}"));
        let url = url.map_err(|error| Failure::bad_request(error.to_string()))?;
        let pairs = url.query_pairs();
        let pairs: Vec<_> = pairs
            .map(|(name, value)| (name.into_owned(), value.into_owned()))
            .collect();
        for (at, (name, value)) in pairs.iter().enumerate() {
            check_text(name, value, 500)?;
            if pairs[..at].iter().any(|(other, _)| other == name) {
                return Err(Failure::bad_request(format!("{name} is given twice")));
            }
        }
        Ok(Params(pairs))
    }
}

impl Params {
    /// Refuses names that are not among these.
    pub(crate) fn known(self, names: &[&str]) -> Result<Params, Failure> {
        let unknown = self.0.iter().find(|(name, _)| !names.contains(&&**name));
        match unknown {
            Some((name, _)) => Err(Failure::bad_request(format!(
                "there is no parameter '{name}'; there are {}",
                names.join(", ")
            ))),
            None => Ok(self),
        }
    }

    /// The value of one.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| &**value)
    }
}

/// A text that people write: neither empty nor endless, and without NUL, which databases do not keep.
pub(crate) fn check_text(name: &str, text: &str, most: usize) -> Result<(), Failure> {
    if text.trim().is_empty() {
        return Err(Failure::bad_request(format!("{name} should not be empty")));
    }
    if text.len() > most {
        let message = format!("{name} has {} bytes, more than {most}", text.len());
        return Err(Failure::bad_request(message));
    }
    if text.contains('\0') {
        return Err(Failure::bad_request(format!("{name} has a NUL character")));
    }
    Ok(())
}

/// The `Idempotency-Key` of a request, if it has one.
#[derive(Clone, Debug)]
pub(crate) struct IdempotencyKey(pub(crate) Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<IdempotencyKey, Failure> {
        let Some(key) = parts.headers.get("idempotency-key") else {
            return Ok(IdempotencyKey(None));
        };
        match key.to_str() {
            Ok(key) if !key.trim().is_empty() && key.len() <= 255 => {
                Ok(IdempotencyKey(Some(key.to_owned())))
            }
            _ => Err(Failure::bad_request(
                "Idempotency-Key is 1 to 255 printable characters",
            )),
        }
    }
}

/// A request with a key, so that a state knows it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Keyed {
    /// Who asks, and by which key.
    key: String,
    /// What is asked: the verb and the body.
    what: String,
}

impl Keyed {
    /// Of a request of somebody, if it has a key.
    pub(crate) fn of(
        key: &IdempotencyKey,
        sub: &str,
        verb: &str,
        fingerprint: &str,
    ) -> Option<Keyed> {
        let key = key.0.as_ref()?;
        Some(Keyed {
            key: format!("{sub}\n{key}"),
            what: format!("{verb} {fingerprint}"),
        })
    }

    /// The id of what the request makes: the same request makes the same.
    pub(crate) fn id(&self, kind: &str) -> Id {
        Id::derived(&["idempotency", kind, &self.key])
    }
}

/// The requests with a key that a document has served lately, kept with its state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Served(Vec<Keyed>);

/// How many of them are kept.
const SERVED_MAX: usize = 32;

/// Whether a request was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It is new.
    New,
    /// It was served: the answer is what is.
    Again,
    /// Its key belongs to another request.
    Other,
}

impl Served {
    /// Whether this one was.
    pub(crate) fn look(&self, request: Option<&Keyed>) -> Seen {
        let Some(request) = request else {
            return Seen::New;
        };
        match self.0.iter().find(|served| served.key == request.key) {
            None => Seen::New,
            Some(served) if served.what == request.what => Seen::Again,
            Some(_) => Seen::Other,
        }
    }

    /// This one is from now on.
    pub(crate) fn keep(&mut self, request: Option<&Keyed>) {
        let Some(request) = request else { return };
        if self.0.len() == SERVED_MAX {
            self.0.remove(0);
        }
        self.0.push(request.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_said_with_its_field() {
        #[derive(Debug, Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        struct Quote {
            #[serde(rename = "customerId")]
            _customer: i64,
            #[serde(rename = "items")]
            _items: Vec<Line>,
        }
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Line {
            #[serde(rename = "price")]
            _price: crate::money::Money,
        }
        let said =
            |json: &str| parse::<Quote>(json.as_bytes()).map_err(|no| no.message().to_owned());
        let table = [
            r#"{"customerId": "seven", "items": []}"#,
            r#"{"customerId": null, "items": []}"#,
            r#"{"customerId": 1.5, "items": []}"#,
            r#"{"customerId": 7}"#,
            r#"{"customerId": 7, "items": {}}"#,
            r#"{"customerId": 7, "items": [{"price": 1}, {"price": true}]}"#,
            r#"{"customerId": 7, "items": [{"price": 1}, {}]}"#,
            r#"{"customerId": 7, "items": [{"price": 1, "more": 2}]}"#,
            r#"{"customerId": 7, "items": [], "more": 2}"#,
            r#"{"customerId": 7, "items": []} and more"#,
            r#"{"customerId": 7, "items": ["#,
            r#""text""#,
        ];
        let all: Vec<_> = table.iter().map(|json| said(json).unwrap_err()).collect();
        insta::assert_snapshot!(all.join("\n"), @r#"
        customerId: invalid type: string "seven", expected i64 at line 1 column 22
        customerId: invalid type: null, expected i64 at line 1 column 19
        customerId: invalid type: floating point `1.5`, expected i64 at line 1 column 18
        missing field `items` at line 1 column 17
        items: invalid type: map, expected a sequence at line 1 column 27
        items[1].price: is no amount; say a number or decimal text such as "150.00" at line 1 column 57
        items[1]: missing field `price` at line 1 column 44
        items[0].more: unknown field `more`, expected `price` at line 1 column 47
        more: unknown field `more`, expected `customerId` or `items` at line 1 column 37
        trailing characters at line 1 column 32
        items: EOF while parsing a list at line 1 column 28
        invalid type: string "text", expected struct Quote at line 1 column 6
        "#);
        let long = format!(r#"{{"customerId": "{}"}}"#, "x".repeat(10_000));
        assert_eq!(said(&long).unwrap_err().len(), SAID_CHARS_MAX);
    }

    #[test]
    fn a_request_is_known_by_its_key() {
        let keyed = |sub: &str, key: &str, body: &str| {
            Keyed::of(&IdempotencyKey(Some(key.into())), sub, "approve", body)
        };
        let mut served = Served::default();
        let first = keyed("7", "a", "x");
        assert_eq!(served.look(first.as_ref()), Seen::New);
        served.keep(first.as_ref());
        assert_eq!(served.look(first.as_ref()), Seen::Again);
        assert_eq!(served.look(keyed("7", "a", "y").as_ref()), Seen::Other);
        assert_eq!(served.look(keyed("8", "a", "y").as_ref()), Seen::New);
        assert_eq!(served.look(None), Seen::New);
        for key in 0..SERVED_MAX {
            served.keep(keyed("7", &key.to_string(), "x").as_ref());
        }
        assert_eq!(served.look(first.as_ref()), Seen::New);
    }
}
