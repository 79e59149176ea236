//! Removing what ended long ago, a page of runs in one statement.

use leveret_core::time::Timestamp;

use super::{error::Failure, rows::get};
use crate::{postgres::Pool, store::Pass};

const PAGE: &str = "
    SELECT created_at_ms, run_id, coalesce(ended_at_ms < $4, false) FROM runs
    WHERE workflow_id = $1 AND (created_at_ms, run_id) > ($2, $3) AND created_at_ms < $4
    ORDER BY created_at_ms, run_id LIMIT $5";

const NEXT: &str = "SELECT min(workflow_id) FROM runs WHERE workflow_id > $1";

/// [`NewRun::UNBEGUN`](crate::store::NewRun::UNBEGUN) is -1. A run that has ended gets no more steps: what is removed here is all there is.
const REMOVE: &str = "
    WITH gone AS (
        SELECT r.run_id FROM runs r
        WHERE r.run_id = ANY($1) AND r.ended_at_ms < $2 AND r.reconcile_at_ms <> -1
            AND NOT EXISTS (SELECT FROM timers t WHERE t.run_id = r.run_id)
        ORDER BY r.run_id FOR UPDATE SKIP LOCKED
    ), of_steps AS (DELETE FROM steps s USING gone g WHERE s.run_id = g.run_id
    ), of_joins AS (DELETE FROM joins j USING gone g WHERE j.run_id = g.run_id
    ), of_latest AS (DELETE FROM latest l USING gone g WHERE l.run_id = g.run_id
    ), of_context AS (DELETE FROM context c USING gone g WHERE c.run_id = g.run_id
    ), of_redeliveries AS (DELETE FROM redeliveries d USING gone g WHERE d.run_id = g.run_id
    ), of_waits AS (DELETE FROM waits w USING gone g WHERE w.run_id = g.run_id
    ), of_signals AS (DELETE FROM signals s USING gone g WHERE s.run_id = g.run_id
    ), of_runs AS (DELETE FROM runs r USING gone g WHERE r.run_id = g.run_id
    )
    SELECT count(*) FROM gone";

/// Signals by a key, but those that a step is to read.
const REMOVE_SIGNALS: &str = "
    DELETE FROM signals WHERE signal_no IN (
        SELECT signal_no FROM signals s WHERE run_id = '' AND received_at_ms < $1
            AND NOT EXISTS (SELECT FROM waits w WHERE w.signal_no = s.signal_no)
        LIMIT $2 FOR UPDATE SKIP LOCKED
    )";

pub(super) async fn prune(
    pool: &Pool,
    before: Timestamp,
    pass: Pass,
    limit: u32,
) -> Result<(u32, Option<Pass>), Failure> {
    let mut lease = pool.lease().await?;
    let (at, run_id) = (&pass.after.0, &pass.after.1);
    let rows = lease
        .query(
            PAGE,
            &[&pass.workflow_id, at, run_id, &before.0, &i64::from(limit)],
        )
        .await?;
    let (mut page, mut over) = (Vec::with_capacity(rows.len()), Vec::new());
    for row in &rows {
        let id: String = get(row, 1)?;
        if get(row, 2)? {
            over.push(id.clone());
        }
        page.push((get::<i64>(row, 0)?, id));
    }
    let mut removed = 0;
    if !over.is_empty() {
        let rows = lease.query(REMOVE, &[&over, &before.0]).await?;
        removed = get::<i64>(&rows[0], 0)? as u32;
    }
    lease
        .query(REMOVE_SIGNALS, &[&before.0, &i64::from(limit)])
        .await?;
    let rows = lease.query(NEXT, &[&pass.workflow_id]).await?;
    let next = get::<Option<String>>(&rows[0], 0)?.map(Pass::at);
    Ok((removed, pass.behind(&page, limit).or(next)))
}
