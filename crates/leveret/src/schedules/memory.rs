//! Schedules in memory, for tests and for engines that forget.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use leveret_core::{ids::ScheduleId, schedule::Firing, time::Timestamp};

use super::{Change, Kept, Schedules, forgotten};
use crate::store::StoreError;

/// Schedules in memory. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct MemorySchedules(Arc<Mutex<BTreeMap<ScheduleId, Entry>>>);

#[derive(Debug)]
struct Entry {
    kept: Kept,
    look_at: Option<Timestamp>,
    history: BTreeMap<u64, Firing>,
}

impl MemorySchedules {
    fn entries(&self) -> MutexGuard<'_, BTreeMap<ScheduleId, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Schedules for MemorySchedules {
    async fn get(&self, id: &ScheduleId) -> Result<Option<Kept>, StoreError> {
        Ok(self.entries().get(id).map(|entry| entry.kept.clone()))
    }

    async fn list(&self, after: Option<&ScheduleId>, limit: u32) -> Result<Vec<Kept>, StoreError> {
        let entries = self.entries();
        let behind = entries
            .values()
            .filter(|entry| after.is_none_or(|after| entry.kept.id > *after));
        let kept = behind.map(|entry| entry.kept.clone());
        Ok(kept.take(limit as usize).collect())
    }

    async fn due(&self, now: Timestamp, limit: u32) -> Result<Vec<Kept>, StoreError> {
        let entries = self.entries();
        let due = entries.values().filter_map(|entry| {
            let look_at = entry.look_at.filter(|at| *at <= now)?;
            Some((look_at, entry.kept.clone()))
        });
        let mut due: Vec<_> = due.collect();
        due.sort_by_key(|(look_at, _)| *look_at);
        let due = due.into_iter().map(|(_, kept)| kept);
        Ok(due.take(limit as usize).collect())
    }

    async fn next_look(&self) -> Result<Option<Timestamp>, StoreError> {
        let entries = self.entries();
        Ok(entries.values().filter_map(|entry| entry.look_at).min())
    }

    async fn change(&self, change: &Change) -> Result<bool, StoreError> {
        let mut entries = self.entries();
        let found = entries
            .get(&change.id)
            .map_or(0, |entry| entry.kept.version);
        if found != change.version {
            return Ok(false);
        }
        let kept = Kept {
            id: change.id.clone(),
            version: change.version + 1,
            schedule: change.schedule.clone(),
        };
        let entry = entries.entry(change.id.clone()).or_insert_with(|| Entry {
            kept: kept.clone(),
            look_at: None,
            history: BTreeMap::new(),
        });
        entry.kept = kept;
        entry.look_at = change.look_at;
        let over = change.over.iter();
        entry
            .history
            .extend(over.map(|firing| (firing.number, firing.clone())));
        let forgotten = forgotten(&change.schedule) as u64;
        entry.history.retain(|number, _| *number > forgotten);
        Ok(true)
    }

    async fn remove(&self, id: &ScheduleId) -> Result<bool, StoreError> {
        Ok(self.entries().remove(id).is_some())
    }

    async fn history(
        &self,
        id: &ScheduleId,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<Firing>, StoreError> {
        let entries = self.entries();
        let history = entries.get(id).map(|entry| &entry.history);
        let before = before.unwrap_or(u64::MAX);
        let firings = history
            .into_iter()
            .flat_map(|all| all.range(..before).rev());
        let firings = firings.map(|(_, firing)| firing.clone());
        Ok(firings.take(limit as usize).collect())
    }
}
