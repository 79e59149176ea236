//! `leveret workflows`: the workflows of a server.

use std::path::Path;

use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    cli::WorkflowsCommand,
    client::Client,
    exit::Exit,
    input,
    output::{self, Output, Table},
    settings::Settings,
};

pub(crate) async fn workflows(
    command: WorkflowsCommand,
    settings: &Settings,
    output: Output,
) -> anyhow::Result<Exit> {
    let client = Client::new(settings)?;
    match command {
        WorkflowsCommand::Put { file } => put(&client, &file, output).await,
        WorkflowsCommand::List => list(&client, output).await,
        WorkflowsCommand::Show { workflow_id } => show(&client, workflow_id.as_str(), output).await,
    }
}

/// A stored version of a workflow, as far as it is printed here.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    workflow_id: String,
    version: u32,
    hash: String,
    created_at: String,
}

/// Checks here, where problems have lines and columns, all but what depends on the node types, which the server knows; and then stores.
async fn put(client: &Client, file: &Path, output: Output) -> anyhow::Result<Exit> {
    let workflow = match input::workflow_for_server(file)? {
        Ok(workflow) => workflow,
        Err(exit) => return Ok(exit),
    };
    let id = workflow.id.as_str();
    let request = client
        .request(Method::PUT, &["workflows", id])
        .json(&workflow.definition);
    let stored: Value = client.json(request).await?;
    if output.json {
        output::json(&stored)?;
    } else {
        output::line(format!("{id}: version {}", stored["version"]))?;
    }
    Ok(Exit::Ok)
}

/// How many workflows are asked for at once.
const PAGE: &str = "100";

async fn list(client: &Client, output: Output) -> anyhow::Result<Exit> {
    let mut all = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let mut request = client
            .request(Method::GET, &["workflows"])
            .query(&[("limit", PAGE)]);
        if let Some(after) = &after {
            request = request.query(&[("after", after)]);
        }
        let page: Page<Stored> = client.json(request).await?;
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
    let mut table = Table::new(["workflow", "version", "put at", "hash"]).number(1);
    for stored in &all {
        let hash: String = stored.hash.chars().take(12).collect();
        table.row([
            stored.workflow_id.clone(),
            stored.version.to_string(),
            stored.created_at.clone(),
            hash,
        ]);
    }
    table.print()?;
    Ok(Exit::Ok)
}

/// A page of a list.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Page<T> {
    pub(crate) items: Vec<T>,
    pub(crate) next: Option<String>,
}

async fn show(client: &Client, workflow_id: &str, output: Output) -> anyhow::Result<Exit> {
    let stored: Value = client
        .json(client.request(Method::GET, &["workflows", workflow_id]))
        .await?;
    if !output.json {
        output::line(format!("# {workflow_id}, version {}", stored["version"]))?;
        output::json(&Definition::of(&stored["definition"]))?;
        return Ok(Exit::Ok);
    }
    output::json(&stored)?;
    Ok(Exit::Ok)
}

/// A definition in the order in which people write it.
#[derive(Debug, Serialize)]
struct Definition<'a> {
    id: &'a Value,
    #[serde(skip_serializing_if = "Value::is_null")]
    metadata: &'a Value,
    #[serde(skip_serializing_if = "Value::is_null")]
    secrets: &'a Value,
    nodes: &'a Value,
    edges: &'a Value,
}

impl<'a> Definition<'a> {
    fn of(stored: &'a Value) -> Definition<'a> {
        let [id, metadata, secrets, nodes, edges] =
            ["id", "metadata", "secrets", "nodes", "edges"].map(|key| &stored[key]);
        Definition {
            id,
            metadata,
            secrets,
            nodes,
            edges,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn definitions_are_shown_in_order() {
        let stored = json!({ "edges": [], "id": "w", "nodes": [{ "id": "a" }] });
        let shown = serde_json::to_string(&Definition::of(&stored)).unwrap();
        assert_eq!(shown, r#"{"id":"w","nodes":[{"id":"a"}],"edges":[]}"#);
    }
}
