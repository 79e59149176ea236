//! Where decisions are made: load, decide, commit; a conflict loads and decides again.
//!
//! What was loaded or decided lately is at hand, so that messages for one document do not wait for each other's commits: the next is decided
//! upon what the last one left, and both go to the database in order. What gathers for a document while a commit is under way is folded into
//! one. A commit that fails takes along what was decided upon it: that is decided again, upon what is stored. Whether a document at hand is the
//! stored one is said by the commit alone, through its version.

mod cache;
mod fold;
mod watchers;

pub use self::watchers::Watch;

use std::{fmt, sync::Arc};

use futures_util::future::{Either, ready};
use leveret_core::time::Timestamp;
use uuid::Uuid;

use self::{
    cache::Cache,
    fold::{Fate, Item, commit_all},
    watchers::Watchers,
};
use super::{
    decider::{Change, Decider, Decision, Publish, Refusal, View},
    documents::{
        Claimed, Commit, DeadlineChange, Document, Documents, DocumentsError, Handled, Key,
        NewState, Parked, Put, check_id, check_values,
    },
};
use crate::{
    batcher::{Batcher, Gone},
    broker::Message,
};

/// How often a message is decided upon, if others are always quicker, before it has to come again.
const ROUNDS_MAX: u32 = 64;
/// The most messages parked for one document; more are dead letters.
pub const PARKED_MAX: usize = 256;
/// The most documents in one call that loads.
const LOAD_MAX: usize = 256;
/// The most of these calls at once.
const LOADS_MAX: usize = 4;

/// What time it is.
pub type Now = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// A message that takes effect once, as its decision needs it besides its meaning.
#[derive(Clone, Debug)]
pub(super) struct Arrived<'a> {
    /// What it is recognised by.
    pub(super) handled: Handled,
    /// Queue and message, if it can be parked.
    pub(super) parkable: Option<(&'a Arc<str>, &'a Message)>,
}

/// What became of a message.
#[derive(Debug)]
pub(super) enum Executed<A> {
    /// What was decided is durable; the caller is to publish what it claimed.
    Done {
        /// The answer.
        answer: A,
        /// What goes out now.
        claimed: Vec<Claimed>,
    },
    /// It was handled before.
    Repeated,
    /// It waits, durably, for its document to change.
    Parked,
    /// Nothing changed.
    Refused(Refusal),
}

/// Why it is not known what a message means.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecuteError {
    /// The documents.
    #[error(transparent)]
    Documents(#[from] DocumentsError),
    /// Others were always quicker.
    #[error("the document changed {ROUNDS_MAX} times while a message was decided upon; try again")]
    Contended,
}

impl From<Gone> for ExecuteError {
    fn from(_: Gone) -> ExecuteError {
        ExecuteError::Documents(DocumentsError::Closed)
    }
}

impl ExecuteError {
    /// Whether the same call may succeed later without a change.
    pub fn is_retryable(&self) -> bool {
        match self {
            ExecuteError::Documents(error) => error.is_retryable(),
            ExecuteError::Contended => true,
        }
    }
}

/// Decides upon a parked message, by the queue that it came from: who reads that queue.
pub(super) trait Reader: Send + Sync {
    /// The decision, or why there is none.
    fn decide(
        &self,
        message: &Message,
        documents: &View<'_>,
        now: Timestamp,
    ) -> Result<Decision<()>, Refusal>;

    /// The dead letter of a parked message that turns out to be none.
    fn dead_letter(&self, parked: &Parked, reason: &str, now: Timestamp) -> Publish;
}

/// Finds the reader of a queue.
pub(super) type Readers = Arc<dyn Fn(&str) -> Option<Arc<dyn Reader>> + Send + Sync>;

/// The desk of a service. Clones share it.
#[derive(Clone)]
pub(super) struct Desk {
    documents: Arc<dyn Documents>,
    loads: Batcher<Key, Result<Document, DocumentsError>>,
    commits: Batcher<Item, Result<Fate, DocumentsError>>,
    cache: Arc<Cache>,
    watchers: Arc<Watchers>,
    readers: Readers,
    now: Now,
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}

impl Desk {
    pub(super) fn new(documents: Arc<dyn Documents>, readers: Readers, now: Now) -> Desk {
        let cache = Arc::new(Cache::default());
        Desk {
            loads: loads(&documents),
            commits: commits(&documents, &cache, &now),
            documents,
            cache,
            watchers: Arc::default(),
            readers,
            now,
        }
    }

    pub(super) fn documents(&self) -> &Arc<dyn Documents> {
        &self.documents
    }

    /// Watches a document from now on.
    pub(super) fn watch(&self, key: &Key) -> Watch {
        self.watchers.watch(key)
    }

    pub(super) fn now(&self) -> Timestamp {
        (self.now)()
    }

    /// Decides upon a message and commits what follows.
    ///
    /// Deadlines that are `over` change with it, whatever is decided. `Done`, `Repeated` and `Parked` are durable when it returns. After an error it may have been handled or not: the same message again
    /// tells. A crash leaves all of it or nothing.
    pub(super) async fn execute<D: Decider>(
        &self,
        decider: &D,
        message: &D::Message,
        arrived: Option<Arrived<'_>>,
        over: &[DeadlineChange],
    ) -> Result<Executed<D::Answer>, ExecuteError> {
        let keys = decider.keys(message);
        if let Err(error) = keys.iter().try_for_each(check_id) {
            return Ok(Executed::Refused(Refusal::malformed(error.to_string())));
        }
        for _ in 0..ROUNDS_MAX {
            self.load(&keys).await?;
            // Between the decision and its place in the queue nobody else decides, so that both orders are the same.
            let submitted = self.cache.with(|hand| {
                let documents = hand.documents(&keys)?;
                let now = (self.now)();
                let outcome = decider.decide(&View::new(&documents), message, now);
                let (draft, refusal) =
                    match self.draft(documents, outcome, arrived.as_ref(), over, now) {
                        Ok(drafted) => drafted,
                        Err(refusal) => return Some(Err(refusal)),
                    };
                let Draft {
                    documents,
                    commit,
                    answer,
                } = draft;
                if commit == Commit::default() {
                    let done = Fate::Done(Vec::new());
                    let committed = Either::Left(ready(Ok(Ok(done))));
                    return Some(Ok((answer, refusal, Vec::new(), committed)));
                }
                if let Err(error) = check_values(&commit) {
                    return Some(Err(Refusal::malformed(error.to_string())));
                }
                let marks = hand.replace(&documents, &commit);
                let is_put = |one: &Arc<Document>| commit.put.iter().any(|put| put.key == one.key);
                let put: Vec<_> = documents.into_iter().filter(is_put).collect();
                let submitted = self.commits.submit(Item {
                    commit,
                    own: arrived.as_ref().map(|arrived| arrived.handled.clone()),
                    marks,
                });
                Some(Ok((answer, refusal, put, Either::Right(submitted))))
            });
            let (answer, refusal, put, committed) = match submitted {
                // What was loaded is gone again.
                None => continue,
                Some(Err(refusal)) => return Ok(Executed::Refused(refusal)),
                Some(Ok(submitted)) => submitted,
            };
            match committed.await?? {
                Fate::Done(claimed) => {
                    self.watchers.tell(&put);
                    return Ok(match (answer, refusal) {
                        (Some(answer), _) => Executed::Done { answer, claimed },
                        (None, Some(refusal)) => Executed::Refused(refusal),
                        (None, None) => Executed::Parked,
                    });
                }
                Fate::Repeated => return Ok(Executed::Repeated),
                Fate::Again => {}
            }
        }
        Err(ExecuteError::Contended)
    }

    /// What is to be committed, with the refusal that it stands for if it does. A refusal alone: nothing is.
    #[allow(clippy::type_complexity)]
    fn draft<A>(
        &self,
        documents: Vec<Arc<Document>>,
        decided: Result<Decision<A>, Refusal>,
        arrived: Option<&Arrived<'_>>,
        over: &[DeadlineChange],
        now: Timestamp,
    ) -> Result<(Draft<A>, Option<Refusal>), Refusal> {
        let mut draft = Draft::new(documents, arrived);
        draft.add(Vec::new(), Vec::new(), over.to_vec(), now);
        match decided {
            Ok(decision) => {
                draft.decide(decision, now);
                draft.apply_parked(&*self.readers, now);
                Ok((draft, None))
            }
            Err(Refusal::Early { order, reason }) if over.is_empty() => {
                let parked = Draft::parked(draft.documents, arrived, order, &reason, now)?;
                Ok((parked, None))
            }
            // A deadline that comes to nothing is over all the same.
            Err(refusal) if !over.is_empty() && !matches!(refusal, Refusal::Unreadable { .. }) => {
                Ok((draft, Some(refusal)))
            }
            Err(refusal) => Err(refusal),
        }
    }

    /// Sees to it that the documents are at hand.
    async fn load(&self, keys: &[Key]) -> Result<(), ExecuteError> {
        let missing = self.cache.missing(keys);
        if missing.is_empty() {
            return Ok(());
        }
        let loaded = self.loads.submit_all(missing).await?;
        for document in loaded {
            self.cache.offer(document?);
        }
        Ok(())
    }
}

fn loads(documents: &Arc<dyn Documents>) -> Batcher<Key, Result<Document, DocumentsError>> {
    let documents = documents.clone();
    Batcher::new(LOAD_MAX, LOADS_MAX, move |keys: Vec<Key>| {
        let documents = documents.clone();
        async move {
            match documents.load(&keys).await {
                Ok(loaded) => loaded.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error); keys.len()],
            }
        }
    })
}

/// One call at a time: what is decided upon what another one leaves must not come first.
fn commits(
    documents: &Arc<dyn Documents>,
    cache: &Arc<Cache>,
    now: &Now,
) -> Batcher<Item, Result<Fate, DocumentsError>> {
    let (documents, cache, now) = (documents.clone(), cache.clone(), now.clone());
    let batch_max = documents.capabilities().batch_max;
    Batcher::new(batch_max, 1, move |items: Vec<Item>| {
        let (documents, cache, now) = (documents.clone(), cache.clone(), now.clone());
        async move { commit_all(&*documents, &cache, items, now()).await }
    })
}

/// A commit in the making, with the documents as they will be.
struct Draft<A> {
    documents: Vec<Arc<Document>>,
    commit: Commit,
    /// None: the message is parked.
    answer: Option<A>,
}

impl<A> Draft<A> {
    fn new(documents: Vec<Arc<Document>>, arrived: Option<&Arrived<'_>>) -> Draft<A> {
        let handled = arrived.map(|arrived| arrived.handled.clone());
        Draft {
            documents,
            commit: Commit {
                handled: handled.into_iter().collect(),
                ..Commit::default()
            },
            answer: None,
        }
    }

    fn decide(&mut self, decision: Decision<A>, now: Timestamp) {
        let Decision {
            answer,
            put,
            publish,
            deadlines,
        } = decision;
        self.add(put, publish, deadlines, now);
        self.answer = Some(answer);
    }

    /// The commit that parks a message. An error if there is nothing to park, or too much is parked.
    fn parked(
        documents: Vec<Arc<Document>>,
        arrived: Option<&Arrived<'_>>,
        order: u64,
        reason: &str,
        now: Timestamp,
    ) -> Result<Draft<A>, Refusal> {
        let parkable = arrived.and_then(|arrived| Some((&arrived.handled, arrived.parkable?)));
        let Some((handled, (queue, message))) = parkable else {
            return Err(Refusal::rejected("too_early", reason));
        };
        let document = &documents[0];
        if document.parked.len() >= PARKED_MAX {
            let reason = format!("{reason}; {PARKED_MAX} messages wait for the document already");
            return Err(Refusal::rejected("too_many_parked", reason));
        }
        let parked = Parked {
            key: document.key.clone(),
            handled: handled.clone(),
            order,
            at: now,
            message: message.clone(),
            queue: queue.clone(),
        };
        let mut draft = Draft::new(documents, None);
        let document = draft.touch(0);
        if !document
            .parked
            .iter()
            .any(|known| known.handled == parked.handled)
        {
            let at = document
                .parked
                .partition_point(|known| known.order <= order);
            document.parked.insert(at, parked.clone());
        }
        draft.commit.park.push(parked);
        Ok(draft)
    }

    /// Takes what a decision says into the commit.
    fn add(
        &mut self,
        put: Vec<Change>,
        publish: Vec<Publish>,
        deadlines: Vec<DeadlineChange>,
        now: Timestamp,
    ) {
        for change in put {
            let at = self.place(&change.key);
            let document = self.touch(at);
            document.state.clone_from(&change.state);
            let state = change.state.map_or(NewState::Remove, |state| {
                NewState::Set(state, change.fields)
            });
            let put = self
                .commit
                .put
                .iter_mut()
                .find(|put| put.key == change.key)
                .expect("a touched document is put");
            put.state = state;
        }
        for change in &deadlines {
            let (DeadlineChange::Set { key, .. } | DeadlineChange::Cancel { key, .. }) = change;
            let at = self.place(key);
            if !self.commit.put.iter().any(|put| put.key == *key) {
                self.touch(at);
            }
        }
        self.commit.deadlines.extend(deadlines);
        let first = &self.documents[0].key;
        let lane: Arc<str> = format!("{}/{}", first.kind, first.id).into();
        for mut publish in publish {
            let message = &mut publish.publication.message;
            if message.message_id.is_none() {
                message.message_id = Some(Uuid::now_v7().to_string().into());
            }
            message.timestamp.get_or_insert(now);
            self.commit.publish.push(publish.in_lane(&lane));
        }
    }

    fn place(&self, key: &Key) -> usize {
        self.documents
            .iter()
            .position(|document| document.key == *key)
            .unwrap_or_else(|| panic!("a decision changes {key:?}, which is none of its keys"))
    }

    /// Puts a document, one version on.
    fn touch(&mut self, at: usize) -> &mut Document {
        let document = Arc::make_mut(&mut self.documents[at]);
        let known = self
            .commit
            .put
            .iter_mut()
            .find(|put| put.key == document.key);
        if let Some(put) = known {
            put.version += 1;
        } else {
            self.commit.put.push(Put {
                key: document.key.clone(),
                expected: document.version,
                version: document.version + 1,
                state: NewState::Keep,
            });
        }
        document.version += 1;
        document
    }

    /// Decides again upon what waits for the first document, now that it changed, until nothing more applies.
    fn apply_parked(
        &mut self,
        readers: &(dyn Fn(&str) -> Option<Arc<dyn Reader>> + Send + Sync),
        now: Timestamp,
    ) {
        let mut applied = !self.commit.put.is_empty();
        while applied && !self.documents[0].parked.is_empty() {
            applied = false;
            let waiting = self.documents[0].parked.clone();
            for parked in waiting {
                let Some(reader) = readers(&parked.queue) else {
                    continue;
                };
                let documents = [self.documents[0].clone()];
                let decided = reader.decide(&parked.message, &View::new(&documents), now);
                match decided {
                    Err(Refusal::Early { .. } | Refusal::Unreadable { .. }) => continue,
                    Err(Refusal::Stale { .. }) => {}
                    Err(refusal) => {
                        let letter = reader.dead_letter(&parked, &refusal.to_string(), now);
                        self.add(Vec::new(), vec![letter], Vec::new(), now);
                    }
                    Ok(decision) => {
                        applied = true;
                        self.add(decision.put, decision.publish, decision.deadlines, now);
                    }
                }
                self.unpark(&parked);
            }
        }
    }

    fn unpark(&mut self, parked: &Parked) {
        let document = Arc::make_mut(&mut self.documents[0]);
        document
            .parked
            .retain(|waiting| waiting.handled != parked.handled);
        let over = (parked.key.clone(), parked.handled.clone());
        self.commit.unpark.push(over);
        if !self.commit.handled.contains(&parked.handled) {
            self.commit.handled.push(parked.handled.clone());
        }
    }
}
