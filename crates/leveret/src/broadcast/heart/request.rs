//! What clients ask the heart for, and the strict reading of it.

use std::{fmt, marker::PhantomData, sync::Arc, time::Duration};

use leveret_core::broadcast::{Statement, Value, misformed};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};
use sha2::{Digest, Sha256};

use crate::broadcast::log::Key;

/// The most statements of a write.
pub const STATEMENTS_MAX: usize = 1000;

/// The most arguments of a statement: what SQLite takes.
pub const ARGS_MAX: usize = 32_766;

/// How long a request waits when nothing else is said.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);

/// The longest that a request may wait.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(600);

/// When a write is answered; `quorum` when nothing is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Ack {
    /// When it is durable in the log. It has no results yet.
    Accepted,
    /// When a node has applied it.
    One,
    /// When more than half of the members have.
    #[default]
    Quorum,
    /// When all members have.
    All,
}

impl Ack {
    /// How many of so many members must have applied it; at least one where any must.
    pub fn needs(self, members: usize) -> usize {
        match self {
            Ack::Accepted => 0,
            Ack::One => 1,
            Ack::Quorum => members / 2 + 1,
            Ack::All => members.max(1),
        }
    }
}

/// How fresh an answer must be; `any` when nothing is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As any healthy node has it.
    #[default]
    Any,
    /// Not older than `min_seq`, the highest seq that the client has seen.
    Session,
    /// Everything that was logged longer ago than `max_lag_ms`.
    Bounded,
    /// Everything that was acknowledged before the question, whoever asked for it.
    Latest,
}

/// A write as a client asks for it.
#[derive(Clone, Debug, PartialEq)]
pub struct WriteRequest {
    /// At least one, in order, all or none.
    pub statements: Vec<Statement>,
    /// When it is answered.
    pub ack: Ack,
    /// How long the answer may take.
    pub timeout: Duration,
    /// The client's name for it: the same again is the same write.
    pub key: Option<Arc<str>>,
}

/// A question as a client asks it.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadRequest {
    /// What is asked.
    pub statement: Statement,
    /// How fresh the answer must be.
    pub level: Level,
    /// The answer has at least this write.
    pub min_seq: u64,
    /// The answer has every write that was logged longer ago than this.
    pub max_lag: Option<Duration>,
    /// How long the answer may take.
    pub timeout: Duration,
}

/// What is wrong with a request, in words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Mistake(pub String);

fn mistake<T>(text: impl Into<String>) -> Result<T, Mistake> {
    Err(Mistake(text.into()))
}

/// The body of `POST /write`: `sql` with `args`, or `statements`.
#[derive(Deserialize)]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct WriteBody {
    /// One statement.
    sql: Option<String>,
    /// Its arguments: null, true, false, a number, text, `{"$blob": base64}`, `{"$int": text}` or `{"$real": text}`.
    #[cfg_attr(feature = "http", schema(value_type = Option<Vec<serde_json::Value>>))]
    args: Option<Vec<Value>>,
    /// Several statements, all or none: each with `sql` and `args`.
    #[cfg_attr(feature = "http", schema(value_type = Option<Vec<std::collections::HashMap<String, serde_json::Value>>>))]
    statements: Option<Vec<Object<Statement>>>,
    #[serde(default)]
    #[cfg_attr(feature = "http", schema(inline))]
    ack: Ack,
    /// How long the answer may take; 5000 when nothing is said.
    timeout_ms: Option<u64>,
}

impl WriteRequest {
    /// Reads the body of `POST /write`.
    pub fn parse(body: &[u8], key: Option<&str>) -> Result<WriteRequest, Mistake> {
        let body: WriteBody = read(body)?;
        let statements = body.statements.map(|statements| {
            let statements = statements.into_iter();
            statements.map(|Object(one)| one).collect::<Vec<_>>()
        });
        let statements = match (body.sql, body.args, statements) {
            (Some(sql), args, None) => vec![Statement {
                sql,
                args: args.unwrap_or_default(),
            }],
            (None, None, Some(statements)) if statements.is_empty() => {
                return mistake("'statements' is empty");
            }
            (None, None, Some(statements)) => statements,
            (None, None, None) => return mistake("there is neither 'sql' nor 'statements'"),
            (Some(_), _, Some(_)) => return mistake("there is 'sql' or 'statements', not both"),
            (None, Some(_), _) => return mistake("'args' belongs to 'sql', which is missing"),
        };
        if statements.len() > STATEMENTS_MAX {
            return mistake(format!(
                "{} statements are more than the {STATEMENTS_MAX} allowed",
                statements.len()
            ));
        }
        for (at, statement) in statements.iter().enumerate() {
            check(statement).map_err(|Mistake(text)| match statements.len() {
                1 => Mistake(text),
                _ => Mistake(format!("statement {at}: {text}")),
            })?;
        }
        Ok(WriteRequest {
            statements,
            ack: body.ack,
            timeout: timeout(body.timeout_ms)?,
            key: key.map(Arc::from),
        })
    }

    /// The key with the digest of what it belongs to.
    pub(super) fn log_key(&self) -> Option<Key> {
        let name = self.key.clone()?;
        let text = serde_json::to_vec(&self.statements).expect("statements print");
        Some(Key {
            name,
            digest: Sha256::digest(&text).into(),
        })
    }
}

fn check(statement: &Statement) -> Result<(), Mistake> {
    if let Some(text) = misformed(&statement.sql) {
        return mistake(text);
    }
    if statement.args.len() > ARGS_MAX {
        return mistake(format!("there are more than {ARGS_MAX} arguments"));
    }
    Ok(())
}

/// The body of `POST /read`.
#[derive(Deserialize)]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct ReadBody {
    /// One question.
    sql: String,
    /// Its arguments, as those of a write.
    #[serde(default)]
    #[cfg_attr(feature = "http", schema(value_type = Vec<serde_json::Value>))]
    args: Vec<Value>,
    #[serde(default)]
    #[cfg_attr(feature = "http", schema(inline))]
    level: Level,
    /// The answer has at least this write.
    min_seq: Option<u64>,
    /// The answer has every write that was logged longer ago; needed by level `bounded`.
    max_lag_ms: Option<u64>,
    /// How long the answer may take; 5000 when nothing is said.
    timeout_ms: Option<u64>,
}

impl ReadRequest {
    /// Reads the body of `POST /read`.
    pub fn parse(body: &[u8]) -> Result<ReadRequest, Mistake> {
        let body: ReadBody = read(body)?;
        if body.level == Level::Bounded && body.max_lag_ms.is_none() {
            return mistake("level 'bounded' needs 'max_lag_ms'");
        }
        if body.sql.contains('\0') {
            return mistake("the statement has a NUL character");
        }
        if body.args.len() > ARGS_MAX {
            return mistake(format!("there are more than {ARGS_MAX} arguments"));
        }
        Ok(ReadRequest {
            statement: Statement {
                sql: body.sql,
                args: body.args,
            },
            level: body.level,
            min_seq: body.min_seq.unwrap_or(0),
            max_lag: body.max_lag_ms.map(Duration::from_millis),
            timeout: timeout(body.timeout_ms)?,
        })
    }
}

fn timeout(ms: Option<u64>) -> Result<Duration, Mistake> {
    let Some(ms) = ms else {
        return Ok(TIMEOUT_DEFAULT);
    };
    let timeout = Duration::from_millis(ms);
    if timeout > TIMEOUT_MAX {
        let max = TIMEOUT_MAX.as_millis();
        return mistake(format!("'timeout_ms' is at most {max}"));
    }
    Ok(timeout)
}

fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Mistake> {
    if let Some(number) = too_large(body) {
        return mistake(format!("{number} is beyond 64 bits with sign"));
    }
    let read = serde_json::from_slice(body).map(|Object(read)| read);
    read.map_err(|error| Mistake(format!("the body is not what is expected: {error}")))
}

/// What is read from an object alone: a derived reader takes the fields from a list, too, by their places.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object<T>, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Object)
    }
}

/// A whole number that no 64 bits hold. A reader of JSON would make it one with a point, silently.
fn too_large(body: &[u8]) -> Option<&str> {
    let mut at = 0;
    while at < body.len() {
        match body[at] {
            b'"' => at = behind_string(body, at + 1),
            b'-' | b'0'..=b'9' => {
                let is_part = |byte: &u8| !b"+-.eE0123456789".contains(byte);
                let length = body[at..].iter().position(is_part);
                let end = length.map_or(body.len(), |length| at + length);
                let text = str::from_utf8(&body[at..end]).ok()?;
                let is_whole = !text.contains(['.', 'e', 'E']);
                if is_whole && text.len() > 18 && text.parse::<i64>().is_err() {
                    return Some(text);
                }
                at = end;
            }
            _ => at += 1,
        }
    }
    None
}

fn behind_string(body: &[u8], mut at: usize) -> usize {
    while at < body.len() {
        match body[at] {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(body: &str, expect: &str) {
        let Mistake(text) = WriteRequest::parse(body.as_bytes(), None).unwrap_err();
        assert!(text.contains(expect), "{body}: {text}");
    }

    #[test]
    fn reads_writes() {
        let one = WriteRequest::parse(br#"{"sql":"DELETE FROM t;","args":[true,1.0]}"#, Some("k"));
        let one = one.unwrap();
        assert_eq!((one.ack, one.timeout), (Ack::Quorum, TIMEOUT_DEFAULT));
        assert_eq!(
            one.statements[0].args,
            [Value::Integer(1), Value::Real(1.0)]
        );
        let many = br#"{"statements":[{"sql":"DELETE FROM t"},{"sql":"DELETE FROM u","args":[]}],"ack":"all","timeout_ms":7}"#;
        let many = WriteRequest::parse(many, None).unwrap();
        assert_eq!(many.statements.len(), 2);
        assert_eq!(
            (many.ack, many.timeout),
            (Ack::All, Duration::from_millis(7))
        );
    }

    #[test]
    fn refuses_what_is_no_write() {
        refused("", "EOF");
        refused("[]", "expected an object");
        refused(
            r#"["DELETE FROM t",null,null,"quorum",null]"#,
            "expected an object",
        );
        refused(
            r#"{"statements":[["DELETE FROM t",[]]]}"#,
            "expected an object",
        );
        refused("{}", "neither 'sql' nor");
        refused(
            r#"{"sql":"DELETE FROM t","more":1}"#,
            "unknown field `more`",
        );
        refused(r#"{"sql":"DELETE FROM t","statements":[]}"#, "not both");
        refused(r#"{"statements":[]}"#, "is empty");
        refused(
            r#"{"statements":[{"sql":"DELETE FROM t","x":1}]}"#,
            "unknown field `x`",
        );
        refused(
            r#"{"statements":[{"sql":"DELETE FROM t"}],"args":[]}"#,
            "'args' belongs",
        );
        refused(
            r#"{"sql":"DELETE FROM t","ack":"most"}"#,
            "unknown variant `most`",
        );
        refused(
            r#"{"sql":"DELETE FROM t","args":[{"$x":"1"}]}"#,
            "unknown tag",
        );
        refused(
            r#"{"sql":"DELETE FROM t","args":[9223372036854775808]}"#,
            "beyond 64 bits",
        );
        refused(
            r#"{"sql":"DELETE FROM t","args":[-99999999999999999999]}"#,
            "beyond 64 bits",
        );
        refused(
            r#"{"sql":"DELETE FROM t","timeout_ms":-1}"#,
            "invalid value",
        );
        refused(
            r#"{"sql":"DELETE FROM t","timeout_ms":600001}"#,
            "at most 600000",
        );
        refused(r#"{"sql":"SELECT 1; SELECT 2"}"#, "one statement");
        refused(
            r#"{"statements":[{"sql":"DELETE FROM t"},{"sql":"BEGIN"}]}"#,
            "statement 1: BEGIN",
        );
    }

    /// A number in a text is no number.
    #[test]
    fn numbers_are_found_where_they_are() {
        let found = |body: &str| too_large(body.as_bytes()).map(str::to_owned);
        assert_eq!(
            found(r#"{"a\"99999999999999999999":[1e300,"9223372036854775808"]}"#),
            None
        );
        assert_eq!(found("[-9223372036854775808,9223372036854775807]"), None);
        assert_eq!(
            found("[9223372036854775808]").as_deref(),
            Some("9223372036854775808")
        );
        assert_eq!(found("\"\\"), None);
    }

    #[test]
    fn reads_questions() {
        let read = |body: &str| ReadRequest::parse(body.as_bytes());
        assert_eq!(read(r#"{"sql":"SELECT 1"}"#).unwrap().level, Level::Any);
        let bounded = read(r#"{"sql":"SELECT 1","level":"bounded","max_lag_ms":5}"#).unwrap();
        assert_eq!(bounded.max_lag, Some(Duration::from_millis(5)));
        assert!(read(r#"{"sql":"SELECT 1","level":"bounded"}"#).is_err());
        assert!(read(r#"{"sql":"SELECT 1","level":"fresh"}"#).is_err());
        assert!(read(r#"{"args":[]}"#).is_err());
        assert!(read(r#"["SELECT 1",[],"any",null,null,null]"#).is_err());
    }

    #[test]
    fn a_key_belongs_to_its_statements() {
        let key = |body: &str| {
            WriteRequest::parse(body.as_bytes(), Some("k"))
                .unwrap()
                .log_key()
        };
        let one = key(r#"{"sql":"DELETE FROM t","args":[1]}"#);
        assert_eq!(
            one,
            key(r#"{"statements":[{"sql":"DELETE FROM t","args":[1]}],"ack":"one"}"#)
        );
        assert_ne!(one, key(r#"{"sql":"DELETE FROM t","args":[1.0]}"#));
    }

    #[test]
    fn how_many_are_needed() {
        let needs = |ack: Ack| [0, 1, 2, 3, 4].map(|members| ack.needs(members));
        assert_eq!(needs(Ack::One), [1, 1, 1, 1, 1]);
        assert_eq!(needs(Ack::Quorum), [1, 1, 2, 2, 3]);
        assert_eq!(needs(Ack::All), [1, 1, 2, 3, 4]);
    }
}
