//! Schedules in the store's SQLite file.

use async_trait::async_trait;
use leveret_core::{ids::ScheduleId, schedule::Firing, time::Timestamp};
use rusqlite::{Row, params};

use super::{Change, Kept, NEVER, Schedules, forgotten, look, read, read_firing, text};
use crate::{
    sqlite::{Database, DatabaseError, Session},
    store::StoreError,
};

/// What was applied once never changes; add to the end.
const MIGRATIONS: &[&str] = &[include_str!("sqlite.sql")];

/// Schedules in a file. Clones share it.
#[derive(Clone, Debug)]
pub struct SqliteSchedules {
    database: Database,
}

impl SqliteSchedules {
    /// Opens them in a database file, and brings their tables to the newest version. Blocks for the disk.
    pub fn open(database: Database) -> Result<SqliteSchedules, StoreError> {
        database.migrate("schedules", MIGRATIONS)?;
        Ok(SqliteSchedules { database })
    }

    async fn read<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Session<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let read = self
            .database
            .read(move |session| job(session).map_err(DatabaseError::refused));
        Ok(read.await?)
    }

    async fn write<T: Send + 'static>(
        &self,
        mut job: impl FnMut(&Session<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let written = self
            .database
            .write(move |session| job(session).map_err(DatabaseError::refused));
        Ok(written.await?)
    }
}

/// Columns `schedule_id, version, schedule`.
fn kept(row: &Row<'_>) -> Result<Kept, StoreError> {
    let (id, text): (String, String) = (row.get(0)?, row.get(2)?);
    read(&id, row.get(1)?, &text)
}

fn change(session: &Session<'_>, change: &Change) -> Result<bool, StoreError> {
    let (id, schedule) = (change.id.as_str(), text(&change.schedule));
    let changed = if change.version == 0 {
        session.execute(
            "INSERT INTO schedules (schedule_id, version, look_at_ms, schedule) VALUES (?1, 1, ?2, ?3)
             ON CONFLICT DO NOTHING",
            params![id, look(change), schedule],
        )?
    } else {
        session.execute(
            "UPDATE schedules SET version = version + 1, look_at_ms = ?2, schedule = ?3
             WHERE schedule_id = ?1 AND version = ?4",
            params![id, look(change), schedule, change.version as i64],
        )?
    };
    if changed == 0 {
        return Ok(false);
    }
    for firing in &change.over {
        session.execute(
            "INSERT OR REPLACE INTO firings (schedule_id, number, firing) VALUES (?1, ?2, ?3)",
            params![id, firing.number as i64, text(firing)],
        )?;
    }
    session.execute(
        "DELETE FROM firings WHERE schedule_id = ?1 AND number <= ?2",
        params![id, forgotten(&change.schedule)],
    )?;
    Ok(true)
}

#[async_trait]
impl Schedules for SqliteSchedules {
    async fn get(&self, id: &ScheduleId) -> Result<Option<Kept>, StoreError> {
        let id = id.clone();
        self.read(move |session| {
            session.row(
                "SELECT schedule_id, version, schedule FROM schedules WHERE schedule_id = ?1",
                params![id.as_str()],
                kept,
            )
        })
        .await
    }

    async fn list(&self, after: Option<&ScheduleId>, limit: u32) -> Result<Vec<Kept>, StoreError> {
        let after = after.map(|id| id.as_str().to_owned()).unwrap_or_default();
        self.read(move |session| {
            session.rows(
                "SELECT schedule_id, version, schedule FROM schedules WHERE schedule_id > ?1
                 ORDER BY schedule_id LIMIT ?2",
                params![after, limit],
                kept,
            )
        })
        .await
    }

    async fn due(&self, now: Timestamp, limit: u32) -> Result<Vec<Kept>, StoreError> {
        let due = self.read(move |session| {
            session.rows::<_, StoreError>(
                "SELECT schedule_id, version, schedule FROM schedules WHERE look_at_ms <= ?1
                 ORDER BY look_at_ms LIMIT ?2",
                params![now.0, limit],
                |row| Ok(kept(row)),
            )
        });
        Ok(due.await?.into_iter().filter_map(super::readable).collect())
    }

    async fn next_look(&self) -> Result<Option<Timestamp>, StoreError> {
        let next = self.read(|session| {
            session.row::<_, StoreError>("SELECT min(look_at_ms) FROM schedules", [], |row| {
                Ok(row.get::<_, Option<i64>>(0)?)
            })
        });
        let next = next.await?.flatten().filter(|at| *at != NEVER);
        Ok(next.map(Timestamp))
    }

    async fn change(&self, change: &Change) -> Result<bool, StoreError> {
        let change = change.clone();
        self.write(move |session| self::change(session, &change))
            .await
    }

    async fn remove(&self, id: &ScheduleId) -> Result<bool, StoreError> {
        let id = id.clone();
        self.write(move |session| {
            session.execute(
                "DELETE FROM firings WHERE schedule_id = ?1",
                params![id.as_str()],
            )?;
            let removed = session.execute(
                "DELETE FROM schedules WHERE schedule_id = ?1",
                params![id.as_str()],
            )?;
            Ok(removed == 1)
        })
        .await
    }

    async fn history(
        &self,
        id: &ScheduleId,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<Firing>, StoreError> {
        let id = id.clone();
        let before = before.map_or(i64::MAX, |number| i64::try_from(number).unwrap_or(i64::MAX));
        self.read(move |session| {
            session.rows(
                "SELECT firing FROM firings WHERE schedule_id = ?1 AND number < ?2
                 ORDER BY number DESC LIMIT ?3",
                params![id.as_str(), before, limit],
                |row| read_firing(&row.get::<_, String>(0)?),
            )
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{schedules::conformance, sqlite::tests::TempPath};

    #[tokio::test]
    async fn conforms() {
        let path = TempPath::new();
        let database = path.open();
        let schedules = SqliteSchedules::open(database.clone()).expect("migrates");
        conformance::exercise(&schedules).await;
        database.close().await;
    }
}
