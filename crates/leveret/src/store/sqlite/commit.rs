//! Starting runs, recording steps, ending runs. Each function is part of a job of the writer thread.

use leveret_core::{
    decide::{JoinPoint, JoinState, Joins},
    graph::{EdgeIx, NodeIx, Place},
    ids::{RunId, Scope, StepKey},
    json::Json,
    time::Timestamp,
    workflow::Workflow,
};
use rusqlite::params;

use super::{Session, error_text, hash, json_text, numbers, parsed, signals, step_error, time};
use crate::store::{
    Committed, Finished, NewRun, Outcome, RunEnd, RunStatus, Started, StepError, StepStatus,
    StoreError, Woken,
    commit::{decide_finished, edge_to_i64, key_of, node_id, parse_join, status_of},
    follow::{Write, follow},
};

pub(super) fn start(session: &Session<'_>, new: &NewRun) -> Result<Started, StoreError> {
    let NewRun {
        run_id,
        workflow,
        input,
        created_at,
        reconcile_at,
    } = new;
    let empty = workflow.nodes.is_empty();
    let status = if empty {
        RunStatus::Completed
    } else {
        RunStatus::Running
    };
    let (short, long) = text_in_row(session, json_text(input))?;
    let inserted = session.execute(
        "INSERT INTO runs (run_id, workflow_id, workflow_hash, status, input, created_at_ms, ended_at_ms, reconcile_at_ms, input_text_id)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
         ON CONFLICT (run_id) DO NOTHING",
        params![
            run_id.as_str(),
            workflow.id.as_str(),
            workflow.hash.as_bytes(),
            status.as_str(),
            short,
            created_at.0,
            empty.then_some(created_at.0),
            reconcile_at.0,
            long,
        ],
    )?;
    if inserted == 0 {
        forget_text(session, long)?;
        let status = status_of_run(session, run_id)?;
        return status
            .map(Started::Exists)
            .ok_or_else(|| StoreError::corrupt("a run vanished"));
    }
    define(session, workflow)?;
    Ok(Started::New)
}

/// Texts up to this many bytes stand in their rows.
const SHORT_BYTES_MAX: usize = 512;

/// A text as a row holds it: itself if it is short, else the id under which it is stored.
fn text_in_row<'a>(
    session: &Session<'_>,
    text: Option<&'a str>,
) -> Result<(Option<&'a str>, Option<i64>), StoreError> {
    match text {
        Some(long) if long.len() > SHORT_BYTES_MAX => {
            session.execute("INSERT INTO texts (text) VALUES (?1)", [long])?;
            Ok((None, Some(session.last_insert_rowid())))
        }
        short => Ok((short, None)),
    }
}

/// Removes a text whose row was not written after all.
fn forget_text(session: &Session<'_>, text_id: Option<i64>) -> Result<(), StoreError> {
    if let Some(text_id) = text_id {
        session.execute("DELETE FROM texts WHERE text_id = ?1", [text_id])?;
    }
    Ok(())
}

/// Stores a definition, if it is new.
pub(super) fn define(session: &Session<'_>, workflow: &Workflow) -> Result<(), StoreError> {
    let hash = workflow.hash.as_bytes();
    let known = session.row::<_, StoreError>(
        "SELECT 1 FROM definitions WHERE hash = ?1",
        [hash],
        |_| Ok(()),
    )?;
    if known.is_none() {
        super::workflows::define(session, &workflow.id, workflow.hash, &workflow.definition)?;
    }
    Ok(())
}

fn status_of_run(session: &Session<'_>, run_id: &RunId) -> Result<Option<RunStatus>, StoreError> {
    session.row(
        "SELECT status FROM runs WHERE run_id = ?1",
        [run_id.as_str()],
        |row| parsed(row, 0),
    )
}

pub(super) fn commit(session: &Session<'_>, finished: &Finished) -> Result<Committed, StoreError> {
    let run_id = &finished.run_id;
    if let Some(refused) = record_step(session, finished)? {
        return Ok(refused);
    }
    let mut joins = Joins::new();
    let decision = decide_finished(finished, &mut joins, |missing| {
        load_joins(session, finished, missing)
    })?;
    let (mut end, mut passed_in) = (None, None::<(&Scope, i64)>);
    let (mut until, mut signalled) = (None, false);
    for write in follow(finished, &decision) {
        match write {
            Write::Join { join, state } => save_join(session, finished, join, state)?,
            Write::Pass { place, status } => {
                let numbers = match passed_in {
                    Some((known, numbers)) if *known == place.scope => numbers,
                    _ => numbers::of_scope_to_be(session, run_id, &place.scope)?,
                };
                passed_in = Some((&place.scope, numbers));
                let step_no = numbers | place.node as i64;
                pass(session, finished, step_no, place.node, status)?;
            }
            Write::Item { scope, value } => item(session, finished, scope, value)?,
            Write::Arrival { place, status, via } => {
                arrive(session, finished, place, status, via, None)?;
            }
            Write::Caught { place, error } => {
                let status = StepStatus::Failed;
                arrive(session, finished, &place, status, None, Some(error))?;
            }
            Write::Close { scope } => stand_in(session, finished, scope)?,
            Write::Latest { within } => {
                session.execute(
                    "INSERT INTO latest (run_id, node_id, within, scope) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (run_id, node_id, within) DO UPDATE SET scope = excluded.scope",
                    (
                        run_id.as_str(),
                        node_id(&finished.workflow, finished.node),
                        within.as_str(),
                        finished.scope.as_str(),
                    ),
                )?;
            }
            Write::Error(error) => {
                session.execute(
                    "UPDATE runs SET error = ?2 WHERE run_id = ?1 AND error IS NULL",
                    (run_id.as_str(), error_text(&error)),
                )?;
            }
            Write::Timer { due } => {
                set_timer(session, finished, due)?;
                until = Some(due);
            }
            Write::Wait(wait) => signalled = signals::wait(session, finished, wait, until)?,
            Write::Context { key, value } => {
                session.execute(
                    "INSERT INTO context (run_id, key, value) VALUES (?1, ?2, ?3)
                     ON CONFLICT (run_id, key) DO UPDATE SET value = excluded.value",
                    params![run_id.as_str(), &**key, value.text()],
                )?;
            }
            Write::End => {
                let ended = end_running(session, run_id, None, finished.finished_at)?;
                let early = || StoreError::corrupt("a run ended before its last step");
                end = Some(ended.ok_or_else(early)?);
            }
        }
    }
    Ok(Committed::Recorded {
        decision,
        end,
        signalled,
    })
}

/// Copies a step that was recorded to another scope, where it stands, too.
fn stand_in(session: &Session<'_>, step: &Finished, scope: &Scope) -> Result<(), StoreError> {
    let from = numbers::of_scope_to_be(session, &step.run_id, &step.scope)?;
    let to = numbers::of_scope_to_be(session, &step.run_id, scope)?;
    let node = step.node as i64;
    session.execute(
        "INSERT INTO steps (step_no, node_id, status, attempts, via, started_at_ms, finished_at_ms, action, error, output, output_text_id)
         SELECT ?2, node_id, status, attempts, via, started_at_ms, finished_at_ms, action, error, output, output_text_id
         FROM steps WHERE step_no = ?1 ON CONFLICT DO NOTHING",
        (from | node, to | node),
    )?;
    Ok(())
}

/// Records an item of a scatter.
fn item(
    session: &Session<'_>,
    by: &Finished,
    scope: &Scope,
    value: &Json,
) -> Result<(), StoreError> {
    let numbers = numbers::of_scope_to_be(session, &by.run_id, scope)?;
    let (short, long) = text_in_row(session, json_text(value))?;
    session.execute(
        "INSERT INTO steps (step_no, node_id, status, attempts, via, started_at_ms, finished_at_ms, output, output_text_id)
         VALUES (?1, ?2, ?3, 0, -1, ?4, ?4, ?5, ?6)",
        params![
            numbers | by.node as i64,
            node_id(&by.workflow, by.node),
            StepStatus::Completed.as_str(),
            by.finished_at.0,
            short,
            long,
        ],
    )?;
    Ok(())
}

/// Records what came of an item, unless something is recorded already.
fn arrive(
    session: &Session<'_>,
    by: &Finished,
    Place { node, scope }: &Place,
    status: StepStatus,
    via: Option<EdgeIx>,
    error: Option<&StepError>,
) -> Result<(), StoreError> {
    let numbers = numbers::of_scope_to_be(session, &by.run_id, scope)?;
    session.execute(
        "INSERT INTO steps (step_no, node_id, status, attempts, via, started_at_ms, finished_at_ms, error)
         VALUES (?1, ?2, ?3, 0, ?4, ?5, ?5, ?6) ON CONFLICT DO NOTHING",
        params![
            numbers | *node as i64,
            node_id(&by.workflow, *node),
            status.as_str(),
            edge_to_i64(via),
            by.finished_at.0,
            error.map(error_text),
        ],
    )?;
    Ok(())
}

/// Records a step that will not be executed.
fn pass(
    session: &Session<'_>,
    by: &Finished,
    step_no: i64,
    node: NodeIx,
    status: StepStatus,
) -> Result<(), StoreError> {
    session.execute(
        "INSERT INTO steps (step_no, node_id, status, attempts, via, started_at_ms, finished_at_ms)
         VALUES (?1, ?2, ?3, 0, -1, ?4, ?4) ON CONFLICT DO NOTHING",
        params![
            step_no,
            node_id(&by.workflow, node),
            status.as_str(),
            by.finished_at.0,
        ],
    )?;
    Ok(())
}

/// Records a step, or says why not: its run is over, or it is recorded. First writer wins; a waiting step may be overtaken by its next attempt,
/// or by its own end.
fn record_step(
    session: &Session<'_>,
    finished: &Finished,
) -> Result<Option<Committed>, StoreError> {
    let (output, action, error) = match &finished.outcome {
        Outcome::Completed { output, action, .. } => (json_text(output), action.as_deref(), None),
        Outcome::Waiting { error, .. } => (None, None, error.as_ref().map(error_text)),
        Outcome::Failed { error, .. } => (None, None, Some(error_text(error))),
    };
    let (run_id, node_id, scope) = (
        finished.run_id.as_str(),
        node_id(&finished.workflow, finished.node),
        finished.scope.as_str(),
    );
    let inner_scope = if finished.scope.is_root() {
        None
    } else {
        let numbers = numbers::of_inner_scope(session, &finished.run_id, &finished.scope)?;
        if numbers.is_none() {
            return refused(session, finished).map(Some);
        }
        numbers
    };
    let status = status_of(&finished.outcome).as_str();
    let (short, long) = text_in_row(session, output)?;
    // `OR IGNORE` passes over a step that is there, and over one of a run that is not running: the table refuses its number. With the run in
    // a FROM clause this would be an insert of many rows, for which SQLite copies the pages first, to undo it in the middle.
    let is_first = session.execute(
        "INSERT OR IGNORE INTO steps (step_no, node_id, status, attempts, via, started_at_ms, finished_at_ms, action, error, output, output_text_id)
         VALUES (coalesce((SELECT coalesce(?2, run_no << 21) | ?3 FROM runs WHERE run_id = ?1 AND status = 'running' AND workflow_hash = ?14), -1),
                 ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
        params![
            run_id,
            inner_scope,
            finished.node as i64,
            node_id,
            status,
            finished.attempts,
            edge_to_i64(finished.via),
            finished.started_at.0,
            finished.finished_at.0,
            action,
            error,
            short,
            long,
            finished.workflow.hash.as_bytes(),
        ],
    )?;
    if is_first == 1 {
        return Ok(None);
    }
    let refused = refused(session, finished)?;
    if !matches!(refused, Committed::Repeated) {
        forget_text(session, long)?;
        return Ok(Some(refused));
    }
    if finished.woken == Woken::ByTime && signals::has_come(session, finished)? {
        forget_text(session, long)?;
        return Ok(Some(refused));
    }
    let overtaken = session.execute(
        "UPDATE steps SET status = ?3, attempts = ?4, finished_at_ms = ?5, action = ?6, error = ?7, output = ?8, output_text_id = ?9
         WHERE step_no = ?1 | ?2 AND status = 'waiting'
             AND (?4 > attempts OR ?4 = attempts AND ?3 <> 'waiting')",
        params![
            numbers::of_scope(session, &finished.run_id, &finished.scope)?,
            finished.node as i64,
            status,
            finished.attempts,
            finished.finished_at.0,
            action,
            error,
            short,
            long,
        ],
    )?;
    if overtaken == 0 {
        forget_text(session, long)?;
        return Ok(Some(refused));
    }
    if !matches!(finished.outcome, Outcome::Waiting { .. }) {
        remove_timer(session, (run_id, node_id, scope))?;
        signals::forget_step(session, (run_id, node_id, scope))?;
    }
    Ok(None)
}

/// Why a step was not recorded: its run does not run, or it was recorded before.
fn refused(session: &Session<'_>, finished: &Finished) -> Result<Committed, StoreError> {
    let run = session.row::<(RunStatus, _), StoreError>(
        "SELECT status, workflow_hash FROM runs WHERE run_id = ?1",
        [finished.run_id.as_str()],
        |row| Ok((parsed(row, 0)?, hash(row, 1)?)),
    )?;
    match run {
        Some((RunStatus::Running, hash)) if hash == finished.workflow.hash => {
            Ok(Committed::Repeated)
        }
        Some((RunStatus::Running, _)) => Err(StoreError::corrupt(
            "a step of another definition than its run's",
        )),
        other => Ok(Committed::Over(other.map(|(status, _)| status))),
    }
}

fn load_joins(
    session: &Session<'_>,
    finished: &Finished,
    missing: &[JoinPoint],
) -> Result<Vec<(JoinPoint, JoinState)>, StoreError> {
    let mut found = Vec::new();
    for point in missing {
        let key = key_of(&finished.workflow, point);
        let state = session.row::<_, StoreError>(
            "SELECT state FROM joins WHERE run_id = ?1 AND node_id = ?2 AND scope = ?3",
            (finished.run_id.as_str(), &*key.node, key.scope.as_str()),
            |row| Ok(row.get::<_, String>(0)?),
        )?;
        if let Some(state) = state {
            found.push((point.clone(), parse_join(&state)?));
        }
    }
    Ok(found)
}

fn save_join(
    session: &Session<'_>,
    finished: &Finished,
    point: &JoinPoint,
    state: &JoinState,
) -> Result<(), StoreError> {
    let key = key_of(&finished.workflow, point);
    session.execute(
        "INSERT INTO joins (run_id, node_id, scope, state) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (run_id, node_id, scope) DO UPDATE SET state = excluded.state",
        params![
            finished.run_id.as_str(),
            &*key.node,
            key.scope.as_str(),
            state.to_string()
        ],
    )?;
    Ok(())
}

/// A step that waits no more has no timer.
fn remove_timer(session: &Session<'_>, key: (&str, &str, &str)) -> Result<(), StoreError> {
    session.execute(
        "DELETE FROM timers WHERE run_id = ?1 AND node_id = ?2 AND scope = ?3",
        key,
    )?;
    Ok(())
}

pub(super) fn set_timer(
    session: &Session<'_>,
    finished: &Finished,
    due: Timestamp,
) -> Result<(), StoreError> {
    session.execute(
        "INSERT INTO timers (run_id, node_id, scope, due_at_ms, attempts, via) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (run_id, node_id, scope) DO UPDATE SET due_at_ms = excluded.due_at_ms, attempts = excluded.attempts",
        params![
            finished.run_id.as_str(),
            node_id(&finished.workflow, finished.node),
            finished.scope.as_str(),
            due.0,
            finished.attempts,
            edge_to_i64(finished.via),
        ],
    )?;
    Ok(())
}

/// Ends a run as cancelled, unless it has ended. `None`: there is no such run; else its end, and whether by this call.
pub(super) fn cancel(
    session: &Session<'_>,
    run_id: &RunId,
    now: Timestamp,
) -> Result<Option<(RunEnd, bool)>, StoreError> {
    if let Some(end) = end_running(session, run_id, Some(RunStatus::Cancelled), now)? {
        signals::forget_waits_of(session, run_id)?;
        return Ok(Some((end, true)));
    }
    let before = end_of(session, run_id)?;
    Ok(before.map(|end| (end, false)))
}

/// Ends a run that is running: with this status, or as its steps went.
fn end_running(
    session: &Session<'_>,
    run_id: &RunId,
    status: Option<RunStatus>,
    now: Timestamp,
) -> Result<Option<RunEnd>, StoreError> {
    let ended = session.execute(
        "UPDATE runs SET status = coalesce(?2, iif(error IS NULL, 'completed', 'failed')), ended_at_ms = ?3
         WHERE run_id = ?1 AND status = 'running'",
        (run_id.as_str(), status.map(RunStatus::as_str), now.0),
    )?;
    if ended == 0 {
        return Ok(None);
    }
    end_of(session, run_id)
}

/// How a run ended that is not running, if there is one.
fn end_of(session: &Session<'_>, run_id: &RunId) -> Result<Option<RunEnd>, StoreError> {
    session.row(
        "SELECT status, error, created_at_ms, ended_at_ms FROM runs WHERE run_id = ?1",
        [run_id.as_str()],
        read_end,
    )
}

fn read_end(row: &rusqlite::Row<'_>) -> Result<RunEnd, StoreError> {
    Ok(RunEnd {
        status: parsed(row, 0)?,
        error: step_error(row, 1)?,
        created_at: time(row, 2)?,
        ended_at: time(row, 3)?,
    })
}

pub(super) fn set_redeliveries(
    session: &Session<'_>,
    key: &StepKey,
    count: u32,
) -> Result<(), StoreError> {
    session.execute(
        "INSERT INTO redeliveries (run_id, node_id, scope, count) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (run_id, node_id, scope) DO UPDATE SET count = excluded.count",
        (
            key.run_id.as_str(),
            key.node_id.as_str(),
            key.scope.as_str(),
            count,
        ),
    )?;
    Ok(())
}
