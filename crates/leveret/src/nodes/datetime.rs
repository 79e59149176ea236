//! `datetime`: tells, moves, writes and reads points in time. Pure: now is when the attempt began.

use async_trait::async_trait;
use jiff::{Span, Timestamp as Instant, Zoned, civil::DateTime, fmt::strtime, tz::TimeZone};
use leveret_core::{edit::kind, parse::ParamProblem, suggest::nearest};
use serde_json::Value;

use super::{
    NodeContext, NodeError, NodeType, Verdict,
    check::{Check, Wanted},
};

/// Parameters: `operation`, `now` (default), `add`, `subtract`, `format` or `parse`; `value`, a date and time, by default now; `amount`, what is added
/// or subtracted; `format`, how text is written or read; `time_zone`, by default UTC. Output: RFC 3339 in the zone; of `format` the text.
pub(super) struct Datetime;

const OPERATIONS: [&str; 5] = ["now", "add", "subtract", "format", "parse"];

const KNOWN: [&str; 5] = ["operation", "value", "amount", "format", "time_zone"];

fn operation(text: &str) -> Result<&str, String> {
    if OPERATIONS.contains(&text) {
        return Ok(text);
    }
    Err(match nearest(text, OPERATIONS) {
        Some(near) => format!("'{text}' is no operation; did you mean '{near}'?"),
        None => format!("'{text}' is no operation; known: {}", OPERATIONS.join(", ")),
    })
}

fn zone(name: &str) -> Result<TimeZone, String> {
    TimeZone::get(name)
        .map_err(|_| format!("there is no time zone '{name}'; say one as in Europe/Berlin, or UTC"))
}

fn amount(text: &str) -> Result<Span, String> {
    text.parse().map_err(|_| {
        format!("'{text}' is no amount of time: say 'P1M2DT3H', or '1 month 2 days 3h'")
    })
}

/// What an operation needs beside what has a default.
fn needed(operation: &str) -> &'static [&'static str] {
    match operation {
        "add" | "subtract" => &["amount"],
        "format" => &["format"],
        "parse" => &["value", "format"],
        _ => &[],
    }
}

#[async_trait]
impl NodeType for Datetime {
    fn is_pure(&self) -> bool {
        true
    }

    fn check_params(&self, params: &Value) -> Vec<ParamProblem> {
        let mut check = Check::of(params, &KNOWN);
        for (name, fault) in [
            (
                "operation",
                (|text| operation(text).err()) as fn(&str) -> Option<String>,
            ),
            ("amount", |text| amount(text).err()),
            ("time_zone", |text| zone(text).err()),
            ("format", |_| None),
        ] {
            match check.optional(name) {
                Some(Value::String(text)) => {
                    if let Some(fault) = fault(text) {
                        check.tell(&[name], fault);
                    }
                }
                other => check.expect(name, other, Wanted::Text),
            }
        }
        let operation = params.get("operation").and_then(Value::as_str);
        for name in needed(operation.unwrap_or("now")) {
            check.needs(name);
        }
        check.end()
    }

    async fn execute(&self, ctx: NodeContext) -> Result<Verdict, NodeError> {
        let output = answer(&ctx).map_err(NodeError::permanent)?;
        Ok(Value::from(output).into())
    }
}

fn answer(ctx: &NodeContext) -> Result<String, String> {
    let text = |name: &str| match ctx.params.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(other) => Err(format!(
            "parameter '{name}' must be text, not {}",
            kind(other)
        )),
    };
    let given = |name: &str| text(name)?.ok_or_else(|| format!("parameter '{name}' is missing"));
    let operation = operation(text("operation")?.unwrap_or("now"))?;
    let zone = zone(text("time_zone")?.unwrap_or("UTC"))?;
    if operation == "parse" {
        return read(given("value")?, given("format")?, &zone).map(|at| written(&at));
    }
    let at = match ctx.params.get("value") {
        None | Some(Value::Null) => Instant::from_millisecond(ctx.now.0)
            .map_err(|error| error.to_string())?
            .to_zoned(zone),
        Some(value) => moment(value, zone)?,
    };
    match operation {
        "now" => Ok(written(&at)),
        "format" => strtime::format(given("format")?, &at)
            .map_err(|error| format!("the format cannot be used: {error}")),
        _ => {
            let amount = amount(given("amount")?)?;
            let moved = match operation {
                "add" => at.checked_add(amount),
                _ => at.checked_sub(amount),
            };
            let moved = moved.map_err(|error| error.to_string())?;
            Ok(written(&moved))
        }
    }
}

/// RFC 3339, to the zone's offset; `Z` in UTC.
fn written(at: &Zoned) -> String {
    let instant = at.timestamp();
    if *at.time_zone() == TimeZone::UTC {
        return instant.to_string();
    }
    instant.display_with_offset(at.offset()).to_string()
}

/// A value as a point in time, seen in the zone. Without an offset it is what the clocks of the zone show.
fn moment(value: &Value, zone: TimeZone) -> Result<Zoned, String> {
    let wrong = || {
        "parameter 'value' must be a date and time as in 2026-03-29T10:00:00Z, or milliseconds since 1970".to_owned()
    };
    match value {
        Value::Number(ms) => {
            let ms = ms.as_i64().ok_or_else(wrong)?;
            let instant = Instant::from_millisecond(ms).map_err(|_| wrong())?;
            Ok(instant.to_zoned(zone))
        }
        Value::String(text) => {
            if let Ok(instant) = text.parse::<Instant>() {
                return Ok(instant.to_zoned(zone));
            }
            let shown: DateTime = text.parse().map_err(|_| wrong())?;
            shown.to_zoned(zone).map_err(|error| error.to_string())
        }
        _ => Err(wrong()),
    }
}

/// Text in a format. What has no offset is what the clocks of the zone show; what has no time is the day's first moment there.
fn read(text: &str, format: &str, zone: &TimeZone) -> Result<Zoned, String> {
    let wrong =
        |error: jiff::Error| format!("parameter 'value' is not as the format says: {error}");
    let parsed = strtime::parse(format, text).map_err(wrong)?;
    if let Ok(instant) = parsed.to_timestamp() {
        return Ok(instant.to_zoned(zone.clone()));
    }
    if let Ok(zoned) = parsed.to_zoned() {
        return Ok(zoned.with_time_zone(zone.clone()));
    }
    let date = parsed.to_date().map_err(wrong)?;
    let shown = match parsed.to_time() {
        Ok(time) => date.to_datetime(time),
        Err(_) => date.at(0, 0, 0, 0),
    };
    shown.to_zoned(zone.clone()).map_err(wrong)
}
