//! `leveret check`: the problems of workflow files.

use leveret_core::parse::Diagnostic;

use crate::{
    cli::CheckArgs,
    exit::Exit,
    input,
    output::{self, Output},
};

pub(crate) fn check(args: &CheckArgs, output: Output) -> anyhow::Result<Exit> {
    let mut found: Vec<Diagnostic> = Vec::new();
    let mut errors = false;
    for file in &args.files {
        let name = file.display().to_string();
        let (workflow, diagnostics) = input::check(&name, &input::text_of(file)?);
        errors |= workflow.is_none();
        if output.json {
            found.extend(diagnostics.0);
        } else if let Some(workflow) = workflow.as_ref().filter(|_| diagnostics.is_empty()) {
            let (nodes, edges) = (workflow.nodes.len(), workflow.edges.len());
            output::line(format!(
                "{name}: ok, workflow '{}' with {nodes} nodes and {edges} edges",
                workflow.id
            ))?;
        } else {
            output::line(diagnostics.to_string())?;
        }
    }
    if output.json {
        output::json(&found)?;
    }
    Ok(if errors { Exit::BadInput } else { Exit::Ok })
}
