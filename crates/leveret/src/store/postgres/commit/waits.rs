//! Steps that wait for signals: what their transactions lock first, and the signals that were there already.

use std::collections::{BTreeSet, HashSet};

use leveret_core::ids::StepKey;
use tokio_postgres::types::ToSql;

use super::{
    BEGIN, LOCK,
    plan::{Segment, waits},
};
use crate::{
    postgres::Lease,
    store::{
        StoreError, WaitKind, Woken,
        postgres::{
            error::Failure,
            rows::{get, step_order},
            signals::{LOCK_KEYS, lock_name, step_key_at},
        },
    },
};

/// Those of the waits that have a signal; others get none before the end of the transaction.
const LOCK_WAITS: &str = "
    SELECT w.run_id, w.node_id, w.scope, w.signal_no IS NOT NULL FROM waits w
    JOIN unnest($1::text[], $2::text[], $3::text[]) AS n (run_id, node_id, scope)
        ON w.run_id = n.run_id AND w.node_id = n.node_id AND w.scope = n.scope
    ORDER BY w.run_id, w.node_id, w.scope FOR UPDATE OF w";

/// Of several waits for the same, the first to wait gets the oldest signal.
pub(super) const MATCH: &str = "
    WITH fresh AS (
        SELECT w.wait_no, w.run_id, w.node_id, w.scope, w.event, w.attempts, w.via,
               row_number() OVER (PARTITION BY w.run_id, w.event ORDER BY w.wait_no) AS place
        FROM waits w JOIN unnest($1::text[], $2::text[], $3::text[]) AS n (run_id, node_id, scope)
            ON w.run_id = n.run_id AND w.node_id = n.node_id AND w.scope = n.scope
        WHERE w.kind = 'signal' AND w.signal_no IS NULL
    ), kept AS (
        SELECT s.signal_no, s.run_id, s.event, row_number() OVER (PARTITION BY s.run_id, s.event ORDER BY s.signal_no) AS place
        FROM signals s JOIN (SELECT DISTINCT run_id, event FROM fresh) f ON s.run_id = f.run_id AND s.event = f.event
        WHERE s.kept AND s.key = ''
    ), ended AS (
        UPDATE waits w SET signal_no = k.signal_no FROM fresh f JOIN kept k USING (run_id, event, place)
        WHERE w.wait_no = f.wait_no RETURNING w.run_id, w.node_id, w.scope, w.attempts, w.via, w.since_ms, w.signal_no
    ), given AS (
        UPDATE signals s SET kept = false FROM ended e WHERE s.signal_no = e.signal_no
    ), timed AS (
        INSERT INTO timers (run_id, node_id, scope, due_at_ms, attempts, via)
        SELECT run_id, node_id, scope, since_ms, attempts, via FROM ended
        ON CONFLICT (run_id, node_id, scope) DO UPDATE
        SET due_at_ms = excluded.due_at_ms, attempts = excluded.attempts, via = excluded.via
    )
    SELECT run_id, node_id, scope FROM ended";

/// As [`MATCH`], of signals by keys.
pub(super) const MATCH_KEYS: &str = "
    WITH fresh AS (
        SELECT w.wait_no, w.run_id, w.node_id, w.scope, w.event, w.key, w.attempts, w.via,
               row_number() OVER (PARTITION BY w.event, w.key ORDER BY w.wait_no) AS place
        FROM waits w JOIN unnest($1::text[], $2::text[], $3::text[]) AS n (run_id, node_id, scope)
            ON w.run_id = n.run_id AND w.node_id = n.node_id AND w.scope = n.scope
        WHERE w.kind = 'signal' AND w.signal_no IS NULL AND w.key IS NOT NULL
    ), kept AS (
        SELECT s.signal_no, s.key, s.event, row_number() OVER (PARTITION BY s.event, s.key ORDER BY s.signal_no) AS place
        FROM signals s JOIN (SELECT DISTINCT event, key FROM fresh) f ON s.run_id = '' AND s.key = f.key AND s.event = f.event
        WHERE s.kept
    ), ended AS (
        UPDATE waits w SET signal_no = k.signal_no FROM fresh f JOIN kept k USING (event, key, place)
        WHERE w.wait_no = f.wait_no RETURNING w.run_id, w.node_id, w.scope, w.attempts, w.via, w.since_ms, w.signal_no
    ), given AS (
        UPDATE signals s SET kept = false FROM ended e WHERE s.signal_no = e.signal_no
    ), timed AS (
        INSERT INTO timers (run_id, node_id, scope, due_at_ms, attempts, via)
        SELECT run_id, node_id, scope, since_ms, attempts, via FROM ended
        ON CONFLICT (run_id, node_id, scope) DO UPDATE
        SET due_at_ms = excluded.due_at_ms, attempts = excluded.attempts, via = excluded.via
    )
    SELECT run_id, node_id, scope FROM ended";

/// Locks what signals lock, in the order in which they do, before a statement looks at it. Answers with the positions of the steps that know nothing of
/// a signal which they have got: they are not to be recorded.
pub(super) async fn lock(
    lease: &mut Lease,
    segment: &Segment<'_>,
    begins: bool,
) -> Result<HashSet<usize>, Failure> {
    if begins {
        lease.set_in_transaction(true);
        lease.client().batch_execute(BEGIN).await?;
    }
    let runs = segment.runs_to_lock();
    if !runs.is_empty() {
        lease.query(LOCK, &[&runs]).await?;
    }
    let fresh = segment.items.iter().filter_map(|item| waits(item.finished));
    let fresh = fresh.filter(|wait| wait.kind == WaitKind::Signal);
    let keys: BTreeSet<String> = fresh
        .filter_map(|wait| Some(lock_name(&wait.event, wait.key.as_ref()?)))
        .collect();
    if !keys.is_empty() {
        let keys: Vec<String> = keys.into_iter().collect();
        lease.query(LOCK_KEYS, &[&keys]).await?;
    }
    let items = segment.items.iter().enumerate();
    let woken: Vec<_> = items
        .filter(|(_, item)| item.finished.woken != Woken::No)
        .collect();
    if woken.is_empty() {
        return Ok(HashSet::new());
    }
    let keys: Vec<_> = woken
        .iter()
        .map(|(_, item)| step_order(item.finished))
        .collect();
    let columns = (
        keys.iter().map(|key| key.0).collect::<Vec<_>>(),
        keys.iter().map(|key| key.1).collect::<Vec<_>>(),
        keys.iter().map(|key| key.2).collect::<Vec<_>>(),
    );
    let params: [&(dyn ToSql + Sync); 3] = [&columns.0, &columns.1, &columns.2];
    let mut signalled = HashSet::new();
    for row in lease.query(LOCK_WAITS, &params).await? {
        if get(&row, 3)? {
            signalled.insert(step_key_at(&row)?);
        }
    }
    let late = woken.iter().filter(|(_, item)| {
        item.finished.woken == Woken::ByTime && signalled.contains(&item.finished.key())
    });
    Ok(late.map(|(position, _)| *position).collect())
}

/// Gives the fresh waits of these steps the signals that were there already; the steps that got one.
pub(super) async fn give(
    lease: &mut Lease,
    keys: &(Vec<&str>, Vec<&str>, Vec<&str>),
    by_key: bool,
) -> Result<HashSet<StepKey>, Failure> {
    let params: [&(dyn ToSql + Sync); 3] = [&keys.0, &keys.1, &keys.2];
    let mut rows = lease.query(MATCH, &params).await?;
    if by_key {
        rows.extend(lease.query(MATCH_KEYS, &params).await?);
    }
    Ok(rows
        .iter()
        .map(step_key_at)
        .collect::<Result<_, StoreError>>()?)
}
