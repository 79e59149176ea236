//! `garage timeline`: the course of a work order on the terminal.

use std::{fmt::Write as _, time::Duration};

use anyhow::Context;
use serde_json::Value;

use crate::settings::TimelineArgs;

/// How long the OS service may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Asks the OS service, and prints what it says.
pub(crate) async fn show(args: &TimelineArgs) -> anyhow::Result<()> {
    let id = crate::ids::Id::parse(&args.id).context("the work order's id is no uuid")?;
    let client = reqwest::Client::builder()
        .timeout(TIMEOUT)
        .no_proxy()
        .build()?;
    let url = format!("{}/sagas/{id}", args.os.trim_end_matches('/'));
    let request = client.get(&url).bearer_auth(&args.token);
    let response = request.send().await;
    let response = response.with_context(|| format!("{} does not answer", args.os))?;
    let status = response.status();
    let saga: Value = response
        .json()
        .await
        .with_context(|| format!("{} answers with something else than JSON", args.os))?;
    if !status.is_success() {
        let message = saga["message"].as_str().unwrap_or("without a reason");
        anyhow::bail!("{}: {message}", status.as_u16());
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&saga)?);
    } else {
        print!("{}", table(&saga));
    }
    Ok(())
}

/// A saga, as the API shows it, as a table: when, who, what, who reacted; then what is missing and late.
pub(crate) fn table(saga: &Value) -> String {
    const HEAD: [&str; 4] = ["TIME", "BY", "EVENT", "REACTED"];
    let mut rows = vec![HEAD.map(str::to_owned)];
    rows.extend(list(saga, "entries").iter().map(row));
    let widths = [0, 1, 2].map(|column| {
        let widths = rows.iter().map(|row: &[String; 4]| row[column].len());
        widths.max().unwrap_or(0)
    });
    let mut text = format!("work order {}: {}", word(saga, "workOrderId"), state(saga));
    text.push_str("\n\n");
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        line.push_str(&row[3]);
        text.push_str(line.trim_end());
        text.push('\n');
    }
    let more = saga["eventsNotShown"].as_u64().unwrap_or(0);
    if more > 0 {
        let _ = writeln!(text, "and {more} more events");
    }
    for missing in list(saga, "missing") {
        let one_of = list(missing, "oneOf").iter();
        let one_of: Vec<_> = one_of.map(|kind| kind.as_str().unwrap_or("?")).collect();
        let (kinds, due) = (one_of.join(" or "), word(missing, "due"));
        let overdue = if missing["overdue"] == true {
            format!(", overdue: {}", word(missing, "reason"))
        } else {
            String::new()
        };
        let _ = writeln!(text, "missing: {kinds} by {due}{overdue}");
    }
    for late in list(saga, "late") {
        let (kind, at, due) = (word(late, "eventType"), word(late, "at"), word(late, "due"));
        let _ = writeln!(text, "late: {kind} at {at}, expected by {due}");
    }
    text
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}

fn word<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or("?")
}

fn state(saga: &Value) -> String {
    let detail = match word(saga, "state") {
        "ended" => word(saga, "end"),
        "stuck" => word(saga, "reason"),
        other => return other.to_owned(),
    };
    format!("{}: {detail}", word(saga, "state"))
}

fn row(entry: &Value) -> [String; 4] {
    let reacted = list(entry, "reactedBy").iter();
    let reacted: Vec<_> = reacted
        .map(|reaction| format!("{} ({})", word(reaction, "type"), word(reaction, "source")))
        .collect();
    [
        word(entry, "timestamp").to_owned(),
        word(entry, "source").to_owned(),
        word(entry, "type").to_owned(),
        reacted.join(", "),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn shown() {
        let saga = json!({
            "workOrderId": "w1", "state": "stuck", "end": null, "reason": "there is no quote", "eventsNotShown": 0,
            "entries": [
                { "timestamp": "2026-01-01T00:00:00.000Z", "source": "os-service", "type": "work-order.created",
                  "reactedBy": [{ "type": "quote.created", "source": "billing-service" }] },
                { "timestamp": "2026-01-01T00:00:01.000Z", "source": "billing-service", "type": "quote.created", "reactedBy": [] },
            ],
            "missing": [{ "oneOf": ["a.b", "c.d"], "due": "2026-01-02T00:00:00.000Z", "overdue": true, "reason": "there is no quote" }],
            "late": [{ "eventType": "quote.created", "at": "2026-01-01T00:00:01.000Z", "due": "2026-01-01T00:00:00.500Z" }],
        });
        insta::assert_snapshot!(table(&saga), @r"
        work order w1: stuck: there is no quote

        TIME                      BY               EVENT               REACTED
        2026-01-01T00:00:00.000Z  os-service       work-order.created  quote.created (billing-service)
        2026-01-01T00:00:01.000Z  billing-service  quote.created
        missing: a.b or c.d by 2026-01-02T00:00:00.000Z, overdue: there is no quote
        late: quote.created at 2026-01-01T00:00:01.000Z, expected by 2026-01-01T00:00:00.500Z
        ");
    }
}
