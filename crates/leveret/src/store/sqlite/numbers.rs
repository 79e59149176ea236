//! The numbers of steps. The schema says what they are made of.

use leveret_core::{
    ids::{RunId, Scope},
    parse::NODES_MAX,
};

use super::Session;
use crate::store::StoreError;

const _: () = assert!(
    NODES_MAX <= 1 << 20,
    "a step's number has 20 bits for its node"
);

/// The numbers of a scope's steps, with their nodes' bits at zero. `None` if there is no such run, or no step in that scope yet.
pub(super) fn of_scope(
    session: &Session<'_>,
    run_id: &RunId,
    scope: &Scope,
) -> Result<Option<i64>, StoreError> {
    if scope.is_root() {
        return session.row(
            "SELECT run_no << 21 FROM runs WHERE run_id = ?1",
            [run_id.as_str()],
            |row| Ok(row.get(0)?),
        );
    }
    session.row(
        "SELECT (scope_no << 1 | 1) << 20 FROM runs JOIN scopes USING (run_no) WHERE run_id = ?1 AND scope = ?2",
        (run_id.as_str(), scope.as_str()),
        |row| Ok(row.get(0)?),
    )
}

/// Each scope of a run that may have steps, with its numbers as in [`of_scope`]. Nothing if there is no such run.
pub(super) fn of_scopes(
    session: &Session<'_>,
    run_id: &RunId,
) -> Result<Vec<(Scope, i64)>, StoreError> {
    session.rows(
        "SELECT '', run_no << 21 FROM runs WHERE run_id = ?1
         UNION ALL
         SELECT scope, (scope_no << 1 | 1) << 20 FROM runs JOIN scopes USING (run_no) WHERE run_id = ?1",
        [run_id.as_str()],
        |row| Ok((Scope::new(row.get::<_, String>(0)?), row.get(1)?)),
    )
}

/// As [`of_scope`], for a scope in which a step is about to be recorded.
pub(super) fn of_scope_to_be(
    session: &Session<'_>,
    run_id: &RunId,
    scope: &Scope,
) -> Result<i64, StoreError> {
    let numbers = if scope.is_root() {
        of_scope(session, run_id, scope)?
    } else {
        of_inner_scope(session, run_id, scope)?
    };
    numbers.ok_or_else(|| StoreError::corrupt("a run vanished"))
}

/// As [`of_scope`], for a scope other than the root, which is added if it is new and its run is running.
pub(super) fn of_inner_scope(
    session: &Session<'_>,
    run_id: &RunId,
    scope: &Scope,
) -> Result<Option<i64>, StoreError> {
    let known = of_scope(session, run_id, scope)?;
    if known.is_some() {
        return Ok(known);
    }
    session.execute(
        "INSERT INTO scopes (run_no, scope) SELECT run_no, ?2 FROM runs WHERE run_id = ?1 AND status = 'running'",
        (run_id.as_str(), scope.as_str()),
    )?;
    of_scope(session, run_id, scope)
}
