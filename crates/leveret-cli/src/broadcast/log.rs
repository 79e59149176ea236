//! The heart's log by its URL, and under which name a heart has it.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use leveret::{
    broadcast::{
        LogError, WriteLog,
        log::{
            postgres::{PostgresLogOptions, PostgresWriteLog},
            sqlite::SqliteWriteLog,
        },
    },
    redact_url,
    sqlite::{Database, DatabaseOptions},
};
use tokio::{sync::watch, time::sleep};

use super::{config::sqlite_path, embedded::new_cluster_id, process::make_directory};
use crate::shutdown;

/// The pause before PostgreSQL is tried again that did not answer.
const PAUSE: Duration = Duration::from_secs(1);

/// The name under which this heart is known to the others, in its directory. Persisted.
const ID_FILE: &str = "heart.id";

/// Opens the log. PostgreSQL may be away: it is waited for until `stopped`, then there is none.
pub(super) async fn open(
    url: &str,
    stopped: &watch::Receiver<bool>,
) -> anyhow::Result<Option<Arc<dyn WriteLog>>> {
    let opened = match sqlite_path(url) {
        Some(path) => open_file(path).await.map(Some),
        None => connect(url, stopped).await,
    };
    opened.with_context(|| format!("log {}", redact_url(url)))
}

async fn open_file(path: &Path) -> anyhow::Result<Arc<dyn WriteLog>> {
    if let Some(parent) = path.parent() {
        make_directory(parent)?;
    }
    let path = path.to_owned();
    let opened = tokio::task::spawn_blocking(move || -> anyhow::Result<SqliteWriteLog> {
        let database = Database::open(DatabaseOptions::new(path))?;
        Ok(SqliteWriteLog::open(database, &new_cluster_id())?)
    });
    Ok(Arc::new(opened.await.context("opening the log panicked")??))
}

async fn connect(
    url: &str,
    stopped: &watch::Receiver<bool>,
) -> anyhow::Result<Option<Arc<dyn WriteLog>>> {
    let (mut has_told, mut stopped) = (false, stopped.clone());
    loop {
        let options = PostgresLogOptions::new(url, new_cluster_id());
        match PostgresWriteLog::connect(options).await {
            Ok(log) => return Ok(Some(Arc::new(log))),
            Err(LogError::Unavailable { detail }) => {
                if !std::mem::replace(&mut has_told, true) {
                    tracing::warn!("{}: {detail}; trying on", redact_url(url));
                }
            }
            Err(error) => return Err(error.into()),
        }
        tokio::select! {
            () = shutdown::asked(&mut stopped) => return Ok(None),
            () = sleep(PAUSE) => {}
        }
    }
}

/// Who has the log: the same whenever this heart is started, so that it takes its own lease back at once. Of a file that is whoever has the
/// file open. On PostgreSQL it is made of what two hearts do not share: an address of one machine, and a file of one directory.
pub(super) fn owner(url: &str, address: SocketAddr, directory: &Path) -> anyhow::Result<String> {
    if sqlite_path(url).is_some() {
        return Ok("the file's heart".to_owned());
    }
    let file = directory.join(ID_FILE);
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    let id = if kept.trim().is_empty() {
        let id = format!("{:016x}", fastrand::u64(..));
        std::fs::write(&file, &id).with_context(|| format!("cannot write {}", file.display()))?;
        id
    } else {
        kept.trim().to_owned()
    };
    Ok(format!("{address}/{id}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heart_has_a_name_of_its_own() {
        let directory = std::env::temp_dir().join(format!("leveret-owner-{:x}", fastrand::u64(..)));
        std::fs::create_dir_all(&directory).unwrap();
        let name = |url: &str, port: u16| {
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            owner(url, address, &directory).unwrap()
        };
        let url = "postgres://h/d";
        assert_eq!(name(url, 1), name(url, 1));
        assert_ne!(name(url, 1), name(url, 2), "a neighbour in the directory");
        let before = name(url, 1);
        std::fs::remove_file(directory.join(ID_FILE)).unwrap();
        assert_ne!(name(url, 1), before, "another machine");
        assert_eq!(name("sqlite:a", 1), name("sqlite:a", 2));
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
