//! Writes what follows from the steps of a segment: the second round trip.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
};

use leveret_core::ids::RunId;
use tokio_postgres::{Row, types::ToSql};

use super::decision::Decided;
use crate::{
    postgres::Lease,
    store::{
        RunEnd, StepStatus,
        commit::{edge_to_i64, key_of, node_id},
        follow::{Write, follow},
        postgres::{
            error::Failure,
            rows::{Stand, StepColumns, error_text, run_id_at, step_order},
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
    INSERT INTO joins (run_id, node_id, scope, state)
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[])
    ON CONFLICT (run_id, node_id, scope) DO UPDATE SET state = excluded.state";

const LATEST: &str = "
    INSERT INTO latest (run_id, node_id, within, scope)
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[])
    ON CONFLICT (run_id, node_id, within) DO UPDATE SET scope = excluded.scope";

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
    let Rows {
        stands,
        joins,
        latest,
        context,
        timers,
        runs,
    } = Rows::of(decided);
    let statements = (
        lease.statement(PASS).await?,
        lease.statement(JOINS).await?,
        lease.statement(LATEST).await?,
        lease.statement(CONTEXT).await?,
        lease.statement(TIMERS).await?,
        lease.statement(RUNS).await?,
    );
    type Params<'p> = &'p [&'p (dyn ToSql + Sync)];
    let joins_params: Params<'_> = &[&joins.0, &joins.1, &joins.2, &joins.3];
    let latest_params: Params<'_> = &[&latest.0, &latest.1, &latest.2, &latest.3];
    let context_params: Params<'_> = &[&context.0, &context.1, &context.2];
    let timer_params: Params<'_> = &[
        &timers.0, &timers.1, &timers.2, &timers.3, &timers.4, &timers.5,
    ];
    let run_params: Params<'_> = &[&runs.0, &runs.1, &runs.2];
    let stands_params = stands.params();
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
    let (_, _, _, _, _, changed, ()) = tokio::try_join!(
        biased;
        write(!stands.is_empty(), &statements.0, &stands_params),
        write(!joins.0.is_empty(), &statements.1, joins_params),
        write(!latest.0.is_empty(), &statements.2, latest_params),
        write(!context.0.is_empty(), &statements.3, context_params),
        write(!timers.0.is_empty(), &statements.4, timer_params),
        write(!runs.0.is_empty(), &statements.5, run_params),
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

/// What the steps of a segment write, as columns, each table's rows sorted by key.
#[derive(Default)]
struct Rows<'a> {
    /// Steps that will not be executed, those of loops that ended, around them, and what stands for items.
    stands: StepColumns<'a>,
    joins: (Vec<&'a str>, Vec<String>, Vec<String>, Vec<String>),
    latest: (Vec<&'a str>, Vec<&'a str>, Vec<String>, Vec<&'a str>),
    context: (Vec<&'a str>, Vec<&'a str>, Vec<&'a str>),
    timers: TimerColumns<'a>,
    runs: (Vec<&'a str>, Vec<Option<String>>, Vec<Option<i64>>),
}

type TimerColumns<'a> = (
    Vec<&'a str>,
    Vec<&'a str>,
    Vec<&'a str>,
    Vec<i64>,
    Vec<i64>,
    Vec<i64>,
);

impl<'a> Rows<'a> {
    /// Of several steps that write the same row, what the last of them writes; of the errors of a run, the first.
    fn of(decided: &'a [Decided<'_>]) -> Rows<'a> {
        let mut stands = BTreeMap::new();
        let mut joins = BTreeMap::new();
        let mut latest = BTreeMap::new();
        let mut context = BTreeMap::new();
        let mut timers = BTreeMap::new();
        let mut runs: BTreeMap<&str, (Option<String>, Option<i64>)> = BTreeMap::new();
        for Decided {
            finished, decision, ..
        } in decided
        {
            let (run_id, workflow) = (finished.run_id.as_str(), &finished.workflow);
            for write in follow(finished, decision) {
                match write {
                    Write::Join { join, state } => {
                        joins.insert((run_id, key_of(workflow, join)), state);
                    }
                    Write::Pass { place, status } => {
                        let id = node_id(workflow, place.node);
                        let key = (run_id, id, Cow::Borrowed(place.scope.as_str()));
                        let stand = Stand::passed(status);
                        stands.entry(key).or_insert((*finished, Some(stand)));
                    }
                    Write::Item { scope, value } => {
                        let id = node_id(workflow, finished.node);
                        let key = (run_id, id, Cow::Borrowed(scope.as_str()));
                        let stand = Stand {
                            output: Some(value.text()),
                            ..Stand::passed(StepStatus::Completed)
                        };
                        stands.entry(key).or_insert((*finished, Some(stand)));
                    }
                    Write::Arrival { place, status, via } => {
                        let id = node_id(workflow, place.node);
                        let key = (run_id, id, Cow::Borrowed(place.scope.as_str()));
                        let stand = Stand {
                            via,
                            ..Stand::passed(status)
                        };
                        stands.entry(key).or_insert((*finished, Some(stand)));
                    }
                    Write::Caught { place, error } => {
                        let id = node_id(workflow, place.node);
                        let key = (run_id, id, Cow::Owned(place.scope.as_str().to_owned()));
                        let stand = Stand {
                            error: Some(error),
                            ..Stand::passed(StepStatus::Failed)
                        };
                        stands.entry(key).or_insert((*finished, Some(stand)));
                    }
                    Write::Close { scope } => {
                        let id = node_id(workflow, finished.node);
                        let key = (run_id, id, Cow::Borrowed(scope.as_str()));
                        stands.entry(key).or_insert((*finished, None));
                    }
                    Write::Latest { within } => {
                        let key = (run_id, node_id(workflow, finished.node), within);
                        latest.insert(key, finished.scope.as_str());
                    }
                    Write::Error(error) => {
                        let (cause, _) = runs.entry(run_id).or_default();
                        cause.get_or_insert_with(|| error_text(&error));
                    }
                    Write::Timer { due } => {
                        timers.insert(step_order(finished), (*finished, due));
                    }
                    Write::Context { key, value } => {
                        context.insert((run_id, &**key), value.text());
                    }
                    Write::End => runs.entry(run_id).or_default().1 = Some(finished.finished_at.0),
                }
            }
        }
        let mut rows = Rows::default();
        for (key, (by, stand)) in stands {
            match stand {
                Some(stand) => rows.stands.push_stand(key, by.finished_at, &stand),
                None => rows.stands.push_at(key, by),
            }
        }
        for ((run_id, key), state) in joins {
            rows.joins.0.push(run_id);
            rows.joins.1.push(key.node.to_string());
            rows.joins.2.push(key.scope.as_str().to_owned());
            rows.joins.3.push(state.to_string());
        }
        for ((run_id, node_id, within), scope) in latest {
            rows.latest.0.push(run_id);
            rows.latest.1.push(node_id);
            rows.latest.2.push(within.as_str().to_owned());
            rows.latest.3.push(scope);
        }
        for ((run_id, key), value) in context {
            rows.context.0.push(run_id);
            rows.context.1.push(key);
            rows.context.2.push(value);
        }
        for ((run_id, node_id, scope), (finished, due)) in timers {
            rows.timers.0.push(run_id);
            rows.timers.1.push(node_id);
            rows.timers.2.push(scope);
            rows.timers.3.push(due.0);
            rows.timers.4.push(i64::from(finished.attempts));
            rows.timers.5.push(edge_to_i64(finished.via));
        }
        for (run_id, (error, ended_at)) in runs {
            rows.runs.0.push(run_id);
            rows.runs.1.push(error);
            rows.runs.2.push(ended_at);
        }
        rows
    }
}
