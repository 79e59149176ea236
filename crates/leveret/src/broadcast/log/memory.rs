//! A log in memory, for simulations and tests: all of the seam's promises but survival.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use leveret_core::{
    broadcast::{Logged, Outcome, Position},
    time::Timestamp,
};

use super::{Appended, Key, LOG_LEASE, LogError, NewWrite, WriteLog};

/// A log that lives as long as its last clone: a heart that is made anew over it is one that was restarted.
#[derive(Clone, Debug)]
pub struct MemoryWriteLog(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    cluster: Arc<str>,
    epoch: u64,
    owner: String,
    until: Timestamp,
    base: Position,
    entries: VecDeque<Logged>,
    keys: HashMap<Arc<str>, Known>,
    facts: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Known {
    key: Key,
    position: Position,
    at: Timestamp,
    outcome: Option<Outcome>,
}

impl MemoryWriteLog {
    /// An empty log of this cluster.
    pub fn new(cluster: &str) -> MemoryWriteLog {
        MemoryWriteLog(Arc::new(Mutex::new(State {
            cluster: cluster.into(),
            epoch: 0,
            owner: String::new(),
            until: Timestamp(0),
            base: Position::default(),
            entries: VecDeque::new(),
            keys: HashMap::new(),
            facts: BTreeMap::new(),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn fenced(&self, epoch: u64) -> Result<(), LogError> {
        if self.epoch == epoch {
            Ok(())
        } else {
            Err(LogError::Fenced { epoch: self.epoch })
        }
    }

    fn last(&self) -> Position {
        self.entries
            .back()
            .map_or(self.base, |entry| entry.position)
    }

    fn append_one(&mut self, new: NewWrite, now: Timestamp) -> Appended {
        let position = Position {
            epoch: self.epoch,
            seq: self.last().seq + 1,
        };
        if let Some(key) = new.key {
            if let Some(known) = self.keys.get(&key.name) {
                return if known.key == key {
                    Appended::Known(known.position)
                } else {
                    Appended::KeyTaken
                };
            }
            let known = Known {
                key: key.clone(),
                position,
                at: now,
                outcome: None,
            };
            self.keys.insert(key.name, known);
        }
        self.entries.push_back(Logged {
            position,
            write: new.write,
        });
        Appended::New(position)
    }
}

#[async_trait]
impl WriteLog for MemoryWriteLog {
    async fn cluster(&self) -> Result<Arc<str>, LogError> {
        Ok(self.state().cluster.clone())
    }

    async fn open_epoch(&self, owner: &str, now: Timestamp) -> Result<(u64, Position), LogError> {
        let mut state = self.state();
        if state.owner != owner && now < state.until {
            return Err(LogError::Held {
                owner: state.owner.clone(),
                until: state.until,
            });
        }
        state.epoch += 1;
        owner.clone_into(&mut state.owner);
        state.until = now + LOG_LEASE;
        Ok((state.epoch, state.last()))
    }

    async fn recover(
        &self,
        owner: &str,
        cluster: &str,
        end: Position,
        now: Timestamp,
    ) -> Result<u64, LogError> {
        let mut state = self.state();
        state.epoch = state.epoch.max(end.epoch) + 1;
        owner.clone_into(&mut state.owner);
        state.until = now + LOG_LEASE;
        state.cluster = cluster.into();
        state.base = end;
        state.entries.clear();
        Ok(state.epoch)
    }

    async fn keep(&self, epoch: u64, now: Timestamp) -> Result<(), LogError> {
        let mut state = self.state();
        state.fenced(epoch)?;
        state.until = now + LOG_LEASE;
        Ok(())
    }

    async fn release(&self, epoch: u64) -> Result<(), LogError> {
        let mut state = self.state();
        state.fenced(epoch)?;
        state.until = Timestamp(0);
        Ok(())
    }

    async fn append(
        &self,
        epoch: u64,
        batch: Vec<NewWrite>,
        now: Timestamp,
    ) -> Result<Vec<Appended>, LogError> {
        let mut state = self.state();
        state.fenced(epoch)?;
        let appended = batch.into_iter().map(|new| state.append_one(new, now));
        Ok(appended.collect())
    }

    async fn after(&self, seq: u64, limit: u32, bytes_max: u64) -> Result<Vec<Logged>, LogError> {
        let state = self.state();
        let Some(skipped) = seq.checked_sub(state.base.seq) else {
            return Err(LogError::Truncated {
                oldest: state.base.seq + 1,
            });
        };
        let mut bytes = 0;
        let wanted = state.entries.iter().skip(skipped as usize);
        let wanted = wanted.take(limit as usize).take_while(|entry| {
            let is_first = bytes == 0;
            let texts = entry
                .write
                .statements
                .iter()
                .map(|one| one.sql.len() as u64);
            bytes += texts.sum::<u64>();
            is_first || bytes <= bytes_max
        });
        Ok(wanted.cloned().collect())
    }

    async fn last(&self) -> Result<Position, LogError> {
        Ok(self.state().last())
    }

    async fn settle(&self, outcomes: Vec<(u64, Outcome)>) -> Result<(), LogError> {
        let mut state = self.state();
        for (seq, outcome) in outcomes {
            let mut known = state.keys.values_mut();
            if let Some(known) = known.find(|known| known.position.seq == seq) {
                known.outcome.get_or_insert(outcome);
            }
        }
        Ok(())
    }

    async fn outcome(&self, seq: u64) -> Result<Option<Outcome>, LogError> {
        let state = self.state();
        let mut known = state.keys.values();
        let known = known.find(|known| known.position.seq == seq);
        Ok(known.and_then(|known| known.outcome.clone()))
    }

    async fn truncate(&self, seq: u64, keys_before: Timestamp) -> Result<u64, LogError> {
        let mut state = self.state();
        state.keys.retain(|_, known| known.at >= keys_before);
        let mut gone = 0;
        while state
            .entries
            .front()
            .is_some_and(|entry| entry.position.seq <= seq)
        {
            if let Some(entry) = state.entries.pop_front() {
                state.base = entry.position;
                gone += 1;
            }
        }
        Ok(gone)
    }

    async fn size(&self) -> Result<(u64, u64), LogError> {
        let state = self.state();
        let texts = state
            .entries
            .iter()
            .flat_map(|entry| &entry.write.statements);
        let bytes = texts.map(|statement| statement.sql.len() as u64).sum();
        Ok((bytes, state.base.seq + 1))
    }

    async fn put_fact(&self, epoch: u64, name: &str, value: &str) -> Result<(), LogError> {
        let mut state = self.state();
        state.fenced(epoch)?;
        state.facts.insert(name.to_owned(), value.to_owned());
        Ok(())
    }

    async fn facts(&self) -> Result<Vec<(String, String)>, LogError> {
        Ok(self.state().facts.clone().into_iter().collect())
    }

    async fn close(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broadcast::log::conformance;

    #[tokio::test]
    async fn keeps_the_promises() {
        conformance::exercise(async || Arc::new(MemoryWriteLog::new("c1")) as Arc<dyn WriteLog>)
            .await;
    }
}
