//! Who may publish what, in memory: lanes of outgoing messages for the adapters whose outbox belongs to one process.
//!
//! A lane is *held* while any of its messages is; otherwise it waits for its *turn*. Turns are given in the order in which lanes become
//! free, so that one whose messages cannot be sent does not keep the others waiting.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use leveret_core::time::Timestamp;

use super::{LANE_CLAIM_MAX, OutgoingId};

/// What an outgoing message is known by where numbers grow from commit to commit.
impl OutgoingId {
    pub(super) fn new(number: u64, lane: &str) -> OutgoingId {
        OutgoingId(format!("{number}:{lane}").into())
    }

    /// Number and lane; none of what no adapter gave out.
    pub(super) fn parts(&self) -> Option<(u64, &str)> {
        let (number, lane) = self.0.split_once(':')?;
        Some((number.parse().ok()?, lane))
    }
}

/// A message that somebody holds: number and lane.
pub(super) type Held = (u64, Arc<str>);

/// The lanes that have messages.
#[derive(Debug)]
pub(super) struct Lanes {
    lease: Duration,
    by_name: HashMap<Arc<str>, Lane>,
    /// Lanes that nobody holds, by their turns.
    free: BTreeMap<u64, Arc<str>>,
    /// Lanes that are held, by the end of the lease, then by when it began.
    held: BTreeMap<(Timestamp, u64), Arc<str>>,
    turns: u64,
    messages: u64,
}

#[derive(Debug)]
struct Lane {
    messages: VecDeque<Message>,
    place: Place,
}

#[derive(Debug)]
struct Message {
    number: u64,
    created_at: Timestamp,
    held: bool,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Free(u64),
    Held(Timestamp, u64),
}

impl Lane {
    fn is_held(&self) -> bool {
        self.messages.iter().any(|message| message.held)
    }

    fn hold(&mut self, max: usize) -> Vec<u64> {
        let first = self.messages.iter_mut().take(max.min(LANE_CLAIM_MAX));
        first
            .map(|message| {
                message.held = true;
                message.number
            })
            .collect()
    }
}

impl Lanes {
    pub(super) fn new(lease: Duration) -> Lanes {
        Lanes {
            lease,
            by_name: HashMap::new(),
            free: BTreeMap::new(),
            held: BTreeMap::new(),
            turns: 0,
            messages: 0,
        }
    }

    /// Adds the messages of one commit; tells of each whether its committer holds it.
    pub(super) fn add<'a>(
        &mut self,
        messages: impl IntoIterator<Item = (&'a Arc<str>, u64)>,
        now: Timestamp,
    ) -> Vec<bool> {
        let mut begun: Vec<&Arc<str>> = Vec::new();
        let mut held = Vec::new();
        for (lane, number) in messages {
            let is_held = begun.contains(&lane) || !self.by_name.contains_key(lane);
            if is_held && !begun.contains(&lane) {
                begun.push(lane);
                let place = self.held_place(lane.clone(), now);
                self.insert(lane.clone(), place);
            }
            self.push(lane, number, now, is_held);
            held.push(is_held);
        }
        held
    }

    /// Adds a message that an earlier process left.
    pub(super) fn add_left(&mut self, lane: &Arc<str>, number: u64, created_at: Timestamp) {
        if !self.by_name.contains_key(lane) {
            let place = self.free_place(lane.clone());
            self.insert(lane.clone(), place);
        }
        self.push(lane, number, created_at, false);
    }

    /// Takes the first messages of lanes whose turn it is.
    pub(super) fn claim(&mut self, limit: usize, now: Timestamp) -> Vec<Held> {
        self.end_leases(now);
        let mut claimed = Vec::new();
        while claimed.len() < limit {
            let Some((_, name)) = self.free.pop_first() else {
                break;
            };
            claimed.extend(self.hold(&name, limit - claimed.len(), now));
        }
        claimed
    }

    /// Forgets messages; takes those behind them in lanes that nobody holds any more. The first answer is those that were there.
    pub(super) fn sent<'a>(
        &mut self,
        ids: impl IntoIterator<Item = (u64, &'a str)>,
        now: Timestamp,
    ) -> (Vec<u64>, Vec<Held>) {
        let (mut gone, mut touched) = (Vec::new(), Vec::new());
        for (number, name) in ids {
            let Some((name, lane)) = self.by_name.get_key_value(name) else {
                continue;
            };
            let Ok(at) = lane.messages.binary_search_by_key(&number, |m| m.number) else {
                continue;
            };
            let name = name.clone();
            if let Some(lane) = self.by_name.get_mut(&name) {
                lane.messages.remove(at);
            }
            self.messages -= 1;
            gone.push(number);
            touched.push(name);
        }
        touched.sort_unstable();
        touched.dedup();
        let mut next = Vec::new();
        for name in touched {
            let Some(lane) = self.by_name.get(&name) else {
                continue;
            };
            if lane.messages.is_empty() {
                self.displace(&name);
                self.by_name.remove(&name);
            } else if !lane.is_held() {
                self.displace(&name);
                next.extend(self.hold(&name, LANE_CLAIM_MAX, now));
            }
        }
        (gone, next)
    }

    /// Gives messages back.
    pub(super) fn release<'a>(&mut self, ids: impl IntoIterator<Item = (u64, &'a str)>) {
        for (number, name) in ids {
            let Some(lane) = self.by_name.get_mut(name) else {
                continue;
            };
            if let Ok(at) = lane.messages.binary_search_by_key(&number, |m| m.number) {
                lane.messages[at].held = false;
            }
            if matches!(lane.place, Place::Held(..)) && !lane.is_held() {
                self.set_free(name);
            }
        }
    }

    /// How many messages wait, and when the oldest was added.
    pub(super) fn backlog(&self) -> (u64, Option<Timestamp>) {
        let firsts = self
            .by_name
            .values()
            .filter_map(|lane| lane.messages.front());
        let oldest = firsts.map(|message| message.created_at).min();
        (self.messages, oldest)
    }

    fn push(&mut self, lane: &str, number: u64, created_at: Timestamp, held: bool) {
        if let Some(lane) = self.by_name.get_mut(lane) {
            lane.messages.push_back(Message {
                number,
                created_at,
                held,
            });
            self.messages += 1;
        }
    }

    fn insert(&mut self, name: Arc<str>, place: Place) {
        let messages = VecDeque::new();
        self.by_name.insert(name, Lane { messages, place });
    }

    fn end_leases(&mut self, now: Timestamp) {
        while let Some(entry) = self.held.first_entry()
            && entry.key().0 <= now
        {
            let name = entry.get().clone();
            self.set_free(&name);
        }
    }

    fn set_free(&mut self, name: &str) {
        self.displace(name);
        let Some((name, _)) = self.by_name.get_key_value(name) else {
            return;
        };
        let place = self.free_place(name.clone());
        if let Some(lane) = self.place_at(place) {
            lane.messages
                .iter_mut()
                .for_each(|message| message.held = false);
        }
    }

    /// Holds the first messages of a lane that stands nowhere.
    fn hold(&mut self, name: &Arc<str>, max: usize, now: Timestamp) -> Vec<Held> {
        let place = self.held_place(name.clone(), now);
        let held = self.place_at(place).map(|lane| lane.hold(max));
        let held = held.into_iter().flatten();
        held.map(|number| (number, name.clone())).collect()
    }

    /// Tells a lane its new place.
    fn place_at(&mut self, place: Place) -> Option<&mut Lane> {
        let name = match place {
            Place::Free(turn) => self.free.get(&turn)?,
            Place::Held(until, turn) => self.held.get(&(until, turn))?,
        };
        let lane = self.by_name.get_mut(name)?;
        lane.place = place;
        Some(lane)
    }

    /// Takes a lane out of where it stands.
    fn displace(&mut self, name: &str) {
        match self.by_name.get(name).map(|lane| lane.place) {
            Some(Place::Free(turn)) => drop(self.free.remove(&turn)),
            Some(Place::Held(until, turn)) => drop(self.held.remove(&(until, turn))),
            None => {}
        }
    }

    fn free_place(&mut self, name: Arc<str>) -> Place {
        self.turns += 1;
        self.free.insert(self.turns, name);
        Place::Free(self.turns)
    }

    fn held_place(&mut self, name: Arc<str>, now: Timestamp) -> Place {
        self.turns += 1;
        let until = now + self.lease;
        self.held.insert((until, self.turns), name);
        Place::Held(until, self.turns)
    }
}
