//! `leveret graph`: a workflow as a Mermaid flowchart.

use leveret_core::mermaid::mermaid;
use serde_json::json;

use crate::{
    cli::GraphArgs,
    exit::Exit,
    input,
    output::{self, Output},
};

pub(crate) fn graph(args: &GraphArgs, output: Output) -> anyhow::Result<Exit> {
    let workflow = match input::workflow(&args.file)? {
        Ok(workflow) => workflow,
        Err(exit) => return Ok(exit),
    };
    let chart = mermaid(&workflow);
    if output.json {
        output::json(&json!({ "workflow_id": workflow.id, "mermaid": chart }))?;
    } else {
        output::line(chart.trim_end())?;
    }
    Ok(Exit::Ok)
}
