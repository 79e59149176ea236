//! PostgreSQL for all who use it: connections that are made when they are needed, TLS, and versioned tables.
//!
//! - **A schema for each user of it.** A pool's connections work in one schema, in which [`Pool::migrate`] counts the versions of each
//!   component's tables.
//! - **A connection is pipelined.** Queries that are polled together on one [`Lease`] go out without waiting for each other.
//! - **Waiting is bounded**: for a connection to be made, for one to be free, for data that nobody acknowledges, and for the answers to all that
//!   is asked with one lease. A server that goes away, or stops, fails the calls under way; the next ones connect again.
//! - **Only what keeps its promises**: a database that is not UTF-8, and a pooler that hands out another session for each transaction, are
//!   refused when the pool is made.
//! - **Certain or not**: a call that failed as [`Reason::Unavailable`] may have happened.

mod error;
mod fitness;
mod migrate;
mod pool;
mod tls;

use std::{path::PathBuf, time::Duration};

use tokio_postgres::config::SslMode;

use self::pool::Target;
pub(crate) use self::{
    error::{PostgresError, Reason},
    pool::{Lease, Pool},
};

/// For queries that all go by index from a few given keys, so that a plan is good for tables of any size: it is made once, and never from the
/// statistics of a table that was empty a moment ago.
pub(crate) const PLANS_BY_KEY: &str =
    "SET jit = off; SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off;
     SET enable_hashjoin = off; SET enable_mergejoin = off";

/// How to reach PostgreSQL, and how much of it to use.
#[derive(Clone)]
pub(crate) struct PoolOptions {
    /// `postgres://user:password@host:port/database?sslmode=…&sslrootcert=…`.
    pub(crate) url: String,
    /// The schema of the tables.
    pub(crate) schema: String,
    /// The most connections.
    pub(crate) connections_max: u32,
    /// The longest that connecting may take, unless the URL says otherwise.
    pub(crate) connect_timeout: Duration,
    /// The longest that a caller waits for a connection to be free.
    pub(crate) lease_timeout: Duration,
    /// The longest that sent data may stay unacknowledged before the connection counts as lost, unless the URL says otherwise.
    pub(crate) silence_max: Duration,
    /// The longest that a lease may be held; then its connection counts as lost. None: for ever, as by who keeps one for itself.
    pub(crate) call_max: Option<Duration>,
    /// Certificates to trust, as `sslrootcert`.
    pub(crate) ca_file: Option<PathBuf>,
    /// Statements that each connection begins with, such as [`PLANS_BY_KEY`].
    pub(crate) settings: &'static str,
}

impl PoolOptions {
    /// The defaults: 4 connections, 5 s to connect, 15 s for one to be free, 15 s of silence and for a call, no settings.
    pub(crate) fn new(url: impl Into<String>, schema: impl Into<String>) -> PoolOptions {
        PoolOptions {
            url: url.into(),
            schema: schema.into(),
            connections_max: 4,
            connect_timeout: pool::CONNECT_TIMEOUT,
            lease_timeout: Duration::from_secs(15),
            silence_max: Duration::from_secs(15),
            call_max: Some(Duration::from_secs(15)),
            ca_file: None,
            settings: "",
        }
    }

    fn target(self) -> Result<Target, PostgresError> {
        let (mut config, ca_file) = tls::parse(&self.url)?;
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(self.connect_timeout);
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(self.silence_max);
        }
        if config.get_application_name().is_none() {
            config.application_name("leveret");
        }
        let ca_file = self.ca_file.or(ca_file.map(PathBuf::from));
        let tls = tls::connector(&config, ca_file.as_deref())?;
        if tls.is_none() {
            config.ssl_mode(SslMode::Disable);
        }
        Ok(Target {
            config,
            tls,
            schema: self.schema,
            settings: self.settings,
            lease_timeout: self.lease_timeout,
            call_max: self.call_max,
        })
    }
}

/// An identifier for SQL.
pub(crate) fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

#[cfg(test)]
mod tests;
