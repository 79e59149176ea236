//! Timers, redeliveries, and the reconciler's claims: rows that workers take from each other. Claims skip rows that another one is just
//! taking, so nobody waits.

use std::{collections::BTreeMap, time::Duration};

use leveret_core::{
    ids::{NodeId, RunId, Scope, StepKey},
    time::Timestamp,
    workflow::WorkflowHash,
};
use tokio_postgres::Row;

use super::{
    error::Failure,
    rows::{count_at, get, hash_at, node_id_at, run_id_at, time_at, workflow_id_at},
};
use crate::{
    postgres::Pool,
    store::{
        LOOK_PAUSE_MAX, NewTimer, StoreError, Timer,
        commit::{edge_from_i64, edge_to_i64},
    },
};

const CLAIM: &str = "
    WITH due AS (
        SELECT run_id, node_id, scope FROM timers WHERE due_at_ms <= $1 ORDER BY due_at_ms LIMIT $3
        FOR UPDATE SKIP LOCKED
    ), claimed AS (
        UPDATE timers t SET due_at_ms = $2 FROM due d
        WHERE t.run_id = d.run_id AND t.node_id = d.node_id AND t.scope = d.scope
        RETURNING t.run_id, t.node_id, t.scope, t.via, t.attempts
    )
    SELECT c.run_id, c.node_id, c.scope, c.via, c.attempts, r.workflow_id, r.workflow_hash
    FROM claimed c JOIN runs r ON r.run_id = c.run_id";

const SET: &str = "
    INSERT INTO timers (run_id, node_id, scope, due_at_ms, attempts, via)
    SELECT n.run_id, n.node_id, n.scope, n.due_at_ms, n.attempts, $6
    FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[]) AS n (run_id, node_id, scope, due_at_ms, attempts)
    ON CONFLICT (run_id, node_id, scope)
    DO UPDATE SET due_at_ms = excluded.due_at_ms, attempts = excluded.attempts, via = excluded.via";

const REMOVE: &str = "
    DELETE FROM timers t USING unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[])
        AS n (run_id, node_id, scope, due_at_ms, attempts)
    WHERE t.run_id = n.run_id AND t.node_id = n.node_id AND t.scope = n.scope
        AND t.due_at_ms = n.due_at_ms AND t.attempts = n.attempts";

const SET_REDELIVERIES: &str = "
    INSERT INTO redeliveries (run_id, node_id, scope, count) VALUES ($1, $2, $3, $4)
    ON CONFLICT (run_id, node_id, scope) DO UPDATE SET count = excluded.count";

const STALLED: &str = "
    WITH due AS (
        SELECT run_id FROM runs WHERE ended_at_ms IS NULL AND reconcile_at_ms <= $1 AND reconcile_at_ms <> -1
        ORDER BY reconcile_at_ms LIMIT $3 FOR NO KEY UPDATE SKIP LOCKED
    ), looked_at AS (
        SELECT d.run_id,
            (SELECT max(t.due_at_ms) FROM timers t WHERE t.run_id = d.run_id) AS last_timer,
            EXISTS (SELECT FROM steps s WHERE s.run_id = d.run_id AND s.finished_at_ms > $1 - $2) AS active,
            CASE WHEN EXISTS (SELECT FROM waits w WHERE w.run_id = d.run_id AND w.signal_no IS NULL)
                 THEN greatest($2, least($4, $1 - (SELECT max(s.finished_at_ms) FROM steps s WHERE s.run_id = d.run_id)))
                 ELSE $2 END AS pause
        FROM due d
    ), put_off AS (
        UPDATE runs r SET reconcile_at_ms = greatest($1, least(coalesce(l.last_timer, $1), 9223372036854775807 - l.pause)) + l.pause
        FROM looked_at l WHERE r.run_id = l.run_id
    )
    SELECT run_id, last_timer IS NULL AND NOT active FROM looked_at";

/// In milliseconds.
const LONGEST_PAUSE: i64 = LOOK_PAUSE_MAX.as_millis() as i64;

/// [`NewRun::UNBEGUN`](crate::store::NewRun::UNBEGUN) is -1.
const MARK_UNBEGUN: &str = "
    UPDATE runs SET reconcile_at_ms = -1 WHERE run_id IN (
        SELECT run_id FROM runs WHERE run_id = ANY($1) ORDER BY run_id FOR NO KEY UPDATE
    )";

const CLAIM_UNBEGUN: &str = "
    WITH unbegun AS (
        SELECT run_id FROM runs WHERE reconcile_at_ms = -1
        ORDER BY run_id LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED
    )
    UPDATE runs r SET reconcile_at_ms = $1 FROM unbegun u WHERE r.run_id = u.run_id
    RETURNING r.run_id, r.workflow_hash";

const PUT_OFF: &str = "
    UPDATE runs SET reconcile_at_ms = $2 WHERE run_id IN (
        SELECT run_id FROM runs
        WHERE run_id = ANY($1) AND ended_at_ms IS NULL AND reconcile_at_ms < $2 AND reconcile_at_ms <> -1
        FOR UPDATE SKIP LOCKED
    )";

const OF_RUN: &str =
    "SELECT node_id, scope, due_at_ms FROM timers WHERE run_id = $1 ORDER BY node_id, scope";

pub(super) async fn of_run(
    pool: &Pool,
    run_id: &RunId,
) -> Result<Vec<(NodeId, Scope, Timestamp)>, Failure> {
    let mut lease = pool.lease().await?;
    let rows = lease.query(OF_RUN, &[&run_id.as_str()]).await?;
    let timer = |row: &Row| {
        let scope = Scope::new(get::<&str>(row, 1)?);
        Ok((node_id_at(row, 0)?, scope, time_at(row, 2)?))
    };
    rows.iter().map(timer).collect()
}

pub(super) async fn claim(
    pool: &Pool,
    now: Timestamp,
    claim: Duration,
    limit: u32,
) -> Result<Vec<Timer>, Failure> {
    let until = now + claim;
    let rows = pool
        .lease()
        .await?
        .query(CLAIM, &[&now.0, &until.0, &i64::from(limit)])
        .await?;
    Ok(readable(&rows, |row| timer_at(row, until)))
}

/// What reads of rows that were claimed together: one that does not must not hold the others, whose claims are made.
fn readable<T>(rows: &[Row], read: impl Fn(&Row) -> Result<T, StoreError>) -> Vec<T> {
    let read = |row| {
        let read = read(row).inspect_err(|error| tracing::error!(%error, "a row is left out"));
        read.ok()
    };
    rows.iter().filter_map(read).collect()
}

fn timer_at(row: &Row, claimed_until: Timestamp) -> Result<Timer, StoreError> {
    let scope = Scope::new(get::<&str>(row, 2)?);
    Ok(Timer {
        key: StepKey {
            run_id: run_id_at(row, 0)?,
            node_id: node_id_at(row, 1)?,
            scope,
        },
        via: edge_from_i64(get(row, 3)?),
        attempts: count_at(row, 4)?,
        workflow_id: workflow_id_at(row, 5)?,
        workflow_hash: hash_at(row, 6)?,
        claimed_until,
    })
}

pub(super) async fn set(pool: &Pool, timers: &[NewTimer]) -> Result<(), Failure> {
    // One of each step, as a statement sets a row once.
    let timers: BTreeMap<&StepKey, &NewTimer> =
        timers.iter().map(|timer| (&timer.key, timer)).collect();
    if timers.is_empty() {
        return Ok(());
    }
    let runs: Vec<&str> = timers.keys().map(|key| key.run_id.as_str()).collect();
    let nodes: Vec<&str> = timers.keys().map(|key| key.node_id.as_str()).collect();
    let scopes: Vec<&str> = timers.keys().map(|key| key.scope.as_str()).collect();
    let due: Vec<i64> = timers.values().map(|timer| timer.due.0).collect();
    let attempts: Vec<i64> = timers.values().map(|timer| timer.attempts.into()).collect();
    let via = edge_to_i64(None);
    pool.lease()
        .await?
        .query(SET, &[&runs, &nodes, &scopes, &due, &attempts, &via])
        .await?;
    Ok(())
}

pub(super) async fn remove(pool: &Pool, timers: &[Timer]) -> Result<(), Failure> {
    if timers.is_empty() {
        return Ok(());
    }
    let mut sorted: Vec<&Timer> = timers.iter().collect();
    sorted.sort_unstable_by_key(|timer| &timer.key);
    let runs: Vec<&str> = sorted
        .iter()
        .map(|timer| timer.key.run_id.as_str())
        .collect();
    let nodes: Vec<&str> = sorted
        .iter()
        .map(|timer| timer.key.node_id.as_str())
        .collect();
    let scopes: Vec<&str> = sorted
        .iter()
        .map(|timer| timer.key.scope.as_str())
        .collect();
    let due: Vec<i64> = sorted.iter().map(|timer| timer.claimed_until.0).collect();
    let attempts: Vec<i64> = sorted
        .iter()
        .map(|timer| i64::from(timer.attempts))
        .collect();
    pool.lease()
        .await?
        .query(REMOVE, &[&runs, &nodes, &scopes, &due, &attempts])
        .await?;
    Ok(())
}

pub(super) async fn next(pool: &Pool) -> Result<Option<Timestamp>, Failure> {
    let sql = "SELECT due_at_ms FROM timers ORDER BY due_at_ms LIMIT 1";
    let rows = pool.lease().await?.query(sql, &[]).await?;
    Ok(rows.first().map(|row| time_at(row, 0)).transpose()?)
}

pub(super) async fn set_redeliveries(
    pool: &Pool,
    key: &StepKey,
    count: u32,
) -> Result<(), Failure> {
    let (run_id, node_id, scope) = (
        key.run_id.as_str(),
        key.node_id.as_str(),
        key.scope.as_str(),
    );
    let mut lease = pool.lease().await?;
    lease
        .query(
            SET_REDELIVERIES,
            &[&run_id, &node_id, &scope, &i64::from(count)],
        )
        .await?;
    Ok(())
}

pub(super) async fn mark_unbegun(pool: &Pool, runs: &[RunId]) -> Result<(), Failure> {
    let runs: Vec<&str> = runs.iter().map(RunId::as_str).collect();
    pool.lease().await?.query(MARK_UNBEGUN, &[&runs]).await?;
    Ok(())
}

pub(super) async fn claim_unbegun(
    pool: &Pool,
    until: Timestamp,
    limit: u32,
) -> Result<Vec<(RunId, WorkflowHash)>, Failure> {
    let mut lease = pool.lease().await?;
    let rows = lease
        .query(CLAIM_UNBEGUN, &[&until.0, &i64::from(limit)])
        .await?;
    let mut claimed = readable(&rows, |row| Ok((run_id_at(row, 0)?, hash_at(row, 1)?)));
    claimed.sort_unstable();
    Ok(claimed)
}

pub(super) async fn claim_stalled(
    pool: &Pool,
    now: Timestamp,
    quiet: Duration,
    limit: u32,
) -> Result<(Vec<RunId>, u32), Failure> {
    // Far from overflow, whatever is asked.
    let quiet = i64::try_from(quiet.as_millis())
        .unwrap_or(i64::MAX)
        .min(i64::MAX / 4);
    let rows = pool
        .lease()
        .await?
        .query(
            STALLED,
            &[&now.0, &quiet, &i64::from(limit), &LONGEST_PAUSE],
        )
        .await?;
    let stalled = readable(&rows, |row| {
        Ok(if get(row, 1)? {
            Some(run_id_at(row, 0)?)
        } else {
            None
        })
    });
    let stalled = stalled.into_iter().flatten().collect();
    Ok((stalled, rows.len() as u32))
}

pub(super) async fn put_off(pool: &Pool, runs: &[RunId], until: Timestamp) -> Result<(), Failure> {
    let runs: Vec<&str> = runs.iter().map(RunId::as_str).collect();
    let mut lease = pool.lease().await?;
    lease.query(PUT_OFF, &[&runs, &until.0]).await?;
    Ok(())
}
