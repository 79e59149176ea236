//! The log in PostgreSQL, for several hearts of which one is active. Every append locks the heart's row and checks the epoch in its own
//! transaction; leases go by the database's clock.

mod append;
mod entries;
mod epoch;
mod rows;

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use leveret_core::{
    broadcast::{Logged, Outcome, Position},
    time::Timestamp,
};

use tokio::time::timeout;

use self::rows::{int, one, position, unreadable, whole};
use super::{Appended, LOG_LEASE, LogError, NewWrite, WriteLog};
use crate::postgres::{Lease, Pool, PoolOptions};

/// Whose tables are counted.
const COMPONENT: &str = "broadcast";

/// What was applied once never changes; add to the end.
const MIGRATIONS: &[&str] = &[include_str!("postgres.sql")];

/// The schema when nothing else is said.
pub const SCHEMA_DEFAULT: &str = "leveret_broadcast";

/// Connections: an append, a keep, reads of nodes.
const CONNECTIONS_MAX: u32 = 6;

/// Begins a transaction. The server ends it when nothing comes for half a lease: a heart that is frozen, or cut off, in the middle of one
/// holds the row no longer than its lease, and a standby waits for the row no longer than that either.
const BEGIN: &str =
    "BEGIN; SET LOCAL idle_in_transaction_session_timeout = '4s'; SET LOCAL lock_timeout = '6s'";

/// How long the database may take for what requests and the lease wait for. One that is cut off gives no answer at all.
const ANSWER_MAX: Duration = LOG_LEASE;

/// How to reach the log.
#[derive(Clone)]
pub struct PostgresLogOptions {
    /// `postgres://user:password@host:port/database?sslmode=…`.
    pub url: String,
    /// The schema of its tables.
    pub schema: String,
    /// The cluster's id if the log is new.
    pub cluster: String,
    /// Certificates to trust, as `sslrootcert`.
    pub ca_file: Option<PathBuf>,
}

impl PostgresLogOptions {
    /// The defaults.
    pub fn new(url: impl Into<String>, cluster: impl Into<String>) -> PostgresLogOptions {
        PostgresLogOptions {
            url: url.into(),
            schema: SCHEMA_DEFAULT.to_owned(),
            cluster: cluster.into(),
            ca_file: None,
        }
    }
}

/// Leaves out the URL, which may hold a password.
impl fmt::Debug for PostgresLogOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresLogOptions")
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}

/// The log. Clones share its connections.
#[derive(Clone)]
pub struct PostgresWriteLog {
    pool: Pool,
}

impl fmt::Debug for PostgresWriteLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresWriteLog").finish_non_exhaustive()
    }
}

impl PostgresWriteLog {
    /// Connects, and brings the tables to the newest version.
    pub async fn connect(options: PostgresLogOptions) -> Result<PostgresWriteLog, LogError> {
        let pool = PoolOptions {
            connections_max: CONNECTIONS_MAX,
            ca_file: options.ca_file,
            ..PoolOptions::new(options.url, options.schema)
        };
        let pool = Pool::connect(pool).await?;
        pool.migrate(COMPONENT, MIGRATIONS).await?;
        let mut lease = pool.lease().await?;
        lease
            .query(
                "INSERT INTO broadcast_heart (cluster) VALUES ($1) ON CONFLICT DO NOTHING",
                &[&options.cluster],
            )
            .await?;
        drop(lease);
        Ok(PostgresWriteLog { pool })
    }

    async fn begin(&self) -> Result<Lease, LogError> {
        let mut lease = self.pool.lease().await?;
        lease.set_in_transaction(true);
        lease.client().batch_execute(BEGIN).await?;
        Ok(lease)
    }

    /// Ends a transaction: commits it, or undoes it after an error.
    async fn end<T>(mut lease: Lease, result: Result<T, LogError>) -> Result<T, LogError> {
        match result {
            Ok(value) => {
                lease.client().batch_execute("COMMIT").await?;
                lease.set_in_transaction(false);
                Ok(value)
            }
            Err(error) => {
                lease.roll_back().await;
                Err(error)
            }
        }
    }
}

/// Bounds the wait for the database. What it has begun may have happened: a connection that is left in the middle is closed.
async fn bounded<T>(asked: impl Future<Output = Result<T, LogError>>) -> Result<T, LogError> {
    timeout(ANSWER_MAX, asked).await.unwrap_or_else(|_| {
        Err(LogError::Unavailable {
            detail: format!("the log's database does not answer within {ANSWER_MAX:?}"),
        })
    })
}

#[async_trait]
impl WriteLog for PostgresWriteLog {
    async fn cluster(&self) -> Result<Arc<str>, LogError> {
        bounded(async {
            let mut lease = self.pool.lease().await?;
            let row = lease
                .query("SELECT cluster FROM broadcast_heart", &[])
                .await?;
            Ok(one(row)?.try_get::<_, String>(0)?.into())
        })
        .await
    }

    async fn open_epoch(&self, owner: &str, _now: Timestamp) -> Result<(u64, Position), LogError> {
        bounded(async {
            let mut lease = self.begin().await?;
            let opened = epoch::open(&mut lease, owner).await;
            PostgresWriteLog::end(lease, opened).await
        })
        .await
    }

    async fn recover(
        &self,
        owner: &str,
        cluster: &str,
        end: Position,
        _now: Timestamp,
    ) -> Result<u64, LogError> {
        bounded(async {
            let mut lease = self.begin().await?;
            let epoch = epoch::recovered(&mut lease, owner, cluster, end).await;
            PostgresWriteLog::end(lease, epoch).await
        })
        .await
    }

    async fn keep(&self, epoch: u64, _now: Timestamp) -> Result<(), LogError> {
        bounded(async {
            let mut lease = self.begin().await?;
            let kept = epoch::keep(&mut lease, epoch).await;
            PostgresWriteLog::end(lease, kept).await
        })
        .await
    }

    async fn release(&self, epoch: u64) -> Result<(), LogError> {
        bounded(async {
            let mut lease = self.begin().await?;
            let released = epoch::release(&mut lease, epoch).await;
            PostgresWriteLog::end(lease, released).await
        })
        .await
    }

    async fn append(
        &self,
        epoch: u64,
        batch: Vec<NewWrite>,
        now: Timestamp,
    ) -> Result<Vec<Appended>, LogError> {
        bounded(async {
            let mut lease = self.begin().await?;
            let appended = append::append(&mut lease, epoch, &batch, now).await;
            PostgresWriteLog::end(lease, appended).await
        })
        .await
    }

    async fn after(&self, seq: u64, limit: u32, bytes_max: u64) -> Result<Vec<Logged>, LogError> {
        bounded(async {
            let mut lease = self.pool.lease().await?;
            entries::after(&mut lease, seq, limit, bytes_max).await
        })
        .await
    }

    async fn last(&self) -> Result<Position, LogError> {
        bounded(async {
            let mut lease = self.pool.lease().await?;
            let row = lease
                .query("SELECT last_epoch, last_seq FROM broadcast_heart", &[])
                .await?;
            position(&one(row)?, 0)
        })
        .await
    }

    async fn settle(&self, outcomes: Vec<(u64, Outcome)>) -> Result<(), LogError> {
        bounded(async {
            let mut lease = self.pool.lease().await?;
            let (mut seqs, mut texts) = (Vec::new(), Vec::new());
            for (seq, outcome) in &outcomes {
                seqs.push(int(*seq));
                texts.push(serde_json::to_string(outcome).map_err(|error| unreadable(&error))?);
            }
            lease
                .query(
                    "UPDATE broadcast_keys AS known SET outcome = told.outcome
                     FROM unnest($1::bigint[], $2::text[]) AS told (seq, outcome)
                     WHERE known.seq = told.seq AND known.outcome IS NULL",
                    &[&seqs, &texts],
                )
                .await?;
            Ok(())
        })
        .await
    }

    async fn outcome(&self, seq: u64) -> Result<Option<Outcome>, LogError> {
        bounded(async {
            let mut lease = self.pool.lease().await?;
            let rows = lease
                .query(
                    "SELECT outcome FROM broadcast_keys WHERE seq = $1",
                    &[&int(seq)],
                )
                .await?;
            let Some(row) = rows.first() else {
                return Ok(None);
            };
            let text: Option<&str> = row.try_get(0)?;
            text.map(serde_json::from_str)
                .transpose()
                .map_err(|error| unreadable(&error))
        })
        .await
    }

    async fn truncate(&self, seq: u64, keys_before: Timestamp) -> Result<u64, LogError> {
        let mut lease = self.begin().await?;
        let gone = entries::truncated(&mut lease, seq, keys_before).await;
        PostgresWriteLog::end(lease, gone).await
    }

    /// Of the writes that are kept, without what the database has beside them.
    async fn size(&self) -> Result<(u64, u64), LogError> {
        bounded(async {
            let mut lease = self.pool.lease().await?;
            let row = lease
                .query("SELECT bytes, base_seq FROM broadcast_heart", &[])
                .await?;
            let row = one(row)?;
            Ok((whole(&row, 0)?, whole(&row, 1)? + 1))
        })
        .await
    }

    async fn put_fact(&self, epoch: u64, name: &str, value: &str) -> Result<(), LogError> {
        bounded(async {
            let mut lease = self.begin().await?;
            let put = match epoch::locked(&mut lease, epoch).await {
                Ok(_) => lease
                    .query(
                        "INSERT INTO broadcast_facts VALUES ($1, $2)
                         ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                        &[&name, &value],
                    )
                    .await
                    .map(drop)
                    .map_err(LogError::from),
                Err(error) => Err(error),
            };
            PostgresWriteLog::end(lease, put).await
        })
        .await
    }

    async fn facts(&self) -> Result<Vec<(String, String)>, LogError> {
        bounded(async {
            let mut lease = self.pool.lease().await?;
            let rows = lease
                .query(
                    "SELECT name, value FROM broadcast_facts ORDER BY name COLLATE \"C\"",
                    &[],
                )
                .await?;
            let rows = rows
                .iter()
                .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
            rows.collect()
        })
        .await
    }

    async fn close(&self) {
        self.pool.close().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broadcast::log::conformance::write;

    const NOW: Timestamp = Timestamp(0);

    /// A heart that is frozen in the middle of an append holds the log no longer than its lease, and finds itself followed then.
    #[tokio::test]
    async fn a_transaction_that_is_left_open_ends_within_the_lease() {
        let Ok(url) = std::env::var("LEVERET_TEST_POSTGRES_URL") else {
            println!("skipped: LEVERET_TEST_POSTGRES_URL is not set");
            return;
        };
        let schema = format!("leveret_log_test_{:016x}", fastrand::u64(..));
        let connect = || {
            PostgresWriteLog::connect(PostgresLogOptions {
                schema: schema.clone(),
                ..PostgresLogOptions::new(&url, "c1")
            })
        };
        let (frozen, standby) = (connect().await.unwrap(), connect().await.unwrap());
        let (epoch, _) = frozen.open_epoch("frozen", NOW).await.unwrap();
        let mut open = frozen.begin().await.unwrap();
        let appended = append::append(&mut open, epoch, &[write(1, None)], NOW).await;
        assert_eq!(appended.unwrap().len(), 1);
        let taken_over = async {
            loop {
                match standby.open_epoch("standby", NOW).await {
                    Err(LogError::Held { .. }) => {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                    other => return other,
                }
            }
        };
        let taken_over = tokio::time::timeout(LOG_LEASE + Duration::from_secs(3), taken_over).await;
        let (next, last) = taken_over.expect("the row is free in time").unwrap();
        assert_eq!((next, last.seq), (epoch + 1, 0), "nothing was committed");
        let goes_on = PostgresWriteLog::end(open, Ok(())).await;
        assert!(
            matches!(&goes_on, Err(LogError::Unavailable { .. })),
            "{goes_on:?}"
        );
        let fenced = frozen.append(epoch, vec![write(1, None)], NOW).await;
        assert!(matches!(fenced, Err(LogError::Fenced { .. })), "{fenced:?}");
        let drop_all = format!("DROP SCHEMA {schema} CASCADE");
        let lease = standby.pool.lease().await.unwrap();
        lease.client().batch_execute(&drop_all).await.unwrap();
    }
}
