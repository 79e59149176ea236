//! What workers and people read of a run.

use std::sync::Arc;

use leveret_core::ids::{NodeId, RunId, Scope};
use tokio_postgres::{Row, types::ToSql};

use super::{
    error::Failure,
    rows::{count_at, error_at, get, hash_at, json_at, json_option_at, node_id_at, time_at},
};
use crate::{
    postgres::{Lease, Pool},
    store::{
        JoinKey, Load, Loaded, NodeRef, NodeValue, Progress, RunStatus, StepHead, StepRecord,
        StepStatus, StoreError, Waited,
        commit::{edge_from_i64, mark_of},
    },
};

const RUNS: &str = "
    SELECT n.position, r.workflow_hash, r.status, r.created_at_ms, CASE WHEN n.input THEN r.input END
    FROM unnest($1::bigint[], $2::text[], $3::boolean[]) AS n (position, run_id, input)
    JOIN runs r ON r.run_id = n.run_id";

const NODES: &str = "
    SELECT n.position, n.place, s.status, s.output, s.action, s.error, s.via, s.scope
    FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::text[])
        AS n (position, place, run_id, node_id, scope)
    JOIN steps s ON s.run_id = n.run_id AND s.node_id = n.node_id AND s.scope = n.scope";

const LATEST: &str = "
    SELECT n.position, n.place, s.status, s.output, s.action, s.error, s.via, s.scope
    FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::text[])
        AS n (position, place, run_id, node_id, within)
    JOIN latest l ON l.run_id = n.run_id AND l.node_id = n.node_id AND l.within = n.within
    JOIN steps s ON s.run_id = l.run_id AND s.node_id = l.node_id AND s.scope = l.scope";

const STEPS: &str = "
    SELECT n.position, s.status, s.attempts
    FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[]) AS n (position, run_id, node_id, scope)
    JOIN steps s ON s.run_id = n.run_id AND s.node_id = n.node_id AND s.scope = n.scope";

const REDELIVERIES: &str = "
    SELECT n.position, d.count
    FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[]) AS n (position, run_id, node_id, scope)
    JOIN redeliveries d ON d.run_id = n.run_id AND d.node_id = n.node_id AND d.scope = n.scope";

const WAITS: &str = "
    SELECT n.position, w.signal_no IS NOT NULL, s.data
    FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[]) AS n (position, run_id, node_id, scope)
    JOIN waits w ON w.run_id = n.run_id AND w.node_id = n.node_id AND w.scope = n.scope
    LEFT JOIN signals s ON s.signal_no = w.signal_no";

const CONTEXT: &str = "
    SELECT n.position, n.place, c.value
    FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[]) AS n (position, place, run_id, key)
    JOIN context c ON c.run_id = n.run_id AND c.key = n.key";

/// One statement, so that marks and joins are of one moment.
const PROGRESS: &str = "
    SELECT 'run', status, '', workflow_hash, '' FROM runs WHERE run_id = $1
    UNION ALL SELECT 'step', node_id, status, NULL, scope FROM steps WHERE run_id = $1
    UNION ALL SELECT 'join', node_id, state, NULL, scope FROM joins WHERE run_id = $1";

/// As [`PROGRESS`], at some places.
const PROGRESS_AT: &str = "
    WITH n AS MATERIALIZED (SELECT * FROM unnest($2::text[], $3::text[]) AS n (node_id, scope))
    SELECT 'run', status, '', workflow_hash, '' FROM runs WHERE run_id = $1
    UNION ALL SELECT 'step', s.node_id, s.status, NULL, s.scope
        FROM n JOIN steps s ON s.run_id = $1 AND s.node_id = n.node_id AND s.scope = n.scope
    UNION ALL SELECT 'join', j.node_id, j.state, NULL, j.scope
        FROM n JOIN joins j ON j.run_id = $1 AND j.node_id = n.node_id AND j.scope = n.scope";

const WAITING: &str =
    "SELECT node_id, scope FROM steps WHERE run_id = $1 AND status = 'waiting' LIMIT $2";

const ALL_STEPS: &str = "
    SELECT node_id, scope, status, attempts, output, action, via, error, started_at_ms, finished_at_ms
    FROM steps WHERE run_id = $1 ORDER BY started_at_ms, node_id, scope";

const STEP_HEADS: &str = "
    SELECT node_id, scope, status, attempts, started_at_ms, finished_at_ms
    FROM steps WHERE run_id = $1";

const STEPS_AT: &str = "
    SELECT s.node_id, s.scope, s.status, s.attempts, s.output, s.action, s.via, s.error, s.started_at_ms, s.finished_at_ms, n.position
    FROM unnest($2::bigint[], $3::text[], $4::text[]) AS n (position, node_id, scope)
    JOIN steps s ON s.run_id = $1 AND s.node_id = n.node_id AND s.scope = n.scope";

/// What is wanted of a kind, as columns: position in the batch, place in its list, run, and up to two keys.
#[derive(Default)]
struct Wanted<'a> {
    positions: Vec<i64>,
    places: Vec<i64>,
    runs: Vec<&'a str>,
    keys: Vec<&'a str>,
    scopes: Vec<&'a str>,
}

impl<'a> Wanted<'a> {
    fn push(
        &mut self,
        position: usize,
        place: usize,
        run: &'a RunId,
        key: &'a str,
        scope: &'a str,
    ) {
        self.positions.push(position as i64);
        self.places.push(place as i64);
        self.runs.push(run.as_str());
        self.keys.push(key);
        self.scopes.push(scope);
    }
}

/// Answers in the order of the batch. Its statements go out at once.
pub(super) async fn load(
    pool: &Pool,
    batch: &[(RunId, Load)],
) -> Result<Vec<Option<Loaded>>, Failure> {
    if batch.is_empty() {
        return Ok(Vec::new());
    }
    let mut lease = pool.lease().await?;
    let (mut nodes, mut latest, mut steps, mut context, mut counts, mut waits) = (
        Wanted::default(),
        Wanted::default(),
        Wanted::default(),
        Wanted::default(),
        Wanted::default(),
        Wanted::default(),
    );
    for (position, (run, load)) in batch.iter().enumerate() {
        for (place, wanted) in load.nodes.iter().enumerate() {
            let id = wanted.node.id.as_str();
            if let Some(scope) = &wanted.scope {
                nodes.push(position, place, run, id, scope.as_str());
            }
            if let Some(within) = &wanted.latest {
                latest.push(position, place, run, id, within.as_str());
            }
        }
        for (place, key) in load.context.iter().enumerate() {
            context.push(position, place, run, key, "");
        }
        if let Some((node, scope)) = &load.step {
            steps.push(position, 0, run, node.id.as_str(), scope.as_str());
            if load.wait {
                waits.push(position, 0, run, node.id.as_str(), scope.as_str());
            }
            if load.redeliveries {
                counts.push(position, 0, run, node.id.as_str(), scope.as_str());
            }
        }
    }
    let rows = query_all(
        &mut lease,
        batch,
        [&nodes, &latest, &steps, &context, &counts, &waits],
    )
    .await?;
    Ok(assemble(batch, &rows)?)
}

struct Rows {
    runs: Vec<Row>,
    nodes: Vec<Row>,
    latest: Vec<Row>,
    steps: Vec<Row>,
    context: Vec<Row>,
    counts: Vec<Row>,
    waits: Vec<Row>,
}

async fn query_all(
    lease: &mut Lease,
    batch: &[(RunId, Load)],
    [nodes, latest, steps, context, counts, waits]: [&Wanted<'_>; 6],
) -> Result<Rows, Failure> {
    let positions: Vec<i64> = (0..batch.len() as i64).collect();
    let run_ids: Vec<&str> = batch.iter().map(|(run, _)| run.as_str()).collect();
    let inputs: Vec<bool> = batch.iter().map(|(_, load)| load.input).collect();
    let (runs_sql, nodes_sql) = (lease.statement(RUNS).await?, lease.statement(NODES).await?);
    let latest_sql = if latest.runs.is_empty() {
        nodes_sql.clone()
    } else {
        lease.statement(LATEST).await?
    };
    let (steps_sql, context_sql) = (
        lease.statement(STEPS).await?,
        lease.statement(CONTEXT).await?,
    );
    let counts_sql = lease.statement(REDELIVERIES).await?;
    let waits_sql = if waits.runs.is_empty() {
        counts_sql.clone()
    } else {
        lease.statement(WAITS).await?
    };
    let runs_params: [&(dyn ToSql + Sync); 3] = [&positions, &run_ids, &inputs];
    let client = lease.client();
    let placed = async |wanted: &Wanted<'_>, sql| {
        if wanted.runs.is_empty() {
            return Ok(Vec::new());
        }
        client
            .query(
                sql,
                &[
                    &wanted.positions,
                    &wanted.places,
                    &wanted.runs,
                    &wanted.keys,
                ],
            )
            .await
    };
    let named = async |wanted: &Wanted<'_>, sql| {
        if wanted.runs.is_empty() {
            return Ok(Vec::new());
        }
        client
            .query(
                sql,
                &[
                    &wanted.positions,
                    &wanted.places,
                    &wanted.runs,
                    &wanted.keys,
                    &wanted.scopes,
                ],
            )
            .await
    };
    let scoped = async |wanted: &Wanted<'_>, sql| {
        if wanted.runs.is_empty() {
            return Ok(Vec::new());
        }
        client
            .query(
                sql,
                &[
                    &wanted.positions,
                    &wanted.runs,
                    &wanted.keys,
                    &wanted.scopes,
                ],
            )
            .await
    };
    let (runs, nodes, latest, steps, context, counts, waits) = tokio::try_join!(
        biased;
        client.query(&runs_sql, &runs_params),
        named(nodes, &nodes_sql),
        named(latest, &latest_sql),
        scoped(steps, &steps_sql),
        placed(context, &context_sql),
        scoped(counts, &counts_sql),
        scoped(waits, &waits_sql),
    )?;
    Ok(Rows {
        runs,
        nodes,
        latest,
        steps,
        context,
        counts,
        waits,
    })
}

fn assemble(batch: &[(RunId, Load)], rows: &Rows) -> Result<Vec<Option<Loaded>>, StoreError> {
    let mut answers: Vec<Option<Loaded>> = Vec::new();
    answers.resize_with(batch.len(), || None);
    for row in &rows.runs {
        let position = get::<i64>(row, 0)? as usize;
        let load = &batch[position].1;
        answers[position] = Some(Loaded {
            workflow_hash: hash_at(row, 1)?,
            status: get::<&str>(row, 2)?.parse()?,
            created_at: time_at(row, 3)?,
            input: json_option_at(row, 4)?,
            step: None,
            nodes: vec![None; load.nodes.len()],
            context: vec![None; load.context.len()],
            redeliveries: 0,
            wait: None,
        });
    }
    let mut each =
        |rows: &[Row], set: &mut dyn FnMut(&mut Loaded, &Row) -> Result<(), StoreError>| {
            rows.iter()
                .try_for_each(|row| match &mut answers[get::<i64>(row, 0)? as usize] {
                    Some(loaded) => set(loaded, row),
                    None => Ok(()), // The run began after it was looked for.
                })
        };
    each(&rows.nodes, &mut |loaded, row| {
        loaded.nodes[get::<i64>(row, 1)? as usize] = Some(node_value_at(row, 2)?);
        Ok(())
    })?;
    each(&rows.latest, &mut |loaded, row| {
        let place = &mut loaded.nodes[get::<i64>(row, 1)? as usize];
        if !place.as_ref().is_some_and(|value| value.status.has_ended()) {
            *place = Some(node_value_at(row, 2)?);
        }
        Ok(())
    })?;
    each(&rows.steps, &mut |loaded, row| {
        loaded.step = Some((get::<&str>(row, 1)?.parse()?, count_at(row, 2)?));
        Ok(())
    })?;
    each(&rows.context, &mut |loaded, row| {
        loaded.context[get::<i64>(row, 1)? as usize] = Some(json_at(row, 2)?);
        Ok(())
    })?;
    each(&rows.waits, &mut |loaded, row| {
        let has_come: bool = get(row, 1)?;
        loaded.wait = Some(if has_come {
            Waited::Ended(json_at(row, 2)?)
        } else {
            Waited::Open
        });
        Ok(())
    })?;
    each(&rows.counts, &mut |loaded, row| {
        loaded.redeliveries = count_at(row, 1)?;
        Ok(())
    })?;
    Ok(answers)
}

fn node_value_at(row: &Row, column: usize) -> Result<NodeValue, StoreError> {
    Ok(NodeValue {
        scope: Scope::new(get::<&str>(row, column + 5)?),
        status: get::<&str>(row, column)?.parse()?,
        output: json_at(row, column + 1)?,
        action: get::<Option<&str>>(row, column + 2)?.map(Arc::from),
        error: error_at(row, column + 3)?,
        via: edge_from_i64(get(row, column + 4)?),
    })
}

pub(super) async fn progress(pool: &Pool, run_id: &RunId) -> Result<Option<Progress>, Failure> {
    let rows = pool
        .lease()
        .await?
        .query(PROGRESS, &[&run_id.as_str()])
        .await?;
    Ok(progress_of(&rows)?)
}

pub(super) async fn progress_at(
    pool: &Pool,
    run_id: &RunId,
    places: &[(NodeRef, Scope)],
) -> Result<Option<Progress>, Failure> {
    let nodes: Vec<&str> = places.iter().map(|(node, _)| node.id.as_str()).collect();
    let scopes: Vec<&str> = places.iter().map(|(_, scope)| scope.as_str()).collect();
    let rows = pool
        .lease()
        .await?
        .query(PROGRESS_AT, &[&run_id.as_str(), &nodes, &scopes])
        .await?;
    Ok(progress_of(&rows)?)
}

pub(super) async fn waiting_steps(
    pool: &Pool,
    run_id: &RunId,
    limit: u32,
) -> Result<Vec<(NodeId, Scope)>, Failure> {
    let rows = pool
        .lease()
        .await?
        .query(WAITING, &[&run_id.as_str(), &i64::from(limit)])
        .await?;
    let key = |row: &Row| Ok((node_id_at(row, 0)?, Scope::new(get::<&str>(row, 1)?)));
    rows.iter().map(key).collect()
}

fn progress_of(rows: &[Row]) -> Result<Option<Progress>, StoreError> {
    let (mut run, mut marks, mut joins) = (None, Vec::new(), Vec::new());
    for row in rows {
        match get::<&str>(row, 0)? {
            "run" => run = Some((hash_at(row, 3)?, get::<&str>(row, 1)?.parse::<RunStatus>()?)),
            "step" => marks.push((
                node_id_at(row, 1)?,
                Scope::new(get::<&str>(row, 4)?),
                mark_of(get::<&str>(row, 2)?.parse::<StepStatus>()?),
            )),
            _ => {
                let key = JoinKey {
                    node: get::<&str>(row, 1)?.into(),
                    scope: Scope::new(get::<&str>(row, 4)?),
                };
                joins.push((key, get::<String>(row, 2)?));
            }
        }
    }
    Ok(run.map(|(workflow_hash, status)| Progress {
        workflow_hash,
        status,
        marks,
        joins,
    }))
}

pub(super) async fn steps(pool: &Pool, run_id: &RunId) -> Result<Vec<StepRecord>, Failure> {
    let rows = pool
        .lease()
        .await?
        .query(ALL_STEPS, &[&run_id.as_str()])
        .await?;
    rows.iter().map(|row| Ok(step_at(row)?)).collect()
}

pub(super) async fn step_heads(pool: &Pool, run_id: &RunId) -> Result<Vec<StepHead>, Failure> {
    let rows = pool
        .lease()
        .await?
        .query(STEP_HEADS, &[&run_id.as_str()])
        .await?;
    let head = |row: &Row| {
        Ok(StepHead {
            node_id: node_id_at(row, 0)?,
            scope: Scope::new(get::<&str>(row, 1)?),
            status: get::<&str>(row, 2)?.parse()?,
            attempts: count_at(row, 3)?,
            started_at: time_at(row, 4)?,
            finished_at: time_at(row, 5)?,
        })
    };
    rows.iter().map(head).collect()
}

pub(super) async fn steps_at(
    pool: &Pool,
    run_id: &RunId,
    steps: &[(NodeRef, Scope)],
) -> Result<Vec<Option<StepRecord>>, Failure> {
    let positions: Vec<i64> = (0..steps.len() as i64).collect();
    let nodes: Vec<&str> = steps.iter().map(|(node, _)| node.id.as_str()).collect();
    let scopes: Vec<&str> = steps.iter().map(|(_, scope)| scope.as_str()).collect();
    let rows = pool
        .lease()
        .await?
        .query(STEPS_AT, &[&run_id.as_str(), &positions, &nodes, &scopes])
        .await?;
    let mut found = vec![None; steps.len()];
    for row in &rows {
        found[get::<i64>(row, 10)? as usize] = Some(step_at(row)?);
    }
    Ok(found)
}

fn step_at(row: &Row) -> Result<StepRecord, StoreError> {
    Ok(StepRecord {
        node_id: node_id_at(row, 0)?,
        scope: Scope::new(get::<&str>(row, 1)?),
        status: get::<&str>(row, 2)?.parse()?,
        attempts: count_at(row, 3)?,
        output: json_at(row, 4)?,
        action: get::<Option<&str>>(row, 5)?.map(Arc::from),
        via: edge_from_i64(get(row, 6)?),
        error: error_at(row, 7)?,
        started_at: time_at(row, 8)?,
        finished_at: time_at(row, 9)?,
    })
}
