//! From URLs to a store and a broker. [`store::connect`] and [`broker::connect`] make each alone; [`connect`] makes both, for an engine,
//! and lets them share a file.
//!
//! | store | |
//! |---|---|
//! | `sqlite:PATH` | a SQLite file |
//! | `postgres://…` | PostgreSQL |
//! | `memory:` | this process's memory, for tests |
//!
//! | broker | |
//! |---|---|
//! | `embedded:` | in the store's SQLite file |
//! | `embedded:PATH` | in a SQLite file of its own |
//! | `amqp://…`, `amqps://…` | RabbitMQ |
//! | `memory:` | this process's memory, for tests |

use std::{fmt, path::Path, sync::Arc};

use serde::Serialize;

use crate::{
    broker::{self, Broker, BrokerError, embedded::EmbeddedBroker},
    one_file::OneFile,
    sqlite::{Database, DatabaseError, DatabaseOptions},
    store::{self, Store, StoreError, sqlite::SqliteStore},
};

/// A store and a broker.
#[derive(Clone)]
pub struct Connected {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The broker.
    pub broker: Arc<dyn Broker>,
    /// Both as one, if they share a file.
    pub one_file: Option<OneFile>,
    /// The SQLite file of the embedded broker, or else of the store, for others who keep tables beside theirs.
    pub database: Option<Database>,
}

impl fmt::Debug for Connected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connected")
            .field("one_file", &self.one_file)
            .finish_non_exhaustive()
    }
}

/// Why no connection was made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The broker.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The SQLite file.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The file's directory cannot be made.
    #[error("cannot make the directory of {path}")]
    Directory {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

/// Connects to a store and a broker, for an engine.
pub async fn connect(store_url: &str, broker_url: &str) -> Result<Connected, ConnectError> {
    connect_prefixed(store_url, broker_url, "").await
}

/// Connects to a store and a broker, for an engine whose [names](crate::runtime::Names::with_prefix) have this prefix. Installations of different
/// prefixes share a database: in PostgreSQL, each has a schema of its own, `leveret_` and the prefix, or `leveret` without one.
pub async fn connect_prefixed(
    store_url: &str,
    broker_url: &str,
    prefix: &str,
) -> Result<Connected, ConnectError> {
    let (store, store_file) = store::connect::open(store_url, prefix).await?;
    let shared = store_file.as_ref().map(SqliteStore::database);
    let (broker, broker_file) = broker::connect::open(broker_url, shared).await?;
    let one_file = match (&store_file, &broker_file) {
        (Some(store), Some(broker)) if store.database().is_same(broker.database()) => {
            Some(OneFile::new(store.clone(), broker.clone()))
        }
        _ => None,
    };
    let database = broker_file.as_ref().map(EmbeddedBroker::database);
    Ok(Connected {
        store,
        broker,
        one_file,
        database: database.or(shared).cloned(),
    })
}

/// Tables that were brought up to date.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Migrated {
    /// Whose tables: `store`, `broker`.
    pub component: String,
    /// Their version before; 0 when there were none.
    pub from: u32,
    /// Their version now.
    pub to: u32,
}

/// Brings the schema of a store, and of a broker in the same file, up to date, and says what that meant. What it returned is durable;
/// a crash before leaves each component as it was or up to date.
pub async fn migrate(store_url: &str) -> Result<Vec<Migrated>, ConnectError> {
    migrate_prefixed(store_url, "").await
}

/// As [`migrate`], for the installation of a prefix: see [`connect_prefixed`].
pub async fn migrate_prefixed(
    store_url: &str,
    prefix: &str,
) -> Result<Vec<Migrated>, ConnectError> {
    let _ = prefix;
    match scheme(store_url) {
        ("sqlite", path) => {
            let database = store::connect::open_file(path)?;
            let before = database.schema_versions()?;
            SqliteStore::open(database.clone())?;
            let broker = EmbeddedBroker::open(database.clone())?;
            let after = database.schema_versions()?;
            broker.close().await;
            database.close().await;
            Ok(changes(&before, after))
        }
        ("memory", _) => Ok(Vec::new()),
        #[cfg(feature = "postgres")]
        ("postgres" | "postgresql", _) => {
            use crate::store::postgres::{PostgresOptions, PostgresStore};
            let (from, to) =
                PostgresStore::migrate(&PostgresOptions::prefixed(store_url, prefix)).await?;
            Ok(vec![Migrated {
                component: "store".to_owned(),
                from,
                to,
            }])
        }
        _ => Err(store::connect::no_store(store_url).into()),
    }
}

/// Removes the tables of an installation in PostgreSQL, with all that is in them; nothing of others, and no file. Nothing brings them back.
///
/// # Errors
/// Those of [`connect`].
pub async fn remove_prefixed(store_url: &str, prefix: &str) -> Result<(), ConnectError> {
    #[cfg(feature = "postgres")]
    if matches!(scheme(store_url).0, "postgres" | "postgresql") {
        use crate::store::postgres::{PostgresOptions, PostgresStore};
        PostgresStore::remove(&PostgresOptions::prefixed(store_url, prefix)).await?;
    }
    let _ = (store_url, prefix);
    Ok(())
}

fn changes(before: &[(String, u32)], after: Vec<(String, u32)>) -> Vec<Migrated> {
    let version_before = |component: &str| {
        before
            .iter()
            .find(|(name, _)| name == component)
            .map_or(0, |(_, version)| *version)
    };
    let changed = after.into_iter().map(|(component, to)| Migrated {
        from: version_before(&component),
        component,
        to,
    });
    changed.collect()
}

/// What to say of a URL of no kind that is known. A path may be meant for that of a file, which has a scheme of its own.
pub(crate) fn no_kind(url: &str, what: &str, of_file: &str, kinds: &str) -> String {
    let (scheme, _) = scheme(url);
    let is_path = scheme.contains(['/', '.', '\\']) || (!url.contains(':') && !url.is_empty());
    if is_path && !url.contains('@') {
        return format!("'{url}' is no kind of {what}; for a file say {of_file}:{url}");
    }
    format!("'{scheme}:' is no kind of {what}; there are {kinds}")
}

/// The kind of a URL and the rest of it. The path of a file may stand behind two slashes, as in `sqlite://x.db` and `sqlite:///var/x.db`.
pub(crate) fn scheme(url: &str) -> (&str, &str) {
    match url.split_once(':').unwrap_or((url, "")) {
        (kind @ ("sqlite" | "embedded"), path) => (kind, path.strip_prefix("//").unwrap_or(path)),
        others => others,
    }
}

/// Whether SQLite takes the path for that of a file. Each connection has a database of its own, which goes with it, for an empty path and for
/// `:memory:`, and may have for a URI. Parameters, which other programs know in such URLs, would become a part of the name.
pub(crate) fn is_file(path: &str) -> bool {
    !path.trim().is_empty()
        && path != ":memory:"
        && !path.starts_with("file:")
        && !path.contains('?')
}

pub(crate) fn open_file(path: &str) -> Result<Database, ConnectError> {
    if let Some(parent) = Path::new(path).parent() {
        std::fs::create_dir_all(parent).map_err(|source| ConnectError::Directory {
            path: path.to_owned(),
            source,
        })?;
    }
    Ok(Database::open(DatabaseOptions::new(path))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::tests::TempPath;

    #[tokio::test]
    async fn what_is_no_kind_is_told() {
        let check = async |store: &str, broker: &str, expect: &str| {
            let error = connect(store, broker).await.expect_err("is refused");
            assert!(error.to_string().contains(expect), "{error}");
        };
        check("/tmp/x.db", "embedded:", "say sqlite:/tmp/x.db").await;
        check("x", "embedded:", "say sqlite:x").await;
        check("mysql://x", "embedded:", "'mysql:' is no kind of store").await;
        check("", "embedded:", "there are sqlite:PATH").await;
        check("memory:", "./b.db", "say embedded:./b.db").await;
        check("memory:", "redis://h", "'redis:' is no kind of broker").await;
    }

    /// Each seam alone; others find the file of the embedded broker.
    #[tokio::test]
    async fn stores_and_brokers_connect_apart() {
        let paths: Vec<TempPath> = (0..5).map(|_| TempPath::new()).collect();
        let at = |scheme: &str, path: usize| format!("{scheme}:{}", paths[path].0.display());
        let store = store::connect(&at("sqlite", 0)).await.expect("a store");
        let broker = broker::connect(&at("embedded", 1)).await.expect("a broker");
        store.ping().await.expect("works");
        assert!(broker.is_connected());
        for slashes in ["sqlite://", "sqlite:"] {
            let url = format!("{slashes}{}", paths[2].0.display());
            assert_eq!(scheme(&url), ("sqlite", &*paths[2].0.display().to_string()));
        }
        assert_eq!(scheme("sqlite://x.db"), ("sqlite", "x.db"));
        let alone = broker::connect("embedded:")
            .await
            .err()
            .expect("needs a file");
        assert!(alone.to_string().contains("embedded:PATH"), "{alone}");

        let shared = connect(&at("sqlite", 2), "embedded:").await.expect("both");
        assert!(shared.one_file.is_some());
        assert_eq!(shared.database.expect("a file").path(), paths[2].0);
        let apart = connect(&at("sqlite", 3), &at("embedded", 4))
            .await
            .expect("both");
        assert!(apart.one_file.is_none());
        assert_eq!(apart.database.expect("a file").path(), paths[4].0);
        let without = connect("memory:", "memory:").await.expect("both");
        assert!(without.database.is_none());
    }

    /// What is no file would lose what was accepted; it is refused before anything is made.
    #[tokio::test]
    async fn a_store_needs_a_file() {
        for url in [
            "sqlite",
            "sqlite:",
            "sqlite: ",
            "sqlite::memory:",
            "sqlite:file:x?mode=memory",
            "sqlite://x.db?mode=rwc",
            "sqlite://",
        ] {
            let refused = [
                connect(url, "embedded:").await.err(),
                migrate(url).await.err(),
            ];
            for error in refused {
                let error = error.expect("is refused").to_string();
                assert!(
                    error.contains("such as sqlite:leveret.db"),
                    "{url}: {error}"
                );
            }
        }
        for url in ["embedded::memory:", "embedded:file:x?mode=memory"] {
            let error = connect("memory:", url).await.expect_err("is refused");
            let error = error.to_string();
            assert!(error.contains("such as embedded:"), "{url}: {error}");
        }
    }
}
