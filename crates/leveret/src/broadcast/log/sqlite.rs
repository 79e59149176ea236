//! The log in a SQLite file: one heart's, since the file has one process. A batch is a job of the file's writer, so a commit of it is one fsync.

use std::sync::Arc;

use async_trait::async_trait;
use leveret_core::{
    broadcast::{Logged, Outcome, Position, Write},
    time::Timestamp,
};
use rusqlite::Row;

use super::{Appended, Key, LOG_LEASE, LogError, NewWrite, WriteLog};
use crate::sqlite::{Database, DatabaseError, Session};

/// What was applied once never changes; add to the end.
const MIGRATIONS: &[&str] = &[include_str!("sqlite.sql")];

/// The log. Clones share the file.
#[derive(Clone, Debug)]
pub struct SqliteWriteLog {
    database: Database,
}

impl SqliteWriteLog {
    /// Opens the log in a database file and brings its tables to the newest version. `cluster` is the cluster's id if the log is new. Blocks
    /// for the disk.
    pub fn open(database: Database, cluster: &str) -> Result<SqliteWriteLog, LogError> {
        database.migrate("broadcast", MIGRATIONS)?;
        let cluster = cluster.to_owned();
        database.write_blocking(move |session| {
            session.execute(
                "INSERT INTO broadcast_heart VALUES (1, ?1, 0, '', 0, 0, 0) ON CONFLICT DO NOTHING",
                [&cluster],
            )?;
            Ok(())
        })?;
        Ok(SqliteWriteLog { database })
    }

    async fn write<T: Send + 'static>(
        &self,
        mut job: impl FnMut(&Session<'_>) -> Result<T, LogError> + Send + 'static,
    ) -> Result<T, LogError> {
        let written = self
            .database
            .write_here(move |session| job(session).map_err(DatabaseError::refused));
        Ok(written.await?)
    }

    async fn read<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Session<'_>) -> Result<T, LogError> + Send + 'static,
    ) -> Result<T, LogError> {
        let read = self
            .database
            .read(move |session| job(session).map_err(DatabaseError::refused));
        Ok(read.await?)
    }
}

impl From<DatabaseError> for LogError {
    fn from(error: DatabaseError) -> LogError {
        match error {
            DatabaseError::Refused(error) => match error.downcast::<LogError>() {
                Ok(error) => *error,
                Err(error) => LogError::Refused {
                    detail: error.to_string(),
                },
            },
            error
                if error.is_retryable()
                    || matches!(
                        error,
                        DatabaseError::Closed | DatabaseError::Uncertain { .. }
                    ) =>
            {
                LogError::Unavailable {
                    detail: error.chain(),
                }
            }
            error => LogError::Refused {
                detail: error.chain(),
            },
        }
    }
}

impl From<rusqlite::Error> for LogError {
    fn from(error: rusqlite::Error) -> LogError {
        DatabaseError::from(error).into()
    }
}

/// The one row of the heart.
struct Heart {
    epoch: u64,
    owner: String,
    until: Timestamp,
    base: Position,
}

fn heart(session: &Session<'_>) -> Result<Heart, LogError> {
    let row = session.row(
        "SELECT epoch, owner, until, base_epoch, base_seq FROM broadcast_heart",
        [],
        |row| {
            Ok::<_, LogError>(Heart {
                epoch: whole(row, 0)?,
                owner: row.get(1)?,
                until: Timestamp(row.get(2)?),
                base: Position {
                    epoch: whole(row, 3)?,
                    seq: whole(row, 4)?,
                },
            })
        },
    )?;
    row.ok_or_else(|| LogError::Refused {
        detail: "the heart's row is missing".to_owned(),
    })
}

fn last(session: &Session<'_>) -> Result<Position, LogError> {
    let last = session.row(
        "SELECT epoch, seq FROM broadcast_log ORDER BY seq DESC LIMIT 1",
        [],
        |row| position(row, 0),
    )?;
    match last {
        Some(last) => Ok(last),
        None => Ok(heart(session)?.base),
    }
}

/// SQLite's whole numbers have a sign; ours have none, and are far from where that matters.
fn int(number: u64) -> i64 {
    number.cast_signed()
}

fn whole(row: &Row<'_>, column: usize) -> Result<u64, LogError> {
    Ok(row.get::<_, i64>(column)?.cast_unsigned())
}

fn position(row: &Row<'_>, column: usize) -> Result<Position, LogError> {
    Ok(Position {
        epoch: whole(row, column)?,
        seq: whole(row, column + 1)?,
    })
}

fn fenced(session: &Session<'_>, epoch: u64) -> Result<(), LogError> {
    let found = heart(session)?.epoch;
    if found == epoch {
        Ok(())
    } else {
        Err(LogError::Fenced { epoch: found })
    }
}

/// The end of the lease in a row of the heart.
fn until(now: Timestamp) -> i64 {
    (now + LOG_LEASE).0
}

fn append_one(
    session: &Session<'_>,
    new: &NewWrite,
    position: Position,
    now: Timestamp,
) -> Result<Appended, LogError> {
    if let Some(key) = &new.key {
        if let Some(known) = known(session, key)? {
            return Ok(known);
        }
        session.execute(
            "INSERT INTO broadcast_keys VALUES (?1, ?2, ?3, ?4, ?5, NULL)",
            (
                &*key.name,
                &key.digest[..],
                int(position.epoch),
                int(position.seq),
                now.0,
            ),
        )?;
    }
    let write = &new.write;
    let statements =
        serde_json::to_string(&write.statements).map_err(|error| unreadable(&error))?;
    session.execute(
        "INSERT INTO broadcast_log VALUES (?1, ?2, ?3, ?4, ?5)",
        (
            int(position.seq),
            int(position.epoch),
            write.at.0,
            write.seed.cast_signed(),
            statements,
        ),
    )?;
    Ok(Appended::New(position))
}

fn known(session: &Session<'_>, key: &Key) -> Result<Option<Appended>, LogError> {
    session.row(
        "SELECT epoch, seq, digest FROM broadcast_keys WHERE name = ?1",
        [&*key.name],
        |row| {
            let is_same = row.get_ref(2)?.as_blob().ok() == Some(&key.digest[..]);
            let known = position(row, 0)?;
            Ok(if is_same {
                Appended::Known(known)
            } else {
                Appended::KeyTaken
            })
        },
    )
}

fn unreadable(error: &serde_json::Error) -> LogError {
    LogError::Refused {
        detail: format!("a row cannot be read: {error}"),
    }
}

fn logged(row: &Row<'_>) -> Result<(Logged, u64), LogError> {
    let text = row.get_ref(4)?.as_str().map_err(DatabaseError::from)?;
    let logged = Logged {
        position: Position {
            epoch: whole(row, 1)?,
            seq: whole(row, 0)?,
        },
        write: Write {
            at: Timestamp(row.get(2)?),
            seed: row.get::<_, i64>(3)?.cast_unsigned(),
            statements: serde_json::from_str(text).map_err(|error| unreadable(&error))?,
        },
    };
    Ok((logged, text.len() as u64))
}

#[async_trait]
impl WriteLog for SqliteWriteLog {
    async fn cluster(&self) -> Result<Arc<str>, LogError> {
        self.read(|session| {
            let cluster = session.row("SELECT cluster FROM broadcast_heart", [], |row| {
                Ok::<_, LogError>(row.get::<_, String>(0)?)
            })?;
            Ok(cluster.unwrap_or_default().into())
        })
        .await
    }

    async fn open_epoch(&self, owner: &str, now: Timestamp) -> Result<(u64, Position), LogError> {
        let owner = owner.to_owned();
        self.write(move |session| {
            let heart = heart(session)?;
            if heart.owner != owner && now < heart.until {
                return Err(LogError::Held {
                    owner: heart.owner,
                    until: heart.until,
                });
            }
            let epoch = heart.epoch + 1;
            session.execute(
                "UPDATE broadcast_heart SET epoch = ?1, owner = ?2, until = ?3",
                (int(epoch), &owner, until(now)),
            )?;
            Ok((epoch, last(session)?))
        })
        .await
    }

    async fn recover(
        &self,
        owner: &str,
        cluster: &str,
        end: Position,
        now: Timestamp,
    ) -> Result<u64, LogError> {
        let (owner, cluster) = (owner.to_owned(), cluster.to_owned());
        self.write(move |session| {
            let epoch = heart(session)?.epoch.max(end.epoch) + 1;
            session.execute("DELETE FROM broadcast_log", [])?;
            session.execute(
                "UPDATE broadcast_heart
                 SET cluster = ?1, epoch = ?2, owner = ?3, until = ?4, base_epoch = ?5, base_seq = ?6",
                (
                    &cluster,
                    int(epoch),
                    &owner,
                    until(now),
                    int(end.epoch),
                    int(end.seq),
                ),
            )?;
            Ok(epoch)
        })
        .await
    }

    async fn keep(&self, epoch: u64, now: Timestamp) -> Result<(), LogError> {
        self.write(move |session| {
            fenced(session, epoch)?;
            session.execute("UPDATE broadcast_heart SET until = ?1", [until(now)])?;
            Ok(())
        })
        .await
    }

    async fn release(&self, epoch: u64) -> Result<(), LogError> {
        self.write(move |session| {
            fenced(session, epoch)?;
            session.execute("UPDATE broadcast_heart SET until = 0", [])?;
            Ok(())
        })
        .await
    }

    async fn append(
        &self,
        epoch: u64,
        batch: Vec<NewWrite>,
        now: Timestamp,
    ) -> Result<Vec<Appended>, LogError> {
        self.write(move |session| {
            fenced(session, epoch)?;
            let mut next = last(session)?.seq + 1;
            let mut appended = Vec::with_capacity(batch.len());
            for new in &batch {
                let one = append_one(session, new, Position { epoch, seq: next }, now)?;
                next += u64::from(matches!(one, Appended::New(_)));
                appended.push(one);
            }
            Ok(appended)
        })
        .await
    }

    async fn after(&self, seq: u64, limit: u32, bytes_max: u64) -> Result<Vec<Logged>, LogError> {
        self.read(move |session| {
            let base = heart(session)?.base.seq;
            if seq < base {
                return Err(LogError::Truncated { oldest: base + 1 });
            }
            let mut statement = session.prepare_cached(
                "SELECT seq, epoch, at, seed, statements FROM broadcast_log WHERE seq > ?1 ORDER BY seq LIMIT ?2",
            )?;
            let mut rows = statement.query((int(seq), limit))?;
            let (mut entries, mut bytes) = (Vec::new(), 0);
            while let Some(row) = rows.next()? {
                let (entry, size) = logged(row)?;
                bytes += size;
                if bytes > bytes_max && !entries.is_empty() {
                    break;
                }
                entries.push(entry);
            }
            Ok(entries)
        })
        .await
    }

    async fn last(&self) -> Result<Position, LogError> {
        self.read(last).await
    }

    async fn settle(&self, outcomes: Vec<(u64, Outcome)>) -> Result<(), LogError> {
        self.write(move |session| {
            for (seq, outcome) in &outcomes {
                let outcome = serde_json::to_string(outcome).map_err(|error| unreadable(&error))?;
                session.execute(
                    "UPDATE broadcast_keys SET outcome = ?2 WHERE seq = ?1 AND outcome IS NULL",
                    (int(*seq), outcome),
                )?;
            }
            Ok(())
        })
        .await
    }

    async fn outcome(&self, seq: u64) -> Result<Option<Outcome>, LogError> {
        self.read(move |session| {
            let text = session.row(
                "SELECT outcome FROM broadcast_keys WHERE seq = ?1",
                [int(seq)],
                |row| Ok::<_, LogError>(row.get::<_, Option<String>>(0)?),
            )?;
            let outcome = text.flatten().map(|text| serde_json::from_str(&text));
            outcome.transpose().map_err(|error| unreadable(&error))
        })
        .await
    }

    async fn truncate(&self, seq: u64, keys_before: Timestamp) -> Result<u64, LogError> {
        self.write(move |session| {
            session.execute("DELETE FROM broadcast_keys WHERE at < ?1", [keys_before.0])?;
            let end = session.row(
                "SELECT epoch, seq FROM broadcast_log WHERE seq <= ?1 ORDER BY seq DESC LIMIT 1",
                [int(seq)],
                |row| position(row, 0),
            )?;
            let Some(end) = end else { return Ok(0) };
            session.execute(
                "UPDATE broadcast_heart SET base_epoch = ?1, base_seq = ?2",
                (int(end.epoch), int(end.seq)),
            )?;
            let gone =
                session.execute("DELETE FROM broadcast_log WHERE seq <= ?1", [int(end.seq)])?;
            Ok(gone as u64)
        })
        .await
    }

    /// Of the whole file, less what is free in it.
    async fn size(&self) -> Result<(u64, u64), LogError> {
        self.read(|session| {
            let pragma = |sql| session.query_row(sql, [], |row| row.get::<_, i64>(0));
            let used = pragma("PRAGMA page_count")? - pragma("PRAGMA freelist_count")?;
            let bytes = used * pragma("PRAGMA page_size")?;
            Ok((bytes.cast_unsigned(), heart(session)?.base.seq + 1))
        })
        .await
    }

    async fn put_fact(&self, epoch: u64, name: &str, value: &str) -> Result<(), LogError> {
        let (name, value) = (name.to_owned(), value.to_owned());
        self.write(move |session| {
            fenced(session, epoch)?;
            session.execute(
                "INSERT INTO broadcast_facts VALUES (?1, ?2)
                 ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                (&name, &value),
            )?;
            Ok(())
        })
        .await
    }

    async fn facts(&self) -> Result<Vec<(String, String)>, LogError> {
        self.read(|session| {
            session.rows(
                "SELECT name, value FROM broadcast_facts ORDER BY name",
                [],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
        })
        .await
    }

    async fn close(&self) {
        self.database.close().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{broadcast::log::conformance, sqlite::tests::TempPath};

    #[tokio::test]
    async fn keeps_the_promises() {
        let files = std::sync::Mutex::new(Vec::new());
        conformance::exercise(async || {
            let file = TempPath::new();
            let database = file.open();
            files.lock().unwrap().push(file);
            Arc::new(SqliteWriteLog::open(database, "c1").unwrap()) as Arc<dyn WriteLog>
        })
        .await;
    }

    /// All is there when the file is opened again, whatever id the cluster would get now.
    #[tokio::test]
    async fn survives_being_opened_again() {
        let file = TempPath::new();
        let open = || {
            let cluster = uuid::Uuid::now_v7().to_string();
            SqliteWriteLog::open(file.open(), &cluster).unwrap()
        };
        let log = open();
        let cluster = log.cluster().await.unwrap();
        let (epoch, _) = log.open_epoch("a", Timestamp(0)).await.unwrap();
        let new = conformance::write(1, None);
        log.append(epoch, vec![new.clone()], Timestamp(0))
            .await
            .unwrap();
        log.put_fact(epoch, "member/a", "{}").await.unwrap();
        log.close().await;

        let log = open();
        assert_eq!(log.cluster().await.unwrap(), cluster);
        let (again, last) = log.open_epoch("a", Timestamp(1)).await.unwrap();
        assert_eq!((again, last), (epoch + 1, Position { epoch, seq: 1 }));
        let entries = log.after(0, 10, 1 << 20).await.unwrap();
        assert_eq!(entries[0].write, new.write);
        assert_eq!(log.facts().await.unwrap().len(), 1);
    }
}
