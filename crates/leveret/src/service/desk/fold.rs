//! Commits that gather go out in one call; those that put the same documents are folded into one.

use std::collections::{HashMap, HashSet};

use leveret_core::time::Timestamp;

use super::cache::{Cache, Mark};
use crate::{
    crash::{self, Point},
    service::documents::{
        Claimed, Commit, Committed, Documents, DocumentsError, Handled, Key, NewState, Put,
    },
};

/// The most commits that are folded into one.
const FOLD_MAX: usize = 256;

/// A commit that waits for its call.
pub(super) struct Item {
    pub(super) commit: Commit,
    /// The message that it is made for, if it is one.
    pub(super) own: Option<Handled>,
    /// What it was decided upon.
    pub(super) marks: Vec<Mark>,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fate {
    /// It is durable; these go out now.
    Done(Vec<Claimed>),
    /// Its message was handled before.
    Repeated,
    /// What it was decided upon is not what is stored: it is to be decided again.
    Again,
}

type Answer = Result<Fate, DocumentsError>;

/// Commits all, in their order where they touch the same documents. Answers in the order of the items.
pub(super) async fn commit_all(
    documents: &dyn Documents,
    cache: &Cache,
    items: Vec<Item>,
    now: Timestamp,
) -> Vec<Answer> {
    let documents_max = documents.capabilities().documents_per_commit;
    let mut answers: Vec<Answer> = vec![Ok(Fate::Again); items.len()];
    let mut waiting: Vec<(usize, Item)> = items.into_iter().enumerate().collect();
    while !waiting.is_empty() {
        waiting.retain(|(_, item)| cache.holds(&item.marks));
        let (mut groups, rest) = group(waiting, documents_max);
        waiting = rest;
        let commits: Vec<Commit> = groups.iter_mut().map(fold).collect();
        if commits.is_empty() {
            break;
        }
        crash::reached(Point::ServiceBeforeCommit);
        match documents.commit(&commits, now).await {
            Ok(committed) => {
                crash::reached(Point::ServiceAfterCommit);
                for (group, committed) in groups.iter().zip(committed) {
                    settle(cache, group, committed, &mut answers);
                }
            }
            Err(error) => {
                let failed = groups.iter().flatten().chain(&waiting);
                for (at, item) in failed {
                    cache.failed(&item.marks);
                    answers[*at] = Err(error.clone());
                }
                break;
            }
        }
    }
    answers
}

type Group = Vec<(usize, Item)>;

/// Groups of items that touch the same documents, and what has to wait for the next call: what handles the same message as another one, and
/// what is too much for one commit, each with all that builds on it.
fn group(items: Vec<(usize, Item)>, documents_max: usize) -> (Vec<Group>, Vec<(usize, Item)>) {
    let mut component: Vec<usize> = (0..items.len()).collect();
    let mut first_of: HashMap<&Key, usize> = HashMap::new();
    for (at, (_, item)) in items.iter().enumerate() {
        for put in &item.commit.put {
            let other = *first_of.entry(&put.key).or_insert(at);
            let (one, other) = (root(&mut component, at), root(&mut component, other));
            component[one.max(other)] = one.min(other);
        }
    }
    let roots: Vec<usize> = (0..items.len())
        .map(|at| root(&mut component, at))
        .collect();
    let mut seen: HashSet<Handled> = HashSet::new();
    let mut cut: HashSet<usize> = HashSet::new();
    let (mut groups, mut rest): (HashMap<usize, Group>, Vec<_>) = (HashMap::new(), Vec::new());
    let mut order = Vec::new();
    for ((at, item), root) in items.into_iter().zip(roots) {
        let group = groups.entry(root).or_insert_with(|| {
            order.push(root);
            Vec::new()
        });
        let known = item
            .commit
            .handled
            .iter()
            .any(|handled| seen.contains(handled));
        if known || cut.contains(&root) || !fits(group, &item, documents_max) {
            cut.insert(root);
            rest.push((at, item));
        } else {
            seen.extend(item.commit.handled.iter().cloned());
            group.push((at, item));
        }
    }
    let groups = order.iter().filter_map(|root| groups.remove(root));
    (groups.filter(|group| !group.is_empty()).collect(), rest)
}

fn root(component: &mut [usize], at: usize) -> usize {
    let mut root = at;
    while component[root] != root {
        root = component[root];
    }
    component[at] = root;
    root
}

fn fits(group: &Group, item: &Item, documents_max: usize) -> bool {
    if group.is_empty() {
        return true;
    }
    let keys: HashSet<&Key> = group
        .iter()
        .map(|(_, item)| item)
        .chain([item])
        .flat_map(|item| item.commit.put.iter().map(|put| &put.key))
        .collect();
    group.len() < FOLD_MAX && keys.len() <= documents_max
}

/// One commit that does what all of them do, one after the other. An item that is alone gives its own away.
fn fold(group: &mut Group) -> Commit {
    if let [(_, item)] = group.as_mut_slice() {
        return std::mem::take(&mut item.commit);
    }
    let mut folded = Commit::default();
    let mut places: HashMap<Key, usize> = HashMap::new();
    for (_, item) in group {
        let commit = item.commit.clone();
        folded.handled.extend(commit.handled);
        for put in commit.put {
            if let Some(&at) = places.get(&put.key) {
                fold_put(&mut folded.put[at], put);
            } else {
                places.insert(put.key.clone(), folded.put.len());
                folded.put.push(put);
            }
        }
        folded.publish.extend(commit.publish);
        folded.deadlines.extend(commit.deadlines);
        for over in commit.unpark {
            let parked = folded.park.len();
            folded
                .park
                .retain(|parked| (&parked.key, &parked.handled) != (&over.0, &over.1));
            if folded.park.len() == parked {
                folded.unpark.push(over);
            }
        }
        folded.park.extend(commit.park);
    }
    folded
}

fn fold_put(first: &mut Put, next: Put) {
    first.version = next.version;
    if next.state != NewState::Keep {
        first.state = next.state;
    }
}

fn settle(cache: &Cache, group: &Group, committed: Committed, answers: &mut [Answer]) {
    match committed {
        Committed::Done(claimed) => {
            let mut shares = share(group, claimed);
            for (at, item) in group {
                cache.done(&item.marks);
                answers[*at] = Ok(Fate::Done(shares.remove(at).unwrap_or_default()));
            }
        }
        Committed::Repeated(repeated) => {
            for (at, item) in group {
                cache.failed(&item.marks);
                // A parked message that it applies may be the one; then it is decided again, without that.
                let own = item.own.as_ref().is_some_and(|own| repeated.contains(own));
                answers[*at] = Ok(if own { Fate::Repeated } else { Fate::Again });
            }
        }
        Committed::Conflict(_) => {
            for (at, item) in group {
                cache.failed(&item.marks);
                answers[*at] = Ok(Fate::Again);
            }
        }
    }
}

/// Who publishes what of a group's messages: each its own.
fn share(group: &Group, claimed: Vec<Claimed>) -> HashMap<usize, Vec<Claimed>> {
    let mut shares: HashMap<usize, Vec<Claimed>> = HashMap::new();
    if let [(at, _)] = group.as_slice() {
        shares.insert(*at, claimed);
        return shares;
    }
    let mut owners = HashMap::new();
    for (at, item) in group {
        for outgoing in &item.commit.publish {
            owners.insert(outgoing.publication.message.message_id.clone(), *at);
        }
    }
    for claimed in claimed {
        let message_id = &claimed.outgoing.publication.message.message_id;
        let owner = owners.get(message_id).copied().unwrap_or(group[0].0);
        shares.entry(owner).or_default().push(claimed);
    }
    shares
}
