//! A few query-only connections, opened when they are first needed.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::{DatabaseError, DatabaseOptions, Session, connection};

#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    permits: Arc<Semaphore>,
    idle: Arc<Mutex<Vec<Connection>>>,
}

impl Readers {
    pub(super) fn new(options: &DatabaseOptions) -> Readers {
        Readers {
            path: options.path.clone(),
            permits: Arc::new(Semaphore::new(options.readers_max.max(1))),
            idle: Arc::default(),
        }
    }

    pub(super) async fn read<T, F>(&self, job: F) -> Result<T, DatabaseError>
    where
        T: Send + 'static,
        F: FnOnce(&Session<'_>) -> Result<T, DatabaseError> + Send + 'static,
    {
        let permit = self.permits.clone().acquire_owned().await;
        let permit = permit.map_err(|_| DatabaseError::Closed)?;
        let (path, idle, permits) = (self.path.clone(), self.idle.clone(), self.permits.clone());
        let task = tokio::task::spawn_blocking(move || {
            let waiting = lock(&idle).pop();
            let connection = match waiting {
                Some(connection) => connection,
                None => connection::open_reader(&path)?,
            };
            let result = job(&Session::new(&connection));
            // A job that panics takes its connection with it.
            if !permits.is_closed() {
                lock(&idle).push(connection);
            }
            drop(permit);
            result
        });
        task.await.unwrap_or_else(|error| {
            Err(if error.is_panic() {
                DatabaseError::Panicked
            } else {
                DatabaseError::Closed
            })
        })
    }

    pub(super) fn close(&self) {
        self.permits.close();
        lock(&self.idle).clear();
    }
}

fn lock(idle: &Mutex<Vec<Connection>>) -> std::sync::MutexGuard<'_, Vec<Connection>> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}
