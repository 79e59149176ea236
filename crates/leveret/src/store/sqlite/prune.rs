//! Removing what ended long ago.

use leveret_core::{ids::RunId, time::Timestamp};
use rusqlite::params;

use super::{Session, id, numbers};
use crate::store::{NewRun, Pass, StoreError};

/// What a look at a page of runs finds: the page, those of it that may go, and the next workflow.
type Look = (Vec<(i64, String)>, Vec<RunId>, Option<Pass>);

/// Looks at the runs from where the pass stands. Changes nothing.
pub(super) fn look(
    session: &Session<'_>,
    before: Timestamp,
    pass: &Pass,
    limit: u32,
) -> Result<Look, StoreError> {
    let mut over = Vec::new();
    let page = session.rows::<_, StoreError>(
        "SELECT created_at_ms, run_id, ended_at_ms < ?4 FROM runs
         WHERE workflow_id = ?1 AND (created_at_ms, run_id) > (?2, ?3) AND created_at_ms < ?4
         ORDER BY created_at_ms, run_id LIMIT ?5",
        params![
            pass.workflow_id,
            pass.after.0,
            pass.after.1,
            before.0,
            limit
        ],
        |row| {
            if row.get::<_, Option<bool>>(2)? == Some(true) {
                // One whose id does not read stays.
                over.extend(id::<RunId>(row, 1).ok());
            }
            Ok((row.get(0)?, row.get(1)?))
        },
    )?;
    let next = session.row::<_, StoreError>(
        "SELECT min(workflow_id) FROM runs WHERE workflow_id > ?1",
        [&*pass.workflow_id],
        |row| Ok(row.get::<_, Option<String>>(0)?),
    )?;
    Ok((page, over, next.flatten().map(Pass::at)))
}

/// Removes those of the runs for which nothing is to be published any more; returns how many.
pub(super) fn remove(
    session: &Session<'_>,
    before: Timestamp,
    runs: &[RunId],
) -> Result<u32, StoreError> {
    let mut removed = 0;
    for run_id in runs {
        let may_go = session.row::<_, StoreError>(
            "SELECT 1 FROM runs WHERE run_id = ?1 AND ended_at_ms < ?2 AND reconcile_at_ms <> ?3
                AND NOT EXISTS (SELECT 1 FROM timers WHERE timers.run_id = ?1)",
            params![run_id.as_str(), before.0, NewRun::UNBEGUN.0],
            |_| Ok(()),
        )?;
        if may_go.is_some() {
            remove_run(session, run_id)?;
            removed += 1;
        }
    }
    Ok(removed)
}

fn remove_run(session: &Session<'_>, run_id: &RunId) -> Result<(), StoreError> {
    for (_, numbers) in numbers::of_scopes(session, run_id)? {
        session.execute(
            "DELETE FROM texts WHERE text_id IN (
                SELECT output_text_id FROM steps WHERE step_no BETWEEN ?1 AND ?1 | 0xFFFFF AND output_text_id IS NOT NULL)",
            [numbers],
        )?;
        session.execute(
            "DELETE FROM steps WHERE step_no BETWEEN ?1 AND ?1 | 0xFFFFF",
            [numbers],
        )?;
    }
    let id = run_id.as_str();
    for sql in [
        "DELETE FROM texts WHERE text_id = (SELECT input_text_id FROM runs WHERE run_id = ?1)",
        "DELETE FROM scopes WHERE run_no = (SELECT run_no FROM runs WHERE run_id = ?1)",
        "DELETE FROM joins WHERE run_id = ?1",
        "DELETE FROM latest WHERE run_id = ?1",
        "DELETE FROM context WHERE run_id = ?1",
        "DELETE FROM redeliveries WHERE run_id = ?1",
        "DELETE FROM waits WHERE run_id = ?1",
        "DELETE FROM signals WHERE run_id = ?1",
        "DELETE FROM runs WHERE run_id = ?1",
    ] {
        session.execute(sql, [id])?;
    }
    Ok(())
}
