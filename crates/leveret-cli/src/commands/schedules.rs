//! `leveret schedules`: the schedules of a server.

use leveret_core::ids::ScheduleId;
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::workflows::Page;
use crate::{
    cli::{PutScheduleArgs, SchedulesCommand},
    client::Client,
    exit::Exit,
    input,
    output::{self, Output, Table},
    settings::Settings,
};

pub(crate) async fn schedules(
    command: SchedulesCommand,
    settings: &Settings,
    output: Output,
) -> anyhow::Result<Exit> {
    let client = Client::new(settings)?;
    match command {
        SchedulesCommand::Put(args) => put(&client, &args, output).await,
        SchedulesCommand::List => list(&client, output).await,
        SchedulesCommand::Show { id } => {
            let request = client.request(Method::GET, &["schedules", id.as_str()]);
            print(&client.json(request).await?, output)
        }
        SchedulesCommand::Delete { id } => delete(&client, &id, output).await,
        SchedulesCommand::Pause { id } => act(&client, &id, "pause", output).await,
        SchedulesCommand::Resume { id } => act(&client, &id, "resume", output).await,
        SchedulesCommand::Run { id } => run(&client, &id, output).await,
        SchedulesCommand::History { id, limit } => history(&client, &id, limit, output).await,
    }
}

async fn put(client: &Client, args: &PutScheduleArgs, output: Output) -> anyhow::Result<Exit> {
    let mut body = Map::new();
    body.insert("workflow_id".to_owned(), json!(args.workflow.as_str()));
    body.insert(
        "input".to_owned(),
        json!(input::input(args.input.as_deref())?),
    );
    for (key, value) in [
        ("every", &args.every),
        ("cron", &args.cron),
        ("time_zone", &args.time_zone),
        ("overlap", &args.overlap),
        ("catch_up", &args.catch_up),
        ("jitter", &args.jitter),
    ] {
        if let Some(value) = value {
            body.insert(key.to_owned(), json!(value));
        }
    }
    let request = client.request(Method::PUT, &["schedules", args.id.as_str()]);
    print(&client.json(request.json(&body)).await?, output)
}

/// Prints a schedule.
fn print(schedule: &Value, output: Output) -> anyhow::Result<Exit> {
    if output.json {
        output::json(schedule)?;
        return Ok(Exit::Ok);
    }
    output::line(format!(
        "{}: {} of {}{}",
        text(&schedule["schedule_id"]),
        times(schedule),
        text(&schedule["workflow_id"]),
        if schedule["paused"] == true {
            ", paused"
        } else {
            ""
        },
    ))?;
    for next in schedule["next"].as_array().into_iter().flatten() {
        output::line(format!("  next {}", text(next)))?;
    }
    Ok(Exit::Ok)
}

/// A text as it is, all else as JSON, null as nothing.
fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// When a schedule is due, in words.
fn times(schedule: &Value) -> String {
    match &schedule["cron"] {
        Value::Null => format!("every {}", text(&schedule["every"])),
        cron => format!("{} {}", text(cron), text(&schedule["time_zone"]))
            .trim_end()
            .to_owned(),
    }
}

/// How many are asked for at once.
const PAGE: &str = "100";

async fn list(client: &Client, output: Output) -> anyhow::Result<Exit> {
    let mut all: Vec<Value> = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let mut request = client
            .request(Method::GET, &["schedules"])
            .query(&[("limit", PAGE)]);
        if let Some(after) = &after {
            request = request.query(&[("after", after)]);
        }
        let page: Page<Value> = client.json(request).await?;
        all.extend(page.items);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    if output.json {
        output::json(&all)?;
        return Ok(Exit::Ok);
    }
    let mut table = Table::new(["schedule", "workflow", "due", "next"]);
    for schedule in &all {
        let next = if schedule["paused"] == true {
            "paused".to_owned()
        } else {
            text(&schedule["next"][0])
        };
        table.row([
            text(&schedule["schedule_id"]),
            text(&schedule["workflow_id"]),
            times(schedule),
            next,
        ]);
    }
    table.print()?;
    Ok(Exit::Ok)
}

async fn delete(client: &Client, id: &ScheduleId, output: Output) -> anyhow::Result<Exit> {
    client
        .send(client.request(Method::DELETE, &["schedules", id.as_str()]))
        .await?;
    if output.json {
        output::json(&json!({ "schedule_id": id.as_str(), "deleted": true }))?;
    } else {
        output::line(format!("{id}: deleted"))?;
    }
    Ok(Exit::Ok)
}

async fn act(client: &Client, id: &ScheduleId, what: &str, output: Output) -> anyhow::Result<Exit> {
    let request = client.request(Method::POST, &["schedules", id.as_str(), what]);
    print(&client.json(request).await?, output)
}

async fn run(client: &Client, id: &ScheduleId, output: Output) -> anyhow::Result<Exit> {
    let request = client.request(Method::POST, &["schedules", id.as_str(), "run"]);
    let begun: Value = client.json(request).await?;
    if output.json {
        output::json(&begun)?;
    } else {
        output::line(text(&begun["run_id"]))?;
    }
    Ok(Exit::Ok)
}

async fn history(
    client: &Client,
    id: &ScheduleId,
    limit: u32,
    output: Output,
) -> anyhow::Result<Exit> {
    let request = client
        .request(Method::GET, &["schedules", id.as_str(), "history"])
        .query(&[("limit", limit)]);
    let page: Page<Value> = client.json(request).await?;
    if output.json {
        output::json(&page.items)?;
        return Ok(Exit::Ok);
    }
    let mut table = Table::new(["number", "due at", "state", "run", "why"]).number(0);
    for firing in &page.items {
        table.row(["number", "due_at", "state", "run_id", "detail"].map(|key| text(&firing[key])));
    }
    table.print()?;
    Ok(Exit::Ok)
}
