//! Timers, and the claims of the reconciler.

use std::time::Duration;

use leveret_core::{
    ids::{NodeId, RunId, Scope, StepKey},
    time::Timestamp,
    workflow::WorkflowHash,
};
use rusqlite::{Row, params};

use super::{Session, hash, id, numbers, signals};
use crate::store::{
    NewRun, NewTimer, StoreError, Timer,
    commit::{edge_from_i64, edge_to_i64},
    signals::look_pause,
};

pub(super) fn next(session: &Session<'_>) -> Result<Option<Timestamp>, StoreError> {
    let due = session.row::<_, StoreError>("SELECT min(due_at_ms) FROM timers", [], |row| {
        Ok(row.get::<_, Option<i64>>(0)?)
    })?;
    Ok(due.flatten().map(Timestamp))
}

pub(super) fn of_run(
    session: &Session<'_>,
    run_id: &RunId,
) -> Result<Vec<(NodeId, Scope, Timestamp)>, StoreError> {
    session.rows(
        "SELECT node_id, scope, due_at_ms FROM timers WHERE run_id = ?1 ORDER BY node_id, scope",
        [run_id.as_str()],
        |row| {
            let scope = Scope::new(row.get::<_, String>(1)?);
            Ok((id(row, 0)?, scope, Timestamp(row.get(2)?)))
        },
    )
}

pub(super) fn claim(
    session: &Session<'_>,
    now: Timestamp,
    until: Timestamp,
    limit: u32,
) -> Result<Vec<Timer>, StoreError> {
    let due = session.rows::<_, StoreError>(
        "SELECT t.run_id, t.node_id, t.scope, t.attempts, t.via, r.workflow_id, r.workflow_hash
         FROM timers t JOIN runs r ON r.run_id = t.run_id
         WHERE t.due_at_ms <= ?1 ORDER BY t.due_at_ms LIMIT ?2",
        params![now.0, limit],
        |row| {
            timer(row, until).map(Ok).or_else(|error| {
                tracing::error!(%error, "a timer is left out");
                Ok(Err::<Timer, [String; 3]>([
                    row.get(0)?,
                    row.get(1)?,
                    row.get(2)?,
                ]))
            })
        },
    )?;
    let claim = |run_id: &str, node_id: &str, scope: &str| {
        session.execute(
            "UPDATE timers SET due_at_ms = ?4 WHERE run_id = ?1 AND node_id = ?2 AND scope = ?3",
            params![run_id, node_id, scope, until.0],
        )
    };
    let mut timers = Vec::with_capacity(due.len());
    for due in due {
        match due {
            Ok(timer) => {
                let StepKey {
                    run_id,
                    node_id,
                    scope,
                } = &timer.key;
                claim(run_id.as_str(), node_id.as_str(), scope.as_str())?;
                timers.push(timer);
            }
            // It is claimed all the same, so that it does not hold the others.
            Err([run_id, node_id, scope]) => {
                claim(&run_id, &node_id, &scope)?;
            }
        }
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

pub(super) fn set(session: &Session<'_>, timers: &[NewTimer]) -> Result<(), StoreError> {
    for NewTimer { key, due, attempts } in timers {
        session.execute(
            "INSERT INTO timers (run_id, node_id, scope, due_at_ms, attempts, via) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (run_id, node_id, scope)
             DO UPDATE SET due_at_ms = excluded.due_at_ms, attempts = excluded.attempts, via = excluded.via",
            params![
                key.run_id.as_str(),
                key.node_id.as_str(),
                key.scope.as_str(),
                due.0,
                attempts,
                edge_to_i64(None),
            ],
        )?;
    }
    Ok(())
}

pub(super) fn remove(session: &Session<'_>, timers: &[Timer]) -> Result<(), StoreError> {
    for timer in timers {
        let key = &timer.key;
        session.execute(
            "DELETE FROM timers WHERE run_id = ?1 AND node_id = ?2 AND scope = ?3 AND due_at_ms = ?4 AND attempts = ?5",
            params![
                key.run_id.as_str(),
                key.node_id.as_str(),
                key.scope.as_str(),
                timer.claimed_until.0,
                timer.attempts,
            ],
        )?;
    }
    Ok(())
}

/// Running runs that are due for a look of the reconciler.
pub(super) fn due_for_a_look(
    session: &Session<'_>,
    now: Timestamp,
    limit: u32,
) -> Result<Vec<RunId>, StoreError> {
    session.rows(
        "SELECT run_id FROM runs WHERE status = 'running' AND reconcile_at_ms <= ?1 AND reconcile_at_ms <> ?3
         ORDER BY reconcile_at_ms LIMIT ?2",
        params![now.0, limit, NewRun::UNBEGUN.0],
        |row| id(row, 0),
    )
}

pub(super) fn claim_stalled(
    session: &Session<'_>,
    due: &[RunId],
    now: Timestamp,
    quiet: Duration,
) -> Result<(Vec<RunId>, u32), StoreError> {
    let mut stalled = Vec::new();
    for run_id in due {
        let timer = session.row::<_, StoreError>(
            "SELECT max(due_at_ms) FROM timers WHERE run_id = ?1",
            [run_id.as_str()],
            |row| Ok(row.get::<_, Option<i64>>(0)?),
        )?;
        let timer = timer.flatten();
        let step = last_step(session, run_id)?;
        let pause = match step {
            Some(at) if signals::has_open(session, run_id)? => {
                look_pause(Duration::from_millis(now.ms_since(at)), quiet)
            }
            _ => quiet,
        };
        let next = Timestamp(timer.map_or(now.0, |due| due.max(now.0))) + pause;
        let claimed = session.execute(
            "UPDATE runs SET reconcile_at_ms = ?2 WHERE run_id = ?1 AND status = 'running' AND reconcile_at_ms <= ?3",
            params![run_id.as_str(), next.0, now.0],
        )?;
        let active = step.is_some_and(|at| at + quiet > now);
        if claimed > 0 && timer.is_none() && !active {
            stalled.push(run_id.clone());
        }
    }
    Ok((stalled, due.len() as u32))
}

/// When the last step of a run ended or began to wait.
fn last_step(session: &Session<'_>, run_id: &RunId) -> Result<Option<Timestamp>, StoreError> {
    let mut last = None;
    for (_, numbers) in numbers::of_scopes(session, run_id)? {
        let of_scope = session.row::<_, StoreError>(
            "SELECT max(finished_at_ms) FROM steps WHERE step_no BETWEEN ?1 AND ?1 | 0xFFFFF",
            [numbers],
            |row| Ok(row.get::<_, Option<i64>>(0)?.map(Timestamp)),
        )?;
        last = last.max(of_scope.flatten());
    }
    Ok(last)
}

pub(super) fn mark_unbegun(session: &Session<'_>, runs: &[RunId]) -> Result<(), StoreError> {
    for run_id in runs {
        session.execute(
            "UPDATE runs SET reconcile_at_ms = ?2 WHERE run_id = ?1",
            params![run_id.as_str(), NewRun::UNBEGUN.0],
        )?;
    }
    Ok(())
}

/// The oldest unbegun runs.
pub(super) fn unbegun(
    session: &Session<'_>,
    limit: u32,
) -> Result<Vec<(RunId, WorkflowHash)>, StoreError> {
    session.rows(
        // `NewRun::UNBEGUN`.
        "SELECT run_id, workflow_hash FROM runs WHERE reconcile_at_ms = -1 ORDER BY run_id LIMIT ?1",
        [limit],
        |row| Ok((id(row, 0)?, hash(row, 1)?)),
    )
}

/// Those of these runs that are still unbegun, and no longer are.
pub(super) fn claim_unbegun(
    session: &Session<'_>,
    runs: &[(RunId, WorkflowHash)],
    until: Timestamp,
) -> Result<Vec<(RunId, WorkflowHash)>, StoreError> {
    let mut claimed = Vec::with_capacity(runs.len());
    for run in runs {
        let count = session.execute(
            "UPDATE runs SET reconcile_at_ms = ?2 WHERE run_id = ?1 AND reconcile_at_ms = ?3",
            params![run.0.as_str(), until.0, NewRun::UNBEGUN.0],
        )?;
        claimed.extend((count > 0).then(|| run.clone()));
    }
    Ok(claimed)
}

pub(super) fn put_off(
    session: &Session<'_>,
    runs: &[RunId],
    until: Timestamp,
) -> Result<(), StoreError> {
    for run_id in runs {
        session.execute(
            "UPDATE runs SET reconcile_at_ms = ?2
             WHERE run_id = ?1 AND status = 'running' AND reconcile_at_ms < ?2 AND reconcile_at_ms <> ?3",
            params![run_id.as_str(), until.0, NewRun::UNBEGUN.0],
        )?;
    }
    Ok(())
}
