//! A saga as it is kept: what has happened, what is expected, what was late.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use leveret_core::{
    event::{AggregateRef, Event},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};

use super::rules::{Expectation, Rules};

/// The most entries of a saga; what happens beyond is counted, and counts for what is expected.
pub const ENTRIES_MAX: usize = 1000;

/// The most late events that a saga keeps.
pub const LATE_MAX: usize = 100;

/// The longest reason, in bytes.
const REASON_BYTES_MAX: usize = 500;

/// An event of a saga, without its data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Its id.
    pub event_id: Arc<str>,
    /// What happened.
    #[serde(rename = "type")]
    pub event_type: Arc<str>,
    /// Who said so.
    pub source: Arc<str>,
    /// When it happened, by the clock of who said so.
    #[serde(with = "leveret_core::time::rfc_3339")]
    pub timestamp: Timestamp,
    /// The event that it follows from.
    pub causation_id: Option<Arc<str>>,
    /// What it happened to.
    pub aggregate: AggregateRef,
}

impl Entry {
    fn of(event: &Event) -> Entry {
        Entry {
            event_id: event.event_id.clone(),
            event_type: event.event_type.clone(),
            source: event.source.clone(),
            timestamp: event.timestamp,
            causation_id: event.causation_id.clone(),
            aggregate: event.aggregate.clone(),
        }
    }
}

/// Whether a saga goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing has ended it, or something is expected yet.
    Running,
    /// It is over, and nothing is missing.
    Ended,
    /// Something is overdue.
    Stuck,
}

impl State {
    /// All of them.
    pub const ALL: [State; 3] = [State::Running, State::Ended, State::Stuck];

    /// In a word.
    pub const fn as_str(self) -> &'static str {
        match self {
            State::Running => "running",
            State::Ended => "ended",
            State::Stuck => "stuck",
        }
    }

    /// The state of a word.
    pub fn parse(word: &str) -> Option<State> {
        State::ALL.into_iter().find(|state| state.as_str() == word)
    }
}

/// Something that was expected and came after its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Late {
    /// What was expected.
    pub expectation: Arc<str>,
    /// The event that came.
    pub event_id: Arc<str>,
    /// Its type.
    pub event_type: Arc<str>,
    /// By when it should have come.
    #[serde(with = "leveret_core::time::rfc_3339")]
    pub due: Timestamp,
    /// When it happened.
    #[serde(with = "leveret_core::time::rfc_3339")]
    pub at: Timestamp,
}

/// Something that is expected and has not come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Its name.
    pub expectation: &'static str,
    /// One of these would do.
    pub one_of: Vec<&'static str>,
    /// Since when it is expected.
    pub since: Timestamp,
    /// By when.
    pub due: Timestamp,
    /// Why the saga is stuck if it is overdue.
    pub reason: String,
}

/// What is known about an expectation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Known {
    /// When the last event of each type happened that it is expected after.
    after: BTreeMap<Arc<str>, Timestamp>,
    /// When the last event happened that begins its time anew.
    restarted: Option<Timestamp>,
    /// From then, in milliseconds.
    within_ms: u64,
    reason: String,
    is_fulfilled: bool,
}

/// The course of one saga.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Course {
    /// Its id, in small letters.
    pub correlation_id: Arc<str>,
    /// What has happened, causes first.
    pub entries: Vec<Entry>,
    /// How many events are not among the entries.
    pub more: u64,
    /// What has come after its time.
    pub late: Vec<Late>,
    /// By the names of expectations.
    expectations: BTreeMap<Arc<str>, Known>,
    /// The types that end a saga and have happened.
    ends: Vec<Arc<str>>,
}

impl Course {
    pub(super) fn new(correlation_id: &str) -> Course {
        Course {
            correlation_id: correlation_id.into(),
            entries: Vec::new(),
            more: 0,
            late: Vec::new(),
            expectations: BTreeMap::new(),
            ends: Vec::new(),
        }
    }

    /// Takes an event; whether it is new.
    pub(super) fn add(&mut self, rules: &Rules, event: &Event, now: Timestamp) -> bool {
        let mut known = self.entries.iter();
        if known.any(|entry| entry.event_id == event.event_id) {
            return false;
        }
        for rule in &rules.expectations {
            self.expect(rules, rule, event, now);
        }
        let ends = rules
            .ends
            .iter()
            .any(|(kind, _)| **kind == *event.event_type);
        if ends && !self.ends.contains(&event.event_type) {
            self.ends.push(event.event_type.clone());
        }
        if self.entries.len() < ENTRIES_MAX {
            self.entries.push(Entry::of(event));
            order(&mut self.entries);
        } else {
            self.more += 1;
        }
        true
    }

    /// What an event means to an expectation.
    fn expect(&mut self, rules: &Rules, rule: &Expectation, event: &Event, now: Timestamp) {
        let of = |types: &[&'static str]| types.iter().any(|kind| **kind == *event.event_type);
        let (begins, restarts, fulfils) =
            (of(&rule.after), of(&rule.restarted_by), of(&rule.one_of));
        if !(begins || restarts || fulfils) {
            return;
        }
        // A clock that is ahead gives nobody more time.
        let at = event.timestamp.min(now);
        if (restarts || fulfils)
            && let Some(missing) = self.missing_of(rules, rule)
            && at > missing.due
            && self.late.len() < LATE_MAX
        {
            self.late.push(Late {
                expectation: rule.name.into(),
                event_id: event.event_id.clone(),
                event_type: event.event_type.clone(),
                due: missing.due,
                at,
            });
        }
        let known = self.expectations.entry(rule.name.into()).or_default();
        if begins {
            let last = known.after.entry(event.event_type.clone()).or_insert(at);
            *last = at.max(*last);
            let within = (rule.within)(event);
            known.within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
            known.reason = bounded((rule.reason)(event));
        }
        if restarts {
            known.restarted = known.restarted.max(Some(at));
        }
        known.is_fulfilled |= fulfils;
    }

    /// How it ended, if it has.
    pub fn end<'a>(&self, rules: &'a Rules) -> Option<&'a str> {
        let mut ends = rules.ends.iter();
        let has_happened = |kind: &str| self.ends.iter().any(|end| **end == *kind);
        ends.find_map(|(kind, called)| has_happened(kind).then_some(*called))
    }

    /// What is expected and has not come, what is due first first.
    pub fn missing(&self, rules: &Rules) -> Vec<Missing> {
        let expected = rules.expectations.iter();
        let mut missing: Vec<_> = expected
            .filter_map(|rule| self.missing_of(rules, rule))
            .collect();
        missing.sort_by_key(|missing| missing.due);
        missing
    }

    fn missing_of(&self, rules: &Rules, rule: &Expectation) -> Option<Missing> {
        if !rule.outlives_end && self.end(rules).is_some() {
            return None;
        }
        let known = self.expectations.get(rule.name)?;
        if known.is_fulfilled {
            return None;
        }
        let after = rule.after.iter();
        let after = after.map(|kind| known.after.get(*kind).copied());
        let begun = after.collect::<Option<Vec<_>>>()?.into_iter().max()?;
        let since = begun.max(known.restarted.unwrap_or(begun));
        Some(Missing {
            expectation: rule.name,
            one_of: rule.one_of.clone(),
            since,
            due: since + Duration::from_millis(known.within_ms),
            reason: known.reason.clone(),
        })
    }

    /// Whether it goes on.
    pub fn state(&self, rules: &Rules, now: Timestamp) -> State {
        let missing = self.missing(rules);
        if missing.iter().any(|missing| missing.due <= now) {
            State::Stuck
        } else if missing.is_empty() && self.end(rules).is_some() {
            State::Ended
        } else {
            State::Running
        }
    }

    /// Why it is stuck: the reasons of what is overdue.
    pub fn reasons(&self, rules: &Rules, now: Timestamp) -> Vec<String> {
        let missing = self.missing(rules).into_iter();
        let overdue = missing.filter(|missing| missing.due <= now);
        overdue.map(|missing| missing.reason).collect()
    }

    /// When something will be overdue that is not yet.
    pub(super) fn next_due(&self, rules: &Rules, now: Timestamp) -> Option<Timestamp> {
        let missing = self.missing(rules).into_iter();
        let due = missing.map(|missing| missing.due);
        due.filter(|due| *due > now).min()
    }

    /// The entries that follow from one.
    pub fn reactions<'a>(&'a self, entry: &'a Entry) -> impl Iterator<Item = &'a Entry> {
        let follows = |other: &&Entry| other.causation_id.as_ref() == Some(&entry.event_id);
        self.entries.iter().filter(follows)
    }
}

/// By time, but each behind its cause, and behind what happened before to the same aggregate: clocks may differ. The same entries have the same
/// order, however they came.
fn order(entries: &mut Vec<Entry>) {
    entries.sort_by(|one, other| {
        let place = |entry: &Entry| (entry.timestamp, entry.aggregate.version);
        place(one)
            .cmp(&place(other))
            .then_with(|| one.event_id.cmp(&other.event_id))
    });
    let mut by_id = HashMap::new();
    let mut by_aggregate: HashMap<_, Vec<(u64, usize)>> = HashMap::new();
    for (at, entry) in entries.iter().enumerate() {
        by_id.insert(&*entry.event_id, at);
        let AggregateRef { id, version } = &entry.aggregate;
        by_aggregate.entry(&**id).or_default().push((*version, at));
    }
    let mut before: Vec<Vec<usize>> = Vec::new();
    for entry in entries.iter() {
        let cause = entry.causation_id.as_ref();
        let cause = cause.and_then(|id| by_id.get(&**id).copied());
        before.push(cause.into_iter().collect());
    }
    for versions in by_aggregate.values_mut() {
        versions.sort_unstable();
        for pair in versions.windows(2) {
            before[pair[1].1].push(pair[0].1);
        }
    }
    let mut places = Vec::with_capacity(entries.len());
    let mut is_seen = vec![false; entries.len()];
    for first in 0..entries.len() {
        // What has to come before an entry is put above it, and done first. Entries that name each other as causes come as they are found.
        let mut waiting = vec![(first, false)];
        while let Some((at, is_next)) = waiting.pop() {
            if is_next {
                places.push(at);
            } else if !is_seen[at] {
                is_seen[at] = true;
                waiting.push((at, true));
                waiting.extend(before[at].iter().map(|&at| (at, false)));
            }
        }
    }
    let mut unordered: Vec<Option<Entry>> = std::mem::take(entries).into_iter().map(Some).collect();
    entries.extend(places.into_iter().filter_map(|at| unordered[at].take()));
}

fn bounded(mut reason: String) -> String {
    let mut at = reason.len().min(REASON_BYTES_MAX);
    while !reason.is_char_boundary(at) {
        at -= 1;
    }
    reason.truncate(at);
    reason
}
