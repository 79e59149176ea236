//! Waits and signals. The writer is alone: whichever is recorded second sees the other.

use std::time::Duration;

use leveret_core::{
    ids::{NodeId, RunId, Scope, StepKey},
    time::Timestamp,
};
use rusqlite::{Row, params};

use super::{Session, hash, id, json, json_text, numbers, parsed, time};
use crate::store::{
    Addressee, Finished, NewSignal, RunStatus, Signalled, StoreError, Timer, WOKEN_MAX, Wait,
    WaitFilter, WaitKind, WaitRecord, Waited,
    commit::{edge_from_i64, edge_to_i64, node_id},
    signals::LOOK_AFTER,
};

/// Records what a step waits for; whether a signal was there already.
pub(super) fn wait(
    session: &Session<'_>,
    finished: &Finished,
    wait: &Wait,
    until: Option<Timestamp>,
) -> Result<bool, StoreError> {
    let (run_id, key) = (finished.run_id.as_str(), wait.key.as_ref());
    let key = key.map(leveret_core::ids::SignalKey::as_str);
    let kept = if wait.kind == WaitKind::Signal {
        let to_run = kept(session, (run_id, "", wait.event.as_str()))?;
        match (to_run, key) {
            (None, Some(key)) => self::kept(session, ("", key, wait.event.as_str()))?,
            (to_run, _) => to_run,
        }
    } else {
        None
    };
    session.execute(
        "INSERT INTO waits (run_id, node_id, scope, event, key, kind, about, attempts, via, since_ms, until_ms, signal_no)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
         ON CONFLICT (run_id, node_id, scope) DO UPDATE SET event = excluded.event, key = excluded.key, kind = excluded.kind,
             about = excluded.about, attempts = excluded.attempts, via = excluded.via, since_ms = excluded.since_ms,
             until_ms = excluded.until_ms, signal_no = excluded.signal_no",
        params![
            run_id,
            node_id(&finished.workflow, finished.node),
            finished.scope.as_str(),
            wait.event.as_str(),
            key,
            wait.kind.as_str(),
            json_text(&wait.about),
            finished.attempts,
            edge_to_i64(finished.via),
            finished.finished_at.0,
            until.map(|until| until.0),
            kept,
        ],
    )?;
    if let Some(kept) = kept {
        session.execute("UPDATE signals SET kept = 0 WHERE signal_no = ?1", [kept])?;
        super::commit::set_timer(session, finished, finished.finished_at)?;
    }
    Ok(kept.is_some())
}

/// The oldest signal that no wait has got yet.
fn kept(session: &Session<'_>, to: (&str, &str, &str)) -> Result<Option<i64>, StoreError> {
    session.row(
        "SELECT signal_no FROM signals WHERE kept AND run_id = ?1 AND key = ?2 AND event = ?3 ORDER BY signal_no LIMIT 1",
        to,
        |row| Ok(row.get(0)?),
    )
}

/// Whether a step waits for a signal that has come.
pub(super) fn has_come(session: &Session<'_>, finished: &Finished) -> Result<bool, StoreError> {
    let come = session.row::<_, StoreError>(
        "SELECT 1 FROM waits WHERE run_id = ?1 AND node_id = ?2 AND scope = ?3 AND signal_no IS NOT NULL",
        (
            finished.run_id.as_str(),
            node_id(&finished.workflow, finished.node),
            finished.scope.as_str(),
        ),
        |_| Ok(()),
    )?;
    Ok(come.is_some())
}

/// The step waits no more.
pub(super) fn forget_step(
    session: &Session<'_>,
    key: (&str, &str, &str),
) -> Result<(), StoreError> {
    session.execute(
        "DELETE FROM waits WHERE run_id = ?1 AND node_id = ?2 AND scope = ?3",
        key,
    )?;
    Ok(())
}

/// The run has ended: nothing of it waits.
pub(super) fn forget_waits_of(session: &Session<'_>, run_id: &RunId) -> Result<(), StoreError> {
    session.execute("DELETE FROM waits WHERE run_id = ?1", [run_id.as_str()])?;
    Ok(())
}

/// What a step waits for has come, if it waits for something.
pub(super) fn of_step(
    session: &Session<'_>,
    key: (&str, &str, &str),
) -> Result<Option<Waited>, StoreError> {
    session.row(
        "SELECT w.signal_no, s.data FROM waits w LEFT JOIN signals s USING (signal_no) WHERE w.run_id = ?1 AND w.node_id = ?2 AND w.scope = ?3",
        key,
        |row| {
            let signal: Option<i64> = row.get(0)?;
            Ok(match signal {
                None => Waited::Open,
                Some(_) => Waited::Ended(json(row, 1)?),
            })
        },
    )
}

/// Removes signals by keys that came before that time, but those that a step is to read.
pub(super) fn prune(
    session: &Session<'_>,
    before: Timestamp,
    limit: u32,
) -> Result<(), StoreError> {
    session.execute(
        "DELETE FROM signals WHERE signal_no IN (
             SELECT signal_no FROM signals s WHERE run_id = '' AND received_at_ms < ?1
                 AND NOT EXISTS (SELECT 1 FROM waits w WHERE w.signal_no = s.signal_no)
             LIMIT ?2)",
        params![before.0, limit],
    )?;
    Ok(())
}

pub(super) fn signal(
    session: &Session<'_>,
    signal: &NewSignal,
    now: Timestamp,
    claim: Duration,
) -> Result<Signalled, StoreError> {
    let NewSignal { to, event, id, .. } = signal;
    let run_id = to.run_id().map_or("", RunId::as_str);
    let status = session.row::<RunStatus, StoreError>(
        "SELECT status FROM runs WHERE run_id = ?1",
        [run_id],
        |row| parsed(row, 0),
    )?;
    let key = match to {
        Addressee::Key(key) => key.as_str(),
        _ => "",
    };
    if status.is_none() && !run_id.is_empty() {
        return Ok(Signalled::NoRun);
    }
    if let Some(id) = id {
        let known = session.row::<_, StoreError>(
            "SELECT 1 FROM signals WHERE run_id = ?1 AND key = ?2 AND event = ?3 AND signal_id = ?4",
            (run_id, key, event.as_str(), id.as_str()),
            |_| Ok(()),
        )?;
        if known.is_some() {
            return Ok(Signalled::Repeated);
        }
    }
    if let Some(status) = status.filter(|status| *status != RunStatus::Running) {
        return Ok(Signalled::Ended(status));
    }
    let open = open_to(session, signal)?;
    if open.is_empty()
        && let Addressee::Node(run_id, node_id, kind) = to
    {
        return refused(session, run_id, node_id, *kind);
    }
    session.execute(
        "INSERT INTO signals (run_id, key, event, signal_id, data, received_at_ms, kept) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![
            run_id,
            key,
            event.as_str(),
            id.as_ref().map(leveret_core::ids::SignalId::as_str),
            json_text(&signal.data),
            now.0,
            open.is_empty(),
        ],
    )?;
    let signal_no = session.last_insert_rowid();
    let few = open.len() <= WOKEN_MAX;
    let due = if few { now + claim } else { now };
    let mut timers = Vec::new();
    for &wait_no in &open {
        session.execute(
            "UPDATE waits SET signal_no = ?2 WHERE wait_no = ?1",
            [wait_no, signal_no],
        )?;
        session.execute(
            "INSERT INTO timers (run_id, node_id, scope, due_at_ms, attempts, via)
             SELECT run_id, node_id, scope, ?2, attempts, via FROM waits WHERE wait_no = ?1
             ON CONFLICT (run_id, node_id, scope) DO UPDATE SET due_at_ms = excluded.due_at_ms, attempts = excluded.attempts, via = excluded.via",
            [wait_no, due.0],
        )?;
        session.execute(
            "UPDATE runs SET reconcile_at_ms = ?2 WHERE run_id = (SELECT run_id FROM waits WHERE wait_no = ?1) AND reconcile_at_ms > ?2",
            [wait_no, (now + LOOK_AFTER).0],
        )?;
        if few {
            timers.extend(timer(session, wait_no, due)?);
        }
    }
    let woken = open.len() as u64;
    Ok(Signalled::Recorded { woken, timers })
}

/// The waits that a signal ends: the oldest in its run, or in each run.
fn open_to(session: &Session<'_>, signal: &NewSignal) -> Result<Vec<i64>, StoreError> {
    let event = signal.event.as_str();
    match &signal.to {
        Addressee::Run(run_id) => session.rows(
            "SELECT wait_no FROM waits WHERE signal_no IS NULL AND run_id = ?1 AND event = ?2 AND kind = 'signal' ORDER BY wait_no LIMIT 1",
            (run_id.as_str(), event),
            |row| Ok(row.get(0)?),
        ),
        Addressee::Key(key) => session.rows(
            "SELECT min(wait_no) FROM waits WHERE signal_no IS NULL AND event = ?1 AND key = ?2 AND kind = 'signal' GROUP BY run_id",
            (event, key.as_str()),
            |row| Ok(row.get(0)?),
        ),
        Addressee::Node(run_id, node_id, kind) => session.rows(
            "SELECT wait_no FROM waits WHERE signal_no IS NULL AND run_id = ?1 AND node_id = ?2 AND kind = ?3 ORDER BY wait_no LIMIT 1",
            (run_id.as_str(), node_id.as_str(), kind.as_str()),
            |row| Ok(row.get(0)?),
        ),
    }
}

/// Why a signal to a node is refused.
fn refused(
    session: &Session<'_>,
    run_id: &RunId,
    node_id: &NodeId,
    kind: WaitKind,
) -> Result<Signalled, StoreError> {
    let has_signal = session.row::<_, StoreError>(
        "SELECT 1 FROM waits WHERE run_id = ?1 AND node_id = ?2 AND kind = ?3",
        (run_id.as_str(), node_id.as_str(), kind.as_str()),
        |_| Ok(()),
    )?;
    if has_signal.is_some() {
        return Ok(Signalled::Over);
    }
    for (_, numbers) in numbers::of_scopes(session, run_id)? {
        let ended = session.row::<_, StoreError>(
            "SELECT 1 FROM steps WHERE step_no BETWEEN ?1 AND ?1 | 0xFFFFF AND node_id = ?2 AND status <> 'waiting'",
            (numbers, node_id.as_str()),
            |_| Ok(()),
        )?;
        if ended.is_some() {
            return Ok(Signalled::Over);
        }
    }
    Ok(Signalled::NotWaiting)
}

fn timer(
    session: &Session<'_>,
    wait_no: i64,
    claimed_until: Timestamp,
) -> Result<Option<Timer>, StoreError> {
    session.row(
        "SELECT w.run_id, w.node_id, w.scope, w.attempts, w.via, r.workflow_id, r.workflow_hash
         FROM waits w JOIN runs r USING (run_id) WHERE w.wait_no = ?1",
        [wait_no],
        |row| {
            Ok(Timer {
                key: step_key(row)?,
                attempts: row.get(3)?,
                via: edge_from_i64(row.get(4)?),
                workflow_id: id(row, 5)?,
                workflow_hash: hash(row, 6)?,
                claimed_until,
            })
        },
    )
}

fn step_key(row: &Row<'_>) -> Result<StepKey, StoreError> {
    Ok(StepKey {
        run_id: id(row, 0)?,
        node_id: id(row, 1)?,
        scope: Scope::new(row.get::<_, String>(2)?),
    })
}

pub(super) fn list(
    session: &Session<'_>,
    filter: &WaitFilter,
) -> Result<Vec<WaitRecord>, StoreError> {
    let WaitFilter {
        run_id,
        kind,
        after,
        limit,
    } = filter;
    let after = after.map_or(0, |after| i64::try_from(after).unwrap_or(i64::MAX));
    let kind = kind.map(WaitKind::as_str);
    let read = |row: &Row<'_>| -> Result<WaitRecord, StoreError> {
        Ok(WaitRecord {
            key: step_key(row)?,
            number: row.get::<_, i64>(3)?.unsigned_abs(),
            workflow_id: id(row, 4)?,
            wait: Wait {
                event: id(row, 5)?,
                key: match row.get::<_, Option<String>>(6)? {
                    None => None,
                    Some(_) => Some(id(row, 6)?),
                },
                kind: parsed(row, 7)?,
                about: json(row, 8)?,
            },
            since: time(row, 9)?,
            until: row.get::<_, Option<i64>>(10)?.map(Timestamp),
        })
    };
    match (run_id, kind) {
        (Some(run_id), kind) => session.rows(
            "SELECT w.run_id, w.node_id, w.scope, w.wait_no, r.workflow_id, w.event, w.key, w.kind, w.about, w.since_ms, w.until_ms
             FROM waits w JOIN runs r USING (run_id)
             WHERE w.signal_no IS NULL AND w.run_id = ?1 AND w.wait_no > ?2 AND (?3 IS NULL OR w.kind = ?3) ORDER BY w.wait_no LIMIT ?4",
            params![run_id.as_str(), after, kind, limit],
            read,
        ),
        (None, Some(kind)) if kind != WaitKind::Signal.as_str() => session.rows(
            "SELECT w.run_id, w.node_id, w.scope, w.wait_no, r.workflow_id, w.event, w.key, w.kind, w.about, w.since_ms, w.until_ms
             FROM waits w JOIN runs r USING (run_id)
             WHERE w.signal_no IS NULL AND w.kind <> 'signal' AND w.kind = ?2 AND w.wait_no > ?1 ORDER BY w.wait_no LIMIT ?3",
            params![after, kind, limit],
            read,
        ),
        (None, kind) => session.rows(
            "SELECT w.run_id, w.node_id, w.scope, w.wait_no, r.workflow_id, w.event, w.key, w.kind, w.about, w.since_ms, w.until_ms
             FROM waits w JOIN runs r USING (run_id)
             WHERE w.signal_no IS NULL AND w.wait_no > ?1 AND (?2 IS NULL OR w.kind = ?2) ORDER BY w.wait_no LIMIT ?3",
            params![after, kind, limit],
            read,
        ),
    }
}

/// Whether a step of the run waits for a signal that has not come.
pub(super) fn has_open(session: &Session<'_>, run_id: &RunId) -> Result<bool, StoreError> {
    let open = session.row::<_, StoreError>(
        "SELECT 1 FROM waits WHERE signal_no IS NULL AND run_id = ?1",
        [run_id.as_str()],
        |_| Ok(()),
    )?;
    Ok(open.is_some())
}
