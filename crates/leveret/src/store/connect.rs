//! From a URL to a store: the only place that makes one.

use std::sync::Arc;

use super::{Store, StoreError, memory::MemoryStore, sqlite::SqliteStore};
use crate::{
    connect::{self, ConnectError},
    sqlite::Database,
};

/// Connects to a store, and brings its tables up to date: `sqlite:PATH`, `postgres://…`, `memory:`.
///
/// # Errors
/// [`StoreError::Url`] when the URL cannot be used, [`StoreError::Unavailable`] when nobody answers now.
pub async fn connect(url: &str) -> Result<Arc<dyn Store>, ConnectError> {
    Ok(open(url, "").await?.0)
}

/// The store, and itself again if it lives in a SQLite file.
pub(crate) async fn open(
    url: &str,
    prefix: &str,
) -> Result<(Arc<dyn Store>, Option<SqliteStore>), ConnectError> {
    let _ = prefix;
    match connect::scheme(url) {
        ("sqlite", path) => {
            let store = SqliteStore::open(open_file(path)?)?;
            Ok((Arc::new(store.clone()), Some(store)))
        }
        ("memory", _) => Ok((Arc::new(MemoryStore::new()), None)),
        #[cfg(feature = "postgres")]
        ("postgres" | "postgresql", _) => {
            use super::postgres::{PostgresOptions, PostgresStore};
            let store = PostgresStore::connect(PostgresOptions::prefixed(url, prefix)).await?;
            Ok((Arc::new(store), None))
        }
        _ => Err(no_store(url).into()),
    }
}

pub(crate) fn no_store(url: &str) -> StoreError {
    StoreError::Url {
        detail: connect::no_kind(url, "store", "sqlite", "sqlite:PATH and postgres://…"),
    }
}

pub(crate) fn open_file(path: &str) -> Result<Database, ConnectError> {
    if !connect::is_file(path) {
        let detail = "a store needs a file, such as sqlite:leveret.db".to_owned();
        return Err(StoreError::Url { detail }.into());
    }
    connect::open_file(path)
}
