//! Many runs of one workflow at once, a bounded number at a time. `leveret run --each` and the demo.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use leveret::{
    runtime::{Engine, RunResult, StartError, StartRequest},
    store::RunStatus,
};
use leveret_core::workflow::Workflow;
use tokio::{sync::watch, task::JoinSet};

use crate::{
    engine::Running,
    exit::Exit,
    input::Line,
    output::{self, Output, Table, percentile},
    progress::Progress,
    settings::Settings,
    shutdown,
};

pub(crate) async fn each(
    workflow: Arc<Workflow>,
    lines: Vec<Line>,
    concurrency: u16,
    settings: &Settings,
    output: Output,
) -> anyhow::Result<Exit> {
    let mut stopped = shutdown::on_signal()?;
    let mut running = Running::start(settings).await?;
    let mut summary = Summary::default();
    let begun = Instant::now();
    let engine = running.engine.clone();
    let all = run_all(
        &engine,
        &workflow,
        lines,
        concurrency,
        &mut stopped,
        |number, result| {
            if output.json {
                output::json_line(&result)?;
            }
            summary.add(number, &result);
            Ok(())
        },
    );
    let ended = tokio::select! {
        ended = all => ended,
        error = running.failed() => return Err(error),
    };
    running.stop().await?;
    if let Err(error) = &ended
        && *stopped.borrow()
        && settings.says_where()
    {
        let kept = "those that began are kept, and go on under `leveret up` with the same settings";
        anyhow::bail!("{error}: {kept}");
    }
    ended?;
    if !output.json {
        summary.print(begun.elapsed().as_secs_f64())?;
    }
    Ok(Exit::ok_if(summary.all_completed()))
}

/// Runs a workflow once for each line, with at most `concurrency` runs at once, and hands over the results in the order of the lines. Shows
/// progress. An error ends it, as does a signal.
pub(crate) async fn run_all(
    engine: &Engine,
    workflow: &Arc<Workflow>,
    lines: Vec<Line>,
    concurrency: u16,
    stopped: &mut watch::Receiver<bool>,
    mut take: impl FnMut(usize, RunResult) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let progress = Progress::new(lines.len() as u64, "runs");
    let mut lines = lines.into_iter().enumerate();
    let mut runs: JoinSet<(usize, usize, Result<RunResult, StartError>)> = JoinSet::new();
    let mut early = BTreeMap::new();
    let mut next = 0;
    loop {
        while runs.len() < usize::from(concurrency) {
            let Some((at, Line { number, input })) = lines.next() else {
                break;
            };
            let (engine, workflow) = (engine.clone(), workflow.clone());
            runs.spawn(async move {
                let request = StartRequest {
                    workflow,
                    input,
                    run_id: None,
                };
                (at, number, engine.start_and_wait(request).await)
            });
        }
        let ended = tokio::select! {
            ended = runs.join_next() => ended,
            () = shutdown::asked(stopped) => anyhow::bail!("interrupted before all runs ended"),
        };
        let Some(ended) = ended else { return Ok(()) };
        let (at, number, result) = ended?;
        early.insert(at, (number, result?));
        progress.inc();
        while let Some((number, result)) = early.remove(&next) {
            take(number, result)?;
            next += 1;
        }
    }
}

/// How many failures are named.
const FAILURES_SHOWN: usize = 10;

/// What came of many runs.
#[derive(Debug, Default)]
struct Summary {
    counts: BTreeMap<&'static str, u64>,
    durations_ms: Vec<u64>,
    retries: u64,
    failures: Vec<String>,
}

impl Summary {
    fn add(&mut self, number: usize, result: &RunResult) {
        *self.counts.entry(result.status.as_str()).or_default() += 1;
        self.durations_ms.push(result.duration_ms);
        self.retries += retries(result);
        if result.status != RunStatus::Completed && self.failures.len() < FAILURES_SHOWN {
            let why = match &result.error {
                Some(error) => format!("at '{}': {}", error.node_id, error.message),
                None => result.status.to_string(),
            };
            let failure = format!("line {number}: run {} {why}", result.run_id);
            self.failures.push(failure);
        }
    }

    fn all_completed(&self) -> bool {
        self.counts
            .keys()
            .all(|status| *status == RunStatus::Completed.as_str())
    }

    fn print(&mut self, seconds: f64) -> anyhow::Result<()> {
        self.durations_ms.sort_unstable();
        let mut table = Table::new(["status", "runs"]).number(1);
        for (status, count) in &self.counts {
            table.row([(*status).to_owned(), count.to_string()]);
        }
        table.print()?;
        for failure in &self.failures {
            output::line(failure)?;
        }
        output::line(format!(
            "\n{}",
            speed(&self.durations_ms, self.retries, seconds)
        ))?;
        Ok(())
    }
}

/// Attempts beyond the first, over all steps.
pub(crate) fn retries(result: &RunResult) -> u64 {
    result
        .steps
        .values()
        .map(|step| u64::from(step.attempts.saturating_sub(1)))
        .sum()
}

/// One line about many runs. The durations are sorted.
pub(crate) fn speed(durations_ms: &[u64], retries: u64, seconds: f64) -> String {
    let (p50, p99) = (
        percentile(durations_ms, 0.5),
        percentile(durations_ms, 0.99),
    );
    let runs = durations_ms.len();
    format!(
        "{runs} runs in {seconds:.1} s ({:.0}/s), {retries} retries; duration p50 {p50} ms, p99 {p99} ms",
        runs as f64 / seconds.max(0.001)
    )
}
