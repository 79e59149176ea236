//! The newest version of each workflow, in memory: starting a run neither reads nor parses its definition.
//!
//! Other processes put workflows too, so an entry is looked up again at most once a second. A workflow put through this
//! process is the newest at once; one put through another, within a second.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use leveret_core::{
    ids::WorkflowId,
    workflow::{Workflow, WorkflowHash},
};
use tokio::time::Instant;

use crate::{
    runtime::Engine,
    store::{StoreError, WorkflowRecord},
};

/// For how long an entry is good.
const FRESH: Duration = Duration::from_secs(1);
/// How many workflows are kept.
const WORKFLOWS_MAX: usize = 1024;

struct Entry {
    version: u32,
    workflow: Arc<Workflow>,
    checked_at: Instant,
}

/// The cache.
#[derive(Default)]
pub(super) struct Newest(Mutex<HashMap<WorkflowId, Entry>>);

impl Newest {
    /// The newest version of a workflow; `None` if there is no such workflow.
    pub(super) async fn get(
        &self,
        engine: &Engine,
        id: &WorkflowId,
    ) -> Result<Option<Arc<Workflow>>, StoreError> {
        if let Some(workflow) = self.fresh(id, Instant::now()) {
            return Ok(Some(workflow));
        }
        let Some(record) = engine.store().workflow(id).await? else {
            return Ok(None);
        };
        let workflow = match self.of_hash(&record) {
            Some(workflow) => workflow,
            None => match engine.workflow_by_hash(&record.hash).await? {
                Some(workflow) => workflow,
                None => {
                    return Err(StoreError::Corrupt {
                        detail: format!("definition {} is not stored", record.hash),
                    });
                }
            },
        };
        Ok(Some(self.put(&record, workflow)))
    }

    /// Takes the version that was just read or put; an older one does not displace a newer one. Returns the newest.
    pub(super) fn put(&self, record: &WorkflowRecord, workflow: Arc<Workflow>) -> Arc<Workflow> {
        let mut entries = self.entries();
        if entries.len() >= WORKFLOWS_MAX && !entries.contains_key(&record.workflow_id) {
            entries.clear();
        }
        let entry = Entry {
            version: record.version,
            workflow,
            checked_at: Instant::now(),
        };
        let newest = entries
            .entry(record.workflow_id.clone())
            .or_insert_with(|| Entry {
                version: 0,
                ..entry.clone()
            });
        if entry.version >= newest.version {
            *newest = entry;
        }
        newest.workflow.clone()
    }

    /// An entry that is good. The first to find that it is not looks it up, the others go on with it meanwhile.
    fn fresh(&self, id: &WorkflowId, now: Instant) -> Option<Arc<Workflow>> {
        let mut entries = self.entries();
        let entry = entries.get_mut(id)?;
        if now.duration_since(entry.checked_at) < FRESH {
            return Some(entry.workflow.clone());
        }
        entry.checked_at = now;
        None
    }

    /// Makes an entry as old as one that must be looked up again.
    #[cfg(test)]
    pub(super) fn age(&self, id: &WorkflowId) {
        if let Some(entry) = self.entries().get_mut(id) {
            entry.checked_at -= FRESH;
        }
    }

    fn of_hash(&self, record: &WorkflowRecord) -> Option<Arc<Workflow>> {
        let is = |hash: WorkflowHash| hash == record.hash;
        self.entries()
            .get(&record.workflow_id)
            .filter(|entry| is(entry.workflow.hash))
            .map(|entry| entry.workflow.clone())
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<WorkflowId, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clone for Entry {
    fn clone(&self) -> Entry {
        Entry {
            version: self.version,
            workflow: self.workflow.clone(),
            checked_at: self.checked_at,
        }
    }
}
