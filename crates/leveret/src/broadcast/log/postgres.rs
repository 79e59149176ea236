//! The log in PostgreSQL, for several hearts of which one is active. Every append locks the heart's row and checks the epoch in its own
//! transaction; leases go by the database's clock.

use std::{collections::HashMap, fmt, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use leveret_core::{
    broadcast::{Logged, Outcome, Position, Write},
    time::Timestamp,
};
use tokio_postgres::Row;

use super::{Appended, Key, LOG_LEASE, LogError, NewWrite, WriteLog};
use crate::postgres::{Lease, Pool, PoolOptions, PostgresError, Reason};

/// Whose tables are counted.
const COMPONENT: &str = "broadcast";

/// What was applied once never changes; add to the end.
const MIGRATIONS: &[&str] = &[include_str!("postgres.sql")];

/// The schema when nothing else is said.
pub const SCHEMA_DEFAULT: &str = "leveret_broadcast";

/// Connections: an append, a keep, reads of nodes.
const CONNECTIONS_MAX: u32 = 6;

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
        lease.client().batch_execute("BEGIN").await?;
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

impl From<PostgresError> for LogError {
    fn from(error: PostgresError) -> LogError {
        let detail = error.to_string();
        match error.reason() {
            Reason::Unavailable | Reason::Closed => LogError::Unavailable { detail },
            Reason::Refused | Reason::Corrupt | Reason::Url | Reason::Schema => {
                LogError::Refused { detail }
            }
        }
    }
}

impl From<tokio_postgres::Error> for LogError {
    fn from(error: tokio_postgres::Error) -> LogError {
        PostgresError::from(error).into()
    }
}

/// PostgreSQL's whole numbers have a sign; ours have none, and are far from where that matters.
fn int(number: u64) -> i64 {
    number.cast_signed()
}

fn whole(row: &Row, column: usize) -> Result<u64, LogError> {
    Ok(row.try_get::<_, i64>(column)?.cast_unsigned())
}

fn position(row: &Row, column: usize) -> Result<Position, LogError> {
    Ok(Position {
        epoch: whole(row, column)?,
        seq: whole(row, column + 1)?,
    })
}

fn one(rows: Vec<Row>) -> Result<Row, LogError> {
    rows.into_iter().next().ok_or_else(|| LogError::Refused {
        detail: "the heart's row is missing".to_owned(),
    })
}

fn unreadable(error: &serde_json::Error) -> LogError {
    LogError::Refused {
        detail: format!("a row cannot be read: {error}"),
    }
}

/// Locks the heart's row until the transaction ends: nobody else opens an epoch meanwhile. Returns the last position.
async fn locked(lease: &mut Lease, epoch: u64) -> Result<Position, LogError> {
    let row = lease
        .query(
            "SELECT epoch, last_epoch, last_seq FROM broadcast_heart FOR UPDATE",
            &[],
        )
        .await?;
    let row = one(row)?;
    match whole(&row, 0)? {
        found if found == epoch => position(&row, 1),
        found => Err(LogError::Fenced { epoch: found }),
    }
}

fn lease_seconds() -> f64 {
    LOG_LEASE.as_secs_f64()
}

async fn open(lease: &mut Lease, owner: &str) -> Result<(u64, Position), LogError> {
    let row = lease
        .query(
            "SELECT owner, owner <> $1 AND until > clock_timestamp(),
                    CASE WHEN until = '-infinity' THEN 0 ELSE (extract(epoch FROM until) * 1000)::bigint END
             FROM broadcast_heart FOR UPDATE",
            &[&owner],
        )
        .await?;
    let row = one(row)?;
    if row.try_get(1)? {
        return Err(LogError::Held {
            owner: row.try_get(0)?,
            until: Timestamp(row.try_get(2)?),
        });
    }
    let row = lease
        .query(
            "UPDATE broadcast_heart
             SET epoch = epoch + 1, owner = $1, until = clock_timestamp() + make_interval(secs => $2)
             RETURNING epoch, last_epoch, last_seq",
            &[&owner, &lease_seconds()],
        )
        .await?;
    let row = one(row)?;
    Ok((whole(&row, 0)?, position(&row, 1)?))
}

async fn recovered(
    lease: &mut Lease,
    owner: &str,
    cluster: &str,
    end: Position,
) -> Result<u64, LogError> {
    let row = lease
        .query(
            "UPDATE broadcast_heart
             SET epoch = greatest(epoch, $1) + 1, owner = $3, cluster = $4, bytes = 0,
                 until = clock_timestamp() + make_interval(secs => $5),
                 base_epoch = $1, base_seq = $2, last_epoch = $1, last_seq = $2
             RETURNING epoch",
            &[
                &int(end.epoch),
                &int(end.seq),
                &owner,
                &cluster,
                &lease_seconds(),
            ],
        )
        .await?;
    lease.query("DELETE FROM broadcast_log", &[]).await?;
    whole(&one(row)?, 0)
}

/// The writes of a batch by columns, and the keys of those that have one.
#[derive(Default)]
struct Columns {
    seqs: Vec<i64>,
    ats: Vec<i64>,
    seeds: Vec<i64>,
    statements: Vec<String>,
    names: Vec<String>,
    digests: Vec<Vec<u8>>,
    key_seqs: Vec<i64>,
}

async fn append(
    lease: &mut Lease,
    epoch: u64,
    batch: &[NewWrite],
    now: Timestamp,
) -> Result<Vec<Appended>, LogError> {
    let mut last = locked(lease, epoch).await?;
    let mut known = known(lease, batch).await?;
    let mut columns = Columns::default();
    let mut appended = Vec::with_capacity(batch.len());
    for new in batch {
        let found = new.key.as_ref().and_then(|key| {
            let (digest, position) = known.get(&*key.name)?;
            Some(if digest[..] == key.digest {
                Appended::Known(*position)
            } else {
                Appended::KeyTaken
            })
        });
        if let Some(found) = found {
            appended.push(found);
            continue;
        }
        last = Position {
            epoch,
            seq: last.seq + 1,
        };
        columns.push(new, last)?;
        if let Some(key) = &new.key {
            known.insert(key.name.to_string(), (key.digest.to_vec(), last));
        }
        appended.push(Appended::New(last));
    }
    columns.insert(lease, last, now).await?;
    Ok(appended)
}

type Known = HashMap<String, (Vec<u8>, Position)>;

async fn known(lease: &mut Lease, batch: &[NewWrite]) -> Result<Known, LogError> {
    let keys = batch.iter().filter_map(|new| new.key.as_ref());
    let names: Vec<&str> = keys.map(|key: &Key| &*key.name).collect();
    if names.is_empty() {
        return Ok(Known::new());
    }
    let rows = lease
        .query(
            "SELECT name, digest, epoch, seq FROM broadcast_keys WHERE name = ANY($1)",
            &[&names],
        )
        .await?;
    let rows = rows.iter().map(|row| {
        let known = (row.try_get(1)?, position(row, 2)?);
        Ok((row.try_get(0)?, known))
    });
    rows.collect()
}

impl Columns {
    fn push(&mut self, new: &NewWrite, at: Position) -> Result<(), LogError> {
        self.seqs.push(int(at.seq));
        self.ats.push(new.write.at.0);
        self.seeds.push(new.write.seed.cast_signed());
        let statements =
            serde_json::to_string(&new.write.statements).map_err(|error| unreadable(&error))?;
        self.statements.push(statements);
        if let Some(key) = &new.key {
            self.names.push(key.name.to_string());
            self.digests.push(key.digest.to_vec());
            self.key_seqs.push(int(at.seq));
        }
        Ok(())
    }

    async fn insert(
        self,
        lease: &mut Lease,
        last: Position,
        now: Timestamp,
    ) -> Result<(), LogError> {
        if self.seqs.is_empty() {
            return Ok(());
        }
        let epoch = int(last.epoch);
        lease
            .query(
                "INSERT INTO broadcast_log (seq, epoch, at, seed, statements)
                 SELECT seq, $1, at, seed, statements
                 FROM unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::text[]) AS new (seq, at, seed, statements)",
                &[&epoch, &self.seqs, &self.ats, &self.seeds, &self.statements],
            )
            .await?;
        if !self.names.is_empty() {
            lease
                .query(
                    "INSERT INTO broadcast_keys (name, digest, epoch, seq, at)
                     SELECT name, digest, $1, seq, $2
                     FROM unnest($3::text[], $4::bytea[], $5::bigint[]) AS new (name, digest, seq)",
                    &[&epoch, &now.0, &self.names, &self.digests, &self.key_seqs],
                )
                .await?;
        }
        let bytes = self.statements.iter().map(|text| text.len() + ROW_BYTES);
        let bytes = bytes.sum::<usize>() as i64;
        lease
            .query(
                "UPDATE broadcast_heart SET last_epoch = $1, last_seq = $2, bytes = bytes + $3",
                &[&epoch, &int(last.seq), &bytes],
            )
            .await?;
        Ok(())
    }
}

/// What a row takes beside its statements, about.
const ROW_BYTES: usize = 64;

fn logged(row: &Row) -> Result<(Logged, u64), LogError> {
    let text: &str = row.try_get(4)?;
    let logged = Logged {
        position: Position {
            epoch: whole(row, 1)?,
            seq: whole(row, 0)?,
        },
        write: Write {
            at: Timestamp(row.try_get(2)?),
            seed: whole(row, 3)?,
            statements: serde_json::from_str(text).map_err(|error| unreadable(&error))?,
        },
    };
    Ok((logged, text.len() as u64))
}

async fn truncated(lease: &mut Lease, seq: u64, keys_before: Timestamp) -> Result<u64, LogError> {
    // The row first, as an append does.
    lease
        .query("SELECT 1 FROM broadcast_heart FOR UPDATE", &[])
        .await?;
    lease
        .query(
            "DELETE FROM broadcast_keys WHERE at < $1",
            &[&keys_before.0],
        )
        .await?;
    let end = lease
        .query(
            "SELECT epoch, seq FROM broadcast_log WHERE seq <= $1 ORDER BY seq DESC LIMIT 1",
            &[&int(seq)],
        )
        .await?;
    let Some(end) = end.first() else { return Ok(0) };
    let end = position(end, 0)?;
    let gone = lease
        .query(
            "WITH gone AS (DELETE FROM broadcast_log WHERE seq <= $1 RETURNING octet_length(statements) AS bytes)
             SELECT count(*), coalesce(sum(bytes), 0)::bigint FROM gone",
            &[&int(end.seq)],
        )
        .await?;
    let gone = one(gone)?;
    let count: i64 = gone.try_get(0)?;
    let bytes = gone.try_get::<_, i64>(1)? + count * ROW_BYTES as i64;
    lease
        .query(
            "UPDATE broadcast_heart SET base_epoch = $1, base_seq = $2, bytes = greatest(bytes - $3, 0)",
            &[&int(end.epoch), &int(end.seq), &bytes],
        )
        .await?;
    Ok(count.cast_unsigned())
}

#[async_trait]
impl WriteLog for PostgresWriteLog {
    async fn cluster(&self) -> Result<Arc<str>, LogError> {
        let mut lease = self.pool.lease().await?;
        let row = lease
            .query("SELECT cluster FROM broadcast_heart", &[])
            .await?;
        Ok(one(row)?.try_get::<_, String>(0)?.into())
    }

    async fn open_epoch(&self, owner: &str, _now: Timestamp) -> Result<(u64, Position), LogError> {
        let mut lease = self.begin().await?;
        let opened = open(&mut lease, owner).await;
        PostgresWriteLog::end(lease, opened).await
    }

    async fn recover(
        &self,
        owner: &str,
        cluster: &str,
        end: Position,
        _now: Timestamp,
    ) -> Result<u64, LogError> {
        let mut lease = self.begin().await?;
        let epoch = recovered(&mut lease, owner, cluster, end).await;
        PostgresWriteLog::end(lease, epoch).await
    }

    async fn keep(&self, epoch: u64, _now: Timestamp) -> Result<(), LogError> {
        let mut lease = self.begin().await?;
        let kept = match locked(&mut lease, epoch).await {
            Ok(_) => lease
                .query(
                    "UPDATE broadcast_heart SET until = clock_timestamp() + make_interval(secs => $1)",
                    &[&lease_seconds()],
                )
                .await
                .map(drop)
                .map_err(LogError::from),
            Err(error) => Err(error),
        };
        PostgresWriteLog::end(lease, kept).await
    }

    async fn append(
        &self,
        epoch: u64,
        batch: Vec<NewWrite>,
        now: Timestamp,
    ) -> Result<Vec<Appended>, LogError> {
        let mut lease = self.begin().await?;
        let appended = append(&mut lease, epoch, &batch, now).await;
        PostgresWriteLog::end(lease, appended).await
    }

    async fn after(&self, seq: u64, limit: u32, bytes_max: u64) -> Result<Vec<Logged>, LogError> {
        let mut lease = self.pool.lease().await?;
        // One statement, so that what is gone is seen to be gone. The bytes of rows that do not fit are not read.
        let rows = lease
            .query(
                "SELECT seq, epoch, at, seed, statements FROM (
                     SELECT *, sum(octet_length(statements)) OVER (ORDER BY seq) - octet_length(statements) AS before
                     FROM (SELECT * FROM broadcast_log WHERE seq > $1 ORDER BY seq LIMIT $2) AS next
                 ) AS sized WHERE before <= $3::bigint ORDER BY seq",
                &[&int(seq), &i64::from(limit), &i64::try_from(bytes_max).unwrap_or(i64::MAX)],
            )
            .await?;
        let mut entries = Vec::with_capacity(rows.len());
        let mut bytes = 0;
        for row in &rows {
            let (entry, size) = logged(row)?;
            bytes += size;
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(entry);
        }
        if entries
            .first()
            .is_some_and(|first| first.position.seq == seq + 1)
        {
            return Ok(entries);
        }
        let row = lease
            .query("SELECT base_seq FROM broadcast_heart", &[])
            .await?;
        let base = whole(&one(row)?, 0)?;
        if seq < base {
            return Err(LogError::Truncated { oldest: base + 1 });
        }
        Ok(Vec::new())
    }

    async fn last(&self) -> Result<Position, LogError> {
        let mut lease = self.pool.lease().await?;
        let row = lease
            .query("SELECT last_epoch, last_seq FROM broadcast_heart", &[])
            .await?;
        position(&one(row)?, 0)
    }

    async fn settle(&self, outcomes: Vec<(u64, Outcome)>) -> Result<(), LogError> {
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
    }

    async fn outcome(&self, seq: u64) -> Result<Option<Outcome>, LogError> {
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
    }

    async fn truncate(&self, seq: u64, keys_before: Timestamp) -> Result<u64, LogError> {
        let mut lease = self.begin().await?;
        let gone = truncated(&mut lease, seq, keys_before).await;
        PostgresWriteLog::end(lease, gone).await
    }

    /// Of the writes that are kept, without what the database has beside them.
    async fn size(&self) -> Result<(u64, u64), LogError> {
        let mut lease = self.pool.lease().await?;
        let row = lease
            .query("SELECT bytes, base_seq FROM broadcast_heart", &[])
            .await?;
        let row = one(row)?;
        Ok((whole(&row, 0)?, whole(&row, 1)? + 1))
    }

    async fn put_fact(&self, epoch: u64, name: &str, value: &str) -> Result<(), LogError> {
        let mut lease = self.begin().await?;
        let put = match locked(&mut lease, epoch).await {
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
    }

    async fn facts(&self) -> Result<Vec<(String, String)>, LogError> {
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
    }

    async fn close(&self) {
        self.pool.close().await;
    }
}
