//! `leveret dlq`: the dead letters of a broker.
//!
//! With a broker in the settings that this process can open, straight there; else through the API of a server, since the file of an embedded
//! broker belongs to the process that has it open.

use std::sync::Arc;

use anyhow::Context;
use leveret::{
    ConnectError,
    broker::{
        self, Broker, BrokerError,
        dead_letters::{self, Body, Choice, Letter, Letters, Report, Summary, work_queue},
    },
    http::DeadLetterList,
    redact_url,
    runtime::Names,
    sqlite::DatabaseError,
};
use reqwest::{Method, RequestBuilder};

use crate::{
    cli::{DlqCommand, DlqFilter},
    client::Client,
    engine::of_connect,
    exit::{BadInput, Exit},
    output::{self, Output, Table},
    settings::{Settings, refuse_memory},
};

/// Letters that `list` shows unless it is told otherwise.
const LIST_LIMIT: u32 = 50;

pub(crate) async fn dlq(
    command: DlqCommand,
    settings: &Settings,
    output: Output,
) -> anyhow::Result<Exit> {
    let at = Where::new(settings).await?;
    let result = at.execute(command, output).await;
    at.close().await;
    result
}

/// Where the dead letters are asked for.
enum Where {
    Broker {
        broker: Arc<dyn Broker>,
        /// The engine's queues, which are listed besides those that the broker knows.
        own: [Arc<str>; 2],
    },
    Server(Client),
}

impl Where {
    async fn new(settings: &Settings) -> anyhow::Result<Where> {
        let Some(url) = settings.own_broker() else {
            return Ok(Where::Server(Client::new(settings)?));
        };
        refuse_memory("broker", url, "embedded:broker.db")?;
        let connected = broker::connect(url).await.map_err(explain);
        let broker =
            connected.with_context(|| format!("cannot connect (broker {})", redact_url(url)))?;
        let names = Names::with_prefix(settings.prefix.as_deref().unwrap_or_default());
        Ok(Where::Broker {
            broker,
            own: [names.execution, names.signal],
        })
    }

    async fn execute(&self, command: DlqCommand, output: Output) -> anyhow::Result<Exit> {
        match command {
            DlqCommand::List {
                queue: None,
                filter,
            } => {
                if filter.reason.is_some() || filter.id.is_some() || filter.limit.is_some() {
                    let help = "--limit, --reason and --id are about letters: name their queue";
                    return Err(BadInput::new(help).into());
                }
                print_summaries(&self.list().await?, output)
            }
            DlqCommand::List {
                queue: Some(queue),
                filter,
            } => {
                let letters = self.show(&queue, &filter, LIST_LIMIT, false).await?;
                print_brief(&letters, output)
            }
            DlqCommand::Show { queue, filter } => {
                let letters = self.show(&queue, &filter, 1, true).await?;
                print_full(&letters, output)
            }
            DlqCommand::Replay {
                queue,
                filter,
                dry_run,
            } => {
                let report = self.settle("replay", &queue, &filter, dry_run).await?;
                print_report(&report, "back in their queues", "would go back", output)
            }
            DlqCommand::Discard {
                queue,
                filter,
                dry_run,
            } => {
                let report = self.settle("discard", &queue, &filter, dry_run).await?;
                print_report(&report, "discarded", "would be discarded", output)
            }
        }
    }

    async fn list(&self) -> anyhow::Result<Vec<Summary>> {
        match self {
            Where::Broker { broker, own } => {
                let mut names = broker.known_queues();
                names.extend(own.iter().cloned());
                Ok(dead_letters::list(&**broker, &names).await?)
            }
            Where::Server(client) => {
                let list: DeadLetterList =
                    client.json(client.request(Method::GET, &["dlq"])).await?;
                Ok(list.items)
            }
        }
    }

    async fn show(
        &self,
        queue: &str,
        filter: &DlqFilter,
        limit_default: u32,
        full: bool,
    ) -> anyhow::Result<Letters> {
        let limit = filter.limit.unwrap_or(limit_default.into());
        match self {
            Where::Broker { broker, .. } => {
                let choice = Choice {
                    limit: Some(limit),
                    ..choice(filter)
                };
                let shown = dead_letters::show(&**broker, queue, &choice, full).await;
                shown.map_err(|error| of_queue(error, queue))
            }
            Where::Server(client) => {
                let request = client.request(Method::GET, &["dlq", queue]);
                let request = filtered(request, filter).query(&[("limit", limit)]);
                client.json(request.query(&[("full", full)])).await
            }
        }
    }

    async fn settle(
        &self,
        what: &str,
        queue: &str,
        filter: &DlqFilter,
        dry_run: bool,
    ) -> anyhow::Result<Report> {
        match self {
            Where::Broker { broker, .. } => {
                let (broker, choice) = (&**broker, choice(filter));
                let settled = match what {
                    "replay" => dead_letters::replay(broker, queue, &choice, dry_run).await,
                    _ => dead_letters::discard(broker, queue, &choice, dry_run).await,
                };
                settled.map_err(|error| of_queue(error, queue))
            }
            Where::Server(client) => {
                let request = client.request(Method::POST, &["dlq", queue, what]);
                let mut request = filtered(request, filter).query(&[("dry_run", dry_run)]);
                if let Some(limit) = filter.limit {
                    request = request.query(&[("limit", limit)]);
                }
                client.json(request).await
            }
        }
    }

    /// Sends what is settled on its way.
    async fn close(self) {
        if let Where::Broker { broker, .. } = self {
            broker.close().await;
        }
    }
}

fn choice(filter: &DlqFilter) -> Choice {
    Choice {
        reason: filter.reason.clone(),
        message_id: filter.id.clone(),
        limit: filter.limit,
    }
}

fn filtered(request: RequestBuilder, filter: &DlqFilter) -> RequestBuilder {
    let named = [("reason", &filter.reason), ("message_id", &filter.id)];
    let given = named.into_iter().filter(|(_, value)| value.is_some());
    given.fold(request, |request, pair| request.query(&[pair]))
}

fn of_queue(error: BrokerError, queue: &str) -> anyhow::Error {
    match error {
        BrokerError::NotFound { .. } => BadInput::new(format!(
            "queue '{}' has no dead letters here",
            work_queue(queue)
        ))
        .into(),
        error => error.into(),
    }
}

fn explain(error: ConnectError) -> anyhow::Error {
    let in_use = matches!(error, ConnectError::Database(DatabaseError::InUse { .. }));
    let error = of_connect(error);
    if in_use {
        return error.context(
            "the process that has the broker's file open serves its dead letters: leave --broker out, or give --server",
        );
    }
    error
}

fn print_summaries(summaries: &[Summary], output: Output) -> anyhow::Result<Exit> {
    if output.json {
        let items = summaries.to_vec();
        output::json(&DeadLetterList { items })?;
        return Ok(Exit::Ok);
    }
    let mut table = Table::new(["queue", "dead letters", "oldest", "reason"]).number(1);
    for summary in summaries {
        let reasons = summary.reasons.iter().map(|reason| {
            let text = reason.reason.as_deref().unwrap_or("(none given)");
            format!("{} × {text}", reason.count)
        });
        let mut reasons = reasons.collect::<Vec<_>>().into_iter();
        table.row([
            summary.queue.clone(),
            summary.count.to_string(),
            summary.oldest.clone().unwrap_or_default(),
            reasons.next().unwrap_or_default(),
        ]);
        for reason in reasons {
            table.row([String::new(), String::new(), String::new(), reason]);
        }
    }
    table.print()?;
    Ok(Exit::Ok)
}

fn print_brief(letters: &Letters, output: Output) -> anyhow::Result<Exit> {
    if output.json {
        output::json(letters)?;
        return Ok(Exit::Ok);
    }
    let mut table = Table::new(["message", "dead since", "attempts", "bytes", "reason"])
        .number(2)
        .number(3);
    for letter in &letters.items {
        table.row([
            letter.message_id.clone().unwrap_or_default(),
            letter.dead_at.clone().unwrap_or_default(),
            letter.attempts.to_string(),
            letter.body_bytes.to_string(),
            letter.reason.clone().unwrap_or_default(),
        ]);
    }
    table.print()?;
    output::line(format!(
        "\n{} of {} dead letters of {}",
        letters.items.len(),
        letters.count,
        letters.queue
    ))?;
    Ok(Exit::Ok)
}

fn print_full(letters: &Letters, output: Output) -> anyhow::Result<Exit> {
    if output.json {
        output::json(letters)?;
        return Ok(Exit::Ok);
    }
    for (at, letter) in letters.items.iter().enumerate() {
        if at > 0 {
            output::line("")?;
        }
        output::line(described(letter))?;
    }
    if letters.items.is_empty() {
        output::line(format!("no such dead letter of {}", letters.queue))?;
    }
    Ok(Exit::Ok)
}

/// All that a letter says, a line each, and the body at the end.
fn described(letter: &Letter) -> String {
    let attempts = letter.attempts.to_string();
    let known = [
        ("message_id", letter.message_id.as_deref()),
        ("reason", letter.reason.as_deref()),
        ("attempts", Some(attempts.as_str())),
        ("dead_at", letter.dead_at.as_deref()),
        ("queue", Some(letter.queue.as_str())),
        ("exchange", letter.exchange.as_deref()),
        ("routing_key", letter.routing_key.as_deref()),
        ("kind", letter.kind.as_deref()),
        ("content_type", letter.content_type.as_deref()),
        ("correlation_id", letter.correlation_id.as_deref()),
        ("timestamp", letter.timestamp.as_deref()),
    ];
    let known = known
        .into_iter()
        .filter_map(|(name, value)| Some(format!("{name}: {}", value?)));
    let mut lines: Vec<String> = known.collect();
    let headers = letter.headers.iter().flatten();
    lines.extend(headers.map(|(name, value)| format!("header {name}: {value}")));
    let cut = if letter.body_cut { ", cut" } else { "" };
    let (form, body) = match &letter.body {
        Some(Body::Json(json)) => ("json", json.get()),
        Some(Body::Text(text)) => ("text", text.as_str()),
        Some(Body::Base64(base64)) => ("base64", base64.as_str()),
        None => ("left out", ""),
    };
    lines.push(format!("body ({form}, {} bytes{cut}):", letter.body_bytes));
    lines.push(body.to_owned());
    lines.join("\n")
}

fn print_report(report: &Report, done: &str, would: &str, output: Output) -> anyhow::Result<Exit> {
    let exit = Exit::ok_if(report.failed == 0);
    if output.json {
        output::json(report)?;
        return Ok(exit);
    }
    let what = if report.dry_run { would } else { done };
    output::line(format!(
        "{} of {} dead letters of {} {what}",
        report.done, report.count, report.queue
    ))?;
    if report.failed > 0 {
        output::line(format!("{} stay:", report.failed))?;
    }
    for failure in &report.failures {
        let id = failure.message_id.as_deref().unwrap_or("(without an id)");
        output::line(format!("  {id}: {}", failure.error))?;
    }
    Ok(exit)
}
