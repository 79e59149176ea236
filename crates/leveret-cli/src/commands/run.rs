//! `leveret run`: a workflow file to its end, in this process.

use std::sync::Arc;

use leveret::{
    runtime::{Clock, RunResult, StartRequest, StepResult, SystemClock},
    store::RunStatus,
};
use leveret_core::{ids::RunId, json::Json, workflow::Workflow};

use super::each;
use crate::{
    cli::RunArgs,
    engine::Running,
    exit::Exit,
    input::{self, Sets},
    output::{self, Output, Table},
    settings::Settings,
    shutdown,
};

pub(crate) async fn run(
    args: RunArgs,
    settings: &Settings,
    output: Output,
) -> anyhow::Result<Exit> {
    let workflow = match input::workflow(&args.file)? {
        Ok(workflow) => workflow,
        Err(exit) => return Ok(exit),
    };
    let sets = Sets::parse(&args.sets)?;
    if let Some(given) = &args.each {
        let mut lines = input::lines(given)?;
        for line in &mut lines {
            let place = format!("{}:{}", given.trim_start_matches('@'), line.number);
            line.input = sets.apply(line.input.clone(), &place)?;
        }
        return each::each(workflow, lines, args.concurrency, settings, output).await;
    }
    let input = sets.apply(input::input(args.input.as_deref())?, "--input")?;
    once(workflow, input, settings, output).await
}

async fn once(
    workflow: Arc<Workflow>,
    input: Json,
    settings: &Settings,
    output: Output,
) -> anyhow::Result<Exit> {
    let mut stopped = shutdown::on_signal()?;
    let mut running = Running::start(settings).await?;
    let engine = running.engine.clone();
    let run_id = SystemClock.new_run_id();
    let request = StartRequest {
        workflow: workflow.clone(),
        input,
        run_id: Some(run_id.clone()),
    };
    let result = tokio::select! {
        result = engine.start_and_wait(request) => result,
        () = shutdown::asked(&mut stopped) => {
            running.stop().await?;
            anyhow::bail!("interrupted before the run ended{}", goes_on(&run_id, settings));
        }
        error = running.failed() => return Err(error),
    };
    running.stop().await?;
    let result = result?;
    if output.json {
        output::json(&result)?;
    } else {
        print(&workflow, &result)?;
    }
    Ok(exit_of(&result))
}

/// What comes of a run that was interrupted, to be put behind that.
fn goes_on(run_id: &RunId, settings: &Settings) -> String {
    if settings.says_where() {
        format!(": run {run_id} is kept, and goes on under `leveret up` with the same settings")
    } else {
        "; it is gone with its temporary directory: --store or --data keeps runs".to_owned()
    }
}

pub(crate) fn exit_of(result: &RunResult) -> Exit {
    Exit::ok_if(result.status == RunStatus::Completed)
}

/// A result for people, its steps in the order of the definition.
fn print(workflow: &Workflow, result: &RunResult) -> anyhow::Result<()> {
    print_ordered(result, |node| workflow.node_ix(node))
}

/// A result for people, its steps by the places of their nodes, as far as those are known.
pub(crate) fn print_ordered(
    result: &RunResult,
    place: impl Fn(&str) -> Option<usize>,
) -> anyhow::Result<()> {
    let place = |name: &str| {
        let node = name.split('/').next().unwrap_or(name);
        place(name).or_else(|| place(node)).unwrap_or(usize::MAX)
    };
    let mut steps: Vec<(&String, &StepResult)> = result.steps.iter().collect();
    steps.sort_by_key(|(name, _)| (place(name), *name));
    print_result(result, steps)
}

/// A result for people, its steps in the order given.
fn print_result<'a>(
    result: &RunResult,
    steps: impl IntoIterator<Item = (&'a String, &'a StepResult)>,
) -> anyhow::Result<()> {
    let mut table = Table::new(["step", "status", "attempts", "output"]).number(2);
    for (name, step) in steps {
        let shown = match &step.error {
            Some(error) => error.message.clone(),
            None if step.output.is_null() => String::new(),
            None => step.output.text().to_owned(),
        };
        table.row([
            name.clone(),
            step.status.to_string(),
            step.attempts.to_string(),
            shown,
        ]);
    }
    table.print()?;
    let took = output::duration(result.duration_ms);
    output::line(format!(
        "\n{} {} in {took} (run {})",
        result.workflow_id, result.status, result.run_id
    ))?;
    if let Some(error) = &result.error {
        output::line(format!("error at '{}': {}", error.node_id, error.message))?;
    }
    if !result.output.is_null() {
        output::json(result.output.value())?;
    }
    Ok(())
}
