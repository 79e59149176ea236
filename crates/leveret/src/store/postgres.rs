//! The store on PostgreSQL, for workers on several machines.
//!
//! Everything lives in one schema of its own. Batches are set-based: a commit of any size is one or two round trips, see `commit`.
//! Connections are made when they are needed; when the server goes away, calls fail with [`StoreError::Unavailable`], and the next ones
//! connect again. Whatever a call that failed so did or did not do, it may be repeated.

mod commit;
mod error;
mod prune;
mod read;
mod rows;
mod runs;
mod signals;
mod timers;
mod workflows;

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use self::workflows::Known;
use super::{
    Batching, Committed, Finished, Load, Loaded, NewRun, NewSignal, NewTimer, NodeRef, Pass,
    Progress, RunEnd, RunFilter, RunRecord, Signalled, Started, StepHead, StepRecord, Store,
    StoreError, Timer, WaitFilter, WaitRecord, WorkflowRecord,
};
use crate::{
    postgres::{PLANS_BY_KEY, Pool, PoolOptions, quoted},
    schedules::{self, PostgresSchedules, Schedules},
};
use async_trait::async_trait;
use leveret_core::{
    ids::{NodeId, RunId, Scope, StepKey, WorkflowId},
    json::Json,
    time::Timestamp,
    workflow::{Workflow, WorkflowHash},
};

/// Whose tables are counted.
const COMPONENT: &str = "store";

/// In order; the version is how many have been applied.
const MIGRATIONS: &[&str] = &[
    include_str!("postgres/schema.sql"),
    include_str!("postgres/unbegun.sql"),
    include_str!("postgres/scopes.sql"),
    include_str!("postgres/signals.sql"),
];

/// The longest name of a schema.
const SCHEMA_BYTES_MAX: usize = 63;

/// How to reach PostgreSQL, and how much of it to use.
#[derive(Clone)]
pub struct PostgresOptions {
    /// `postgres://user:password@host:port/database?sslmode=…`. With `sslmode` `require`, `verify-ca` or `verify-full` the connection is
    /// encrypted and the server verified; `sslrootcert` names a file of certificates to trust instead of the system's.
    pub url: String,
    /// The schema that holds the tables.
    pub schema: String,
    /// The prefix of the installation whose runs they are.
    pub prefix: String,
    /// Connections for commits and everything else that writes.
    pub write_connections_max: u32,
    /// Connections for reading.
    pub read_connections_max: u32,
    /// The longest that connecting may take, unless the URL says otherwise.
    pub connect_timeout: Duration,
    /// The longest that sent data may stay unacknowledged before the connection counts as lost, unless the URL says otherwise.
    pub silence_max: Duration,
    /// The longest that a call may hold a connection; then the connection counts as lost. A server that stopped answers nothing, and keeps its
    /// connections.
    pub call_max: Duration,
    /// Certificates to trust, as `sslrootcert`.
    pub ca_file: Option<PathBuf>,
    /// Whether [`PostgresStore::connect`] applies migrations. Otherwise it only checks the schema's version.
    pub migrate: bool,
}

impl PostgresOptions {
    /// The defaults: schema `leveret`, 6 connections for writing and 4 for reading, migrations applied.
    pub fn new(url: impl Into<String>) -> PostgresOptions {
        PostgresOptions {
            url: url.into(),
            schema: "leveret".to_owned(),
            prefix: String::new(),
            write_connections_max: 6,
            read_connections_max: 4,
            connect_timeout: Duration::from_secs(5),
            silence_max: Duration::from_secs(15),
            call_max: Duration::from_secs(15),
            ca_file: None,
            migrate: true,
        }
    }

    /// The defaults for the installation of a prefix: schema `leveret_` and the prefix, if it has characters.
    pub fn prefixed(url: impl Into<String>, prefix: &str) -> PostgresOptions {
        let options = PostgresOptions::new(url);
        if prefix.is_empty() {
            return options;
        }
        PostgresOptions {
            schema: format!("leveret_{prefix}"),
            prefix: prefix.to_owned(),
            ..options
        }
    }

    /// PostgreSQL cuts longer names, and two could become one.
    fn check(&self) -> Result<(), StoreError> {
        if self.schema.len() <= SCHEMA_BYTES_MAX {
            return Ok(());
        }
        let detail = format!(
            "the schema '{}' has more than {SCHEMA_BYTES_MAX} bytes: take a shorter prefix",
            self.schema
        );
        Err(StoreError::Refused { detail })
    }

    fn pool(&self) -> PoolOptions {
        PoolOptions {
            connections_max: self.write_connections_max,
            connect_timeout: self.connect_timeout,
            silence_max: self.silence_max,
            call_max: Some(self.call_max),
            ca_file: self.ca_file.clone(),
            settings: PLANS_BY_KEY,
            ..PoolOptions::new(&self.url, &self.schema)
        }
    }
}

/// Leaves out the URL, which may hold a password.
impl fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresOptions")
            .field("schema", &self.schema)
            .field("write_connections_max", &self.write_connections_max)
            .field("read_connections_max", &self.read_connections_max)
            .finish_non_exhaustive()
    }
}

/// The store. Clones share its connections.
#[derive(Clone)]
pub struct PostgresStore(Arc<Inner>);

struct Inner {
    schema: String,
    prefix: String,
    writes: Pool,
    reads: Pool,
    known: Known,
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore")
            .field("schema", &self.0.schema)
            .finish_non_exhaustive()
    }
}

impl PostgresStore {
    /// Connects, and applies migrations if the options say so.
    ///
    /// [`StoreError::Url`]: the URL cannot be used. [`StoreError::Unavailable`]: nobody answers, try again. [`StoreError::Refused`]: wrong user,
    /// password or database, or no right to create the tables. [`StoreError::Schema`]: the tables are of another version.
    pub async fn connect(options: PostgresOptions) -> Result<PostgresStore, StoreError> {
        options.check()?;
        let writes = Pool::connect(options.pool()).await?;
        if options.migrate {
            writes.migrate(COMPONENT, MIGRATIONS).await?;
            writes
                .migrate(schedules::COMPONENT, schedules::MIGRATIONS)
                .await?;
        } else {
            writes.check(COMPONENT, MIGRATIONS).await?;
            writes
                .check(schedules::COMPONENT, schedules::MIGRATIONS)
                .await?;
        }
        let reads = writes.beside(options.read_connections_max);
        Ok(PostgresStore(Arc::new(Inner {
            schema: options.schema,
            prefix: options.prefix,
            writes,
            reads,
            known: Known::default(),
        })))
    }

    /// Creates the schema or brings it up to date, under a lock: any number of programs may do so at once. Returns its version before (0: there
    /// was none) and after.
    pub async fn migrate(options: &PostgresOptions) -> Result<(u32, u32), StoreError> {
        options.check()?;
        let pool = Pool::connect(options.pool()).await?;
        let versions = pool.migrate(COMPONENT, MIGRATIONS).await?;
        pool.migrate(schedules::COMPONENT, schedules::MIGRATIONS)
            .await?;
        pool.close().await;
        Ok(versions)
    }

    /// Removes the schema with all tables in it. Nothing brings them back.
    pub async fn remove(options: &PostgresOptions) -> Result<(), StoreError> {
        options.check()?;
        let pool = Pool::connect(options.pool()).await?;
        let drop = format!("DROP SCHEMA IF EXISTS {} CASCADE", quoted(&options.schema));
        let mut lease = pool.lease().await?;
        lease.query(drop, &[]).await?;
        std::mem::drop(lease);
        pool.close().await;
        Ok(())
    }
}

#[async_trait]
impl Store for PostgresStore {
    fn prefix(&self) -> Option<&str> {
        Some(&self.0.prefix)
    }

    /// While some transactions wait for the disk, the next ones work. The other connections are for timers and starts.
    fn batching(&self) -> Batching {
        Batching {
            steps_max: 512,
            calls_max: 4,
        }
    }

    async fn put_workflow(
        &self,
        workflow: &Workflow,
        now: Timestamp,
    ) -> Result<(WorkflowRecord, bool), StoreError> {
        Ok(workflows::put(&self.0.writes, &self.0.known, workflow, now).await?)
    }

    async fn workflow(&self, id: &WorkflowId) -> Result<Option<WorkflowRecord>, StoreError> {
        Ok(workflows::newest(&self.0.reads, id).await?)
    }

    async fn workflow_version(
        &self,
        id: &WorkflowId,
        version: u32,
    ) -> Result<Option<WorkflowRecord>, StoreError> {
        Ok(workflows::version(&self.0.reads, id, version).await?)
    }

    async fn definition(&self, hash: &WorkflowHash) -> Result<Option<Json>, StoreError> {
        Ok(workflows::definition(&self.0.reads, hash).await?)
    }

    async fn workflows(
        &self,
        after: Option<&WorkflowId>,
        limit: u32,
    ) -> Result<Vec<WorkflowRecord>, StoreError> {
        Ok(workflows::page(&self.0.reads, after, limit).await?)
    }

    async fn start(&self, batch: &[NewRun]) -> Result<Vec<Started>, StoreError> {
        Ok(runs::start(&self.0.writes, &self.0.known, batch).await?)
    }

    async fn commit(&self, batch: &[Arc<Finished>]) -> Result<Vec<Committed>, StoreError> {
        Ok(commit::commit(&self.0.writes, batch).await?)
    }

    async fn load(&self, batch: &[(RunId, Load)]) -> Result<Vec<Option<Loaded>>, StoreError> {
        Ok(read::load(&self.0.reads, batch).await?)
    }

    async fn set_redeliveries(&self, key: &StepKey, count: u32) -> Result<(), StoreError> {
        Ok(timers::set_redeliveries(&self.0.writes, key, count).await?)
    }

    async fn claim_timers(
        &self,
        now: Timestamp,
        claim: Duration,
        limit: u32,
    ) -> Result<Vec<Timer>, StoreError> {
        Ok(timers::claim(&self.0.writes, now, claim, limit).await?)
    }

    async fn set_timers(&self, timers: &[NewTimer]) -> Result<(), StoreError> {
        Ok(timers::set(&self.0.writes, timers).await?)
    }

    async fn remove_timers(&self, timers: &[Timer]) -> Result<(), StoreError> {
        Ok(timers::remove(&self.0.writes, timers).await?)
    }

    async fn next_timer(&self) -> Result<Option<Timestamp>, StoreError> {
        Ok(timers::next(&self.0.reads).await?)
    }

    async fn mark_unbegun(&self, runs: &[RunId]) -> Result<(), StoreError> {
        Ok(timers::mark_unbegun(&self.0.writes, runs).await?)
    }

    async fn claim_unbegun(
        &self,
        until: Timestamp,
        limit: u32,
    ) -> Result<Vec<(RunId, WorkflowHash)>, StoreError> {
        Ok(timers::claim_unbegun(&self.0.writes, until, limit).await?)
    }

    async fn claim_stalled(
        &self,
        now: Timestamp,
        quiet: Duration,
        limit: u32,
    ) -> Result<(Vec<RunId>, u32), StoreError> {
        Ok(timers::claim_stalled(&self.0.writes, now, quiet, limit).await?)
    }

    async fn signal(
        &self,
        batch: &[NewSignal],
        now: Timestamp,
        claim: Duration,
    ) -> Result<Vec<Signalled>, StoreError> {
        Ok(signals::signal(&self.0.writes, batch, now, claim).await?)
    }

    async fn waits(&self, filter: &WaitFilter) -> Result<Vec<WaitRecord>, StoreError> {
        Ok(signals::list(&self.0.reads, filter).await?)
    }

    async fn put_off(&self, runs: &[RunId], until: Timestamp) -> Result<(), StoreError> {
        Ok(timers::put_off(&self.0.writes, runs, until).await?)
    }

    async fn progress_at(
        &self,
        run_id: &RunId,
        places: &[(NodeRef, Scope)],
    ) -> Result<Option<Progress>, StoreError> {
        Ok(read::progress_at(&self.0.reads, run_id, places).await?)
    }

    async fn waiting_steps(
        &self,
        run_id: &RunId,
        limit: u32,
    ) -> Result<Vec<(NodeId, Scope)>, StoreError> {
        Ok(read::waiting_steps(&self.0.reads, run_id, limit).await?)
    }

    async fn progress(&self, run_id: &RunId) -> Result<Option<Progress>, StoreError> {
        Ok(read::progress(&self.0.reads, run_id).await?)
    }

    async fn cancel(
        &self,
        run_id: &RunId,
        now: Timestamp,
    ) -> Result<Option<(RunEnd, bool)>, StoreError> {
        Ok(runs::cancel(&self.0.writes, run_id, now).await?)
    }

    async fn prune(
        &self,
        before: Timestamp,
        pass: Pass,
        limit: u32,
    ) -> Result<(u32, Option<Pass>), StoreError> {
        Ok(prune::prune(&self.0.writes, before, pass, limit).await?)
    }

    async fn run(&self, run_id: &RunId) -> Result<Option<RunRecord>, StoreError> {
        Ok(runs::run(&self.0.reads, run_id).await?)
    }

    async fn steps(&self, run_id: &RunId) -> Result<Vec<StepRecord>, StoreError> {
        Ok(read::steps(&self.0.reads, run_id).await?)
    }

    async fn step_heads(&self, run_id: &RunId) -> Result<Vec<StepHead>, StoreError> {
        Ok(read::step_heads(&self.0.reads, run_id).await?)
    }

    async fn steps_at(
        &self,
        run_id: &RunId,
        steps: &[(NodeRef, Scope)],
    ) -> Result<Vec<Option<StepRecord>>, StoreError> {
        Ok(read::steps_at(&self.0.reads, run_id, steps).await?)
    }

    async fn timers_of(
        &self,
        run_id: &RunId,
    ) -> Result<Vec<(NodeId, Scope, Timestamp)>, StoreError> {
        Ok(timers::of_run(&self.0.reads, run_id).await?)
    }

    async fn runs(&self, filter: &RunFilter) -> Result<Vec<RunRecord>, StoreError> {
        Ok(runs::runs(&self.0.reads, filter).await?)
    }

    async fn now(&self) -> Result<Option<Timestamp>, StoreError> {
        let mut lease = self.0.reads.lease().await?;
        let sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint";
        let rows = lease.query(sql, &[]).await?;
        Ok(Some(rows::time_at(&rows[0], 0)?))
    }

    fn schedules(&self) -> Arc<dyn Schedules> {
        Arc::new(PostgresSchedules::new(self.0.writes.clone()))
    }

    async fn ping(&self) -> Result<(), StoreError> {
        let mut lease = self.0.reads.lease().await?;
        lease.query("SELECT 1", &[]).await?;
        Ok(())
    }

    async fn close(&self) {
        self.0.writes.close().await;
        self.0.reads.close().await;
    }
}
