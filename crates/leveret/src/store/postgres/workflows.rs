//! Definitions by hash, and the versions of workflows.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use leveret_core::{
    ids::WorkflowId,
    json::Json,
    time::Timestamp,
    workflow::{Workflow, WorkflowHash},
};
use tokio_postgres::Row;

use super::{
    error::Failure,
    rows::{count_at, hash_at, json_at, time_at, workflow_id_at},
};
use crate::{
    postgres::Pool,
    store::{StoreError, WorkflowRecord},
};

/// Definitions that are known to be stored.
#[derive(Default)]
pub(super) struct Known(Mutex<HashSet<WorkflowHash>>);

/// How many hashes are remembered; then all are forgotten.
const KNOWN_MAX: usize = 100_000;

impl Known {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<WorkflowHash>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const DEFINE: &str = "
    INSERT INTO definitions (hash, workflow_id, definition) SELECT * FROM unnest($1::bytea[], $2::text[], $3::text[])
    ON CONFLICT DO NOTHING";

/// Adds a version, unless the newest one is the same.
const PUT: &str = "
    INSERT INTO workflows (workflow_id, version, hash, created_at_ms)
    SELECT $1, coalesce(max(version), 0) + 1, $2, $3 FROM workflows WHERE workflow_id = $1
    HAVING coalesce((SELECT hash FROM workflows WHERE workflow_id = $1 ORDER BY version DESC LIMIT 1) <> $2, true)
    RETURNING version";

const NEWEST: &str = "
    SELECT w.workflow_id, w.version, w.hash, d.definition, w.created_at_ms
    FROM workflows w JOIN definitions d ON d.hash = w.hash
    WHERE w.workflow_id = $1 ORDER BY w.version DESC LIMIT 1";

const VERSION: &str = "
    SELECT w.workflow_id, w.version, w.hash, d.definition, w.created_at_ms
    FROM workflows w JOIN definitions d ON d.hash = w.hash
    WHERE w.workflow_id = $1 AND w.version = $2";

const PAGE: &str = "
    SELECT w.workflow_id, w.version, w.hash, d.definition, w.created_at_ms
    FROM (SELECT DISTINCT ON (workflow_id) * FROM workflows WHERE workflow_id > $1
          ORDER BY workflow_id, version DESC LIMIT $2) w
    JOIN definitions d ON d.hash = w.hash ORDER BY w.workflow_id";

/// Stores definitions that are not known to be stored.
pub(super) async fn store_definitions(
    pool: &Pool,
    known: &Known,
    workflows: impl Iterator<Item = &Workflow>,
) -> Result<(), Failure> {
    let mut new: Vec<&Workflow> = {
        let known = known.lock();
        workflows
            .filter(|workflow| !known.contains(&workflow.hash))
            .collect()
    };
    if new.is_empty() {
        return Ok(());
    }
    new.sort_unstable_by_key(|workflow| workflow.hash);
    let hashes: Vec<&[u8]> = new
        .iter()
        .map(|workflow| &workflow.hash.as_bytes()[..])
        .collect();
    let ids: Vec<&str> = new.iter().map(|workflow| workflow.id.as_str()).collect();
    let definitions: Vec<&str> = new
        .iter()
        .map(|workflow| workflow.definition.text())
        .collect();
    pool.lease()
        .await?
        .query(DEFINE, &[&hashes, &ids, &definitions])
        .await?;
    let mut known = known.lock();
    if known.len() > KNOWN_MAX {
        known.clear();
    }
    known.extend(new.iter().map(|workflow| workflow.hash));
    Ok(())
}

pub(super) async fn put(
    pool: &Pool,
    known: &Known,
    workflow: &Workflow,
    now: Timestamp,
) -> Result<(WorkflowRecord, bool), Failure> {
    store_definitions(pool, known, std::iter::once(workflow)).await?;
    let (id, hash) = (workflow.id.as_str(), &workflow.hash.as_bytes()[..]);
    loop {
        let put = pool.lease().await?.query(PUT, &[&id, &hash, &now.0]).await;
        match put {
            Ok(rows) => {
                if let Some(row) = rows.first() {
                    let record = WorkflowRecord {
                        workflow_id: workflow.id.clone(),
                        version: count_at(row, 0)?,
                        hash: workflow.hash,
                        definition: workflow.definition.clone(),
                        created_at: now,
                    };
                    return Ok((record, true));
                }
            }
            // Somebody else took this version number: look again.
            Err(error) if error.is_unique_violation() => continue,
            Err(error) => return Err(error.into()),
        }
        if let Some(record) = newest(pool, &workflow.id).await?
            && record.hash == workflow.hash
        {
            return Ok((record, false));
        }
    }
}

pub(super) async fn newest(
    pool: &Pool,
    id: &WorkflowId,
) -> Result<Option<WorkflowRecord>, Failure> {
    let rows = pool.lease().await?.query(NEWEST, &[&id.as_str()]).await?;
    Ok(rows.first().map(record_at).transpose()?)
}

pub(super) async fn version(
    pool: &Pool,
    id: &WorkflowId,
    version: u32,
) -> Result<Option<WorkflowRecord>, Failure> {
    let rows = pool
        .lease()
        .await?
        .query(VERSION, &[&id.as_str(), &i64::from(version)])
        .await?;
    Ok(rows.first().map(record_at).transpose()?)
}

pub(super) async fn definition(pool: &Pool, hash: &WorkflowHash) -> Result<Option<Json>, Failure> {
    let hash = &hash.as_bytes()[..];
    let rows = pool
        .lease()
        .await?
        .query(
            "SELECT definition FROM definitions WHERE hash = $1",
            &[&hash],
        )
        .await?;
    Ok(rows.first().map(|row| json_at(row, 0)).transpose()?)
}

pub(super) async fn page(
    pool: &Pool,
    after: Option<&WorkflowId>,
    limit: u32,
) -> Result<Vec<WorkflowRecord>, Failure> {
    let after = after.map_or("", |after| after.as_str());
    let rows = pool
        .lease()
        .await?
        .query(PAGE, &[&after, &i64::from(limit)])
        .await?;
    rows.iter().map(|row| Ok(record_at(row)?)).collect()
}

fn record_at(row: &Row) -> Result<WorkflowRecord, StoreError> {
    Ok(WorkflowRecord {
        workflow_id: workflow_id_at(row, 0)?,
        version: count_at(row, 1)?,
        hash: hash_at(row, 2)?,
        definition: json_at(row, 3)?,
        created_at: time_at(row, 4)?,
    })
}
