//! Who waits for documents to change.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use crate::service::documents::Key;

/// Those who wait, by document.
#[derive(Debug, Default)]
pub(super) struct Watchers(Mutex<HashMap<Key, Vec<oneshot::Sender<()>>>>);

impl Watchers {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Vec<oneshot::Sender<()>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers now; resolves at the next change.
    pub(super) fn wait(self: &Arc<Self>, key: &Key) -> impl Future<Output = ()> + Send + use<> {
        let (sender, changed) = oneshot::channel();
        let mut waiting = self.lock();
        let waiting = waiting.entry(key.clone()).or_default();
        // Those who gave up make room.
        waiting.retain(|waiter| !waiter.is_closed());
        waiting.push(sender);
        let gone = Gone {
            watchers: self.clone(),
            key: key.clone(),
        };
        async move {
            let _gone = gone;
            drop(changed.await);
        }
    }

    /// Tells those who wait for these documents.
    pub(super) fn tell(&self, keys: &[Key]) {
        let mut waiting = self.lock();
        if waiting.is_empty() {
            return;
        }
        for key in keys {
            for waiter in waiting.remove(key).unwrap_or_default() {
                // Whoever waited may have gone.
                let _gone = waiter.send(());
            }
        }
    }
}

/// Somebody who waited and is gone.
struct Gone {
    watchers: Arc<Watchers>,
    key: Key,
}

impl Drop for Gone {
    fn drop(&mut self) {
        let mut waiting = self.watchers.lock();
        if let Some(others) = waiting.get_mut(&self.key) {
            others.retain(|waiter| !waiter.is_closed());
            if others.is_empty() {
                waiting.remove(&self.key);
            }
        }
    }
}
