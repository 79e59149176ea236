//! Timers, and the claims of the reconciler.

use std::time::Duration;

use leveret_core::{
    ids::{RunId, Scope, StepKey},
    time::Timestamp,
};
use rusqlite::{Connection, Row, params};

use super::{execute, hash, id, row, rows};
use crate::store::{StoreError, Timer, commit::edge_from_i64};

pub(super) fn next(connection: &Connection) -> Result<Option<Timestamp>, StoreError> {
    let due = row(connection, "SELECT min(due_at_ms) FROM timers", [], |row| {
        Ok(row.get::<_, Option<i64>>(0)?)
    })?;
    Ok(due.flatten().map(Timestamp))
}

pub(super) fn claim(
    connection: &Connection,
    now: Timestamp,
    until: Timestamp,
    limit: u32,
) -> Result<Vec<Timer>, StoreError> {
    let timers = rows(
        connection,
        "SELECT t.run_id, t.node_id, t.scope, t.attempts, t.via, r.workflow_id, r.workflow_hash
         FROM timers t JOIN runs r ON r.run_id = t.run_id
         WHERE t.due_at_ms <= ?1 ORDER BY t.due_at_ms LIMIT ?2",
        params![now.0, limit],
        |row| timer(row, until),
    )?;
    for Timer { key, .. } in &timers {
        execute(
            connection,
            "UPDATE timers SET due_at_ms = ?4 WHERE run_id = ?1 AND node_id = ?2 AND scope = ?3",
            params![
                key.run_id.as_str(),
                key.node_id.as_str(),
                key.scope.as_str(),
                until.0
            ],
        )?;
    }
    Ok(timers)
}

fn timer(row: &Row<'_>, claimed_until: Timestamp) -> Result<Timer, StoreError> {
    let scope: String = row.get(2)?;
    Ok(Timer {
        key: StepKey {
            run_id: id(row, 0)?,
            node_id: id(row, 1)?,
            scope: Scope::new(scope),
        },
        attempts: row.get(3)?,
        via: edge_from_i64(row.get(4)?),
        workflow_id: id(row, 5)?,
        workflow_hash: hash(row, 6)?,
        claimed_until,
    })
}

pub(super) fn remove(connection: &Connection, timers: &[Timer]) -> Result<(), StoreError> {
    for Timer {
        key, claimed_until, ..
    } in timers
    {
        execute(
            connection,
            "DELETE FROM timers WHERE run_id = ?1 AND node_id = ?2 AND scope = ?3 AND due_at_ms = ?4",
            params![
                key.run_id.as_str(),
                key.node_id.as_str(),
                key.scope.as_str(),
                claimed_until.0
            ],
        )?;
    }
    Ok(())
}

/// Running runs that are due for a look of the reconciler.
pub(super) fn due_for_a_look(
    connection: &Connection,
    now: Timestamp,
    limit: u32,
) -> Result<Vec<RunId>, StoreError> {
    rows(
        connection,
        "SELECT run_id FROM runs WHERE status = 'running' AND reconcile_at_ms <= ?1
         ORDER BY reconcile_at_ms LIMIT ?2",
        params![now.0, limit],
        |row| id(row, 0),
    )
}

pub(super) fn claim_stalled(
    connection: &Connection,
    due: &[RunId],
    now: Timestamp,
    quiet: Duration,
) -> Result<(Vec<RunId>, u32), StoreError> {
    let mut stalled = Vec::new();
    for run_id in due {
        let (timer, step) = row(
            connection,
            "SELECT (SELECT max(due_at_ms) FROM timers WHERE run_id = ?1),
                    (SELECT max(finished_at_ms) FROM steps WHERE run_id = ?1)",
            [run_id.as_str()],
            |row| Ok((row.get::<_, Option<i64>>(0)?, row.get::<_, Option<i64>>(1)?)),
        )?
        .unwrap_or_default();
        let next = Timestamp(timer.map_or(now.0, |due| due.max(now.0))) + quiet;
        let claimed = execute(
            connection,
            "UPDATE runs SET reconcile_at_ms = ?2 WHERE run_id = ?1 AND status = 'running' AND reconcile_at_ms <= ?3",
            params![run_id.as_str(), next.0, now.0],
        )?;
        let active = step.is_some_and(|at| Timestamp(at) + quiet > now);
        if claimed > 0 && timer.is_none() && !active {
            stalled.push(run_id.clone());
        }
    }
    Ok((stalled, due.len() as u32))
}

pub(super) fn put_off(
    connection: &Connection,
    runs: &[RunId],
    until: Timestamp,
) -> Result<(), StoreError> {
    for run_id in runs {
        execute(
            connection,
            "UPDATE runs SET reconcile_at_ms = ?2 WHERE run_id = ?1 AND status = 'running' AND reconcile_at_ms < ?2",
            params![run_id.as_str(), until.0],
        )?;
    }
    Ok(())
}
