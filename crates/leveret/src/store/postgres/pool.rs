//! A few connections, made when they are needed and again after they were lost.

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_postgres::{Client, Config, NoTls, Row, Statement, types::ToSql};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::error::Failure;
use crate::store::StoreError;

/// How to make a connection.
pub(super) struct Target {
    pub(super) config: Config,
    pub(super) tls: Option<MakeRustlsConnect>,
    pub(super) schema: String,
}

impl Target {
    /// Connects, without using the schema.
    pub(super) async fn connect(&self) -> Result<Client, Failure> {
        macro_rules! spawned {
            ($connected:expr) => {{
                let (client, connection) = $connected.await?;
                tokio::spawn(async move {
                    if let Err(error) = connection.await {
                        tracing::debug!(%error, "a connection to PostgreSQL ended");
                    }
                });
                client
            }};
        }
        Ok(if let Some(tls) = &self.tls {
            spawned!(self.config.connect(tls.clone()))
        } else {
            spawned!(self.config.connect(NoTls))
        })
    }

    /// Connects for queries. All of them go by index from a few given keys, so that a plan is good for tables of any size: it is made once,
    /// and never from the statistics of a table that was empty a moment ago.
    async fn connect_for_queries(&self) -> Result<Client, Failure> {
        let client = self.connect().await?;
        let settings = format!(
            "SET search_path TO {}; SET default_transaction_isolation = 'read committed'; SET jit = off;
             SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_hashjoin = off;
             SET enable_mergejoin = off",
            quoted(&self.schema)
        );
        client.batch_execute(&settings).await?;
        Ok(client)
    }
}

/// An identifier for SQL.
pub(super) fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// Up to so many connections. Clones share them.
#[derive(Clone)]
pub(super) struct Pool(Arc<Shared>);

struct Shared {
    target: Arc<Target>,
    permits: Arc<Semaphore>,
    connections_max: u32,
    idle: Mutex<Vec<Connection>>,
    closed: AtomicBool,
}

struct Connection {
    client: Client,
    statements: HashMap<Cow<'static, str>, Statement>,
}

impl Pool {
    pub(super) fn new(target: Arc<Target>, connections_max: u32) -> Pool {
        let connections_max = connections_max.max(1);
        Pool(Arc::new(Shared {
            target,
            permits: Arc::new(Semaphore::new(connections_max as usize)),
            connections_max,
            idle: Mutex::default(),
            closed: AtomicBool::new(false),
        }))
    }

    /// Waits for a connection that is free, or makes one.
    pub(super) async fn lease(&self) -> Result<Lease, Failure> {
        let shared = &self.0;
        let closed = || Failure::Store(StoreError::Closed);
        if shared.closed.load(Ordering::Acquire) {
            return Err(closed());
        }
        let permit = shared
            .permits
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| closed())?;
        let connection = match shared.take_idle() {
            Some(connection) => connection,
            None => Connection {
                client: shared.target.connect_for_queries().await?,
                statements: HashMap::new(),
            },
        };
        Ok(Lease {
            connection: Some(connection),
            in_transaction: false,
            shared: shared.clone(),
            _permit: permit,
        })
    }

    /// Waits for the leases and closes the connections.
    pub(super) async fn close(&self) {
        self.0.closed.store(true, Ordering::Release);
        if let Ok(permits) = self.0.permits.acquire_many(self.0.connections_max).await {
            self.0.permits.close();
            self.0.lock().clear();
            drop(permits);
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.lock();
        idle.retain(|connection| !connection.client.is_closed());
        idle.pop()
    }
}

/// A connection in use. Goes back to the pool when dropped, unless it is lost or in the middle of a transaction: then it is
/// closed, and the server rolls back.
pub(super) struct Lease {
    connection: Option<Connection>,
    in_transaction: bool,
    shared: Arc<Shared>,
    _permit: OwnedSemaphorePermit,
}

impl Lease {
    fn connection(&mut self) -> &mut Connection {
        self.connection
            .as_mut()
            .expect("a lease has its connection until it is dropped")
    }

    pub(super) fn client(&self) -> &Client {
        &self
            .connection
            .as_ref()
            .expect("a lease has its connection until it is dropped")
            .client
    }

    /// The statement, prepared once for each connection.
    pub(super) async fn statement(
        &mut self,
        sql: impl Into<Cow<'static, str>>,
    ) -> Result<Statement, Failure> {
        let (sql, connection) = (sql.into(), self.connection());
        if let Some(statement) = connection.statements.get(&sql) {
            return Ok(statement.clone());
        }
        let statement = connection.client.prepare(&sql).await?;
        connection.statements.insert(sql, statement.clone());
        Ok(statement)
    }

    pub(super) async fn query(
        &mut self,
        sql: impl Into<Cow<'static, str>>,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Failure> {
        let statement = self.statement(sql).await?;
        Ok(self.client().query(&statement, params).await?)
    }

    /// To be called before BEGIN is sent, and with `false` after the answer to COMMIT or ROLLBACK.
    pub(super) fn set_in_transaction(&mut self, in_transaction: bool) {
        self.in_transaction = in_transaction;
    }

    /// Rolls back what may have been begun.
    pub(super) async fn roll_back(&mut self) {
        if self.in_transaction && self.client().batch_execute("ROLLBACK").await.is_ok() {
            self.in_transaction = false;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take()
            && !self.in_transaction
            && !connection.client.is_closed()
        {
            self.shared.lock().push(connection);
        }
    }
}
