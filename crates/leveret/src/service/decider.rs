//! What users write: who decides, about which documents, and what follows.
//!
//! Deciding is pure: state, message and time in, a [`Decision`] out. It may run several times for one message, and what it said counts only
//! when its commit is done. [`Aggregate`] is the usual form, one document with a typed state; [`Decider`] is the general one, for decisions
//! that span documents.

use std::{fmt, marker::PhantomData, sync::Arc};

use leveret_core::{json::Json, time::Timestamp};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::documents::{DeadlineChange, Document, Fields, Key, NAME_BYTES_MAX, Outgoing};
use crate::broker::{Message, Publication};

/// Decides about documents.
pub trait Decider: Send + Sync + 'static {
    /// What it decides upon.
    type Message: Send + Sync + 'static;
    /// What a caller in this process is told of the decision, once it is durable.
    type Answer: Send + 'static;

    /// The documents that the decision needs, each once, at least one. The first one is what the message is about: its lane keeps the order
    /// of what goes out, and a message that comes too early waits for it.
    fn keys(&self, message: &Self::Message) -> Vec<Key>;

    /// Decides.
    fn decide(
        &self,
        documents: &View<'_>,
        message: &Self::Message,
        now: Timestamp,
    ) -> Result<Decision<Self::Answer>, Refusal>;

    /// What is said once more to a message that was handled before and is put back from the dead letters, since whoever sent it may never
    /// have been told. It goes out once for each time that the message is put back, and no document changes. By default nothing.
    fn again(
        &self,
        documents: &View<'_>,
        message: &Self::Message,
    ) -> Result<Vec<Publish>, Refusal> {
        let _ = (documents, message);
        Ok(Vec::new())
    }
}

/// Why a message changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// It makes no sense, and never will: a message becomes a dead letter, a caller is told.
    #[error("malformed: {reason}")]
    Malformed {
        /// What is wrong, with its place.
        reason: String,
    },
    /// It makes sense, but not now and not for waiting: a message becomes a dead letter, a caller is told.
    #[error("{reason}")]
    Rejected {
        /// A word for programs.
        code: &'static str,
        /// For people.
        reason: String,
    },
    /// It is late, or says what is known: a message is acknowledged and counted.
    #[error("nothing to do: {reason}")]
    Stale {
        /// Why.
        reason: String,
    },
    /// It came before what it builds on: it is parked with its document, and decided again when that has changed.
    #[error("too early: {reason}")]
    Early {
        /// Among the messages parked for the document, those with smaller numbers come first.
        order: u64,
        /// Why.
        reason: String,
    },
    /// A stored state is none that this program reads: nothing can be decided until it does.
    #[error("the stored state of {kind} '{id}' cannot be read: {reason}")]
    Unreadable {
        /// The document's kind.
        kind: Arc<str>,
        /// Its id.
        id: Arc<str>,
        /// What is wrong.
        reason: String,
    },
}

impl Refusal {
    /// [`Refusal::Malformed`].
    pub fn malformed(reason: impl Into<String>) -> Refusal {
        Refusal::Malformed {
            reason: reason.into(),
        }
    }

    /// [`Refusal::Rejected`].
    pub fn rejected(code: &'static str, reason: impl Into<String>) -> Refusal {
        Refusal::Rejected {
            code,
            reason: reason.into(),
        }
    }

    /// [`Refusal::Stale`].
    pub fn stale(reason: impl Into<String>) -> Refusal {
        Refusal::Stale {
            reason: reason.into(),
        }
    }
}

/// The documents of a decision, as they are.
#[derive(Debug)]
pub struct View<'a> {
    documents: &'a [Arc<Document>],
}

impl<'a> View<'a> {
    /// A view of documents.
    pub fn new(documents: &'a [Arc<Document>]) -> View<'a> {
        View { documents }
    }

    /// The state of one of the decision's keys; none if it has none.
    pub fn state<S: DeserializeOwned>(&self, key: &Key) -> Result<Option<S>, Refusal> {
        let document = self.document(key);
        let Some(state) = document.and_then(|document| document.state.as_ref()) else {
            return Ok(None);
        };
        serde_json::from_str(state.text())
            .map(Some)
            .map_err(|error| Refusal::Unreadable {
                kind: key.kind.clone(),
                id: key.id.clone(),
                reason: error.to_string(),
            })
    }

    /// The document of one of the decision's keys.
    pub fn document(&self, key: &Key) -> Option<&'a Document> {
        let found = self.documents.iter().find(|document| document.key == *key);
        found.map(|document| &**document)
    }
}

/// What follows from a message.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision<A> {
    /// What a caller in this process is told.
    pub answer: A,
    /// The documents that change, among the keys of the message.
    pub put: Vec<Change>,
    /// What goes out.
    pub publish: Vec<Publish>,
    /// Deadlines of the keys of the message.
    pub deadlines: Vec<DeadlineChange>,
}

impl<A> Decision<A> {
    /// Nothing follows but that the message is handled.
    pub fn answer(answer: A) -> Decision<A> {
        Decision {
            answer,
            put: Vec::new(),
            publish: Vec::new(),
            deadlines: Vec::new(),
        }
    }
}

/// A document's new state.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Which.
    pub key: Key,
    /// Its state; none takes the document away.
    pub state: Option<Json>,
    /// The values that lists find it by.
    pub fields: Fields,
}

impl Change {
    /// A new state.
    pub fn set<S: Serialize>(
        key: Key,
        state: &S,
        fields: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Change {
        let fields = fields.into_iter();
        Change {
            key,
            state: Some(Json::from_serialize(state).expect("a state prints as JSON")),
            fields: fields
                .map(|(name, value)| (Arc::from(name), Arc::from(value)))
                .collect(),
        }
    }

    /// No state any more.
    pub fn remove(key: Key) -> Change {
        Change {
            key,
            state: None,
            fields: Fields::new(),
        }
    }
}

/// A message that goes out with a decision. Without a message id it is given one when it is committed; without a timestamp, the time.
#[derive(Clone, Debug, PartialEq)]
pub struct Publish {
    /// What is published.
    pub publication: Publication,
    /// Whether it is a mistake when no queue takes it. It waits in the outbox then.
    pub must_route: bool,
}

impl Publish {
    /// To a queue, which must be there: the message waits for it in the outbox.
    pub fn to_queue(queue: &str, message: Message) -> Publish {
        Publish {
            publication: Publication::to_queue(queue, message),
            must_route: true,
        }
    }

    /// An event: to whoever has bound a queue, nobody included.
    pub fn event(exchange: &str, routing_key: &str, message: Message) -> Publish {
        let publication = Publication {
            exchange: exchange.into(),
            ..Publication::to_queue(routing_key, message)
        };
        Publish {
            publication,
            must_route: false,
        }
    }

    /// The same in a lane.
    pub(super) fn in_lane(self, lane: &Arc<str>) -> Outgoing {
        Outgoing {
            lane: lane.clone(),
            publication: self.publication,
            must_route: self.must_route,
        }
    }
}

/// Where the answer to a request goes. A state can keep it until there is one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplyTo {
    /// The queue that the request named.
    pub queue: Arc<str>,
    /// The request's `correlation_id`, else its `message_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<Arc<str>>,
}

impl ReplyTo {
    /// What a request says of its answer, if it asks for one. A name that no queue can have asks for none.
    pub fn of(request: &Message) -> Option<ReplyTo> {
        let can_be = |queue: &&Arc<str>| {
            (1..=NAME_BYTES_MAX).contains(&queue.len()) && !queue.contains('\0')
        };
        let queue = request.reply_to.as_ref().filter(can_be);
        Some(ReplyTo {
            queue: queue?.clone(),
            correlation_id: correlation_of(request),
        })
    }

    /// The answer. A queue that is gone is the asker's business: nothing waits for it.
    pub fn publish(&self, mut answer: Message) -> Publish {
        answer.correlation_id.clone_from(&self.correlation_id);
        Publish {
            must_route: false,
            ..Publish::to_queue(&self.queue, answer)
        }
    }
}

/// What an answer to a request is known by: its `correlation_id`, else its `message_id`.
pub fn correlation_of(request: &Message) -> Option<Arc<str>> {
    let correlation_id = request.correlation_id.clone();
    correlation_id.or_else(|| request.message_id.clone())
}

/// A decider about one document with a typed state.
pub trait Aggregate: Send + Sync + 'static {
    /// The kind of its documents.
    const KIND: &'static str;
    /// Its state, stored as JSON: what was stored once must be read for ever.
    type State: Serialize + DeserializeOwned + Send + Sync + 'static;
    /// What it decides upon.
    type Message: Send + Sync + 'static;

    /// Whose message it is.
    fn id(message: &Self::Message) -> String;

    /// The values that lists find a state by, of the declared fields.
    fn fields(state: &Self::State) -> Vec<(&'static str, String)> {
        let _ = state;
        Vec::new()
    }

    /// Decides. Without a state the document does not exist.
    fn decide(
        state: Option<Self::State>,
        message: &Self::Message,
        now: Timestamp,
    ) -> Result<Next<Self::State>, Refusal>;

    /// What is said once more to a message that was handled before and is put back from the dead letters. By default nothing.
    fn again(state: &Self::State, message: &Self::Message) -> Vec<Publish> {
        let _ = (state, message);
        Vec::new()
    }
}

/// What follows for one document.
#[derive(Clone, Debug, PartialEq)]
pub struct Next<S> {
    /// Its state from now on.
    pub state: S,
    /// What goes out.
    pub publish: Vec<Publish>,
    /// Its deadlines: set to a time, or cancelled.
    pub deadlines: Vec<(&'static str, Option<Timestamp>)>,
}

impl<S> Next<S> {
    /// A new state, and nothing goes out yet.
    pub fn state(state: S) -> Next<S> {
        Next {
            state,
            publish: Vec::new(),
            deadlines: Vec::new(),
        }
    }

    /// With a message that goes out.
    #[must_use]
    pub fn publish(mut self, publish: impl IntoIterator<Item = Publish>) -> Next<S> {
        self.publish.extend(publish);
        self
    }

    /// With a deadline that is set, or moved.
    #[must_use]
    pub fn deadline(mut self, name: &'static str, at: Timestamp) -> Next<S> {
        self.deadlines.push((name, Some(at)));
        self
    }

    /// Without this deadline.
    #[must_use]
    pub fn no_deadline(mut self, name: &'static str) -> Next<S> {
        self.deadlines.push((name, None));
        self
    }
}

/// The [`Decider`] of an [`Aggregate`]. It answers with the state.
pub struct Of<A>(PhantomData<fn() -> A>);

impl<A: Aggregate> Of<A> {
    /// The document of an id.
    pub fn key(id: &str) -> Key {
        Key::new(A::KIND, id)
    }
}

impl<A> Default for Of<A> {
    fn default() -> Of<A> {
        Of(PhantomData)
    }
}

impl<A> Clone for Of<A> {
    fn clone(&self) -> Of<A> {
        Of::default()
    }
}

impl<A: Aggregate> fmt::Debug for Of<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Of({})", A::KIND)
    }
}

impl<A: Aggregate> Decider for Of<A> {
    type Message = A::Message;
    type Answer = A::State;

    fn keys(&self, message: &A::Message) -> Vec<Key> {
        vec![Of::<A>::key(&A::id(message))]
    }

    fn decide(
        &self,
        documents: &View<'_>,
        message: &A::Message,
        now: Timestamp,
    ) -> Result<Decision<A::State>, Refusal> {
        let key = Of::<A>::key(&A::id(message));
        let next = A::decide(documents.state(&key)?, message, now)?;
        let deadlines = next.deadlines.into_iter().map(|(name, at)| {
            let (key, name) = (key.clone(), Arc::from(name));
            match at {
                Some(at) => DeadlineChange::Set { key, name, at },
                None => DeadlineChange::Cancel { key, name },
            }
        });
        Ok(Decision {
            deadlines: deadlines.collect(),
            put: vec![Change::set(key, &next.state, A::fields(&next.state))],
            publish: next.publish,
            answer: next.state,
        })
    }

    fn again(&self, documents: &View<'_>, message: &A::Message) -> Result<Vec<Publish>, Refusal> {
        let state = documents.state::<A::State>(&Of::<A>::key(&A::id(message)))?;
        Ok(state.map_or_else(Vec::new, |state| A::again(&state, message)))
    }
}
