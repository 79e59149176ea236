//! `leveret runs`: the runs of a server.

use std::{collections::HashMap, time::Duration};

use anyhow::Context;
use leveret::{
    http::RunDetail,
    runtime::{Clock, RunResult, SystemClock},
    store::{RunStatus, WaitKind},
};
use leveret_core::ids::RunId;
use reqwest::Method;
use serde::{Deserialize as _, Serialize};
use serde_json::{Value, json, value::RawValue};

use super::{
    run::{exit_of, print_ordered},
    workflows::Page,
};
use crate::{
    cli::{DecisionArgs, ListArgs, RunsCommand, SignalArgs, StartArgs},
    client::Client,
    exit::{BadInput, Exit},
    input,
    output::{self, Output, Table},
    progress,
    settings::Settings,
    shutdown,
};

pub(crate) async fn runs(
    command: RunsCommand,
    settings: &Settings,
    output: Output,
) -> anyhow::Result<Exit> {
    let client = Client::new(settings)?;
    match command {
        RunsCommand::Start(args) => start(&client, &args, output).await,
        RunsCommand::List(args) => list(&client, &args, output).await,
        RunsCommand::Show { run_id } => show(&client, run_id.as_str(), output).await,
        RunsCommand::Cancel { run_id } => cancel(&client, run_id.as_str(), output).await,
        RunsCommand::Signal(args) => signal(&client, &args, output).await,
        RunsCommand::Approve(args) => decide(&client, "approve", &args, output).await,
        RunsCommand::Reject(args) => decide(&client, "reject", &args, output).await,
        RunsCommand::Approvals { limit } => approvals(&client, limit, output).await,
        RunsCommand::Events { run_id } => events(&client, run_id.as_str(), output).await,
    }
}

async fn start(client: &Client, args: &StartArgs, output: Output) -> anyhow::Result<Exit> {
    let mut body = json!({ "input": input::input(args.input.as_deref())? });
    // A run that is waited for has its name from here, so that an interrupted wait can tell it.
    let named = args.wait && args.idempotency_key.is_none();
    let new = || named.then(|| SystemClock.new_run_id());
    let run_id = args.run_id.clone().or_else(new);
    if let Some(run_id) = &run_id {
        body["run_id"] = Value::from(run_id.as_str());
    }
    let mut request = client
        .request(
            Method::POST,
            &["workflows", args.workflow_id.as_str(), "runs"],
        )
        .json(&body);
    if let Some(key) = &args.idempotency_key {
        request = request.header("idempotency-key", key);
    }
    if args.wait {
        let mut stopped = shutdown::on_signal()?;
        let waited = async {
            let started: Value = client.json(request).await?;
            let run_id = text(&started, "run_id");
            progress::to_stderr(format!("run {run_id}\n").as_bytes());
            ended(client, run_id).await
        };
        let result = tokio::select! {
            result = waited => result?,
            () = shutdown::asked(&mut stopped) => anyhow::bail!(interrupted(run_id.as_ref())),
        };
        print(client, &result, output).await?;
        return Ok(exit_of(&result));
    }
    let started: Value = client.json(request).await?;
    if output.json {
        output::json(&started)?;
    } else {
        output::line(format!(
            "{} {}",
            text(&started, "run_id"),
            text(&started, "status")
        ))?;
    }
    Ok(Exit::Ok)
}

/// Before a server that went away is asked again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

/// Waits for a run's end, however long that takes and however often the server goes away; its result.
async fn ended(client: &Client, run_id: &str) -> anyhow::Result<RunResult> {
    let mut is_told = false;
    loop {
        let followed = followed(client, run_id, |_| Ok(())).await;
        let request = client.request(Method::GET, &["runs", run_id]);
        let error = match (followed, client.json::<RunResult>(request).await) {
            (_, Ok(result)) if result.status != RunStatus::Running => return Ok(result),
            (_, Err(error)) | (Err(error), Ok(_)) => error,
            (Ok(_), Ok(_)) => anyhow::anyhow!("the run goes on"),
        };
        // What the server refuses, it refuses again.
        if error.is::<BadInput>() {
            return Err(error);
        }
        if !is_told {
            progress::to_stderr(format!("{error:#}; waiting for the server\n").as_bytes());
            is_told = true;
        }
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn interrupted(run_id: Option<&RunId>) -> String {
    match run_id {
        Some(run_id) => format!(
            "interrupted; run {run_id} goes on at the server: see `leveret runs events {run_id}`"
        ),
        None => "interrupted; the run goes on at the server: the same --idempotency-key finds it"
            .to_owned(),
    }
}

async fn print(client: &Client, result: &RunResult, output: Output) -> anyhow::Result<()> {
    if output.json {
        return output::json(result);
    }
    let places = places(client, result.workflow_id.as_str()).await;
    print_ordered(result, |node| places.get(node).copied())
}

/// The places of the nodes in a workflow's newest version: none when it cannot be had, as only the order of lines hangs on it.
async fn places(client: &Client, workflow_id: &str) -> HashMap<String, usize> {
    let request = client.request(Method::GET, &["workflows", workflow_id]);
    let stored: Value = client.json(request).await.unwrap_or_default();
    let nodes = stored["definition"]["nodes"].as_array();
    let nodes = nodes.into_iter().flatten().enumerate();
    nodes
        .map(|(at, node)| (text(node, "id").to_owned(), at))
        .collect()
}

async fn list(client: &Client, args: &ListArgs, output: Output) -> anyhow::Result<Exit> {
    let mut request = client
        .request(Method::GET, &["runs"])
        .query(&[("limit", args.limit)]);
    let filters = [
        ("workflow_id", &args.workflow),
        ("status", &args.status),
        ("after", &args.after),
    ];
    for (name, value) in filters {
        if let Some(value) = value {
            request = request.query(&[(name, value)]);
        }
    }
    let page: Page<Value> = client.json(request).await?;
    if output.json {
        output::json(&page)?;
        return Ok(Exit::Ok);
    }
    let mut table = Table::new(["run", "workflow", "status", "asked for at", "error"]);
    for run in &page.items {
        table.row([
            text(run, "run_id").to_owned(),
            text(run, "workflow_id").to_owned(),
            text(run, "status").to_owned(),
            text(run, "created_at").to_owned(),
            text(&run["error"], "message").to_owned(),
        ]);
    }
    table.print()?;
    if let Some(next) = &page.next {
        output::line(format!("\nmore: --after {next}"))?;
    }
    Ok(Exit::Ok)
}

async fn show(client: &Client, run_id: &str, output: Output) -> anyhow::Result<Exit> {
    let detail: RunDetail = client
        .json(client.request(Method::GET, &["runs", run_id]))
        .await?;
    if output.json {
        output::json(&detail)?;
        return Ok(Exit::Ok);
    }
    // It has all that a result has.
    let result = RunResult::deserialize(serde_json::to_value(&detail)?)?;
    for (name, value) in facts(&detail) {
        output::line(format!("{name:<14}{value}"))?;
    }
    output::line("")?;
    print(client, &result, output).await?;
    for line in to_come(&detail) {
        output::line(line)?;
    }
    Ok(Exit::Ok)
}

/// What is told of a run before its steps.
fn facts(detail: &RunDetail) -> Vec<(&'static str, String)> {
    let version = detail.version.map(|version| format!(", version {version}"));
    let workflow = format!("{}{}", detail.workflow_id, version.unwrap_or_default());
    let mut facts = vec![
        ("workflow", workflow),
        ("asked for at", detail.created_at.clone()),
    ];
    facts.extend(detail.ended_at.clone().map(|at| ("ended at", at)));
    facts.push(("input", detail.input.text().to_owned()));
    facts
}

/// What a run that goes on is at.
fn to_come(detail: &RunDetail) -> Vec<String> {
    let under_way = detail.under_way.iter();
    let under_way = under_way.map(|node| format!("'{node}' is executed, or waits for a worker"));
    let waiting = detail.steps.iter().filter_map(|(name, step)| {
        let due = step.due_at.as_ref()?;
        let does = if step.error.is_some() {
            "is tried again"
        } else {
            "goes on"
        };
        Some(format!("'{name}' {does} at {due}"))
    });
    let for_signals = detail.steps.iter().filter_map(|(name, step)| {
        let wait = step.waits_for.as_ref()?;
        Some(match (wait.kind, &wait.key) {
            (WaitKind::Signal, Some(key)) => {
                format!(
                    "'{name}' waits for the event '{}' of key '{key}'",
                    wait.event
                )
            }
            (WaitKind::Signal, None) => format!("'{name}' waits for the event '{}'", wait.event),
            (WaitKind::Webhook, _) => format!("'{name}' waits for its webhook"),
            (WaitKind::Approval, _) => format!("'{name}' waits for a decision"),
        })
    });
    under_way.chain(waiting).chain(for_signals).collect()
}

async fn cancel(client: &Client, run_id: &str, output: Output) -> anyhow::Result<Exit> {
    let answer: Value = client
        .json(client.request(Method::POST, &["runs", run_id, "cancel"]))
        .await?;
    if output.json {
        output::json(&answer)?;
    } else {
        output::line(format!("{run_id} {}", text(&answer, "status")))?;
    }
    Ok(Exit::Ok)
}

async fn signal(client: &Client, args: &SignalArgs, output: Output) -> anyhow::Result<Exit> {
    let mut body = json!({ "event": args.event, "data": input::input(args.data.as_deref())? });
    if let Some(id) = &args.id {
        body["id"] = Value::from(id.as_str());
    }
    let run_id = args.run_id.as_str();
    let request = client.request(Method::POST, &["runs", run_id, "signals"]);
    let answer: Value = client.json(request.json(&body)).await?;
    if output.json {
        output::json(&answer)?;
    } else {
        output::line(format!(
            "{run_id} {} {}",
            args.event,
            text(&answer, "status")
        ))?;
    }
    Ok(Exit::Ok)
}

async fn decide(
    client: &Client,
    decision: &str,
    args: &DecisionArgs,
    output: Output,
) -> anyhow::Result<Exit> {
    let data = input::input(args.data.as_deref())?;
    let body = json!({ "decision": decision, "data": data, "by": args.by });
    let (run_id, node_id) = (args.run_id.as_str(), args.node_id.as_str());
    let request = client.request(Method::POST, &["runs", run_id, "approvals", node_id]);
    let decided: Value = client.json(request.json(&body)).await?;
    if output.json {
        output::json(&decided)?;
    } else {
        output::line(format!("{run_id} {node_id} {decision}"))?;
    }
    Ok(Exit::Ok)
}

async fn approvals(client: &Client, limit: u32, output: Output) -> anyhow::Result<Exit> {
    let request = client.request(Method::GET, &["approvals"]);
    let page: Page<Value> = client.json(request.query(&[("limit", limit)])).await?;
    if output.json {
        output::json(&page)?;
        return Ok(Exit::Ok);
    }
    let mut table = Table::new(["run", "node", "title", "to", "since", "deadline"]);
    for approval in &page.items {
        let to = match &approval["to"] {
            Value::Array(people) => people
                .iter()
                .filter_map(Value::as_str)
                .collect::<Vec<_>>()
                .join(", "),
            one => one.as_str().unwrap_or_default().to_owned(),
        };
        table.row([
            text(approval, "run_id").to_owned(),
            text(approval, "node_id").to_owned(),
            text(approval, "title").to_owned(),
            to,
            text(approval, "since").to_owned(),
            text(approval, "deadline").to_owned(),
        ]);
    }
    table.print()?;
    Ok(Exit::Ok)
}

/// Prints what happens to a run, a line for each event, until its end.
async fn events(client: &Client, run_id: &str, output: Output) -> anyhow::Result<Exit> {
    let end = followed(client, run_id, |event| {
        if !output.json {
            return Ok(output::line(describe(event))?);
        }
        let data: &RawValue = serde_json::from_str(&event.data)?;
        output::json_line(&Printed {
            event: &event.name,
            data,
        })
    });
    Ok(Exit::ok_if(has_completed(&end.await?)))
}

/// Reads what happens to a run, and tells each event, until its end, which is returned.
async fn followed(
    client: &Client,
    run_id: &str,
    mut tell: impl FnMut(&Event) -> anyhow::Result<()>,
) -> anyhow::Result<Event> {
    let request = client.request(Method::GET, &["runs", run_id, "events"]);
    let request = request.header("accept", "text/event-stream");
    let mut response = client.send(request).await?;
    let mut parser = EventParser::default();
    let broke_off = "the server's stream broke off before the run ended; ask again to go on";
    while let Some(chunk) = response.chunk().await.context(broke_off)? {
        for event in parser.push(&chunk) {
            tell(&event)?;
            if event.name == END {
                return Ok(event);
            }
        }
    }
    anyhow::bail!(broke_off)
}

/// The type of a stream's last event.
const END: &str = "end";

/// An event as JSON.
#[derive(Serialize)]
struct Printed<'a> {
    event: &'a str,
    data: &'a RawValue,
}

fn describe(event: &Event) -> String {
    let Ok(data) = serde_json::from_str::<Value>(&event.data) else {
        return event.data.clone();
    };
    let words = ["node_id", "status"].map(|key| text(&data, key));
    let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
    let happened = format!("{:<8}{}", event.name, words.join(" "));
    let error = &data["error"];
    match (text(error, "node_id"), text(error, "message")) {
        (_, "") => happened,
        (node, message) if event.name == END => format!("{happened} at '{node}': {message}"),
        (_, message) => format!("{happened}: {message}"),
    }
}

/// Whether the end of a run is that of one that completed.
fn has_completed(end: &Event) -> bool {
    let data: Value = serde_json::from_str(&end.data).unwrap_or_default();
    text(&data, "status") == RunStatus::Completed.as_str()
}

/// An event of a stream of server-sent events.
#[derive(Debug, Default, PartialEq, Eq)]
struct Event {
    name: String,
    data: String,
}

/// Takes a stream of server-sent events apart. Comments, ids and unknown fields are passed over.
#[derive(Debug, Default)]
struct EventParser {
    rest: Vec<u8>,
    event: Event,
}

impl EventParser {
    fn push(&mut self, chunk: &[u8]) -> Vec<Event> {
        self.rest.extend_from_slice(chunk);
        let mut events = Vec::new();
        while let Some(end) = self.rest.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            events.extend(self.line(line.trim_end_matches(['\n', '\r'])));
        }
        events
    }

    fn line(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            return (!event.data.is_empty()).then_some(event);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event.name),
            "data" if self.event.data.is_empty() => value.clone_into(&mut self.event.data),
            "data" => self.event.data = format!("{}\n{value}", self.event.data),
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However the stream is cut, the same events come out.
    #[test]
    fn events_are_taken_apart() {
        let stream = b": hello\n\nevent: step\ndata: {\"node_id\":\"a\",\ndata: \"status\":\"completed\"}\r\nid: 1\n\ndata: x\n\n";
        for size in 1..stream.len() {
            let mut parser = EventParser::default();
            let events: Vec<Event> = stream
                .chunks(size)
                .flat_map(|chunk| parser.push(chunk))
                .collect();
            let descriptions: Vec<String> = events.iter().map(describe).collect();
            assert_eq!(descriptions, ["step    a completed", "x"]);
        }
    }

    /// The end of a run that failed says where and why.
    #[test]
    fn failures_are_described() {
        let check = |name: &str, data: Value, expect: &str| {
            let event = Event {
                name: name.to_owned(),
                data: data.to_string(),
            };
            assert_eq!(describe(&event), expect);
            assert_eq!(has_completed(&event), expect.contains("completed"));
        };
        let error = json!({ "node_id": "a", "message": "no" });
        let failed = json!({ "node_id": "a", "status": "failed", "error": error });
        check("step", failed, "step    a failed: no");
        let failed = json!({ "run_id": "r", "status": "failed", "error": error });
        check("end", failed, "end     failed at 'a': no");
        let completed = json!({ "run_id": "r", "status": "completed", "error": null });
        check("end", completed, "end     completed");
    }
}
