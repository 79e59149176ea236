//! Definitions and versions of workflows.

use leveret_core::{ids::WorkflowId, json::Json, time::Timestamp, workflow::WorkflowHash};
use rusqlite::{Row, params};

use super::{Session, hash, id, json, time};
use crate::store::{StoreError, WorkflowRecord};

pub(super) fn define(
    session: &Session<'_>,
    id: &WorkflowId,
    hash: WorkflowHash,
    definition: &Json,
) -> Result<(), StoreError> {
    session.execute(
        "INSERT INTO definitions (hash, workflow_id, definition) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
        params![hash.as_bytes(), id.as_str(), definition.text()],
    )?;
    Ok(())
}

pub(super) fn put(
    session: &Session<'_>,
    id: &WorkflowId,
    hash: WorkflowHash,
    definition: &Json,
    now: Timestamp,
) -> Result<(WorkflowRecord, bool), StoreError> {
    let before = newest(session, id)?;
    let version = before.as_ref().map_or(1, |record| record.version + 1);
    if let Some(record) = before
        && record.hash == hash
    {
        return Ok((record, false));
    }
    define(session, id, hash, definition)?;
    session.execute(
        "INSERT INTO workflows (workflow_id, version, hash, created_at_ms) VALUES (?1, ?2, ?3, ?4)",
        params![id.as_str(), version, hash.as_bytes(), now.0],
    )?;
    let record = WorkflowRecord {
        workflow_id: id.clone(),
        version,
        hash,
        definition: definition.clone(),
        created_at: now,
    };
    Ok((record, true))
}

pub(super) fn newest(
    session: &Session<'_>,
    id: &WorkflowId,
) -> Result<Option<WorkflowRecord>, StoreError> {
    session.row(
        "SELECT w.workflow_id, w.version, w.hash, d.definition, w.created_at_ms
         FROM workflows w JOIN definitions d ON d.hash = w.hash
         WHERE w.workflow_id = ?1 ORDER BY w.version DESC LIMIT 1",
        [id.as_str()],
        record,
    )
}

pub(super) fn version(
    session: &Session<'_>,
    id: &WorkflowId,
    version: u32,
) -> Result<Option<WorkflowRecord>, StoreError> {
    session.row(
        "SELECT w.workflow_id, w.version, w.hash, d.definition, w.created_at_ms
         FROM workflows w JOIN definitions d ON d.hash = w.hash
         WHERE w.workflow_id = ?1 AND w.version = ?2",
        params![id.as_str(), version],
        record,
    )
}

pub(super) fn list(
    session: &Session<'_>,
    after: Option<&WorkflowId>,
    limit: u32,
) -> Result<Vec<WorkflowRecord>, StoreError> {
    session.rows(
        "SELECT w.workflow_id, w.version, w.hash, d.definition, w.created_at_ms
         FROM (SELECT workflow_id, max(version) AS version FROM workflows
               WHERE workflow_id > ?1 GROUP BY workflow_id ORDER BY workflow_id LIMIT ?2) AS newest
         JOIN workflows w ON w.workflow_id = newest.workflow_id AND w.version = newest.version
         JOIN definitions d ON d.hash = w.hash
         ORDER BY w.workflow_id",
        params![after.map_or("", WorkflowId::as_str), limit],
        record,
    )
}

fn record(row: &Row<'_>) -> Result<WorkflowRecord, StoreError> {
    Ok(WorkflowRecord {
        workflow_id: id(row, 0)?,
        version: row.get(1)?,
        hash: hash(row, 2)?,
        definition: json(row, 3)?,
        created_at: time(row, 4)?,
    })
}

pub(super) fn definition(
    session: &Session<'_>,
    hash: &WorkflowHash,
) -> Result<Option<Json>, StoreError> {
    session.row(
        "SELECT definition FROM definitions WHERE hash = ?1",
        [hash.as_bytes()],
        |row| json(row, 0),
    )
}
