//! Jobs that this process drives now. A job that comes again while it is driven here, because the connection that it came by was lost or nobody
//! confirmed it, waits until that is over: what it asks for is being done, and it then goes on from what was recorded.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use leveret_core::ids::{NodeId, RunId};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

type Key = (RunId, NodeId);

/// The jobs of this process, each with the lock that whoever drives it holds.
#[derive(Debug, Default)]
pub(crate) struct Underway(Mutex<HashMap<Key, Arc<AsyncMutex<()>>>>);

/// A job is driven, until this is dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    underway: &'a Underway,
    key: Key,
    _lock: OwnedMutexGuard<()>,
}

impl Underway {
    /// Takes the turn of a job. One that comes again waits for those before it; a mere copy of one that is driven here does without.
    pub(crate) async fn turn(
        &self,
        run_id: &RunId,
        node_id: &NodeId,
        comes_again: bool,
    ) -> Option<Turn<'_>> {
        let key = (run_id.clone(), node_id.clone());
        let lock = self.jobs().entry(key.clone()).or_default().clone();
        let lock = if comes_again {
            lock.lock_owned().await
        } else {
            lock.try_lock_owned().ok()?
        };
        Some(Turn {
            underway: self,
            key,
            _lock: lock,
        })
    }

    fn jobs(&self) -> MutexGuard<'_, HashMap<Key, Arc<AsyncMutex<()>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut jobs = self.underway.jobs();
        // The map's and this turn's own: nobody waits.
        if jobs
            .get(&self.key)
            .is_some_and(|lock| Arc::strong_count(lock) <= 2)
        {
            jobs.remove(&self.key);
        }
    }
}
