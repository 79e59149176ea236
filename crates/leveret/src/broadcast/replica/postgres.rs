//! A replica in one schema of a PostgreSQL database. Writes are of the [portable subset](leveret_core::broadcast::portable).
//!
//! - **One writer**, a connection of its own that holds an advisory lock: a delivery is one transaction with its outcomes and the position.
//! - **Readers** ask in transactions that are `READ ONLY`, of one snapshot, with a `statement_timeout`.
//! - **What may differ from node to node** is refused by name or said otherwise before PostgreSQL sees it; texts compare by their bytes, since
//!   the database must be of the locale `C`.
//! - **Rebuilt by replay**: there are no snapshots.

mod apply;
mod contents;
mod fault;
mod own;
mod query;
mod values;

use std::{fmt, path::PathBuf, time::Duration};

use async_trait::async_trait;
use leveret_core::broadcast::{Logged, Position};
use tokio::{
    sync::{Mutex, watch},
    time::{Instant, sleep, timeout_at},
};
use tokio_postgres::Client;

use self::{apply::Applier, fault::fault};
use super::{Applied, Contents, Query, ReadError, Replica, ReplicaError, Rows, Snapshot, Standing};
use crate::postgres::{Pool, PoolOptions, quoted};

/// What both sides of a replica must have alike on every node.
const SETTINGS: &str = "SET TimeZone = 'UTC'; SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres'; SET extra_float_digits = 1;
    SET bytea_output = 'hex'; SET standard_conforming_strings = on; SET synchronous_commit = on; SET jit = off;
    SET max_parallel_workers_per_gather = 0; SET transform_null_equals = off; SET client_min_messages = error;
    SET lock_timeout = '10s'; SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0;
    SET default_transaction_read_only = off; SET row_security = off";

/// How long the writer of before may take to let go: a connection that was cut is noticed late.
const CLAIM_PATIENCE: Duration = Duration::from_secs(10);
/// The pause before it is looked at again.
const CLAIM_PAUSE: Duration = Duration::from_millis(100);
/// Whose advisory locks these are: "leve".
const LOCK_CLASS: i32 = 0x6c65_7665;

/// How to reach a replica's database.
#[derive(Clone)]
pub struct PostgresReplicaOptions {
    /// `postgres://user:password@host:port/database?sslmode=…`. The database's locale is `C`, its encoding UTF-8.
    pub url: String,
    /// The schema of the users' tables. `public`.
    pub schema: String,
    /// The most questions that are answered at the same time; also digests. 4.
    pub readers_max: u32,
    /// Certificates to trust, as `sslrootcert`.
    pub ca_file: Option<PathBuf>,
}

impl PostgresReplicaOptions {
    /// The defaults.
    pub fn new(url: impl Into<String>) -> PostgresReplicaOptions {
        PostgresReplicaOptions {
            url: url.into(),
            schema: "public".to_owned(),
            readers_max: 4,
            ca_file: None,
        }
    }
}

/// Leaves out the URL, which may hold a password.
impl fmt::Debug for PostgresReplicaOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresReplicaOptions")
            .field("schema", &self.schema)
            .field("readers_max", &self.readers_max)
            .finish_non_exhaustive()
    }
}

/// A replica in PostgreSQL.
pub struct PostgresReplica {
    applier: Mutex<Applier>,
    writer: Pool,
    readers: Pool,
    standing: watch::Sender<Standing>,
}

impl fmt::Debug for PostgresReplica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresReplica").finish_non_exhaustive()
    }
}

impl PostgresReplica {
    /// Connects, and makes the replica's own tables if they are not there.
    ///
    /// # Errors
    /// [`ReplicaError::LocalFault`], also when another process has the database, or its locale is not `C`.
    pub async fn connect(options: PostgresReplicaOptions) -> Result<PostgresReplica, ReplicaError> {
        let pool = PoolOptions {
            connections_max: options.readers_max,
            ca_file: options.ca_file,
            settings: SETTINGS,
            // The writer keeps its connection for as long as it lives.
            call_max: None,
            ..PoolOptions::new(options.url, options.schema.as_str())
        };
        let readers = Pool::connect(pool).await?;
        let writer = readers.beside(1);
        let lease = writer.lease().await?;
        check_locale(lease.client()).await?;
        make_schema(lease.client(), &options.schema).await?;
        claim(lease.client()).await?;
        own::prepare(lease.client()).await?;
        drop(lease);
        let mut applier = Applier::new(writer.clone());
        let standing = applier.standing().await?;
        Ok(PostgresReplica {
            applier: Mutex::new(applier),
            writer,
            readers,
            standing: watch::Sender::new(standing),
        })
    }

    fn stands(&self, standing: Standing) {
        self.standing.send_replace(standing);
    }

    async fn wait_for(&self, query: &Query, deadline: Instant) -> Result<(), ReadError> {
        let mut standing = self.standing.subscribe();
        let reached = standing.wait_for(|standing| standing.position.seq >= query.min_seq);
        let waited = timeout_at(deadline, reached).await;
        if waited.is_ok_and(|reached| reached.is_ok()) {
            return Ok(());
        }
        Err(ReadError::Behind {
            at: self.standing.borrow().position.seq,
            min_seq: query.min_seq,
        })
    }
}

/// How texts compare, and what their small letters are, is the locale's business, and differs from machine to machine but for `C`.
async fn check_locale(client: &Client) -> Result<(), ReplicaError> {
    let sql = "SELECT datcollate, datctype, pg_encoding_to_char(encoding)::text FROM pg_database WHERE datname = current_database()";
    let row = client
        .query_one(sql, &[])
        .await
        .map_err(|error| fault(&error))?;
    let text = |column| {
        row.try_get::<_, String>(column)
            .map_err(|error| fault(&error))
    };
    let (collate, ctype, encoding) = (text(0)?, text(1)?, text(2)?);
    let is_plain = |locale: &str| ["C", "POSIX"].contains(&locale);
    if is_plain(&collate) && is_plain(&ctype) && encoding == "UTF8" {
        return Ok(());
    }
    Err(ReplicaError::LocalFault {
        detail: format!(
            "the database has locale {collate}/{ctype} and encoding {encoding}, which differ from node to node: make it with \
             CREATE DATABASE … TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'"
        ),
    })
}

async fn make_schema(client: &Client, schema: &str) -> Result<(), ReplicaError> {
    let found = client
        .query_one(
            "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)",
            &[&schema],
        )
        .await;
    let exists: bool = found
        .and_then(|row| row.try_get(0))
        .map_err(|error| fault(&error))?;
    if exists {
        return Ok(());
    }
    let make = format!("CREATE SCHEMA IF NOT EXISTS {}", quoted(schema));
    client
        .batch_execute(&make)
        .await
        .map_err(|error| fault(&error))
}

/// Makes the connection the only one that writes; a process that has just ended may still be seen.
async fn claim(client: &Client) -> Result<(), ReplicaError> {
    let until = Instant::now() + CLAIM_PATIENCE;
    let sql = "SELECT pg_try_advisory_lock($1, hashtext(current_schema()::text))";
    loop {
        let claimed = client.query_one(sql, &[&LOCK_CLASS]).await;
        if claimed
            .and_then(|row| row.try_get(0))
            .map_err(|error| fault(&error))?
        {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(ReplicaError::LocalFault {
                detail: "another process has this database".to_owned(),
            });
        }
        sleep(CLAIM_PAUSE).await;
    }
}

#[async_trait]
impl Replica for PostgresReplica {
    fn kind(&self) -> &'static str {
        "postgres"
    }

    async fn standing(&self) -> Result<Standing, ReplicaError> {
        let standing = self.applier.lock().await.standing().await?;
        self.stands(standing.clone());
        Ok(standing)
    }

    async fn adopt(&self, cluster: &str, seed: bool) -> Result<(), ReplicaError> {
        let standing = self.applier.lock().await.adopt(cluster, seed).await?;
        self.stands(standing);
        Ok(())
    }

    async fn apply(&self, writes: Vec<Logged>) -> Result<Vec<Applied>, ReplicaError> {
        if writes.is_empty() {
            return Ok(Vec::new());
        }
        let (applied, standing) = self.applier.lock().await.apply(&writes).await?;
        self.stands(standing);
        Ok(applied)
    }

    async fn outcomes(&self, after: u64, limit: u32) -> Result<Vec<Applied>, ReplicaError> {
        let lease = self.readers.lease().await?;
        own::outcomes(lease.client(), after, limit).await
    }

    async fn query(&self, query: Query) -> Result<Rows, ReadError> {
        let deadline = Instant::now() + query.limits.time;
        self.wait_for(&query, deadline).await?;
        // A question that is dropped takes its connection along.
        let answered = timeout_at(deadline, query::answer(&self.readers, &query, deadline)).await;
        answered.unwrap_or(Err(ReadError::Limit { what: "time" }))
    }

    async fn contents(&self, of: Contents) -> Result<(Position, [u8; 32]), ReplicaError> {
        contents::digest(&self.readers, of).await
    }

    async fn snapshot(&self, _to: PathBuf) -> Result<Snapshot, ReplicaError> {
        Err(NO_SNAPSHOTS)
    }

    async fn restore(&self, _snapshot: Snapshot) -> Result<(), ReplicaError> {
        Err(NO_SNAPSHOTS)
    }

    async fn clear(&self) -> Result<(), ReplicaError> {
        let standing = self.applier.lock().await.clear().await?;
        self.stands(standing);
        Ok(())
    }

    async fn close(&self) {
        self.applier.lock().await.close();
        self.writer.close().await;
        self.readers.close().await;
    }
}

const NO_SNAPSHOTS: ReplicaError = ReplicaError::Unsupported {
    what: "snapshots: a PostgreSQL node is rebuilt by replay",
};

#[cfg(test)]
mod tests;
