//! Documents in memory: for tests, with the time that they say. Keeps every promise of the seam but durability.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use leveret_core::{json::Json, time::Timestamp};

use super::{
    Backlog, Capabilities, Claimed, Commit, Committed, DeadlineChange, Document, Documents,
    DocumentsError, Due, Fields, Handled, Key, Kind, LEASE, NewState, Order, Outgoing, OutgoingId,
    Page, Parked, Put, Query, check::Kinds, cursor::Cursor, lanes::Lanes,
};

const CAPABILITIES: Capabilities = Capabilities {
    durable: false,
    shared: false,
    documents_per_commit: usize::MAX,
    lanes_span_documents: true,
    batch_max: 64,
    calls_max: 1,
    lease: LEASE,
};

/// The documents. Clones share their content.
#[derive(Clone, Debug)]
pub struct MemoryDocuments {
    kinds: Arc<Kinds>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    closed: bool,
    documents: BTreeMap<Key, Stored>,
    inbox: HashMap<Handled, Timestamp>,
    outbox: BTreeMap<u64, (Outgoing, Timestamp)>,
    lanes: Lanes,
    deadlines: Deadlines,
    /// Numbers outgoing and parked messages.
    number: u64,
}

#[derive(Debug, Default)]
struct Stored {
    version: u64,
    state: Option<Json>,
    fields: Fields,
    created_at: Option<Timestamp>,
    parked: BTreeMap<(u64, u64), Parked>,
}

#[derive(Debug, Default)]
struct Deadlines {
    all: HashMap<(Key, Arc<str>), Deadline>,
    /// By when they can be claimed.
    order: BTreeSet<(Timestamp, Timestamp, Key, Arc<str>)>,
}

#[derive(Debug)]
struct Deadline {
    at: Timestamp,
    claimable_at: Timestamp,
}

impl MemoryDocuments {
    /// No documents, of these kinds.
    pub fn new(kinds: &[Kind]) -> Result<MemoryDocuments, DocumentsError> {
        let state = State {
            closed: false,
            documents: BTreeMap::new(),
            inbox: HashMap::new(),
            outbox: BTreeMap::new(),
            lanes: Lanes::new(LEASE),
            deadlines: Deadlines::default(),
            number: 0,
        };
        Ok(MemoryDocuments {
            kinds: Arc::new(Kinds::new(kinds)?),
            state: Arc::new(Mutex::new(state)),
        })
    }

    fn state(&self) -> Result<MutexGuard<'_, State>, DocumentsError> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return Err(DocumentsError::Closed);
        }
        Ok(state)
    }
}

impl State {
    fn commit(&mut self, commit: &Commit, now: Timestamp) -> Committed {
        let repeated = commit.handled.iter();
        let repeated: Vec<Handled> = repeated
            .filter(|handled| self.inbox.contains_key(handled))
            .cloned()
            .collect();
        if !repeated.is_empty() {
            return Committed::Repeated(repeated);
        }
        if let Some(put) = commit.put.iter().find(|put| !self.is_expected(put)) {
            return Committed::Conflict(put.key.clone());
        }
        let handled = commit.handled.iter().map(|handled| (handled.clone(), now));
        self.inbox.extend(handled);
        for put in &commit.put {
            self.put(put, now);
        }
        for change in &commit.deadlines {
            self.deadlines.change(change);
        }
        for (key, handled) in &commit.unpark {
            if let Some(stored) = self.documents.get_mut(key) {
                stored.parked.retain(|_, parked| parked.handled != *handled);
            }
        }
        for parked in &commit.park {
            self.park(parked);
        }
        Committed::Done(self.publish(&commit.publish, now))
    }

    fn is_expected(&self, put: &Put) -> bool {
        let stored = self.documents.get(&put.key);
        stored.map_or(0, |stored| stored.version) == put.expected
    }

    fn put(&mut self, put: &Put, now: Timestamp) {
        let stored = self.documents.entry(put.key.clone()).or_default();
        stored.version = put.version;
        match &put.state {
            NewState::Keep => {}
            NewState::Set(state, fields) => {
                stored.created_at.get_or_insert(now);
                stored.state = Some(state.clone());
                stored.fields.clone_from(fields);
            }
            NewState::Remove => stored.state = None,
        }
    }

    fn park(&mut self, parked: &Parked) {
        let stored = self.documents.entry(parked.key.clone()).or_default();
        let is_known = |known: &Parked| known.handled == parked.handled;
        if !stored.parked.values().any(is_known) {
            self.number += 1;
            let place = (parked.order, self.number);
            stored.parked.insert(place, parked.clone());
        }
    }

    fn publish(&mut self, publish: &[Outgoing], now: Timestamp) -> Vec<Claimed> {
        let first = self.number + 1;
        self.number += publish.len() as u64;
        let numbers = || first..;
        let messages = publish.iter().map(|outgoing| &outgoing.lane).zip(numbers());
        let held = self.lanes.add(messages, now);
        let outgoing = publish.iter().map(|outgoing| (outgoing.clone(), now));
        self.outbox.extend(numbers().zip(outgoing));
        let held = numbers().zip(held).filter(|(_, held)| *held);
        self.claimed(held.map(|(number, _)| number))
    }

    fn claimed(&self, numbers: impl IntoIterator<Item = u64>) -> Vec<Claimed> {
        let claimed = |number| {
            let (outgoing, created_at) = self.outbox.get(&number)?;
            Some(Claimed {
                id: OutgoingId::new(number, &outgoing.lane),
                outgoing: outgoing.clone(),
                created_at: *created_at,
            })
        };
        numbers.into_iter().filter_map(claimed).collect()
    }

    fn matching<'a>(
        &'a self,
        kind: &'a str,
        filter: &'a [(Arc<str>, Arc<str>)],
    ) -> impl Iterator<Item = (Cursor, Document)> + 'a {
        let has = |stored: &Stored| {
            let mut filter = filter.iter();
            filter.all(|pair| stored.fields.contains(pair))
        };
        self.documents
            .iter()
            .filter(move |(key, stored)| {
                *key.kind == *kind && stored.state.is_some() && has(stored)
            })
            .map(|(key, stored)| {
                let document = Document {
                    parked: Vec::new(),
                    ..stored.document(key)
                };
                let cursor = Cursor {
                    created_at: document.created_at,
                    id: key.id.clone(),
                };
                (cursor, document)
            })
    }
}

impl Stored {
    fn document(&self, key: &Key) -> Document {
        Document {
            key: key.clone(),
            version: self.version,
            state: self.state.clone(),
            created_at: self.created_at.unwrap_or_default(),
            parked: self.parked.values().cloned().collect(),
        }
    }
}

impl Deadlines {
    fn change(&mut self, change: &DeadlineChange) {
        let (key, name) = change.whose();
        let (key, name) = (key.clone(), name.clone());
        if let Some(old) = self.all.remove(&(key.clone(), name.clone())) {
            self.order
                .remove(&(old.claimable_at, old.at, key.clone(), name.clone()));
        }
        if let DeadlineChange::Set { at, .. } = change {
            self.insert(key, name, *at, *at);
        }
    }

    fn insert(&mut self, key: Key, name: Arc<str>, at: Timestamp, claimable_at: Timestamp) {
        self.order
            .insert((claimable_at, at, key.clone(), name.clone()));
        self.all.insert((key, name), Deadline { at, claimable_at });
    }

    fn claim(&mut self, limit: usize, now: Timestamp, lease: Duration) -> Vec<Due> {
        let due = self.order.iter().take_while(|due| due.0 <= now).take(limit);
        let due: Vec<_> = due.cloned().collect();
        due.into_iter()
            .map(|entry| {
                self.order.remove(&entry);
                let (_, at, key, name) = entry;
                self.insert(key.clone(), name.clone(), at, now + lease);
                Due { key, name, at }
            })
            .collect()
    }
}

#[async_trait]
impl Documents for MemoryDocuments {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    async fn load(&self, keys: &[Key]) -> Result<Vec<Document>, DocumentsError> {
        self.kinds.check_keys(keys)?;
        let (state, none) = (self.state()?, Stored::default());
        let load = |key| state.documents.get(key).unwrap_or(&none).document(key);
        Ok(keys.iter().map(load).collect())
    }

    async fn commit(
        &self,
        batch: &[Commit],
        now: Timestamp,
    ) -> Result<Vec<Committed>, DocumentsError> {
        self.kinds.check_batch(batch, usize::MAX)?;
        let mut state = self.state()?;
        Ok(batch
            .iter()
            .map(|commit| state.commit(commit, now))
            .collect())
    }

    async fn list(&self, query: &Query) -> Result<Page, DocumentsError> {
        self.kinds.check_query(query)?;
        let after = query.after.as_deref().map(str::parse).transpose()?;
        let state = self.state()?;
        let mut found: BTreeMap<Cursor, Document> =
            state.matching(&query.kind, &query.filter).collect();
        let next = |(cursor, document): (Cursor, Document)| match (&after, query.order) {
            (Some(after), Order::Newest) if cursor >= *after => None,
            (Some(after), Order::Oldest) if cursor <= *after => None,
            _ => Some(document),
        };
        let pop = || match query.order {
            Order::Newest => found.pop_last(),
            Order::Oldest => found.pop_first(),
        };
        let documents = std::iter::from_fn(pop).filter_map(next);
        Ok(Page::cut(
            documents.take(query.limit as usize + 1).collect(),
            query.limit,
        ))
    }

    async fn count(
        &self,
        kind: &str,
        filter: &[(Arc<str>, Arc<str>)],
    ) -> Result<u64, DocumentsError> {
        self.kinds.check_filter(kind, filter)?;
        Ok(self.state()?.matching(kind, filter).count() as u64)
    }

    async fn claim_outgoing(
        &self,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<Claimed>, DocumentsError> {
        let mut state = self.state()?;
        let held = state.lanes.claim(limit as usize, now);
        Ok(state.claimed(held.into_iter().map(|held| held.0)))
    }

    async fn sent(
        &self,
        ids: &[OutgoingId],
        now: Timestamp,
    ) -> Result<Vec<Claimed>, DocumentsError> {
        let mut state = self.state()?;
        let (gone, next) = state
            .lanes
            .sent(ids.iter().filter_map(OutgoingId::parts), now);
        for number in gone {
            state.outbox.remove(&number);
        }
        Ok(state.claimed(next.into_iter().map(|held| held.0)))
    }

    async fn release(&self, ids: &[OutgoingId]) -> Result<(), DocumentsError> {
        let ids = ids.iter().filter_map(OutgoingId::parts);
        self.state()?.lanes.release(ids);
        Ok(())
    }

    async fn claim_deadlines(
        &self,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<Due>, DocumentsError> {
        let mut state = self.state()?;
        Ok(state.deadlines.claim(limit as usize, now, LEASE))
    }

    async fn next_deadline(&self) -> Result<Option<Timestamp>, DocumentsError> {
        Ok(self.state()?.deadlines.order.first().map(|first| first.0))
    }

    async fn backlog(&self) -> Result<Backlog, DocumentsError> {
        let state = self.state()?;
        let parked = || state.documents.values().flat_map(|d| d.parked.values());
        let (outgoing, outgoing_oldest) = state.lanes.backlog();
        Ok(Backlog {
            outgoing,
            outgoing_oldest,
            parked: parked().count() as u64,
            parked_oldest: parked().map(|parked| parked.at).min(),
            deadlines: state.deadlines.all.len() as u64,
        })
    }

    async fn prune(
        &self,
        now: Timestamp,
        keep: Duration,
        limit: u32,
    ) -> Result<u64, DocumentsError> {
        let mut state = self.state()?;
        let is_old = |at: &Timestamp| *at + keep < now;
        let old = state.inbox.iter().filter(|(_, at)| is_old(at));
        let old = old.map(|(handled, _)| handled.clone());
        let old: Vec<Handled> = old.take(limit as usize).collect();
        for handled in &old {
            state.inbox.remove(handled);
        }
        Ok(old.len() as u64)
    }

    async fn ping(&self) -> Result<(), DocumentsError> {
        self.state().map(drop)
    }

    async fn close(&self) {
        if let Ok(mut state) = self.state() {
            state.closed = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::documents::conformance;

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn conforms() {
        conformance::exercise(|| async {
            let documents = MemoryDocuments::new(&conformance::kinds()).unwrap();
            let documents: Arc<dyn Documents> = Arc::new(documents);
            conformance::Fresh::new(move || {
                let documents = documents.clone();
                async move { documents }
            })
        })
        .await;
    }
}
