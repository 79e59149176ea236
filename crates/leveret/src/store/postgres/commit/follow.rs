//! Writes what follows from the steps of a segment: the second round trip.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap, HashSet},
};

use leveret_core::ids::{RunId, SignalKey, StepKey};
use tokio_postgres::{Row, types::ToSql};

use super::{decision::Decided, waits};
use crate::{
    postgres::Lease,
    store::{
        Finished, RunEnd, StepStatus, Wait,
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

/// The new waits, in the order in which their steps began to wait.
const WAITS: &str = "
    INSERT INTO waits (run_id, node_id, scope, event, key, kind, about, attempts, via, since_ms, until_ms)
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bigint[],
                         $9::bigint[], $10::bigint[], $11::bigint[])
    ON CONFLICT (run_id, node_id, scope) DO UPDATE
    SET event = excluded.event, key = excluded.key, kind = excluded.kind, about = excluded.about, attempts = excluded.attempts,
        via = excluded.via, since_ms = excluded.since_ms, until_ms = excluded.until_ms, signal_no = NULL";

/// The ends of runs.
pub(super) type Ends = HashMap<RunId, RunEnd>;

/// What is known when everything is written.
#[derive(Default)]
pub(super) struct Followed {
    pub(super) ends: Ends,
    /// Steps that wait for signals which were there already.
    pub(super) signalled: HashSet<StepKey>,
}

/// Writes, and commits if this is the last segment; all in one round trip.
pub(super) async fn write(
    lease: &mut Lease,
    decided: &[Decided<'_>],
    last: bool,
) -> Result<Followed, Failure> {
    let mut rows = Rows::of(decided);
    let signalled = write_waits(lease, &mut rows).await?;
    let Rows {
        stands,
        joins,
        latest,
        context,
        timers,
        runs,
        ..
    } = rows;
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
    Ok(Followed { ends, signalled })
}

/// Records what steps wait for, if any of them does, and gives them the signals that were there. The timers of those that got one are due.
async fn write_waits(lease: &mut Lease, rows: &mut Rows<'_>) -> Result<HashSet<StepKey>, Failure> {
    let waits = &rows.waits;
    if waits.steps.0.is_empty() {
        return Ok(HashSet::new());
    }
    let timers = std::mem::take(&mut rows.timers);
    if !timers.0.is_empty() {
        // Before those that are due at once.
        let params: [&(dyn ToSql + Sync); 6] = [
            &timers.0, &timers.1, &timers.2, &timers.3, &timers.4, &timers.5,
        ];
        lease.query(TIMERS, &params).await?;
    }
    let params: [&(dyn ToSql + Sync); 11] = [
        &waits.steps.0,
        &waits.steps.1,
        &waits.steps.2,
        &waits.events,
        &waits.keys,
        &waits.kinds,
        &waits.abouts,
        &waits.attempts,
        &waits.vias,
        &waits.since,
        &waits.until,
    ];
    lease.query(WAITS, &params).await?;
    let by_key = waits.keys.iter().any(Option::is_some);
    waits::give(lease, &waits.steps, by_key).await
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
    waits: WaitColumns<'a>,
    runs: (Vec<&'a str>, Vec<Option<String>>, Vec<Option<i64>>),
}

/// What steps wait for, in the order of the batch.
#[derive(Default)]
struct WaitColumns<'a> {
    steps: (Vec<&'a str>, Vec<&'a str>, Vec<&'a str>),
    events: Vec<&'a str>,
    keys: Vec<Option<&'a str>>,
    kinds: Vec<&'a str>,
    abouts: Vec<&'a str>,
    attempts: Vec<i64>,
    vias: Vec<i64>,
    since: Vec<i64>,
    until: Vec<Option<i64>>,
}

impl<'a> WaitColumns<'a> {
    fn push(&mut self, finished: &'a Finished, wait: &'a Wait, until: Option<i64>) {
        let (run_id, node_id, scope) = step_order(finished);
        self.steps.0.push(run_id);
        self.steps.1.push(node_id);
        self.steps.2.push(scope);
        self.events.push(wait.event.as_str());
        self.keys.push(wait.key.as_ref().map(SignalKey::as_str));
        self.kinds.push(wait.kind.as_str());
        self.abouts.push(wait.about.text());
        self.attempts.push(i64::from(finished.attempts));
        self.vias.push(edge_to_i64(finished.via));
        self.since.push(finished.finished_at.0);
        self.until.push(until);
    }
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
        let mut rows = Rows::default();
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
                    Write::Wait(wait) => {
                        let until = timers.get(&step_order(finished));
                        rows.waits.push(finished, wait, until.map(|(_, due)| due.0));
                    }
                    Write::Context { key, value } => {
                        context.insert((run_id, &**key), value.text());
                    }
                    Write::End => runs.entry(run_id).or_default().1 = Some(finished.finished_at.0),
                }
            }
        }
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
