//! Who waits for documents to change.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use crate::service::documents::{Document, Key};

type Latest = Option<Arc<Document>>;

/// Those who watch, by document.
#[derive(Debug, Default)]
pub(super) struct Watchers(Mutex<HashMap<Key, watch::Sender<Latest>>>);

impl Watchers {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, watch::Sender<Latest>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches from now on.
    pub(super) fn watch(self: &Arc<Self>, key: &Key) -> Watch {
        let mut watched = self.lock();
        let sender = watched.entry(key.clone());
        let latest = sender.or_insert_with(|| watch::Sender::new(None));
        Watch {
            latest: latest.subscribe(),
            key: key.clone(),
            watchers: self.clone(),
        }
    }

    /// Tells what documents are now. One that comes late, after a newer one of its key, is left out.
    pub(super) fn tell(&self, documents: &[Arc<Document>]) {
        let watched = self.lock();
        if watched.is_empty() {
            return;
        }
        for document in documents {
            let Some(sender) = watched.get(&document.key) else {
                continue;
            };
            sender.send_if_modified(|latest| {
                let known = latest.as_ref().map_or(0, |latest| latest.version);
                let newer = document.version > known;
                if newer {
                    *latest = Some(document.clone());
                }
                newer
            });
        }
    }
}

/// Sees what commits of this process make of a document, the last one if there were several since the last look.
#[derive(Debug)]
pub struct Watch {
    latest: watch::Receiver<Latest>,
    key: Key,
    watchers: Arc<Watchers>,
}

impl Watch {
    /// Waits for the next commit that puts the document; the document as that left it, durably. Dropping the future misses nothing.
    pub async fn next(&mut self) -> Arc<Document> {
        loop {
            if self.latest.changed().await.is_err() {
                // It is among the watchers as long as somebody watches.
                std::future::pending::<()>().await;
            }
            if let Some(document) = &*self.latest.borrow_and_update() {
                return document.clone();
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watched = self.watchers.lock();
        let sender = watched.get(&self.key);
        if sender.is_some_and(|sender| sender.receiver_count() <= 1) {
            watched.remove(&self.key);
        }
    }
}
