//! Writes what follows from the steps of a segment: the second round trip.

use std::collections::{BTreeMap, HashMap};

use leveret_core::ids::RunId;
use tokio_postgres::{Row, types::ToSql};

use super::decision::Decided;
use crate::{
    postgres::Lease,
    store::{
        Outcome, RunEnd,
        commit::{edge_to_i64, fails_run, key_of, node_id},
        postgres::{
            error::Failure,
            rows::{StepColumns, error_text, run_id_at},
            runs::end_at,
        },
    },
};

const PASS: &str = "
    INSERT INTO steps (run_id, node_id, scope, status, attempts, via, started_at_ms, finished_at_ms, action, output, error)
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[],
                         $8::bigint[], $9::text[], $10::text[], $11::text[])
    ON CONFLICT DO NOTHING";

const JOINS: &str = "
    INSERT INTO joins (run_id, node_id, state) SELECT * FROM unnest($1::text[], $2::text[], $3::text[])
    ON CONFLICT (run_id, node_id) DO UPDATE SET state = excluded.state";

const CONTEXT: &str = "
    INSERT INTO context (run_id, key, value) SELECT * FROM unnest($1::text[], $2::text[], $3::text[])
    ON CONFLICT (run_id, key) DO UPDATE SET value = excluded.value";

const TIMERS: &str = "
    INSERT INTO timers (run_id, node_id, scope, due_at_ms, attempts, via)
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[])
    ON CONFLICT (run_id, node_id, scope) DO UPDATE
    SET due_at_ms = excluded.due_at_ms, attempts = excluded.attempts, via = excluded.via";

/// Keeps the first error of each run, and ends those that are at their end.
const RUNS: &str = "
    UPDATE runs r SET error = coalesce(r.error, n.error), ended_at_ms = n.ended_at_ms,
        status = CASE WHEN n.ended_at_ms IS NULL THEN r.status
                      WHEN coalesce(r.error, n.error) IS NULL THEN 'completed' ELSE 'failed' END
    FROM unnest($1::text[], $2::text[], $3::bigint[]) AS n (run_id, error, ended_at_ms)
    WHERE r.run_id = n.run_id AND r.status = 'running'
    RETURNING r.run_id, r.status, r.error, r.created_at_ms, r.ended_at_ms";

/// The ends of runs.
pub(super) type Ends = HashMap<RunId, RunEnd>;

/// Writes, and commits if this is the last segment; all in one round trip.
pub(super) async fn write(
    lease: &mut Lease,
    decided: &[Decided<'_>],
    last: bool,
) -> Result<Ends, Failure> {
    let passed = passed(decided);
    let (joins, context, timers) = (joins(decided), context(decided), timers(decided));
    let runs = runs(decided);
    let statements = (
        lease.statement(PASS).await?,
        lease.statement(JOINS).await?,
        lease.statement(CONTEXT).await?,
        lease.statement(TIMERS).await?,
        lease.statement(RUNS).await?,
    );
    type Params<'p> = &'p [&'p (dyn ToSql + Sync)];
    let joins_params: Params<'_> = &[&joins.0, &joins.1, &joins.2];
    let context_params: Params<'_> = &[&context.0, &context.1, &context.2];
    let timer_params: Params<'_> = &[
        &timers.0, &timers.1, &timers.2, &timers.3, &timers.4, &timers.5,
    ];
    let run_params: Params<'_> = &[&runs.0, &runs.1, &runs.2];
    let passed_params = passed.params();
    let client = lease.client();
    let write = async |some: bool,
                       statement,
                       params: Params<'_>|
           -> Result<Vec<Row>, tokio_postgres::Error> {
        if some {
            client.query(statement, params).await
        } else {
            Ok(Vec::new())
        }
    };
    let (_, _, _, _, changed, ()) = tokio::try_join!(
        biased;
        write(!passed.is_empty(), &statements.0, &passed_params),
        write(!joins.0.is_empty(), &statements.1, joins_params),
        write(!context.0.is_empty(), &statements.2, context_params),
        write(!timers.0.is_empty(), &statements.3, timer_params),
        write(!runs.0.is_empty(), &statements.4, run_params),
        async { if last { client.batch_execute("COMMIT").await } else { Ok(()) } },
    )?;
    if last {
        lease.set_in_transaction(false);
    }
    let mut ends = Ends::new();
    for row in &changed {
        if let Some(end) = end_at(row, 1)? {
            ends.insert(run_id_at(row, 0)?, end);
        }
    }
    Ok(ends)
}

fn passed<'a>(decided: &'a [Decided<'_>]) -> StepColumns<'a> {
    let mut passed: Vec<_> = decided
        .iter()
        .flat_map(|step| {
            step.decision
                .passed
                .iter()
                .map(|&(node, passed)| (step.finished, node, passed))
        })
        .collect();
    passed.sort_by_key(|&(by, node, _)| {
        (
            by.run_id.as_str(),
            node_id(&by.workflow, node),
            by.scope.as_str(),
        )
    });
    StepColumns::of_passed(passed)
}

type Triples<'a> = (Vec<&'a str>, Vec<String>, Vec<String>);

/// The last state of each join.
fn joins<'a>(decided: &'a [Decided<'_>]) -> Triples<'a> {
    let mut states: BTreeMap<(&str, String), String> = BTreeMap::new();
    for step in decided {
        for (&join, state) in &step.decision.joins {
            let key = key_of(&step.finished.workflow, join).0.to_string();
            states.insert((step.finished.run_id.as_str(), key), state.to_string());
        }
    }
    let mut columns = Triples::default();
    for ((run_id, key), state) in states {
        columns.0.push(run_id);
        columns.1.push(key);
        columns.2.push(state);
    }
    columns
}

/// The last value of each key.
fn context<'a>(decided: &'a [Decided<'_>]) -> (Vec<&'a str>, Vec<&'a str>, Vec<&'a str>) {
    let mut values: BTreeMap<(&str, &str), &str> = BTreeMap::new();
    for step in decided {
        if let Outcome::Completed { context, .. } = &step.finished.outcome {
            let run_id = step.finished.run_id.as_str();
            values.extend(
                context
                    .iter()
                    .map(|(key, value)| ((run_id, &**key), value.text())),
            );
        }
    }
    let mut columns = (Vec::new(), Vec::new(), Vec::new());
    for ((run_id, key), value) in values {
        columns.0.push(run_id);
        columns.1.push(key);
        columns.2.push(value);
    }
    columns
}

type TimerColumns<'a> = (
    Vec<&'a str>,
    Vec<&'a str>,
    Vec<&'a str>,
    Vec<i64>,
    Vec<i64>,
    Vec<i64>,
);

fn timers<'a>(decided: &'a [Decided<'_>]) -> TimerColumns<'a> {
    let mut columns = TimerColumns::default();
    let mut waiting: Vec<_> = decided
        .iter()
        .filter_map(|step| match step.finished.outcome {
            Outcome::Waiting { until, .. } => Some((step.finished, until)),
            _ => None,
        })
        .collect();
    waiting.sort_by_key(|&(finished, _)| crate::store::postgres::rows::step_order(finished));
    for (finished, until) in waiting {
        columns.0.push(finished.run_id.as_str());
        columns.1.push(node_id(&finished.workflow, finished.node));
        columns.2.push(finished.scope.as_str());
        columns.3.push(until.0);
        columns.4.push(i64::from(finished.attempts));
        columns.5.push(edge_to_i64(finished.via));
    }
    columns
}

/// Per run that changes: its first error of this segment, and its end.
fn runs<'a>(decided: &'a [Decided<'_>]) -> (Vec<&'a str>, Vec<Option<String>>, Vec<Option<i64>>) {
    let mut changes: BTreeMap<&str, (Option<String>, Option<i64>)> = BTreeMap::new();
    for step in decided {
        let finished = step.finished;
        let failed = fails_run(finished);
        if !failed && !step.decision.ended {
            continue;
        }
        let (cause, ended_at) = changes.entry(finished.run_id.as_str()).or_default();
        if let Outcome::Failed { error, .. } = &finished.outcome
            && failed
        {
            cause.get_or_insert_with(|| error_text(error));
        }
        if step.decision.ended {
            *ended_at = Some(finished.finished_at.0);
        }
    }
    let mut columns = (Vec::new(), Vec::new(), Vec::new());
    for (run_id, (error, ended_at)) in changes {
        columns.0.push(run_id);
        columns.1.push(error);
        columns.2.push(ended_at);
    }
    columns
}
