//! Claims, by the server's clock, and what ends them.
//!
//! The first message of a lane can always be claimed, or is; those behind it that are not wait for it. Whoever adds to a lane that has
//! messages locks the last of them, and whoever forgets messages has to wait for that: so either the one sees that the lane is free, or the other
//! sees what is behind. Only two processes that forget parts of one lane at the same time can overlook what follows; [`mend`] finds it.

use std::collections::HashSet;

use leveret_core::time::Timestamp;
use tokio_postgres::{Row, types::ToSql};

use super::{error::Failure, now_ms, read::claimed};
use crate::{
    postgres::{Lease, Pool},
    service::documents::{Claimed, Due, Key, LANE_CLAIM_MAX, OutgoingId},
};

/// How long a claim is good: for this time, while this process lives. Without one, for the time.
#[derive(Clone, Copy, Debug)]
pub(in crate::service) struct Term {
    pub(in crate::service) lease_ms: i64,
    pub(in crate::service) holder: Option<i32>,
}

/// How often a statement is tried again after others got in its way.
const CONFLICTS_MAX: u32 = 10;

/// The lanes, of those in order, that have messages.
pub(in crate::service) const LAST_OF_LANES: &str = "
    SELECT l.lane FROM unnest($1::text[]) AS l (lane)
    CROSS JOIN LATERAL (
        SELECT number FROM outgoing AS o WHERE o.lane = l.lane ORDER BY o.number DESC LIMIT 1 FOR KEY SHARE
    ) AS last";

/// What [`LAST_OF_LANES`] says.
pub(in crate::service) fn occupied(rows: &[Row]) -> Result<HashSet<String>, tokio_postgres::Error> {
    rows.iter().map(|row| row.try_get(0)).collect()
}

/// Of the lanes that wait longest, the first messages. Who locks the first of all has the lane.
const CLAIM: &str = concat!(
    "
    WITH due AS MATERIALIZED (
        SELECT lane, claimable_at_ms FROM outgoing WHERE claimable_at_ms <= ",
    now_ms!(),
    "   ORDER BY claimable_at_ms LIMIT $1
    ), lanes AS MATERIALIZED (
        SELECT lane, min(claimable_at_ms) AS since FROM due GROUP BY lane
    ), heads AS MATERIALIZED (
        SELECT l.lane, l.since, h.number FROM lanes AS l
        CROSS JOIN LATERAL (SELECT o.number FROM outgoing AS o WHERE o.lane = l.lane ORDER BY o.number LIMIT 1) AS h
    ), locked AS MATERIALIZED (
        SELECT h.lane, h.since FROM heads AS h
        JOIN outgoing AS o ON o.lane = h.lane AND o.number = h.number
        WHERE o.claimable_at_ms <= ",
    now_ms!(),
    "   FOR UPDATE OF o SKIP LOCKED
    ), firsts AS MATERIALIZED (
        SELECT k.lane, k.since, f.number, f.claimable_at_ms FROM locked AS k
        CROSS JOIN LATERAL (
            SELECT o.number, o.claimable_at_ms FROM outgoing AS o WHERE o.lane = k.lane ORDER BY o.number LIMIT $2
        ) AS f
    ), free AS MATERIALIZED (
        SELECT f.lane, f.number, row_number() OVER (ORDER BY f.since, f.lane, f.number) AS place FROM firsts AS f
        WHERE f.lane NOT IN (SELECT lane FROM firsts WHERE claimable_at_ms > ",
    now_ms!(),
    ")
    )
    UPDATE outgoing AS o SET claimable_at_ms = ",
    now_ms!(),
    " + $3, holder = $4
    FROM free AS f WHERE f.place <= $1 AND o.lane = f.lane AND o.number = f.number
    RETURNING f.place, o.lane, o.number, o.created_at_ms, o.must_route, o.copied, o.exchange, o.routing_key, o.properties, o.body"
);

pub(super) async fn claim(pool: &Pool, limit: u32, term: Term) -> Result<Vec<Claimed>, Failure> {
    let (limit, most) = (i64::from(limit), LANE_CLAIM_MAX as i64);
    let params: [&(dyn ToSql + Sync); 4] = [&limit, &most, &term.lease_ms, &term.holder];
    claimed(&retried(pool, CLAIM, &params).await?)
}

/// Rows are locked lane by lane, as by those who add to them.
const FORGET: &str = "
    WITH gone AS MATERIALIZED (
        SELECT o.lane, o.number FROM unnest($1::text[], $2::bigint[]) AS n (lane, number)
        JOIN outgoing AS o ON o.lane = n.lane AND o.number = n.number
        ORDER BY o.lane, o.number FOR UPDATE OF o
    )
    DELETE FROM outgoing AS o USING gone AS g WHERE o.lane = g.lane AND o.number = g.number";

const NEXT: &str = concat!(
    "
    WITH lanes AS MATERIALIZED (
        SELECT DISTINCT n.lane FROM unnest($1::text[]) AS n (lane)
    ), firsts AS MATERIALIZED (
        SELECT l.lane, f.number, f.claimable_at_ms FROM lanes AS l
        CROSS JOIN LATERAL (
            SELECT o.number, o.claimable_at_ms FROM outgoing AS o WHERE o.lane = l.lane ORDER BY o.number LIMIT $2
        ) AS f
    ), free AS MATERIALIZED (
        SELECT f.lane, f.number, row_number() OVER (ORDER BY f.lane, f.number) AS place FROM firsts AS f
        WHERE f.lane NOT IN (SELECT lane FROM firsts WHERE claimable_at_ms > ",
    now_ms!(),
    ")
    )
    UPDATE outgoing AS o SET claimable_at_ms = ",
    now_ms!(),
    " + $3, holder = $4
    FROM free AS f
    WHERE o.lane = f.lane AND o.number = f.number AND (o.claimable_at_ms IS NULL OR o.claimable_at_ms <= ",
    now_ms!(),
    ")
    RETURNING f.place, o.lane, o.number, o.created_at_ms, o.must_route, o.copied, o.exchange, o.routing_key, o.properties, o.body"
);

/// Forgets messages and claims the next ones, in one transaction.
pub(super) async fn sent(
    pool: &Pool,
    ids: &[OutgoingId],
    term: Term,
) -> Result<Vec<Claimed>, Failure> {
    let (lanes, numbers) = columns(ids);
    if lanes.is_empty() {
        return Ok(Vec::new());
    }
    let mut conflicts = 0;
    loop {
        let mut lease = pool.lease().await?;
        match sent_once(&mut lease, &lanes, &numbers, term).await {
            Err(failure) => {
                lease.roll_back().await;
                conflicts += 1;
                if !failure.is_conflict() || conflicts == CONFLICTS_MAX {
                    return Err(failure);
                }
            }
            rows => return claimed(&rows?),
        }
    }
}

async fn sent_once(
    lease: &mut Lease,
    lanes: &[&str],
    numbers: &[i64],
    term: Term,
) -> Result<Vec<Row>, Failure> {
    let (forget, next) = (lease.statement(FORGET).await?, lease.statement(NEXT).await?);
    lease.set_in_transaction(true);
    let client = lease.client();
    let most = LANE_CLAIM_MAX as i64;
    let (gone, following): ([&(dyn ToSql + Sync); 2], [&(dyn ToSql + Sync); 4]) = (
        [&lanes, &numbers],
        [&lanes, &most, &term.lease_ms, &term.holder],
    );
    // Two statements, so that the second sees what the first waited for.
    let ((), _, rows, ()) = tokio::try_join!(
        biased;
        client.batch_execute("BEGIN"),
        client.query(&forget, &gone),
        client.query(&next, &following),
        client.batch_execute("COMMIT"),
    )?;
    lease.set_in_transaction(false);
    Ok(rows)
}

const RELEASE: &str = concat!(
    "
    UPDATE outgoing AS o SET claimable_at_ms = ",
    now_ms!(),
    "
    FROM unnest($1::text[], $2::bigint[]) AS n (lane, number)
    WHERE o.lane = n.lane AND o.number = n.number AND o.claimable_at_ms > ",
    now_ms!()
);

pub(super) async fn release(pool: &Pool, ids: &[OutgoingId]) -> Result<(), Failure> {
    let (lanes, numbers) = columns(ids);
    if !lanes.is_empty() {
        retried(pool, RELEASE, &[&lanes, &numbers]).await?;
    }
    Ok(())
}

/// Looks at the first message of each lane, and makes those claimable that wait for nothing.
const MEND: &str = concat!(
    "
    WITH RECURSIVE heads AS (
        (SELECT lane, number, claimable_at_ms FROM outgoing ORDER BY lane, number LIMIT 1)
        UNION ALL
        SELECT n.lane, n.number, n.claimable_at_ms FROM heads AS h
        CROSS JOIN LATERAL (
            SELECT o.lane, o.number, o.claimable_at_ms FROM outgoing AS o WHERE o.lane > h.lane
            ORDER BY o.lane, o.number LIMIT 1
        ) AS n
    )
    UPDATE outgoing AS o SET claimable_at_ms = ",
    now_ms!(),
    "
    FROM heads AS h
    WHERE h.claimable_at_ms IS NULL AND o.lane = h.lane AND o.number = h.number AND o.claimable_at_ms IS NULL"
);

pub(super) async fn mend(pool: &Pool) -> Result<(), Failure> {
    retried(pool, MEND, &[]).await.map(drop)
}

const CLAIM_DEADLINES: &str = concat!(
    "
    WITH due AS MATERIALIZED (
        SELECT kind, id, name, claimable_at_ms FROM deadlines WHERE claimable_at_ms <= ",
    now_ms!(),
    "   ORDER BY claimable_at_ms, at_ms LIMIT $1 FOR UPDATE SKIP LOCKED
    )
    UPDATE deadlines AS d SET claimable_at_ms = ",
    now_ms!(),
    " + $2, holder = $3
    FROM due WHERE d.kind = due.kind AND d.id = due.id AND d.name = due.name
    RETURNING due.claimable_at_ms, d.at_ms, d.kind, d.id, d.name"
);

pub(super) async fn claim_deadlines(
    pool: &Pool,
    limit: u32,
    term: Term,
) -> Result<Vec<Due>, Failure> {
    let limit = i64::from(limit);
    let params: [&(dyn ToSql + Sync); 3] = [&limit, &term.lease_ms, &term.holder];
    let rows = retried(pool, CLAIM_DEADLINES, &params).await?;
    let mut due = Vec::with_capacity(rows.len());
    for row in &rows {
        let at = Timestamp(row.try_get(1)?);
        let key = Key::new(row.try_get::<_, &str>(2)?, row.try_get::<_, &str>(3)?);
        let name = row.try_get::<_, &str>(4)?.into();
        due.push((row.try_get::<_, i64>(0)?, Due { key, name, at }));
    }
    due.sort_by(|(a, one), (b, other)| (a, one.at, &one.key).cmp(&(b, other.at, &other.key)));
    Ok(due.into_iter().map(|(_, due)| due).collect())
}

const PRUNE: &str = "
    WITH old AS MATERIALIZED (
        SELECT consumer, message_id FROM inbox WHERE handled_at_ms < $1
        ORDER BY handled_at_ms LIMIT $2 FOR UPDATE SKIP LOCKED
    ), removed AS (
        DELETE FROM inbox AS i USING old WHERE i.consumer = old.consumer AND i.message_id = old.message_id RETURNING 1
    )
    SELECT count(*) FROM removed";

/// Removes inbox entries from before that moment, the oldest ones.
pub(super) async fn prune(pool: &Pool, before_ms: i64, limit: u32) -> Result<u64, Failure> {
    let rows = retried(pool, PRUNE, &[&before_ms, &i64::from(limit)]).await?;
    let count: Option<i64> = rows.first().map(|row| row.try_get(0)).transpose()?;
    Ok(count.unwrap_or(0) as u64)
}

/// Runs a statement that is a transaction of its own, again if others got in its way.
async fn retried(
    pool: &Pool,
    sql: &'static str,
    params: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, Failure> {
    let mut conflicts = 0;
    loop {
        match pool.lease().await?.query(sql, params).await {
            Err(error) if error.is_conflict() && conflicts < CONFLICTS_MAX => conflicts += 1,
            rows => return Ok(rows?),
        }
    }
}

/// Ids that an adapter like this one gave out, by lane and number.
fn columns(ids: &[OutgoingId]) -> (Vec<&str>, Vec<i64>) {
    let parts = ids.iter().filter_map(OutgoingId::parts);
    parts.map(|(number, lane)| (lane, number as i64)).unzip()
}
