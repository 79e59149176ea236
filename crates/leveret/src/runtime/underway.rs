//! Jobs that this process drives now. A job that comes again while it is driven here, because the connection that it came by was lost or nobody
//! confirmed it, waits until that is over: what it asks for is being done, and it then goes on from what was recorded.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use leveret_core::ids::{NodeId, RunId, Scope};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

type Key = (RunId, NodeId, Scope);

/// A job's lock, and what holds it once its turn has come.
type Held = (Arc<AsyncMutex<()>>, Option<OwnedMutexGuard<()>>);

/// The jobs of this process, each with the lock that whoever drives it holds.
#[derive(Debug, Default)]
pub(crate) struct Underway(Mutex<HashMap<Key, Arc<AsyncMutex<()>>>>);

/// A job is driven or waited for, until this is dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    underway: &'a Underway,
    key: Key,
    /// The job's lock, and what holds it; taken when this is dropped.
    lock: Option<Held>,
}

impl Underway {
    /// Takes the turn of a job. One that comes again waits for those before it; a mere copy of one that is driven here does without. Cancel-safe.
    pub(crate) async fn turn(
        &self,
        run_id: &RunId,
        node_id: &NodeId,
        scope: &Scope,
        comes_again: bool,
    ) -> Option<Turn<'_>> {
        let key = (run_id.clone(), node_id.clone(), scope.clone());
        let lock = self.jobs().entry(key.clone()).or_default().clone();
        // Made before the wait, which may be dropped.
        let mut turn = Turn {
            underway: self,
            key,
            lock: Some((lock.clone(), None)),
        };
        // The lock is handed over, so that whoever goes away leaves nothing but the turn's own.
        let guard = if comes_again {
            lock.lock_owned().await
        } else {
            lock.try_lock_owned().ok()?
        };
        if let Some((_, held)) = &mut turn.lock {
            *held = Some(guard);
        }
        Some(turn)
    }

    fn jobs(&self) -> MutexGuard<'_, HashMap<Key, Arc<AsyncMutex<()>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut jobs = self.underway.jobs();
        self.lock = None;
        // The map's own: nobody drives it, and nobody waits.
        let is_last = |lock: &Arc<AsyncMutex<()>>| Arc::strong_count(lock) == 1;
        if jobs.get(&self.key).is_some_and(is_last) {
            jobs.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;

    /// Whether whoever waits goes away before or after its turn has come, nothing is left of the job.
    #[tokio::test]
    async fn nothing_is_left_of_who_waited() {
        let (run, node) = (RunId::new("r").unwrap(), NodeId::new("a").unwrap());
        for goes_first in [true, false] {
            let underway = Underway::default();
            let scope = Scope::root();
            let driven = underway.turn(&run, &node, &scope, false).await;
            let mut waiting = Box::pin(underway.turn(&run, &node, &scope, true));
            let mut context = Context::from_waker(Waker::noop());
            assert!(matches!(waiting.as_mut().poll(&mut context), Poll::Pending));
            if goes_first {
                drop(waiting);
                drop(driven);
            } else {
                drop(driven);
                drop(waiting);
            }
            assert!(underway.jobs().is_empty());
        }
    }
}
