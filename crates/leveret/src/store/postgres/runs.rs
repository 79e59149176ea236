//! The beginning of runs, their end from outside, and lists of them.

use std::collections::{HashMap, HashSet};

use leveret_core::{
    ids::{RunId, WorkflowId},
    time::Timestamp,
    workflow::{Workflow, WorkflowHash},
};
use tokio_postgres::{Row, types::ToSql};

use super::{
    error::Failure,
    rows::{error_at, get, hash_at, json_at, run_id_at, time_at, workflow_id_at},
    workflows::{Known, store_definitions},
};
use crate::{
    postgres::Pool,
    store::{NewRun, RunEnd, RunFilter, RunRecord, RunStatus, Started, StoreError},
};

const START: &str = "
    INSERT INTO runs (run_id, workflow_id, workflow_hash, status, input, created_at_ms, ended_at_ms, reconcile_at_ms)
    SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[], $4::text[], $5::text[], $6::bigint[], $7::bigint[],
                         $8::bigint[])
    ON CONFLICT DO NOTHING RETURNING run_id";

const STATUSES: &str = "SELECT run_id, status FROM runs WHERE run_id = ANY($1)";

/// Nothing of a run that has ended waits for a signal.
const CANCEL: &str = "
    WITH cancelled AS (
        UPDATE runs SET status = 'cancelled', ended_at_ms = $2
        WHERE run_id = $1 AND status = 'running' RETURNING status, error, created_at_ms, ended_at_ms
    ), of_waits AS (
        DELETE FROM waits WHERE run_id = $1 AND EXISTS (SELECT FROM cancelled)
    )
    SELECT status, error, created_at_ms, ended_at_ms FROM cancelled";

const ENDED: &str = "SELECT status, error, created_at_ms, ended_at_ms FROM runs WHERE run_id = $1";

const RUN: &str = "SELECT run_id, workflow_id, workflow_hash, status, input, error, created_at_ms, ended_at_ms FROM runs";

fn first_status(new: &NewRun) -> RunStatus {
    if new.workflow.nodes.is_empty() {
        RunStatus::Completed
    } else {
        RunStatus::Running
    }
}

/// Begins runs; answers in the order of the batch.
pub(super) async fn start(
    pool: &Pool,
    known: &Known,
    batch: &[NewRun],
) -> Result<Vec<Started>, Failure> {
    if batch.is_empty() {
        return Ok(Vec::new());
    }
    let workflows: HashMap<WorkflowHash, &Workflow> = batch
        .iter()
        .map(|new| (new.workflow.hash, &*new.workflow))
        .collect();
    store_definitions(pool, known, workflows.into_values()).await?;
    let mut firsts: HashMap<&RunId, usize> = HashMap::new();
    for (position, new) in batch.iter().enumerate() {
        firsts.entry(&new.run_id).or_insert(position);
    }
    let mut sorted: Vec<&NewRun> = firsts.values().map(|&position| &batch[position]).collect();
    sorted.sort_unstable_by_key(|new| &new.run_id);
    let begun = insert(pool, &sorted).await?;
    let before = statuses(
        pool,
        sorted
            .iter()
            .map(|new| &new.run_id)
            .filter(|id| !begun.contains(*id)),
    )
    .await?;
    let answer = |(position, new): (usize, &NewRun)| {
        if !begun.contains(&new.run_id) {
            let gone = || StoreError::corrupt(format!("run {} was there and is not", new.run_id));
            return Ok(Started::Exists(*before.get(&new.run_id).ok_or_else(gone)?));
        }
        let first = firsts[&new.run_id];
        Ok(if first == position {
            Started::New
        } else {
            Started::Exists(first_status(&batch[first]))
        })
    };
    batch.iter().enumerate().map(answer).collect()
}

async fn insert(pool: &Pool, sorted: &[&NewRun]) -> Result<HashSet<RunId>, Failure> {
    fn column<'a, T>(sorted: &[&'a NewRun], value: impl Fn(&'a NewRun) -> T) -> Vec<T> {
        sorted.iter().map(|new| value(new)).collect()
    }
    let statuses = column(sorted, |new| first_status(new).as_str());
    let ended = column(sorted, |new| {
        new.workflow.nodes.is_empty().then_some(new.created_at.0)
    });
    let params: [&(dyn ToSql + Sync); 8] = [
        &column(sorted, |new| new.run_id.as_str()),
        &column(sorted, |new| new.workflow.id.as_str()),
        &column(sorted, |new| &new.workflow.hash.as_bytes()[..]),
        &statuses,
        &column(sorted, |new| new.input.text()),
        &column(sorted, |new| new.created_at.0),
        &ended,
        &column(sorted, |new| new.reconcile_at.0),
    ];
    let rows = pool.lease().await?.query(START, &params).await?;
    rows.iter().map(|row| Ok(run_id_at(row, 0)?)).collect()
}

async fn statuses(
    pool: &Pool,
    ids: impl Iterator<Item = &RunId>,
) -> Result<HashMap<RunId, RunStatus>, Failure> {
    let ids: Vec<&str> = ids.map(RunId::as_str).collect();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = pool.lease().await?.query(STATUSES, &[&ids]).await?;
    rows.iter()
        .map(|row| Ok((run_id_at(row, 0)?, get::<&str>(row, 1)?.parse()?)))
        .collect()
}

/// Ends a running run as cancelled; tells the end, and whether this call brought it about.
pub(super) async fn cancel(
    pool: &Pool,
    run_id: &RunId,
    now: Timestamp,
) -> Result<Option<(RunEnd, bool)>, Failure> {
    let id = run_id.as_str();
    let mut lease = pool.lease().await?;
    loop {
        if let [row, ..] = &lease.query(CANCEL, &[&id, &now.0]).await?[..] {
            return Ok(end_at(row, 0)?.map(|end| (end, true)));
        }
        match &lease.query(ENDED, &[&id]).await?[..] {
            [] => return Ok(None),
            [row, ..] => {
                if let Some(end) = end_at(row, 0)? {
                    return Ok(Some((end, false)));
                }
                // It began between the two statements.
            }
        }
    }
}

/// The end of a run from its status, error and two times; `None` while it runs.
pub(super) fn end_at(row: &Row, column: usize) -> Result<Option<RunEnd>, StoreError> {
    let status: RunStatus = get::<&str>(row, column)?.parse()?;
    if status == RunStatus::Running {
        return Ok(None);
    }
    let created_at = time_at(row, column + 2)?;
    let ended_at = get::<Option<i64>>(row, column + 3)?.map_or(created_at, Timestamp);
    Ok(Some(RunEnd {
        status,
        error: error_at(row, column + 1)?,
        created_at,
        ended_at,
    }))
}

pub(super) async fn run(pool: &Pool, run_id: &RunId) -> Result<Option<RunRecord>, Failure> {
    let rows = pool
        .lease()
        .await?
        .query(format!("{RUN} WHERE run_id = $1"), &[&run_id.as_str()])
        .await?;
    Ok(rows.first().map(record_at).transpose()?)
}

fn record_at(row: &Row) -> Result<RunRecord, StoreError> {
    Ok(RunRecord {
        run_id: run_id_at(row, 0)?,
        workflow_id: workflow_id_at(row, 1)?,
        workflow_hash: hash_at(row, 2)?,
        status: get::<&str>(row, 3)?.parse()?,
        input: json_at(row, 4)?,
        error: error_at(row, 5)?,
        created_at: time_at(row, 6)?,
        ended_at: get::<Option<i64>>(row, 7)?.map(Timestamp),
    })
}

/// The workflows that have runs, by one look into the index for each.
const WORKFLOWS: &str = "WITH RECURSIVE workflow(id) AS (
        SELECT min(workflow_id) FROM runs
        UNION ALL
        SELECT (SELECT min(workflow_id) FROM runs WHERE workflow_id > id) FROM workflow WHERE id IS NOT NULL)";

/// Lists runs, newest first. Each set of filters is a statement of its own, so that each goes by its index.
pub(super) async fn runs(pool: &Pool, filter: &RunFilter) -> Result<Vec<RunRecord>, Failure> {
    let limit = i64::from(filter.limit);
    let workflow_id = filter.workflow_id.as_ref().map(WorkflowId::as_str);
    let after = filter.after.as_ref().map(|(at, id)| (at.0, id.as_str()));
    let (mut params, mut conditions): (Vec<&(dyn ToSql + Sync)>, Vec<String>) =
        (vec![&limit], Vec::new());
    if let Some(id) = &workflow_id {
        params.push(id);
        conditions.push(format!("workflow_id = ${}", params.len()));
    }
    if let Some(status) = filter.status {
        // As a literal, so that the partial index can be used.
        conditions.push(format!("status = '{status}'"));
    }
    if let Some((at, id)) = &after {
        params.extend([at as &(dyn ToSql + Sync), id]);
        conditions.push(format!(
            "(created_at_ms, run_id) < (${}, ${})",
            params.len() - 1,
            params.len()
        ));
    }
    let latest = "ORDER BY created_at_ms DESC, run_id DESC";
    let indexed = matches!(
        filter.status,
        Some(RunStatus::Failed | RunStatus::Cancelled)
    );
    let sql = if workflow_id.is_some() || indexed {
        let wanted = conditions.join(" AND ");
        format!("{RUN} WHERE {wanted} {latest} LIMIT $1")
    } else {
        // The latest ones of each workflow, and of these the latest.
        conditions.push("workflow_id = id".to_owned());
        let wanted = conditions.join(" AND ");
        format!(
            "{WORKFLOWS} {RUN} WHERE run_id IN (
                 SELECT run_id FROM workflow CROSS JOIN LATERAL (
                     SELECT run_id, created_at_ms FROM runs WHERE {wanted} {latest} LIMIT $1) latest
                 {latest} LIMIT $1)
             {latest}"
        )
    };
    let rows = pool.lease().await?.query(sql, &params).await?;
    rows.iter().map(|row| Ok(record_at(row)?)).collect()
}
