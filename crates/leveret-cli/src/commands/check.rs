//! `leveret check`: the problems of workflow files.

use std::{fmt, path::Path};

use leveret_core::{
    parse::{Diagnostic, Diagnostics, Severity},
    workflow::Workflow,
};
use serde::Serialize;

use crate::{
    cli::CheckArgs,
    exit::Exit,
    input,
    output::{self, Output},
};

pub(crate) fn check(args: &CheckArgs, output: Output) -> anyhow::Result<Exit> {
    let mut found: Vec<Finding> = Vec::new();
    let mut errors = false;
    for file in &args.files {
        let (workflow, findings) = check_file(file);
        errors |= workflow.is_none();
        if output.json {
            found.extend(findings);
        } else {
            print(file, workflow.as_ref(), &findings)?;
        }
    }
    if output.json {
        output::json(&found)?;
    }
    Ok(if errors { Exit::BadInput } else { Exit::Ok })
}

/// What is told of a file, in one form for all.
#[derive(Serialize)]
#[serde(untagged)]
enum Finding {
    /// A problem of what it says.
    Definition(Diagnostic),
    /// It cannot be read.
    Unreadable(Unreadable),
}

/// A file that cannot be read: as a [`Diagnostic`] of the whole.
#[derive(Serialize)]
struct Unreadable {
    file: String,
    line: usize,
    column: usize,
    path: &'static str,
    severity: Severity,
    code: &'static str,
    message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::Definition(diagnostic) => diagnostic.fmt(f),
            Finding::Unreadable(unreadable) => write!(f, "error: {}", unreadable.message),
        }
    }
}

fn check_file(file: &Path) -> (Option<Workflow>, Vec<Finding>) {
    let name = file.display().to_string();
    match input::text_of(file) {
        Ok(text) => {
            let (workflow, Diagnostics(diagnostics)) = input::check(&name, &text);
            let findings = diagnostics.into_iter().map(Finding::Definition);
            (workflow, findings.collect())
        }
        Err(error) => {
            let unreadable = Unreadable {
                file: name,
                line: 0,
                column: 0,
                path: "",
                severity: Severity::Error,
                code: "unreadable",
                message: error.to_string(),
            };
            (None, vec![Finding::Unreadable(unreadable)])
        }
    }
}

fn print(file: &Path, workflow: Option<&Workflow>, findings: &[Finding]) -> anyhow::Result<()> {
    for finding in findings {
        output::line(finding.to_string())?;
    }
    if let Some(workflow) = workflow.filter(|_| findings.is_empty()) {
        let (nodes, edges) = (workflow.nodes.len(), workflow.edges.len());
        output::line(format!(
            "{}: ok, workflow '{}' with {nodes} nodes and {edges} edges",
            file.display(),
            workflow.id
        ))?;
    }
    Ok(())
}
