//! A commit is one write: an update whose filter is its guard, which the server computes on the document as it is then.
//!
//! When it finds nothing to update, or another document handled its message, nothing happened; a look at the inbox tells why. Commits of a batch
//! go at the same time, those of one home one after the other.

use std::collections::{BTreeMap, HashMap, HashSet};

use leveret_core::time::Timestamp;
use mongodb::{
    bson::{Bson, Document as Doc, doc},
    options::ReturnDocument,
};
use uuid::Uuid;

use super::{
    Inner, all,
    error::Failure,
    expressions::{
        after, array, claimed_by, concat, each, filter, is_one_of, lanes, literal, map, merged_if,
        not, settled,
    },
    inbox,
    layout::{self, Home, Stored, handled_id},
};
use crate::service::documents::{
    Claimed, Commit, Committed, DeadlineChange, NewState, OutgoingId, Put,
};

/// How often a write is tried again after another one made its document at the same time.
const CONFLICTS_MAX: u32 = 10;

/// Answers in the order of the batch.
pub(super) async fn commit(
    inner: &Inner,
    batch: &[Commit],
    now: Timestamp,
) -> Result<Vec<Committed>, Failure> {
    let mut answers: Vec<Committed> = vec![Committed::Done(Vec::new()); batch.len()];
    let mut by_home: HashMap<Home, Vec<usize>> = HashMap::new();
    let mut homes = Vec::new();
    for (at, commit) in batch.iter().enumerate() {
        if let Some(home) = Home::of(commit, &inner.kinds) {
            let commits = by_home.entry(home.clone()).or_default();
            if commits.is_empty() {
                homes.push(home);
            }
            commits.push(at);
        }
    }
    let writes = homes.iter().map(|home| {
        let commits = &by_home[home];
        async move {
            let mut answers = Vec::with_capacity(commits.len());
            for &at in commits {
                answers.push((at, commit_one(inner, home, &batch[at], now).await?));
            }
            Ok(answers)
        }
    });
    for (at, answer) in all(writes.collect()).await?.into_iter().flatten() {
        answers[at] = answer;
    }
    Ok(answers)
}

async fn commit_one(
    inner: &Inner,
    home: &Home,
    commit: &Commit,
    now: Timestamp,
) -> Result<Committed, Failure> {
    let write = Write::new(inner, home, commit, now);
    for _ in 0..CONFLICTS_MAX {
        let written = match inner.exchange(write.action(inner)).await {
            Err(failure) if failure.is_duplicate() => None,
            written => written?,
        };
        if let Some(written) = written {
            return Ok(Committed::Done(write.claimed(commit, &written, now)?));
        }
        let repeated = inbox::handled_before(inner, &commit.handled).await?;
        if !repeated.is_empty() {
            return Ok(Committed::Repeated(repeated));
        }
        if let Some(put) = commit.put.first() {
            return Ok(Committed::Conflict(put.key.clone()));
        }
        // Another commit made the carrier, or the message was forgotten in between.
    }
    Err(Failure::Documents(
        crate::service::documents::DocumentsError::Unavailable {
            detail: "others were at work on the same documents, repeatedly".to_owned(),
        },
    ))
}

/// One update: its guard, its stages, and who claims what goes out.
struct Write {
    guard: Doc,
    update: Vec<Doc>,
    makes: bool,
    by: String,
    id: String,
}

impl Write {
    fn new(inner: &Inner, home: &Home, commit: &Commit, now: Timestamp) -> Write {
        let (id, by) = (home.to_string(), Uuid::now_v7().simple().to_string());
        let put = commit.put.first();
        let mut guard = doc! { "_id": &*id };
        if let Some(put) = put {
            guard.insert("version", put.expected as i64);
        }
        let handled: Vec<String> = commit.handled.iter().map(handled_id).collect();
        if !handled.is_empty() {
            guard.insert("inbox.id", doc! { "$nin": &handled });
        }
        let mut set = name(home);
        set_document(&mut set, put, now);
        if !handled.is_empty() {
            set.insert("inbox", with_handled(&handled, now, inner.inbox_max));
        }
        if !commit.publish.is_empty() {
            set.insert("out", with_outgoing(commit, &by, now, inner.lease_ms));
        }
        if !commit.deadlines.is_empty() {
            set.insert("deadlines", with_deadlines(commit));
        }
        if !(commit.park.is_empty() && commit.unpark.is_empty()) {
            set.insert("parked", with_parked(commit));
        }
        let mut update = vec![doc! { "$set": set }];
        if put.is_some_and(|put| put.state == NewState::Remove) {
            update.push(doc! { "$unset": ["state", "fields"] });
        }
        update.push(settled());
        Write {
            guard,
            update,
            // What exists with another version has this id: the server refuses to make it again.
            makes: put.is_none_or(|put| put.expected == 0),
            by,
            id,
        }
    }

    fn action(
        &self,
        inner: &Inner,
    ) -> impl Future<Output = Result<Option<Doc>, mongodb::error::Error>> {
        let held = map(claimed_by(&self.by), "$$e.id");
        inner
            .durable
            .find_one_and_update(self.guard.clone(), self.update.clone())
            .upsert(self.makes)
            .return_document(ReturnDocument::After)
            .projection(doc! { "held": held })
            .into_future()
    }

    /// What its committer publishes.
    fn claimed(
        &self,
        commit: &Commit,
        written: &Doc,
        now: Timestamp,
    ) -> Result<Vec<Claimed>, Failure> {
        let held = Stored(written).array("held")?;
        let held: HashSet<&str> = held.iter().filter_map(Bson::as_str).collect();
        let entries = commit.publish.iter().enumerate();
        let entries = entries.map(|(at, outgoing)| (entry_id(&self.by, at), outgoing));
        let claimed = entries.filter(|(entry, _)| held.contains(&**entry));
        let claimed = claimed.map(|(entry, outgoing)| Claimed {
            id: OutgoingId::in_home(&entry, &self.id),
            outgoing: outgoing.clone(),
            created_at: now,
        });
        Ok(claimed.collect())
    }
}

/// The name of a commit's outgoing message, that no other one ever has.
fn entry_id(by: &str, at: usize) -> String {
    format!("{by}.{at}")
}

/// What a home is found by.
fn name(home: &Home) -> Doc {
    let mut set = Doc::new();
    if let Home::Document(key) = home {
        set.insert("kind", literal(&*key.kind));
        set.insert("id", literal(&*key.id));
    }
    set
}

fn set_document(set: &mut Doc, put: Option<&Put>, now: Timestamp) {
    let Some(put) = put else {
        set.insert("version", doc! { "$ifNull": ["$version", 0_i64] });
        return;
    };
    set.insert("version", literal(put.version as i64));
    if let NewState::Set(state, fields) = &put.state {
        let mut values: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (field, value) in fields {
            values.entry(field).or_default().push(value);
        }
        let fields = values.into_iter();
        let fields = fields.map(|(field, values)| (field.to_owned(), Bson::from(values)));
        set.insert("state", literal(state.text()));
        set.insert("fields", literal(fields.collect::<Doc>()));
        set.insert("created_at", doc! { "$ifNull": ["$created_at", now.0] });
    }
}

/// The last ones, those of the commit in any case.
fn with_handled(handled: &[String], now: Timestamp, inbox_max: u32) -> Doc {
    let most = i64::from(inbox_max).max(handled.len() as i64);
    let entries = handled.iter().map(|id| doc! { "id": id, "at": now.0 });
    let entries: Vec<Doc> = entries.collect();
    doc! { "$slice": [concat(array("inbox"), literal(entries)), -most] }
}

/// Messages of lanes that have none are claimed by the committer.
fn with_outgoing(commit: &Commit, by: &str, now: Timestamp, lease_ms: i64) -> Bson {
    let entries = commit.publish.iter().enumerate();
    let entries = entries.map(|(at, outgoing)| layout::outgoing(entry_id(by, at), outgoing, now));
    let is_free = not(is_one_of("lane", lanes(array("out"))));
    let claimed = merged_if(is_free, doc! { "until": after(lease_ms), "by": by });
    concat(
        array("out"),
        map(literal(entries.collect::<Vec<Doc>>()), claimed),
    )
}

/// The last change of each deadline.
fn with_deadlines(commit: &Commit) -> Bson {
    let changes = commit.deadlines.iter();
    let last: BTreeMap<_, _> = changes.map(|change| (change.whose().1, change)).collect();
    let names: Vec<&str> = last.keys().map(|name| &***name).collect();
    let set = last.values().filter_map(|change| match change {
        DeadlineChange::Set { name, at, .. } => {
            Some(doc! { "name": &**name, "at": at.0, "claimable": at.0 })
        }
        DeadlineChange::Cancel { .. } => None,
    });
    let left = filter(array("deadlines"), not(is_one_of("name", literal(names))));
    concat(left, literal(set.collect::<Vec<Doc>>()))
}

/// Without those that go, and with those that are not there then.
fn with_parked(commit: &Commit) -> Doc {
    let gone: Vec<String> = commit
        .unpark
        .iter()
        .map(|(_, handled)| handled_id(handled))
        .collect();
    let mut seen = HashSet::new();
    let new = commit
        .park
        .iter()
        .filter(|parked| seen.insert(&parked.handled));
    let new: Vec<Doc> = new.map(layout::parked).collect();
    let is_new = not(is_one_of("id", each("$$left", "id")));
    doc! { "$let": {
        "vars": { "left": filter(array("parked"), not(is_one_of("id", literal(gone)))) },
        "in": concat("$$left", filter(literal(new), is_new)),
    } }
}
