//! Reading runs and steps, on connections that only read.

use leveret_core::ids::{NodeId, RunId, Scope, WorkflowId};
use rusqlite::{Params, Row, ToSql};

use super::{Session, hash, id, json, numbers, parsed, signals, step_error, time};
use crate::store::{
    JoinKey, Load, Loaded, NodeRef, NodeValue, Progress, RunFilter, RunRecord, RunStatus, StepHead,
    StepRecord, StoreError, Wanted,
    commit::{edge_from_i64, mark_of},
};

pub(super) fn load(
    session: &Session<'_>,
    run_id: &RunId,
    load: &Load,
) -> Result<Option<Loaded>, StoreError> {
    let run = session.row::<_, StoreError>(
        "SELECT run_no << 21, workflow_hash, status, created_at_ms, CASE WHEN ?2 THEN coalesce(input, (SELECT text FROM texts WHERE text_id = input_text_id)) END FROM runs WHERE run_id = ?1",
        (run_id.as_str(), load.input),
        |row| Ok((row.get(0)?, hash(row, 1)?, parsed(row, 2)?, time(row, 3)?, json(row, 4)?)),
    )?;
    let Some((root, workflow_hash, status, created_at, input)) = run else {
        return Ok(None);
    };
    let (mut step, mut redeliveries, mut wait) = (None, 0, None);
    if let Some((node, scope)) = &load.step {
        let numbers = if scope.is_root() {
            Some(root)
        } else {
            numbers::of_scope(session, run_id, scope)?
        };
        step = session.row::<_, StoreError>(
            "SELECT status, attempts FROM steps WHERE step_no = ?1 | ?2",
            (numbers, node.ix as i64),
            |row| Ok((parsed(row, 0)?, row.get(1)?)),
        )?;
        let key = (run_id.as_str(), node.id.as_str(), scope.as_str());
        if load.wait {
            wait = signals::of_step(session, key)?;
        }
        if load.redeliveries {
            redeliveries = session.row::<_, StoreError>(
                "SELECT count FROM redeliveries WHERE run_id = ?1 AND node_id = ?2 AND scope = ?3",
                key,
                |row| Ok(row.get(0)?),
            )?
            .unwrap_or(0);
        }
    }
    let nodes = load
        .nodes
        .iter()
        .map(|wanted| node_value(session, (run_id, root), wanted))
        .collect::<Result<_, _>>()?;
    let mut context = Vec::with_capacity(load.context.len());
    for key in &load.context {
        context.push(session.row::<_, StoreError>(
            "SELECT value FROM context WHERE run_id = ?1 AND key = ?2",
            (run_id.as_str(), &**key),
            |row| json(row, 0),
        )?);
    }
    let input = load.input.then_some(input);
    Ok(Some(Loaded {
        workflow_hash,
        status,
        created_at,
        input,
        step,
        nodes,
        context,
        redeliveries,
        wait,
    }))
}

/// What the step that is wanted left behind.
fn node_value(
    session: &Session<'_>,
    (run_id, root): (&RunId, i64),
    wanted: &Wanted,
) -> Result<Option<NodeValue>, StoreError> {
    let node = wanted.node.ix;
    let at = |scope: &Scope| {
        let numbers = if scope.is_root() {
            Some(root)
        } else {
            numbers::of_scope(session, run_id, scope)?
        };
        let value = numbers.map(|numbers| value_at(session, scope, numbers | node as i64));
        value.transpose().map(Option::flatten)
    };
    let exact = wanted.scope.as_ref().map(at).transpose()?.flatten();
    let (Some(within), false) = (
        &wanted.latest,
        exact.as_ref().is_some_and(|value| value.status.has_ended()),
    ) else {
        return Ok(exact);
    };
    let latest = session.row::<_, StoreError>(
        "SELECT scope FROM latest WHERE run_id = ?1 AND node_id = ?2 AND within = ?3",
        (run_id.as_str(), wanted.node.id.as_str(), within.as_str()),
        |row| Ok(Scope::new(row.get::<_, String>(0)?)),
    )?;
    let latest = latest.as_ref().map(at).transpose()?.flatten();
    Ok(latest.or(exact))
}

fn value_at(
    session: &Session<'_>,
    scope: &Scope,
    step_no: i64,
) -> Result<Option<NodeValue>, StoreError> {
    session.row(
        "SELECT status, coalesce(output, (SELECT text FROM texts WHERE text_id = output_text_id)), action, error, via FROM steps WHERE step_no = ?1",
        [step_no],
        |row| {
            Ok(NodeValue {
                scope: scope.clone(),
                status: parsed(row, 0)?,
                output: json(row, 1)?,
                action: row.get::<_, Option<String>>(2)?.map(Into::into),
                error: step_error(row, 3)?,
                via: edge_from_i64(row.get(4)?),
            })
        },
    )
}

pub(super) fn progress(
    session: &Session<'_>,
    run_id: &RunId,
) -> Result<Option<Progress>, StoreError> {
    let run = session.row::<_, StoreError>(
        "SELECT workflow_hash, status FROM runs WHERE run_id = ?1",
        [run_id.as_str()],
        |row| Ok((hash(row, 0)?, parsed(row, 1)?)),
    )?;
    let Some((workflow_hash, status)) = run else {
        return Ok(None);
    };
    let mut marks = Vec::new();
    for (scope, numbers) in numbers::of_scopes(session, run_id)? {
        marks.extend(session.rows::<_, StoreError>(
            "SELECT node_id, status FROM steps WHERE step_no BETWEEN ?1 AND ?1 | 0xFFFFF",
            [numbers],
            |row| Ok((id(row, 0)?, scope.clone(), mark_of(parsed(row, 1)?))),
        )?);
    }
    let joins = session.rows::<_, StoreError>(
        "SELECT node_id, scope, state FROM joins WHERE run_id = ?1",
        [run_id.as_str()],
        |row| {
            let key = JoinKey {
                node: row.get::<_, String>(0)?.into(),
                scope: Scope::new(row.get::<_, String>(1)?),
            };
            Ok((key, row.get(2)?))
        },
    )?;
    Ok(Some(Progress {
        workflow_hash,
        status,
        marks,
        joins,
    }))
}

pub(super) fn progress_at(
    session: &Session<'_>,
    run_id: &RunId,
    places: &[(NodeRef, Scope)],
) -> Result<Option<Progress>, StoreError> {
    let run = session.row::<_, StoreError>(
        "SELECT workflow_hash, status FROM runs WHERE run_id = ?1",
        [run_id.as_str()],
        |row| Ok((hash(row, 0)?, parsed(row, 1)?)),
    )?;
    let Some((workflow_hash, status)) = run else {
        return Ok(None);
    };
    let (mut marks, mut joins) = (Vec::new(), Vec::new());
    for (node, scope) in places {
        let numbers = numbers::of_scope(session, run_id, scope)?;
        let mark = session.row::<_, StoreError>(
            "SELECT status FROM steps WHERE step_no = ?1 | ?2",
            (numbers, node.ix as i64),
            |row| Ok(mark_of(parsed(row, 0)?)),
        )?;
        marks.extend(mark.map(|mark| (node.id.clone(), scope.clone(), mark)));
        let state = session.row::<_, StoreError>(
            "SELECT state FROM joins WHERE run_id = ?1 AND node_id = ?2 AND scope = ?3",
            (run_id.as_str(), node.id.as_str(), scope.as_str()),
            |row| Ok(row.get(0)?),
        )?;
        joins.extend(state.map(|state| {
            let key = JoinKey {
                node: node.id.as_str().into(),
                scope: scope.clone(),
            };
            (key, state)
        }));
    }
    Ok(Some(Progress {
        workflow_hash,
        status,
        marks,
        joins,
    }))
}

pub(super) fn waiting_steps(
    session: &Session<'_>,
    run_id: &RunId,
    limit: u32,
) -> Result<Vec<(NodeId, Scope)>, StoreError> {
    let mut waiting = Vec::new();
    for (scope, numbers) in numbers::of_scopes(session, run_id)? {
        let left = limit.saturating_sub(waiting.len() as u32);
        if left == 0 {
            break;
        }
        waiting.extend(session.rows::<_, StoreError>(
            "SELECT node_id FROM steps WHERE step_no BETWEEN ?1 AND ?1 | 0xFFFFF AND status = 'waiting' LIMIT ?2",
            (numbers, left),
            |row| Ok((id(row, 0)?, scope.clone())),
        )?);
    }
    Ok(waiting)
}

const RUN_COLUMNS: &str = "run_id, workflow_id, workflow_hash, status, coalesce(input, (SELECT text FROM texts WHERE text_id = input_text_id)), error, created_at_ms, ended_at_ms";

pub(super) fn run(session: &Session<'_>, run_id: &RunId) -> Result<Option<RunRecord>, StoreError> {
    let sql = format!("SELECT {RUN_COLUMNS} FROM runs WHERE run_id = ?1");
    Ok(run_records(session, &sql, [run_id.as_str()])?.pop())
}

/// Runs by a text that was put together from constants.
fn run_records(
    session: &Session<'_>,
    sql: &str,
    params: impl Params,
) -> Result<Vec<RunRecord>, StoreError> {
    let mut statement = session.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    let mut records = Vec::new();
    while let Some(row) = rows.next()? {
        records.push(run_record(row)?);
    }
    Ok(records)
}

fn run_record(row: &Row<'_>) -> Result<RunRecord, StoreError> {
    Ok(RunRecord {
        run_id: id(row, 0)?,
        workflow_id: id(row, 1)?,
        workflow_hash: hash(row, 2)?,
        status: parsed(row, 3)?,
        input: json(row, 4)?,
        error: step_error(row, 5)?,
        created_at: time(row, 6)?,
        ended_at: row
            .get::<_, Option<i64>>(7)?
            .map(leveret_core::time::Timestamp),
    })
}

pub(super) fn steps(session: &Session<'_>, run_id: &RunId) -> Result<Vec<StepRecord>, StoreError> {
    let mut steps = Vec::new();
    for (scope, numbers) in numbers::of_scopes(session, run_id)? {
        steps.append(&mut steps_of_scope(session, &scope, numbers)?);
    }
    // They come by their number. Sorting them there would copy each text twice more.
    steps.sort_by_key(|step| step.started_at);
    Ok(steps)
}

fn steps_of_scope(
    session: &Session<'_>,
    scope: &Scope,
    numbers: i64,
) -> Result<Vec<StepRecord>, StoreError> {
    session.rows(
        "SELECT node_id, status, attempts, coalesce(output, (SELECT text FROM texts WHERE text_id = output_text_id)),
                action, via, error, started_at_ms, finished_at_ms
         FROM steps WHERE step_no BETWEEN ?1 AND ?1 | 0xFFFFF",
        [numbers],
        |row| step_record(row, scope),
    )
}

fn step_record(row: &Row<'_>, scope: &Scope) -> Result<StepRecord, StoreError> {
    Ok(StepRecord {
        node_id: id(row, 0)?,
        scope: scope.clone(),
        status: parsed(row, 1)?,
        attempts: row.get(2)?,
        output: json(row, 3)?,
        action: row.get::<_, Option<String>>(4)?.map(Into::into),
        via: edge_from_i64(row.get(5)?),
        error: step_error(row, 6)?,
        started_at: time(row, 7)?,
        finished_at: time(row, 8)?,
    })
}

/// What stands before the outputs in their rows.
pub(super) fn step_heads(
    session: &Session<'_>,
    run_id: &RunId,
) -> Result<Vec<StepHead>, StoreError> {
    let mut heads = Vec::new();
    for (scope, numbers) in numbers::of_scopes(session, run_id)? {
        heads.append(&mut session.rows::<_, StoreError>(
            "SELECT node_id, status, attempts, started_at_ms, finished_at_ms
             FROM steps WHERE step_no BETWEEN ?1 AND ?1 | 0xFFFFF",
            [numbers],
            |row| {
                Ok(StepHead {
                    node_id: id(row, 0)?,
                    scope: scope.clone(),
                    status: parsed(row, 1)?,
                    attempts: row.get(2)?,
                    started_at: time(row, 3)?,
                    finished_at: time(row, 4)?,
                })
            },
        )?);
    }
    Ok(heads)
}

pub(super) fn steps_at(
    session: &Session<'_>,
    run_id: &RunId,
    steps: &[(NodeRef, Scope)],
) -> Result<Vec<Option<StepRecord>>, StoreError> {
    let at = |(node, scope): &(NodeRef, Scope)| {
        let Some(numbers) = numbers::of_scope(session, run_id, scope)? else {
            return Ok(None);
        };
        session.row::<_, StoreError>(
            "SELECT node_id, status, attempts, coalesce(output, (SELECT text FROM texts WHERE text_id = output_text_id)),
                    action, via, error, started_at_ms, finished_at_ms
             FROM steps WHERE step_no = ?1",
            [numbers | node.ix as i64],
            |row| step_record(row, scope),
        )
    };
    steps.iter().map(at).collect()
}

/// The workflows that have runs, by one look into the index for each.
const WORKFLOWS: &str = "WITH RECURSIVE workflow(id) AS (
        SELECT min(workflow_id) FROM runs
        UNION ALL
        SELECT (SELECT min(workflow_id) FROM runs WHERE workflow_id > id) FROM workflow WHERE id IS NOT NULL)";

/// A page of runs, the latest first. The conditions that are wanted are put together from constant texts; values are parameters.
pub(super) fn runs(
    session: &Session<'_>,
    filter: &RunFilter,
) -> Result<Vec<RunRecord>, StoreError> {
    let workflow_id = filter.workflow_id.as_ref().map(WorkflowId::as_str);
    let status = filter.status.map(RunStatus::as_str);
    let mut wanted = String::from("true");
    let mut values: Vec<&dyn ToSql> = Vec::new();
    if let Some(workflow_id) = &workflow_id {
        values.push(workflow_id);
        wanted.push_str(" AND workflow_id = ?");
    }
    match filter.status {
        // Constant, so that the partial index serves them.
        Some(RunStatus::Failed) => wanted.push_str(" AND status = 'failed'"),
        Some(RunStatus::Cancelled) => wanted.push_str(" AND status = 'cancelled'"),
        Some(_) => {
            values.push(&status);
            wanted.push_str(" AND status = ?");
        }
        None => {}
    }
    let (at, id);
    if let Some((created_at, run_id)) = &filter.after {
        (at, id) = (created_at.0, run_id.as_str());
        values.push(&at);
        values.push(&id);
        wanted.push_str(" AND (created_at_ms, run_id) < (?, ?)");
    }
    values.push(&filter.limit);
    let latest = "ORDER BY created_at_ms DESC, run_id DESC";
    let indexed = matches!(
        filter.status,
        Some(RunStatus::Failed | RunStatus::Cancelled)
    );
    let sql = if workflow_id.is_some() || indexed {
        format!("SELECT {RUN_COLUMNS} FROM runs WHERE {wanted} {latest} LIMIT ?")
    } else {
        // The latest ones of each workflow, and of these the latest.
        values.push(&filter.limit);
        format!(
            "SELECT {RUN_COLUMNS} FROM runs WHERE run_no IN (
                 {WORKFLOWS} SELECT run_no FROM workflow CROSS JOIN runs ON run_no IN (
                     SELECT run_no FROM runs WHERE workflow_id = id AND {wanted} {latest} LIMIT ?)
                 {latest} LIMIT ?)
             {latest}"
        )
    };
    run_records(session, &sql, &values[..])
}
