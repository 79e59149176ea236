//! What a case works with: documents, a clock, and short ways to write commits.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use leveret_core::{json::Json, time::Timestamp};
use serde_json::{Value, json};

use super::Fresh;
use crate::{
    broker::{Message, Publication},
    service::documents::{
        Claimed, Commit, Committed, DeadlineChange, Document, Documents, Due, Fields, Handled, Key,
        NewState, Order, Outgoing, OutgoingId, Page, Parked, Put, Query,
    },
};

/// When cases begin: in the past of any clock, so that what is due then is due everywhere.
const BASE: Timestamp = Timestamp(1_000_000_000_000);

/// Later than any clock.
pub(super) const FAR: Timestamp = Timestamp(4_102_444_800_000);

/// How much longer than a lease its end may take to show.
const PATIENCE: Duration = Duration::from_secs(20);

/// The world of one case.
pub(super) struct World {
    fresh: Fresh,
    pub(super) documents: Arc<dyn Documents>,
    pub(super) now: Timestamp,
}

impl World {
    pub(super) async fn new(fresh: Fresh) -> World {
        World {
            documents: fresh.open().await,
            fresh,
            now: BASE,
        }
    }

    /// Another handle on the same documents.
    pub(super) async fn handle(&self) -> Arc<dyn Documents> {
        self.fresh.open().await
    }

    /// Whether a commit takes two documents.
    pub(super) fn takes_two(&self) -> bool {
        self.documents.capabilities().documents_per_commit >= 2
    }

    /// Whether messages of different documents can be of one lane.
    pub(super) fn lanes_span(&self) -> bool {
        self.documents.capabilities().lanes_span_documents
    }

    pub(super) async fn batch(&self, batch: &[Commit]) -> Vec<Committed> {
        let committed = self.documents.commit(batch, self.now).await;
        let committed = committed.expect("a commit");
        assert_eq!(committed.len(), batch.len());
        committed
    }

    pub(super) async fn commit(&self, commit: Commit) -> Committed {
        self.batch(&[commit]).await.remove(0)
    }

    /// Commits what is to be done, and returns what it claimed.
    pub(super) async fn done(&self, commit: Commit) -> Vec<Claimed> {
        claims(self.commit(commit).await)
    }

    pub(super) async fn load(&self, id: &str) -> Document {
        let loaded = self.documents.load(&[order(id)]).await.expect("a load");
        let [document] = loaded.try_into().expect("a document for each key");
        document
    }

    pub(super) async fn claim(&self, limit: u32) -> Vec<Claimed> {
        let claimed = self.documents.claim_outgoing(limit, self.now).await;
        claimed.expect("a claim")
    }

    pub(super) async fn sent(&self, claimed: &[Claimed]) -> Vec<Claimed> {
        let next = self.documents.sent(&ids(claimed), self.now).await;
        next.expect("forgotten")
    }

    pub(super) async fn release(&self, claimed: &[Claimed]) {
        let released = self.documents.release(&ids(claimed)).await;
        released.expect("released");
    }

    pub(super) async fn claim_deadlines(&self, limit: u32) -> Vec<Due> {
        let due = self.documents.claim_deadlines(limit, self.now).await;
        due.expect("a claim")
    }

    /// Waits until leases that are given now are over, and claims so many messages.
    pub(super) async fn claim_after_lease(&mut self, count: usize) -> Vec<Claimed> {
        let mut claimed = Vec::new();
        let mut wait = LeaseEnd::new(self);
        while claimed.len() < count {
            wait.some_time(self).await;
            claimed.extend(self.claim(100).await);
        }
        claimed
    }

    /// Like [`claim_after_lease`](Self::claim_after_lease), for deadlines.
    pub(super) async fn claim_deadlines_after_lease(&mut self, count: usize) -> Vec<Due> {
        let mut due = Vec::new();
        let mut wait = LeaseEnd::new(self);
        while due.len() < count {
            wait.some_time(self).await;
            due.extend(self.claim_deadlines(100).await);
        }
        due
    }

    pub(super) async fn list(&self, query: &Query) -> Page {
        self.documents.list(query).await.expect("a page")
    }

    /// The ids of all orders with these fields, in one page.
    pub(super) async fn listed(&self, filter: &[(&str, &str)]) -> Vec<String> {
        let page = self.list(&query(filter, 1000)).await;
        assert_eq!(page.next, None);
        ids_of(&page)
    }
}

/// Waits for the end of leases.
struct LeaseEnd {
    until: Instant,
    advanced: bool,
}

impl LeaseEnd {
    fn new(world: &World) -> LeaseEnd {
        LeaseEnd {
            until: Instant::now() + world.documents.capabilities().lease + PATIENCE,
            advanced: false,
        }
    }

    async fn some_time(&mut self, world: &mut World) {
        assert!(Instant::now() < self.until, "the lease does not end");
        let capabilities = world.documents.capabilities();
        if capabilities.shared {
            tokio::time::sleep(Duration::from_millis(20)).await;
        } else if !self.advanced {
            self.advanced = true;
            world.now = world.now + capabilities.lease;
        }
    }
}

pub(super) fn claims(committed: Committed) -> Vec<Claimed> {
    match committed {
        Committed::Done(claimed) => claimed,
        other => panic!("not done: {other:?}"),
    }
}

pub(super) fn order(id: &str) -> Key {
    Key::new("order", id)
}

/// A document of this state, one version further, in a commit of its own.
pub(super) fn put(id: &str, expected: u64, state: &Value) -> Commit {
    Commit {
        put: vec![Put {
            key: order(id),
            expected,
            version: expected + 1,
            state: NewState::Set(Json::from(state.clone()), Fields::new()),
        }],
        ..Commit::default()
    }
}

/// Like [`put`], with fields, which are its state too.
pub(super) fn put_with(id: &str, expected: u64, fields: &[(&str, &str)]) -> Commit {
    let fields = fields.iter().copied();
    let fields: Fields = fields
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    let state = Json::from_serialize(&fields).expect("prints");
    changed(id, expected, NewState::Set(state, fields))
}

/// A document without a state.
pub(super) fn delete(id: &str, expected: u64) -> Commit {
    changed(id, expected, NewState::Remove)
}

/// A document with the state that it has, if any.
pub(super) fn keep(id: &str, expected: u64) -> Commit {
    changed(id, expected, NewState::Keep)
}

fn changed(id: &str, expected: u64, state: NewState) -> Commit {
    let mut commit = put(id, expected, &json!(null));
    commit.put[0].state = state;
    commit
}

/// These messages were handled before.
pub(super) fn repeated(messages: &[&str]) -> Committed {
    Committed::Repeated(messages.iter().map(|id| handled(id)).collect())
}

pub(super) fn handled(id: &str) -> Handled {
    Handled {
        consumer: "tests".into(),
        message_id: id.into(),
    }
}

/// The commit with what else is done in it.
pub(super) trait With {
    fn handling(self, messages: &[&str]) -> Commit;
    /// Messages, as in `lane: a b`.
    fn publishing(self, lanes: &[&str]) -> Commit;
    fn deadline(self, name: &str, at: Timestamp) -> Commit;
    fn cancelling(self, name: &str) -> Commit;
    fn parking(self, message: &str, order: u64) -> Commit;
    fn unparking(self, message: &str) -> Commit;
}

impl With for Commit {
    fn handling(mut self, messages: &[&str]) -> Commit {
        self.handled.extend(messages.iter().map(|id| handled(id)));
        self
    }

    fn publishing(mut self, lanes: &[&str]) -> Commit {
        for text in lanes {
            let (lane, bodies) = text.split_once(": ").expect("a lane and messages");
            let messages = bodies.split(' ').map(|body| outgoing(lane, body));
            self.publish.extend(messages);
        }
        self
    }

    fn deadline(mut self, name: &str, at: Timestamp) -> Commit {
        self.deadlines.push(DeadlineChange::Set {
            key: self.put[0].key.clone(),
            name: name.into(),
            at,
        });
        self
    }

    fn cancelling(mut self, name: &str) -> Commit {
        self.deadlines.push(DeadlineChange::Cancel {
            key: self.put[0].key.clone(),
            name: name.into(),
        });
        self
    }

    fn parking(mut self, message: &str, order: u64) -> Commit {
        let parked = parked(&self.put[0].key, message, order);
        self.park.push(parked);
        self
    }

    fn unparking(mut self, message: &str) -> Commit {
        let key = self.put[0].key.clone();
        self.unpark.push((key, handled(message)));
        self
    }
}

pub(super) fn outgoing(lane: &str, body: &str) -> Outgoing {
    Outgoing {
        lane: lane.into(),
        publication: Publication::to_queue("q", Message::json(body.to_owned())),
        must_route: false,
    }
}

pub(super) fn parked(key: &Key, message: &str, order: u64) -> Parked {
    Parked {
        key: key.clone(),
        handled: handled(message),
        order,
        at: BASE,
        message: Message::json(message.to_owned()),
        queue: "q".into(),
    }
}

pub(super) fn query(filter: &[(&str, &str)], limit: u32) -> Query {
    let pair = |(name, value): &(&str, &str)| ((*name).into(), (*value).into());
    Query {
        kind: "order".into(),
        filter: filter.iter().map(pair).collect(),
        order: Order::Newest,
        after: None,
        limit,
    }
}

pub(super) fn ids_of(page: &Page) -> Vec<String> {
    let ids = page.documents.iter().map(|found| found.key.id.to_string());
    ids.collect()
}

pub(super) fn ids(claimed: &[Claimed]) -> Vec<OutgoingId> {
    claimed.iter().map(|claimed| claimed.id.clone()).collect()
}

/// The bodies of messages.
pub(super) fn bodies(claimed: &[Claimed]) -> Vec<String> {
    let body = |claimed: &Claimed| {
        let body = &claimed.outgoing.publication.message.body;
        String::from_utf8(body.to_vec()).expect("text")
    };
    claimed.iter().map(body).collect()
}

/// The bodies of messages of any lanes, sorted.
pub(super) fn sorted(claimed: &[Claimed]) -> Vec<String> {
    let mut bodies = bodies(claimed);
    bodies.sort();
    bodies
}

/// The names of deadlines, in order.
pub(super) fn names(due: &[Due]) -> Vec<&str> {
    due.iter().map(|due| &*due.name).collect()
}
