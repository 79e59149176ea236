//! Commits steps: one transaction a batch, in as few round trips as its steps allow.
//!
//! A batch of steps that only hand over to a next node is one statement. Any other batch is a transaction of two round trips:
//!
//! 1. lock the runs whose joins, end or error may change, insert the steps, read the joins;
//! 2. write what follows from the steps, and commit.
//!
//! Between them the joins are decided here. Two workers that finish the two predecessors of a join meet at the lock of its run, so
//! that the second reads what the first wrote. Steps of a chain lock nothing but themselves. All transactions touch runs before
//! steps before the rest, each sorted by key, so that none waits for another in a circle; one that PostgreSQL stops nevertheless is done
//! again.

mod decision;
mod follow;
mod plan;
mod waits;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use leveret_core::{
    decide::Joins,
    ids::{RunId, Scope, StepKey},
};
use tokio_postgres::{Row, types::ToSql};

use self::{
    decision::{Decided, Deciding},
    plan::{Segment, segments},
};
use super::{
    error::Failure,
    rows::{StepColumns, get},
};
use crate::{
    postgres::{Lease, Pool},
    store::{
        Committed, Finished, JoinKey, RunStatus, StoreError,
        commit::{join_of, key_of, parse_join},
    },
};

/// How often a transaction is begun again after another one got in its way.
const CONFLICTS_MAX: u32 = 10;

const LOCK: &str = "SELECT run_id FROM runs WHERE run_id = ANY($1) AND status = 'running'
     ORDER BY run_id FOR NO KEY UPDATE";

/// The setting ends with the transaction.
const BEGIN: &str = "BEGIN; SET LOCAL leveret.batch = 'open'";

/// Inserts steps of running runs; a waiting step is overtaken as `MemoryStore` says. Answers with the keys of those that were recorded, in
/// one row, or with none if all were. Removes the timers and waits of steps that no longer wait. `xmax` is 0 in a row that was inserted, not updated.
/// Unless it is to stand alone, it records nothing outside of the transaction of [`BEGIN`], which may have failed before it.
const RECORD: &str = "
    WITH recorded AS (
        INSERT INTO steps AS s (run_id, node_id, scope, status, attempts, via, started_at_ms, finished_at_ms,
                                action, output, error)
        SELECT n.* FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[],
                               $7::bigint[], $8::bigint[], $9::text[], $10::text[], $11::text[])
                     AS n (run_id, node_id, scope, status, attempts, via, started_at_ms, finished_at_ms,
                           action, output, error)
        WHERE EXISTS (SELECT FROM runs r WHERE r.run_id = n.run_id AND r.status = 'running')
          AND ($12 OR (SELECT current_setting('leveret.batch', true)) = 'open')
        ON CONFLICT (run_id, node_id, scope) DO UPDATE
        SET status = excluded.status, attempts = excluded.attempts, via = excluded.via,
            finished_at_ms = excluded.finished_at_ms, action = excluded.action, output = excluded.output,
            error = excluded.error
        WHERE s.status = 'waiting'
          AND (excluded.attempts > s.attempts OR excluded.attempts = s.attempts AND excluded.status <> 'waiting')
        RETURNING s.run_id, s.node_id, s.scope, s.status <> 'waiting' AND s.xmax <> 0 AS woken
    ), woken AS (
        DELETE FROM timers t USING recorded r
        WHERE r.woken AND t.run_id = r.run_id AND t.node_id = r.node_id AND t.scope = r.scope
    ), waited AS (
        DELETE FROM waits w USING recorded r
        WHERE r.woken AND w.run_id = r.run_id AND w.node_id = r.node_id AND w.scope = r.scope
    )
    SELECT array_agg(run_id), array_agg(node_id), array_agg(scope) FROM recorded
    HAVING count(*) < cardinality($1)";

const READ_JOINS: &str =
    "SELECT j.run_id, j.node_id, j.state, j.scope FROM unnest($1::text[], $2::text[], $3::text[]) AS n (run_id, node_id, scope)
     JOIN joins j ON j.run_id = n.run_id AND j.node_id = n.node_id AND j.scope = n.scope";

/// Why steps were not recorded. A run that began after the insert looked is as unknown as it was then.
const UNRECORDED: &str = "
    SELECT n.position, r.status, EXISTS (
        SELECT FROM steps s WHERE s.run_id = n.run_id AND s.node_id = n.node_id AND s.scope = n.scope)
    FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[]) AS n (position, run_id, node_id, scope)
    JOIN runs r ON r.run_id = n.run_id";

/// Answers in the order of the batch.
pub(super) async fn commit(
    pool: &Pool,
    batch: &[Arc<Finished>],
) -> Result<Vec<Committed>, Failure> {
    if batch.is_empty() {
        return Ok(Vec::new());
    }
    let mut conflicts = 0;
    loop {
        let mut lease = pool.lease().await?;
        match commit_once(&mut lease, batch).await {
            Err(failure) => {
                lease.roll_back().await;
                conflicts += 1;
                if !failure.is_conflict() || conflicts == CONFLICTS_MAX {
                    return Err(failure);
                }
            }
            committed => return committed,
        }
    }
}

async fn commit_once(
    lease: &mut Lease,
    batch: &[Arc<Finished>],
) -> Result<Vec<Committed>, Failure> {
    let segments = segments(batch);
    let mut answers = Answers {
        committed: vec![None; batch.len()],
        ended_at: HashMap::new(),
    };
    let last = segments.len() - 1;
    if let [segment] = &segments[..]
        && segment.is_plain()
    {
        let decided = record(lease, segment, &mut answers, Begin::Alone).await?;
        answers.take(decided, &HashSet::new());
    } else {
        for (position, segment) in segments.iter().enumerate() {
            let begin = if position == 0 {
                Begin::Transaction
            } else {
                Begin::Inside
            };
            let decided = record(lease, segment, &mut answers, begin).await?;
            let followed = follow::write(lease, &decided, position == last).await?;
            answers.end(batch, &decided, &followed.ends)?;
            answers.take(decided, &followed.signalled);
        }
    }
    Ok(answers.finish(batch, &segments))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Begin {
    Alone,
    Transaction,
    Inside,
}

/// The first round trip, and what is decided from its answers.
async fn record<'a>(
    lease: &mut Lease,
    segment: &Segment<'a>,
    answers: &mut Answers,
    begin: Begin,
) -> Result<Vec<Decided<'a>>, Failure> {
    let (mut begin, mut late) = (begin, HashSet::new());
    if segment.waits() {
        late = waits::lock(lease, segment, begin == Begin::Transaction).await?;
        begin = Begin::Inside;
    }
    let items = segment.items.iter().enumerate();
    let in_time = items.filter(|(position, _)| !late.contains(position));
    let columns = StepColumns::of(in_time.map(|(_, item)| item.finished));
    let (lock, insert) = (lease.statement(LOCK).await?, lease.statement(RECORD).await?);
    let read = lease.statement(READ_JOINS).await?;
    let (runs, wanted) = (segment.runs_to_lock(), segment.joins_to_read());
    let alone = begin == Begin::Alone;
    lease.set_in_transaction(!alone);
    let mut params = columns.params().to_vec();
    params.push(&alone);
    let (locked, recorded, joins) = {
        let client = lease.client();
        // Sent at once, in this order, and executed one after the other.
        tokio::try_join!(
            biased;
            async {
                if begin == Begin::Transaction { client.batch_execute(BEGIN).await } else { Ok(()) }
            },
            async {
                if runs.is_empty() { Ok(Vec::new()) } else { client.query(&lock, &[&runs]).await }
            },
            client.query(&insert, &params),
            async {
                if wanted.0.is_empty() { Ok(Vec::new()) } else { client.query(&read, &[&wanted.0, &wanted.1, &wanted.2]).await }
            },
        )
        .map(|((), locked, recorded, joins)| (locked, recorded, joins))?
    };
    let mut recorded = recorded_positions(segment, &recorded)?;
    recorded.retain(|position| !late.contains(position));
    explain_unrecorded(lease, segment, &recorded, answers).await?;
    // A run that began after the locks were taken is not locked.
    let locked: HashSet<&str> = locked
        .iter()
        .map(|row| get(row, 0))
        .collect::<Result<_, _>>()?;
    let is_locked =
        |item: &plan::Item<'_>| !item.locks || locked.contains(item.finished.run_id.as_str());
    if !recorded
        .iter()
        .all(|&position| is_locked(&segment.items[position]))
    {
        return Err(Failure::Conflict);
    }
    let mut deciding = Deciding::new(segment, &recorded);
    let mut joins = joins;
    loop {
        deciding.provide(read_joins(segment, &joins)?);
        let wanted = deciding.decide();
        if wanted.0.is_empty() {
            return Ok(deciding.finish());
        }
        let keys: [&(dyn ToSql + Sync); 3] = [&wanted.0, &wanted.1, &wanted.2];
        joins = lease.query(READ_JOINS, &keys).await?;
    }
}

/// The items of the segment that were recorded, by position.
fn recorded_positions(segment: &Segment<'_>, rows: &[Row]) -> Result<Vec<usize>, Failure> {
    let all = 0..segment.items.len();
    let [row] = rows else {
        return Ok(all.collect());
    };
    let column = |at| Ok::<_, StoreError>(get::<Option<Vec<&str>>>(row, at)?.unwrap_or_default());
    let (runs, nodes, scopes) = (column(0)?, column(1)?, column(2)?);
    let recorded = runs.into_iter().zip(nodes).zip(scopes);
    let keys: HashSet<_> = recorded
        .map(|((run, node), scope)| (run, node, scope))
        .collect();
    Ok(all
        .filter(|&position| {
            keys.contains(&super::rows::step_order(segment.items[position].finished))
        })
        .collect())
}

async fn explain_unrecorded(
    lease: &mut Lease,
    segment: &Segment<'_>,
    recorded: &[usize],
    answers: &mut Answers,
) -> Result<(), Failure> {
    let items = segment.items.iter().enumerate();
    let left: Vec<_> = items
        .filter(|(position, _)| recorded.binary_search(position).is_err())
        .map(|(_, item)| item)
        .collect();
    if left.is_empty() {
        return Ok(());
    }
    let keys: Vec<_> = left
        .iter()
        .map(|item| super::rows::step_order(item.finished))
        .collect();
    let positions: Vec<i64> = left.iter().map(|item| item.position as i64).collect();
    let runs: Vec<&str> = keys.iter().map(|key| key.0).collect();
    let nodes: Vec<&str> = keys.iter().map(|key| key.1).collect();
    let scopes: Vec<&str> = keys.iter().map(|key| key.2).collect();
    for item in &left {
        answers.committed[item.position] = Some(Committed::Over(None));
    }
    for row in lease
        .query(UNRECORDED, &[&positions, &runs, &nodes, &scopes])
        .await?
    {
        let status: RunStatus = get::<&str>(&row, 1)?.parse()?;
        let answer = match (status, get(&row, 2)?) {
            (RunStatus::Running, true) => Committed::Repeated,
            (RunStatus::Running, false) => Committed::Over(None),
            (over, _) => Committed::Over(Some(over)),
        };
        answers.committed[get::<i64>(&row, 0)? as usize] = Some(answer);
    }
    Ok(())
}

fn read_joins(segment: &Segment<'_>, rows: &[Row]) -> Result<HashMap<RunId, Joins>, Failure> {
    let mut joins: HashMap<RunId, Joins> = HashMap::new();
    if rows.is_empty() {
        return Ok(joins);
    }
    let workflows = segment.workflows();
    for row in rows {
        let workflow = workflows[get::<&str>(row, 0)?];
        let key = JoinKey {
            node: get::<&str>(row, 1)?.into(),
            scope: Scope::new(get::<&str>(row, 3)?),
        };
        let join = join_of(workflow, &key)?;
        let state = parse_join(get(row, 2)?)?;
        joins
            .entry(super::rows::run_id_at(row, 0)?)
            .or_default()
            .insert(join, state);
    }
    Ok(joins)
}

/// Joins to read, as columns.
type JoinColumns = (Vec<String>, Vec<String>, Vec<String>);

fn push_join(
    columns: &mut JoinColumns,
    finished: &Finished,
    join: &leveret_core::decide::JoinPoint,
) {
    let key = key_of(&finished.workflow, join);
    columns.0.push(finished.run_id.as_str().to_owned());
    columns.1.push(key.node.to_string());
    columns.2.push(key.scope.as_str().to_owned());
}

struct Answers {
    committed: Vec<Option<Committed>>,
    /// Per run that this batch ended: the position of its last step, and how it ended.
    ended_at: HashMap<RunId, (usize, RunStatus)>,
}

impl Answers {
    fn end(
        &mut self,
        batch: &[Arc<Finished>],
        decided: &[Decided<'_>],
        ends: &follow::Ends,
    ) -> Result<(), Failure> {
        for step in decided.iter().filter(|step| step.decision.ended) {
            let run_id = &batch[step.position].run_id;
            let end = ends.get(run_id).ok_or(Failure::Conflict)?;
            self.ended_at
                .insert(run_id.clone(), (step.position, end.status));
            self.committed[step.position] = Some(Committed::Recorded {
                decision: step.decision.clone(),
                end: Some(end.clone()),
                signalled: false,
            });
        }
        Ok(())
    }

    /// Also takes which of the steps waited for signals that were there already.
    fn take(&mut self, decided: Vec<Decided<'_>>, signalled: &HashSet<StepKey>) {
        for step in decided {
            let signalled = !signalled.is_empty() && signalled.contains(&step.finished.key());
            self.committed[step.position].get_or_insert(Committed::Recorded {
                decision: step.decision,
                end: None,
                signalled,
            });
        }
    }

    /// Answers to the steps that were in the batch before, and tells those after a run's last step that it is over.
    fn finish(mut self, batch: &[Arc<Finished>], segments: &[Segment<'_>]) -> Vec<Committed> {
        for &(position, first) in segments.iter().flat_map(|segment| &segment.echoes) {
            self.committed[position] = Some(match &self.committed[first] {
                Some(Committed::Over(status)) => Committed::Over(*status),
                _ => Committed::Repeated,
            });
        }
        let answers = self
            .committed
            .into_iter()
            .enumerate()
            .map(|(position, answer)| {
                let answer = answer.expect("every step has an answer");
                match (&answer, self.ended_at.get(&batch[position].run_id)) {
                    (Committed::Repeated, Some(&(last, status))) if last < position => {
                        Committed::Over(Some(status))
                    }
                    _ => answer,
                }
            });
        answers.collect()
    }
}
