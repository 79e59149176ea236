//! Waits and signals. Whichever is recorded second waits for the other's transaction, and then sees it.
//!
//! A wait and a signal to a run meet at the lock of the run; a wait and a signal by a key at an advisory lock of event and key; what ends a wait at the
//! lock of its row. All transactions take them in this order: runs, keys, waits, timers; one that is stopped in a circle nevertheless is done again.

use std::{collections::BTreeSet, time::Duration};

use leveret_core::{
    ids::{EventName, RunId, Scope, SignalId, SignalKey, StepKey},
    time::Timestamp,
};
use tokio_postgres::{Row, types::ToSql};

use super::{
    error::Failure,
    rows::{count_at, get, hash_at, json_at, node_id_at, run_id_at, time_at, workflow_id_at},
};
use crate::{
    postgres::{Lease, Pool},
    store::{
        Addressee, NewSignal, RunStatus, Signalled, StoreError, Timer, WOKEN_MAX, Wait, WaitFilter,
        WaitKind, WaitRecord, commit::edge_from_i64, signals::LOOK_AFTER,
    },
};

/// How often a transaction is begun again after another one got in its way.
const CONFLICTS_MAX: u32 = 10;

const LOCK_RUNS: &str =
    "SELECT run_id, status FROM runs WHERE run_id = ANY($1) ORDER BY run_id FOR NO KEY UPDATE";

/// Texts of events and keys, sorted. The numbers may meet; then both wait for each other in vain.
pub(super) const LOCK_KEYS: &str =
    "SELECT pg_advisory_xact_lock(hashtextextended(n.name, 0)) FROM unnest($1::text[]) AS n (name)";

const INSERT: &str = "
    INSERT INTO signals (run_id, key, event, signal_id, data, received_at_ms, kept) VALUES ($1, $2, $3, $4, $5, $6, true)
    ON CONFLICT DO NOTHING RETURNING signal_no";

const KNOWN: &str =
    "SELECT 1 FROM signals WHERE run_id = $1 AND key = $2 AND event = $3 AND signal_id = $4";

const OPEN_IN_RUN: &str = "
    SELECT wait_no FROM waits WHERE signal_no IS NULL AND run_id = $1 AND event = $2 AND kind = 'signal' ORDER BY wait_no LIMIT 1";

const OPEN_AT_NODE: &str = "
    SELECT wait_no FROM waits WHERE signal_no IS NULL AND run_id = $1 AND node_id = $2 AND kind = $3 ORDER BY wait_no LIMIT 1";

/// The oldest of each run, but of those that this signal has woken.
const OPEN_BY_KEY: &str = "
    SELECT min(wait_no) FROM waits w WHERE signal_no IS NULL AND event = $1 AND key = $2 AND kind = 'signal'
        AND NOT EXISTS (SELECT FROM waits o WHERE o.signal_no = $3 AND o.run_id = w.run_id)
    GROUP BY run_id ORDER BY 1";

/// Whether the node has waited for this.
const HAS_WAITED: &str = "
    SELECT 1 WHERE EXISTS (SELECT FROM waits WHERE run_id = $1 AND node_id = $2 AND kind = $3)
        OR EXISTS (SELECT FROM steps WHERE run_id = $1 AND node_id = $2 AND status <> 'waiting')";

/// Ends waits that are open still, and sets the timers of their steps.
const END: &str = "
    WITH ended AS (
        UPDATE waits SET signal_no = $2 WHERE wait_no = ANY($1) AND signal_no IS NULL
        RETURNING run_id, node_id, scope, attempts, via
    ), given AS (
        UPDATE signals SET kept = false WHERE signal_no = $2 AND EXISTS (SELECT FROM ended)
    ), looked_at AS (
        UPDATE runs r SET reconcile_at_ms = $4 FROM ended e WHERE r.run_id = e.run_id AND r.reconcile_at_ms > $4
    ), timed AS (
        INSERT INTO timers (run_id, node_id, scope, due_at_ms, attempts, via)
        SELECT run_id, node_id, scope, $3, attempts, via FROM ended ORDER BY 1, 2, 3
        ON CONFLICT (run_id, node_id, scope) DO UPDATE
        SET due_at_ms = excluded.due_at_ms, attempts = excluded.attempts, via = excluded.via
    )
    SELECT e.run_id, e.node_id, e.scope, e.via, e.attempts, r.workflow_id, r.workflow_hash
    FROM ended e JOIN runs r ON r.run_id = e.run_id";

const LIST: &str = "
    SELECT w.run_id, w.node_id, w.scope, w.wait_no, r.workflow_id, w.event, w.key, w.kind, w.about, w.since_ms, w.until_ms
    FROM waits w JOIN runs r ON r.run_id = w.run_id WHERE w.signal_no IS NULL";

/// The name of the lock of an event and a key.
pub(super) fn lock_name(event: &EventName, key: &SignalKey) -> String {
    // Neither has control characters.
    format!("leveret\u{1}{event}\u{1}{key}")
}

/// Answers in the order of the batch.
pub(super) async fn signal(
    pool: &Pool,
    batch: &[NewSignal],
    now: Timestamp,
    claim: Duration,
) -> Result<Vec<Signalled>, Failure> {
    if batch.is_empty() {
        return Ok(Vec::new());
    }
    let mut conflicts = 0;
    loop {
        let mut lease = pool.lease().await?;
        match signal_once(&mut lease, batch, now, claim).await {
            Err(failure) => {
                lease.roll_back().await;
                conflicts += 1;
                if !failure.is_conflict() || conflicts == CONFLICTS_MAX {
                    return Err(failure);
                }
            }
            signalled => return signalled,
        }
    }
}

async fn signal_once(
    lease: &mut Lease,
    batch: &[NewSignal],
    now: Timestamp,
    claim: Duration,
) -> Result<Vec<Signalled>, Failure> {
    let runs: BTreeSet<&str> = batch
        .iter()
        .filter_map(|signal| signal.to.run_id().map(RunId::as_str))
        .collect();
    let runs: Vec<&str> = runs.into_iter().collect();
    let keys: BTreeSet<String> = batch
        .iter()
        .filter_map(|signal| match &signal.to {
            Addressee::Key(key) => Some(lock_name(&signal.event, key)),
            _ => None,
        })
        .collect();
    let keys: Vec<String> = keys.into_iter().collect();
    lease.set_in_transaction(true);
    lease.client().batch_execute("BEGIN").await?;
    let locked = if runs.is_empty() {
        Vec::new()
    } else {
        lease.query(LOCK_RUNS, &[&runs]).await?
    };
    if !keys.is_empty() {
        lease.query(LOCK_KEYS, &[&keys]).await?;
    }
    let mut answers = Vec::with_capacity(batch.len());
    for signal in batch {
        let status = match signal.to.run_id() {
            None => Some(RunStatus::Running),
            Some(run_id) => status_in(&locked, run_id)?,
        };
        answers.push(match status {
            None => Signalled::NoRun,
            Some(status) => record(lease, signal, status, now, claim).await?,
        });
    }
    lease.client().batch_execute("COMMIT").await?;
    lease.set_in_transaction(false);
    Ok(answers)
}

fn status_in(locked: &[Row], run_id: &RunId) -> Result<Option<RunStatus>, StoreError> {
    for row in locked {
        if get::<&str>(row, 0)? == run_id.as_str() {
            return get::<&str>(row, 1)?.parse().map(Some);
        }
    }
    Ok(None)
}

/// Records a signal whose run, if it is for one, is locked.
async fn record(
    lease: &mut Lease,
    signal: &NewSignal,
    status: RunStatus,
    now: Timestamp,
    claim: Duration,
) -> Result<Signalled, Failure> {
    let NewSignal {
        to,
        event,
        id,
        data,
    } = signal;
    let run_id = to.run_id().map_or("", RunId::as_str);
    let key = match to {
        Addressee::Key(key) => key.as_str(),
        _ => "",
    };
    let (event, id) = (event.as_str(), id.as_ref().map(SignalId::as_str));
    if id.is_some() {
        let known = lease.query(KNOWN, &[&run_id, &key, &event, &id]).await?;
        if !known.is_empty() {
            return Ok(Signalled::Repeated);
        }
    }
    if status != RunStatus::Running {
        return Ok(Signalled::Ended(status));
    }
    let mut wait_no = open_one(lease, signal).await?;
    if let (None, Addressee::Node(_, node_id, kind)) = (wait_no, to) {
        let params: [&(dyn ToSql + Sync); 3] = [&run_id, &node_id.as_str(), &kind.as_str()];
        let has_waited = lease.query(HAS_WAITED, &params).await?;
        return Ok(if has_waited.is_empty() {
            Signalled::NotWaiting
        } else {
            Signalled::Over
        });
    }
    let params: [&(dyn ToSql + Sync); 6] = [&run_id, &key, &event, &id, &data.text(), &now.0];
    let inserted = lease.query(INSERT, &params).await?;
    let Some(row) = inserted.first() else {
        return Ok(Signalled::Repeated);
    };
    let signal_no: i64 = get(row, 0)?;
    if let Addressee::Key(_) = to {
        return wake_by_key(lease, (event, key), signal_no, now, claim).await;
    }
    while let Some(open) = wait_no {
        let timers = end(lease, &[open], signal_no, now, claim).await?;
        if !timers.is_empty() {
            let woken = timers.len() as u64;
            return Ok(Signalled::Recorded { woken, timers });
        }
        // Another signal, by a key, ended it in between.
        wait_no = open_one(lease, signal).await?;
    }
    if let Addressee::Node(..) = to {
        // It is refused as it would be by the next look.
        return Err(Failure::Conflict);
    }
    let (woken, timers) = (0, Vec::new());
    Ok(Signalled::Recorded { woken, timers })
}

/// The oldest wait that a signal to a run or a node may end.
async fn open_one(lease: &mut Lease, signal: &NewSignal) -> Result<Option<i64>, Failure> {
    let rows = match &signal.to {
        Addressee::Key(_) => return Ok(None),
        Addressee::Run(run_id) => {
            let params: [&(dyn ToSql + Sync); 2] = [&run_id.as_str(), &signal.event.as_str()];
            lease.query(OPEN_IN_RUN, &params).await?
        }
        Addressee::Node(run_id, node_id, kind) => {
            let params: [&(dyn ToSql + Sync); 3] =
                [&run_id.as_str(), &node_id.as_str(), &kind.as_str()];
            lease.query(OPEN_AT_NODE, &params).await?
        }
    };
    Ok(rows.first().map(|row| get(row, 0)).transpose()?)
}

/// Ends the oldest wait of each run, until there are none.
async fn wake_by_key(
    lease: &mut Lease,
    (event, key): (&str, &str),
    signal_no: i64,
    now: Timestamp,
    claim: Duration,
) -> Result<Signalled, Failure> {
    let (mut woken, mut timers) = (0, Vec::new());
    loop {
        let rows = lease
            .query(OPEN_BY_KEY, &[&event, &key, &signal_no])
            .await?;
        if rows.is_empty() {
            return Ok(Signalled::Recorded { woken, timers });
        }
        let open: Result<Vec<i64>, StoreError> = rows.iter().map(|row| get(row, 0)).collect();
        let ended = end(lease, &open?, signal_no, now, claim).await?;
        woken += ended.len() as u64;
        if rows.len() <= WOKEN_MAX {
            timers.extend(ended);
        }
    }
}

/// Ends those of the waits that are open; their steps' timers.
async fn end(
    lease: &mut Lease,
    waits: &[i64],
    signal_no: i64,
    now: Timestamp,
    claim: Duration,
) -> Result<Vec<Timer>, Failure> {
    let due = if waits.len() <= WOKEN_MAX {
        now + claim
    } else {
        now
    };
    let look_at = now + LOOK_AFTER;
    let params: [&(dyn ToSql + Sync); 4] = [&waits, &signal_no, &due.0, &look_at.0];
    let rows = lease.query(END, &params).await?;
    let timer = |row: &Row| {
        Ok::<_, StoreError>(Timer {
            key: step_key_at(row)?,
            via: edge_from_i64(get(row, 3)?),
            attempts: count_at(row, 4)?,
            workflow_id: workflow_id_at(row, 5)?,
            workflow_hash: hash_at(row, 6)?,
            claimed_until: due,
        })
    };
    Ok(rows.iter().map(timer).collect::<Result<_, _>>()?)
}

pub(super) fn step_key_at(row: &Row) -> Result<StepKey, StoreError> {
    Ok(StepKey {
        run_id: run_id_at(row, 0)?,
        node_id: node_id_at(row, 1)?,
        scope: Scope::new(get::<&str>(row, 2)?),
    })
}

/// What running runs wait for. Each set of filters is a statement of its own, so that each goes by its index.
pub(super) async fn list(pool: &Pool, filter: &WaitFilter) -> Result<Vec<WaitRecord>, Failure> {
    let after = filter.after.unwrap_or(0);
    let (limit, after) = (
        i64::from(filter.limit),
        i64::try_from(after).unwrap_or(i64::MAX),
    );
    let mut sql = format!("{LIST} AND w.wait_no > $2");
    let run_id = filter.run_id.as_ref().map(RunId::as_str);
    let mut params: Vec<&(dyn ToSql + Sync)> = vec![&limit, &after];
    if let Some(run_id) = &run_id {
        params.push(run_id);
        sql.push_str(" AND w.run_id = $3");
    }
    if let Some(kind) = filter.kind {
        // As a literal, so that the partial index can be used.
        sql.push_str(match kind {
            WaitKind::Signal => " AND w.kind = 'signal'",
            WaitKind::Webhook => " AND w.kind = 'webhook'",
            WaitKind::Approval => " AND w.kind = 'approval'",
        });
        if kind != WaitKind::Signal {
            sql.push_str(" AND w.kind <> 'signal'");
        }
    }
    sql.push_str(" ORDER BY w.wait_no LIMIT $1");
    let rows = pool.lease().await?.query(sql, &params).await?;
    rows.iter().map(|row| Ok(wait_at(row)?)).collect()
}

fn wait_at(row: &Row) -> Result<WaitRecord, StoreError> {
    let corrupt = |error: leveret_core::ids::IdError| StoreError::corrupt(error.to_string());
    let key = get::<Option<&str>>(row, 6)?;
    Ok(WaitRecord {
        key: step_key_at(row)?,
        number: get::<i64>(row, 3)?.unsigned_abs(),
        workflow_id: workflow_id_at(row, 4)?,
        wait: Wait {
            event: EventName::new(get::<&str>(row, 5)?).map_err(corrupt)?,
            key: key.map(SignalKey::new).transpose().map_err(corrupt)?,
            kind: get::<&str>(row, 7)?.parse()?,
            about: json_at(row, 8)?,
        },
        since: time_at(row, 9)?,
        until: get::<Option<i64>>(row, 10)?.map(Timestamp),
    })
}
