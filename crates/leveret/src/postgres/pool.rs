//! A few connections, made when they are needed and again after they were lost.

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::AbortHandle,
    time::{Instant, interval, timeout},
};
use tokio_postgres::{Client, Config, NoTls, Row, Statement, types::ToSql};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{PoolOptions, PostgresError, fitness, migrate, migrate::Component, quoted};

/// The longest that connecting to a server may take when nothing else is said.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How to make a connection.
pub(super) struct Target {
    pub(super) config: Config,
    pub(super) tls: Option<MakeRustlsConnect>,
    pub(super) schema: String,
    pub(super) settings: &'static str,
    pub(super) lease_timeout: Duration,
    pub(super) call_max: Option<Duration>,
}

impl Target {
    /// Connects, without using the schema.
    pub(super) async fn connect(&self) -> Result<Client, PostgresError> {
        Ok(self.bounded(Box::pin(self.connect_unbounded())).await?.0)
    }

    /// The driver's own bound is on the way to each host; one that takes the connection and then says nothing is in this one.
    async fn bounded<T>(
        &self,
        connecting: impl Future<Output = Result<T, PostgresError>>,
    ) -> Result<T, PostgresError> {
        let hosts = self.config.get_hosts().len().max(1) as u32;
        let each = self.config.get_connect_timeout().copied();
        let waited = each.unwrap_or(CONNECT_TIMEOUT) * hosts;
        let connected = timeout(waited, connecting).await;
        connected.map_err(|_| PostgresError::TimedOut {
            what: "no server took the connection",
            waited,
        })?
    }

    async fn connect_unbounded(&self) -> Result<(Client, AbortHandle), PostgresError> {
        macro_rules! spawned {
            ($connected:expr) => {{
                let (client, connection) = $connected.await?;
                let running = tokio::spawn(async move {
                    if let Err(error) = connection.await {
                        tracing::debug!(%error, "a connection to PostgreSQL ended");
                    }
                });
                (client, running.abort_handle())
            }};
        }
        Ok(if let Some(tls) = &self.tls {
            spawned!(self.config.connect(tls.clone()))
        } else {
            spawned!(self.config.connect(NoTls))
        })
    }

    /// Connects for queries.
    async fn connect_for_queries(&self) -> Result<Connection, PostgresError> {
        let connecting = async {
            let (client, running) = self.connect_unbounded().await?;
            let settings = format!(
                "SET search_path TO {}; SET default_transaction_isolation = 'read committed'; {}",
                quoted(&self.schema),
                self.settings
            );
            client.batch_execute(&settings).await?;
            Ok(Connection {
                client,
                running,
                statements: HashMap::new(),
            })
        };
        self.bounded(Box::pin(connecting)).await
    }
}

/// Up to so many connections. Clones share them.
#[derive(Clone)]
pub(crate) struct Pool(Arc<Shared>);

struct Shared {
    target: Arc<Target>,
    permits: Arc<Semaphore>,
    connections_max: u32,
    idle: Mutex<Vec<Connection>>,
    /// Since when each lease is held, and what ends its connection.
    held: Mutex<HashMap<u64, (Instant, AbortHandle)>>,
    leases: AtomicU64,
    closed: AtomicBool,
}

struct Connection {
    client: Client,
    /// Ends the task that reads and writes: whatever is asked by then fails.
    running: AbortHandle,
    statements: HashMap<Cow<'static, str>, Statement>,
}

/// How long closing waits for what is under way.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(5);

impl Pool {
    /// Connects once, so that a wrong URL or password shows now, and a server that does not do. [`Reason::Unavailable`](super::Reason::Unavailable):
    /// nobody answers, try again.
    pub(crate) async fn connect(options: PoolOptions) -> Result<Pool, PostgresError> {
        let connections_max = options.connections_max.max(1);
        let target = Arc::new(options.target()?);
        let connection = target.connect_for_queries().await?;
        target
            .bounded(Box::pin(fitness::check(&target, &connection.client)))
            .await?;
        let pool = Pool::of(target, connections_max);
        pool.0.idle().push(connection);
        Ok(pool)
    }

    /// Another pool of the same options, so that one kind of work does not wait for another's connections.
    pub(crate) fn beside(&self, connections_max: u32) -> Pool {
        Pool::of(self.0.target.clone(), connections_max.max(1))
    }

    fn of(target: Arc<Target>, connections_max: u32) -> Pool {
        let shared = Arc::new(Shared {
            target,
            permits: Arc::new(Semaphore::new(connections_max as usize)),
            connections_max,
            idle: Mutex::default(),
            held: Mutex::default(),
            leases: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        });
        if let Some(call_max) = shared.target.call_max {
            tokio::spawn(watch(Arc::downgrade(&shared), call_max));
        }
        Pool(shared)
    }

    /// Brings a component's tables in the pool's schema to the newest version, and makes the schema if need be: `migrations[n]` leads from
    /// version `n` to `n + 1`, and what was applied once never changes. All of it happens or nothing. Any number of programs may do so at
    /// once. Returns the versions before (0: there were no tables) and after.
    pub(crate) async fn migrate(
        &self,
        component: &'static str,
        migrations: &[&str],
    ) -> Result<(u32, u32), PostgresError> {
        let client = self.0.target.connect().await?;
        migrate::migrate(&client, self.component(component, migrations)).await
    }

    /// Checks that a component's tables have the newest version, without changing anything.
    pub(crate) async fn check(
        &self,
        component: &'static str,
        migrations: &[&str],
    ) -> Result<(), PostgresError> {
        let client = self.0.target.connect().await?;
        migrate::check(&client, self.component(component, migrations)).await
    }

    fn component<'a>(&'a self, name: &'static str, migrations: &'a [&'a str]) -> Component<'a> {
        Component {
            schema: &self.0.target.schema,
            name,
            migrations,
        }
    }

    /// Waits for a connection that is free, or makes one.
    pub(crate) async fn lease(&self) -> Result<Lease, PostgresError> {
        let shared = &self.0;
        if shared.closed.load(Ordering::Acquire) {
            return Err(PostgresError::Closed);
        }
        let waited = shared.target.lease_timeout;
        let permit = timeout(waited, shared.permits.clone().acquire_owned())
            .await
            .map_err(|_| PostgresError::TimedOut {
                what: "no connection was free",
                waited,
            })?
            .map_err(|_| PostgresError::Closed)?;
        let connection = match shared.take_idle() {
            Some(connection) => connection,
            None => shared.target.connect_for_queries().await?,
        };
        let number = shared.leases.fetch_add(1, Ordering::Relaxed);
        let held = (Instant::now(), connection.running.clone());
        shared.held().insert(number, held);
        Ok(Lease {
            connection: Some(connection),
            number,
            in_transaction: false,
            shared: shared.clone(),
            _permit: permit,
        })
    }

    /// A connection beside the pool's, for what belongs to a session. It is closed with its client.
    pub(crate) async fn connection_apart(&self) -> Result<Client, PostgresError> {
        if self.0.closed.load(Ordering::Acquire) {
            return Err(PostgresError::Closed);
        }
        Ok(self.0.target.connect_for_queries().await?.client)
    }

    /// Waits for the leases, those that do not end in time fail, and closes the connections.
    pub(crate) async fn close(&self) {
        let shared = &self.0;
        shared.closed.store(true, Ordering::Release);
        let all = || shared.permits.acquire_many(shared.connections_max);
        let mut returned = timeout(CLOSE_TIME_MAX, all()).await;
        if returned.is_err() {
            shared.give_up(Instant::now());
            returned = timeout(CLOSE_TIME_MAX, all()).await;
        }
        shared.permits.close();
        shared.idle().clear();
        drop(returned);
    }
}

/// Ends the connections of leases that are held for too long.
async fn watch(shared: Weak<Shared>, call_max: Duration) {
    let mut looks = interval((call_max / 8).max(Duration::from_millis(1)));
    loop {
        looks.tick().await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let since = Instant::now().checked_sub(call_max);
        let given_up = since.map_or(0, |since| shared.give_up(since));
        if given_up > 0 {
            tracing::warn!(
                connections = given_up,
                "PostgreSQL did not answer within {call_max:?}; its connections count as lost"
            );
        }
    }
}

impl Shared {
    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> MutexGuard<'_, HashMap<u64, (Instant, AbortHandle)>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails what is asked with leases that are held since then; returns how many these are.
    fn give_up(&self, since: Instant) -> usize {
        let mut held = self.held();
        let before = held.len();
        held.retain(|_, (begun, running)| {
            let goes_on = *begun > since;
            if !goes_on {
                running.abort();
            }
            goes_on
        });
        before - held.len()
    }

    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle();
        idle.retain(|connection| !connection.client.is_closed());
        idle.pop()
    }
}

/// A connection in use. Goes back to the pool when dropped, unless it is lost or in the middle of a transaction: then it is
/// closed, and the server rolls back.
pub(crate) struct Lease {
    connection: Option<Connection>,
    number: u64,
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

    pub(crate) fn client(&self) -> &Client {
        &self
            .connection
            .as_ref()
            .expect("a lease has its connection until it is dropped")
            .client
    }

    /// For transactions, which have the connection for themselves.
    pub(crate) fn client_mut(&mut self) -> &mut Client {
        &mut self.connection().client
    }

    /// The statement, prepared once for each connection.
    pub(crate) async fn statement(
        &mut self,
        sql: impl Into<Cow<'static, str>>,
    ) -> Result<Statement, PostgresError> {
        let (sql, connection) = (sql.into(), self.connection());
        if let Some(statement) = connection.statements.get(&sql) {
            return Ok(statement.clone());
        }
        let statement = connection.client.prepare(&sql).await?;
        connection.statements.insert(sql, statement.clone());
        Ok(statement)
    }

    pub(crate) async fn query(
        &mut self,
        sql: impl Into<Cow<'static, str>>,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, PostgresError> {
        let statement = self.statement(sql).await?;
        Ok(self.client().query(&statement, params).await?)
    }

    /// To be called before BEGIN is sent, and with `false` after the answer to COMMIT or ROLLBACK.
    pub(crate) fn set_in_transaction(&mut self, in_transaction: bool) {
        self.in_transaction = in_transaction;
    }

    /// Rolls back what may have been begun.
    pub(crate) async fn roll_back(&mut self) {
        if self.in_transaction && self.client().batch_execute("ROLLBACK").await.is_ok() {
            self.in_transaction = false;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // One that was given up is not there any more.
        let is_sound = self.shared.held().remove(&self.number).is_some();
        if let Some(connection) = self.connection.take()
            && is_sound
            && !self.in_transaction
            && !connection.client.is_closed()
        {
            self.shared.idle().push(connection);
        }
    }
}
