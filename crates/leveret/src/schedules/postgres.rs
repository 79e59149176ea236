//! Schedules in the store's schema on PostgreSQL. Each call is one statement, which is its own transaction.

use async_trait::async_trait;
use leveret_core::{ids::ScheduleId, schedule::Firing, time::Timestamp};
use tokio_postgres::Row;

use super::{Change, Kept, NEVER, Schedules, forgotten, look, read, read_firing, readable, text};
use crate::{
    postgres::{Pool, PostgresError},
    store::StoreError,
};

/// Whose tables are counted.
pub(crate) const COMPONENT: &str = "schedules";

/// What was applied once never changes; add to the end.
pub(crate) const MIGRATIONS: &[&str] = &[include_str!("postgres.sql")];

/// Schedules on a server. Clones share its connections.
#[derive(Clone)]
pub struct PostgresSchedules {
    pool: Pool,
}

impl std::fmt::Debug for PostgresSchedules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresSchedules").finish_non_exhaustive()
    }
}

const GET: &str = "SELECT schedule_id, version, schedule FROM schedules WHERE schedule_id = $1";

const LIST: &str = "
    SELECT schedule_id, version, schedule FROM schedules WHERE schedule_id > $1 ORDER BY schedule_id LIMIT $2";

const DUE: &str = "
    SELECT schedule_id, version, schedule FROM schedules WHERE look_at_ms <= $1 ORDER BY look_at_ms LIMIT $2";

const NEXT: &str = "SELECT min(look_at_ms) FROM schedules";

/// The version 0 is that of one that is not there yet. Firings come only with a version that was the one.
const CHANGE: &str = "
    WITH made AS (
        INSERT INTO schedules (schedule_id, version, look_at_ms, schedule) SELECT $1, 1, $3, $4 WHERE $2 = 0::bigint
        ON CONFLICT DO NOTHING RETURNING schedule_id
    ), changed AS (
        UPDATE schedules SET version = version + 1, look_at_ms = $3, schedule = $4
        WHERE schedule_id = $1 AND version = $2 AND $2 <> 0 RETURNING schedule_id
    ), done AS (
        SELECT schedule_id FROM made UNION ALL SELECT schedule_id FROM changed
    ), forgotten AS (
        DELETE FROM firings f USING done d WHERE f.schedule_id = d.schedule_id AND f.number <= $5
    ), told AS (
        INSERT INTO firings (schedule_id, number, firing)
        SELECT d.schedule_id, n.number, n.firing FROM done d, unnest($6::bigint[], $7::text[]) AS n (number, firing)
        ON CONFLICT (schedule_id, number) DO UPDATE SET firing = excluded.firing
    )
    SELECT schedule_id FROM done";

const REMOVE: &str = "DELETE FROM schedules WHERE schedule_id = $1 RETURNING schedule_id";

const HISTORY: &str = "
    SELECT firing FROM firings WHERE schedule_id = $1 AND number < $2 ORDER BY number DESC LIMIT $3";

impl PostgresSchedules {
    /// Over connections to a schema that has the tables.
    pub(crate) fn new(pool: Pool) -> PostgresSchedules {
        PostgresSchedules { pool }
    }

    async fn query(
        &self,
        sql: &'static str,
        params: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> Result<Vec<Row>, StoreError> {
        let mut lease = self.pool.lease().await?;
        Ok(lease.query(sql, params).await?)
    }
}

fn unreadable(error: tokio_postgres::Error) -> StoreError {
    PostgresError::from(error).into()
}

/// Columns `schedule_id, version, schedule`.
fn kept(row: &Row) -> Result<Kept, StoreError> {
    let id: &str = row.try_get(0).map_err(unreadable)?;
    let version = row.try_get(1).map_err(unreadable)?;
    read(id, version, row.try_get(2).map_err(unreadable)?)
}

#[async_trait]
impl Schedules for PostgresSchedules {
    async fn get(&self, id: &ScheduleId) -> Result<Option<Kept>, StoreError> {
        let rows = self.query(GET, &[&id.as_str()]).await?;
        rows.first().map(kept).transpose()
    }

    async fn list(&self, after: Option<&ScheduleId>, limit: u32) -> Result<Vec<Kept>, StoreError> {
        let after = after.map_or("", ScheduleId::as_str);
        let rows = self.query(LIST, &[&after, &i64::from(limit)]).await?;
        rows.iter().map(kept).collect()
    }

    async fn due(&self, now: Timestamp, limit: u32) -> Result<Vec<Kept>, StoreError> {
        let rows = self.query(DUE, &[&now.0, &i64::from(limit)]).await?;
        Ok(rows.iter().map(kept).filter_map(readable).collect())
    }

    async fn next_look(&self) -> Result<Option<Timestamp>, StoreError> {
        let rows = self.query(NEXT, &[]).await?;
        let next = rows.first().map(|row| row.try_get::<_, Option<i64>>(0));
        let next = next.transpose().map_err(unreadable)?.flatten();
        Ok(next.filter(|at| *at != NEVER).map(Timestamp))
    }

    async fn change(&self, change: &Change) -> Result<bool, StoreError> {
        let numbers: Vec<i64> = change.over.iter().map(|over| over.number as i64).collect();
        let firings: Vec<String> = change.over.iter().map(text).collect();
        let schedule = text(&change.schedule);
        let changed = self
            .query(
                CHANGE,
                &[
                    &change.id.as_str(),
                    &(change.version as i64),
                    &look(change),
                    &schedule,
                    &forgotten(&change.schedule),
                    &numbers,
                    &firings,
                ],
            )
            .await?;
        Ok(!changed.is_empty())
    }

    async fn remove(&self, id: &ScheduleId) -> Result<bool, StoreError> {
        Ok(!self.query(REMOVE, &[&id.as_str()]).await?.is_empty())
    }

    async fn history(
        &self,
        id: &ScheduleId,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<Firing>, StoreError> {
        let before = before.map_or(i64::MAX, |number| i64::try_from(number).unwrap_or(i64::MAX));
        let rows = self
            .query(HISTORY, &[&id.as_str(), &before, &i64::from(limit)])
            .await?;
        let firing = |row: &Row| read_firing(row.try_get(0).map_err(unreadable)?);
        rows.iter().map(firing).collect()
    }
}
