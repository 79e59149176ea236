//! Documents at hand: those with commits under way as these will leave them, and some that were used lately.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::service::documents::{Commit, Document, Key};

/// The most documents that are kept without a commit under way.
const DOCUMENTS_MAX: usize = 8192;
/// What their states may take together, in bytes.
const BYTES_MAX: usize = 32 << 20;

/// The documents at hand.
#[derive(Debug, Default)]
pub(super) struct Cache(Mutex<Hand>);

/// The cache, held.
#[derive(Debug, Default)]
pub(super) struct Hand {
    entries: HashMap<Key, Entry>,
    bytes: usize,
    /// Numbers entries and their uses.
    tick: u64,
}

#[derive(Debug)]
struct Entry {
    document: Arc<Document>,
    /// Which entry of its key it is: what was decided upon another one does not count.
    generation: u64,
    /// Commits under way.
    pending: u32,
    used: u64,
}

/// That a commit puts a document which was at hand.
#[derive(Clone, Debug)]
pub(super) struct Mark {
    key: Key,
    generation: u64,
}

impl Cache {
    fn lock(&self) -> MutexGuard<'_, Hand> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn with<T>(&self, job: impl FnOnce(&mut Hand) -> T) -> T {
        job(&mut self.lock())
    }

    /// Those of the keys that are not at hand.
    pub(super) fn missing(&self, keys: &[Key]) -> Vec<Key> {
        let hand = self.lock();
        let missing = keys.iter().filter(|key| !hand.entries.contains_key(key));
        missing.cloned().collect()
    }

    /// Takes a document that was loaded, unless there is one at hand by now.
    pub(super) fn offer(&self, document: Document) {
        self.lock().offer(document);
    }

    /// Whether all that was marked is still as it was when it was decided upon.
    pub(super) fn holds(&self, marks: &[Mark]) -> bool {
        let hand = self.lock();
        marks.iter().all(|mark| hand.entry(mark).is_some())
    }

    /// The commit is done.
    pub(super) fn done(&self, marks: &[Mark]) {
        let mut hand = self.lock();
        for mark in marks {
            if let Some(entry) = hand.entry_mut(mark) {
                entry.pending = entry.pending.saturating_sub(1);
            }
        }
    }

    /// The commit failed, and what was decided upon it with it.
    pub(super) fn failed(&self, marks: &[Mark]) {
        let mut hand = self.lock();
        for mark in marks {
            if hand.entry(mark).is_some() {
                hand.remove(&mark.key);
            }
        }
    }
}

impl Hand {
    /// The documents of these keys, in their order; none if one is not at hand.
    pub(super) fn documents(&mut self, keys: &[Key]) -> Option<Vec<Arc<Document>>> {
        self.tick += 1;
        let tick = self.tick;
        let document = |key: &Key| {
            let entry = self.entries.get_mut(key)?;
            entry.used = tick;
            Some(entry.document.clone())
        };
        keys.iter().map(document).collect()
    }

    /// Takes the documents that a commit puts as it will leave them.
    pub(super) fn replace(&mut self, documents: &[Arc<Document>], commit: &Commit) -> Vec<Mark> {
        let put = commit.put.iter().filter_map(|put| {
            let document = documents.iter().find(|document| document.key == put.key)?;
            let entry = self.entries.get_mut(&put.key)?;
            self.bytes = (self.bytes + size(document)).saturating_sub(size(&entry.document));
            entry.document = document.clone();
            entry.pending += 1;
            Some(Mark {
                key: put.key.clone(),
                generation: entry.generation,
            })
        });
        put.collect()
    }

    fn offer(&mut self, document: Document) {
        if self.entries.contains_key(&document.key) {
            return;
        }
        self.make_room();
        self.tick += 1;
        self.bytes += size(&document);
        let entry = Entry {
            generation: self.tick,
            pending: 0,
            used: self.tick,
            document: Arc::new(document),
        };
        self.entries.insert(entry.document.key.clone(), entry);
    }

    fn entry(&self, mark: &Mark) -> Option<&Entry> {
        let entry = self.entries.get(&mark.key);
        entry.filter(|entry| entry.generation == mark.generation)
    }

    fn entry_mut(&mut self, mark: &Mark) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(&mark.key);
        entry.filter(|entry| entry.generation == mark.generation)
    }

    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.bytes = self.bytes.saturating_sub(size(&entry.document));
        }
    }

    /// Lets go of the half that was used the longest ago, when there are too many.
    fn make_room(&mut self) {
        if self.entries.len() < DOCUMENTS_MAX && self.bytes < BYTES_MAX {
            return;
        }
        let idle = self.entries.values().filter(|entry| entry.pending == 0);
        let mut used: Vec<u64> = idle.map(|entry| entry.used).collect();
        if used.is_empty() {
            return;
        }
        let middle = used.len() / 2;
        let (_, &mut median, _) = used.select_nth_unstable(middle);
        self.entries
            .retain(|_, entry| entry.pending > 0 || entry.used > median);
        let sizes = self.entries.values().map(|entry| size(&entry.document));
        self.bytes = sizes.sum();
    }
}

fn size(document: &Document) -> usize {
    let state = document.state.as_ref();
    let state = state.map_or(0, |state| state.text().len());
    let parked = document.parked.iter();
    state
        + parked
            .map(|parked| parked.message.body.len())
            .sum::<usize>()
        + 256
}
