//! Running a heart: taking the log, keeping it, and keeping it small.

use std::{path::PathBuf, sync::Arc, time::Duration};

use leveret_core::{broadcast::Position, time::Timestamp};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::{
    Heart, HeartError, Shared,
    lead::{LEASE_MARGIN, SETTLE_MAX},
    members::{Member, Members, Record},
    phase::Phase,
    publish,
    register::{MEMBER_FACT, NO_RECORD, REMOVED_FACT, SEED_FACT},
    reports,
};
use crate::broadcast::{
    link::LinkError,
    log::{LOG_LEASE, LogError},
    replica::Snapshot,
};

/// How often the lease is kept.
const KEEP_EVERY: Duration = Duration::from_secs(2);

/// How often a standby tries to take the log.
const TRY_EVERY: Duration = Duration::from_millis(500);

/// How often the log's size is looked at, and what nobody waits for is forgotten.
const TIDY_EVERY: Duration = Duration::from_secs(10);

/// How long the broker may take to count or delete a queue.
const DEPTH_TIMEOUT: Duration = Duration::from_secs(1);

/// How long an outcome is waited for that nobody asks for.
const FORGET_AFTER: Duration = Duration::from_secs(60);

/// Where the last snapshot is. Persisted.
const SNAPSHOT_FACT: &str = "snapshot";

/// A snapshot that the heart keeps: the log may begin behind it. Persisted as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    path: PathBuf,
    position: Position,
    /// The SHA-256, as bytes.
    digest: Vec<u8>,
    size_bytes: u64,
}

impl Heart {
    /// Takes the log, as soon as no other heart has it, and serves until `stop` turns true. Then it takes no more writes, those under way are
    /// answered within a bound, what is logged goes out as far as the broker takes it, and the log is given up: another heart has it at once.
    ///
    /// # Errors
    /// When the log cannot be used as it is. What may pass is waited for.
    pub async fn serve(&self, stop: watch::Receiver<bool>) -> Result<(), HeartError> {
        let shared = &self.0;
        let (end, ended) = watch::channel(false);
        let publisher = tokio::spawn(publish::run(shared.clone(), ended.clone()));
        let reports = tokio::spawn(reports::run(shared.clone(), ended));
        let kept = shared.keep(stop).await;
        let held = shared.drain().await;
        // Nobody listens who has ended already.
        end.send_replace(true);
        for task in [publisher, reports] {
            if let Err(error) = task.await {
                tracing::error!(%error, "a task of the heart panicked");
            }
        }
        shared.retire(held).await;
        kept
    }
}

impl Shared {
    async fn keep(self: &Arc<Self>, mut stop: watch::Receiver<bool>) -> Result<(), HeartError> {
        let mut tidied = Instant::now();
        loop {
            let turn = async {
                let held = self.state().phase.held();
                let pause = if let Some(epoch) = held {
                    self.keep_once(epoch).await;
                    KEEP_EVERY
                } else {
                    self.take().await?;
                    TRY_EVERY
                };
                if tidied.elapsed() >= TIDY_EVERY {
                    tidied = Instant::now();
                    self.tidy().await;
                }
                sleep(pause).await;
                Ok::<_, HeartError>(())
            };
            // A turn that is dropped in the middle leaves a lease that ends by itself.
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return Ok(()),
                turned = turn => turned?,
            }
        }
    }

    async fn keep_once(&self, epoch: u64) {
        match self.renew(epoch).await {
            // Fenced, it stands by, and has said so.
            Ok(()) | Err(LogError::Fenced { .. }) => {}
            Err(error) => tracing::warn!(%error, "the lease of the log is not kept now"),
        }
    }

    /// Tries to take the log, with what it has of members.
    async fn take(self: &Arc<Self>) -> Result<(), HeartError> {
        let started = Instant::now();
        let log = &self.parts.log;
        let opened = log.open_epoch(&self.options.owner, self.now()).await;
        match opened {
            Ok((epoch, last)) => {
                let loaded = self.load(epoch, last, started).await;
                match loaded {
                    Err(error) if error.is_retryable() => {
                        tracing::warn!(%error, "the log is not available now");
                    }
                    other => other?,
                }
            }
            Err(LogError::Held { owner, .. }) => {
                self.state().phase = Phase::Standby { owner };
            }
            Err(error) if error.is_retryable() => {
                tracing::warn!(%error, "the log is not available now");
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Begins an epoch.
    pub(super) async fn load(
        self: &Arc<Self>,
        epoch: u64,
        last: Position,
        started: Instant,
    ) -> Result<(), LogError> {
        let log = &self.parts.log;
        let cluster = log.cluster().await?;
        let (log_bytes, oldest) = log.size().await?;
        let facts = log.facts().await?;
        let (members, kept) = self.read_facts(facts);
        {
            let mut state = self.state();
            state.phase = Phase::Active {
                epoch,
                until: started + LOG_LEASE - LEASE_MARGIN,
            };
            state.cluster = cluster;
            state.last = last;
            state.oldest = oldest;
            state.log_bytes = log_bytes;
            state.members = members;
            state.kept = kept;
            state.waiting.clear();
            state.outbox.clear();
            state.recent.clear();
            state.marks = super::marks::Marks::default();
            state.is_uncertain = false;
            state.seen = 0;
            state.settling = Some(Instant::now() + SETTLE_MAX);
        }
        self.leads.send_replace(true);
        tracing::info!(epoch, last_seq = last.seq, "this heart has the log");
        self.changed.notify_waiters();
        // Nodes that wait for their lease need not wait longer.
        self.nudge_all();
        Ok(())
    }

    fn read_facts(&self, facts: Vec<(String, String)>) -> (Members, Option<Kept>) {
        let mut members = Members::default();
        let mut kept = None;
        for (name, value) in facts {
            if let Some(node_id) = name.strip_prefix(MEMBER_FACT) {
                if value == NO_RECORD {
                    continue;
                }
                match serde_json::from_str::<Record>(&value) {
                    Ok(record) => {
                        let link = (self.parts.links)(&record.advertise, &record.database_id).ok();
                        members
                            .by_id
                            .insert(node_id.into(), Member::new(record, link));
                    }
                    Err(error) => {
                        tracing::error!(%error, node_id, "the record of node {node_id} cannot be read");
                    }
                }
            } else if let Some(database_id) = name.strip_prefix(REMOVED_FACT) {
                members.removed.insert(database_id.to_owned());
            } else if name == SEED_FACT {
                members.seed = Some(value);
            } else if name == SNAPSHOT_FACT {
                kept = serde_json::from_str(&value).ok();
            }
        }
        (members, kept)
    }

    async fn tidy(self: &Arc<Self>) {
        let now = Instant::now();
        let held = {
            let mut state = self.state();
            if let Some(before) = now.checked_sub(FORGET_AFTER) {
                state.waiting.forget(before);
            }
            state.phase.held()
        };
        let Some(epoch) = held else { return };
        self.bound_queues().await;
        if let Err(error) = self.truncate(epoch).await {
            tracing::warn!(%error, "the log is not made smaller now");
        }
    }

    /// Deletes the queues in which too much waits: their nodes are away, or cannot follow, and the log has what they lack. One that runs declares
    /// its queue again.
    async fn bound_queues(&self) {
        let node_ids: Vec<Arc<str>> = self.state().members.by_id.keys().cloned().collect();
        let broker = &self.parts.broker;
        for node_id in node_ids {
            let queue = self.options.names.node_queue(&node_id);
            // A broker that is away does not keep the lease waiting.
            let asked = timeout(DEPTH_TIMEOUT, broker.queue_stats(&queue)).await;
            let Ok(Ok(stats)) = asked else { continue };
            if stats.ready <= self.options.queue_messages_max {
                continue;
            }
            tracing::warn!(%node_id, %queue, ready = stats.ready, "the queue of node {node_id} is deleted: too much waits in it");
            match timeout(DEPTH_TIMEOUT, broker.delete_queue(&queue)).await {
                Ok(Ok(())) => self.metrics.queues_deleted.inc(),
                Ok(Err(error)) => tracing::warn!(%error, %queue, "the queue is not deleted now"),
                Err(_) => tracing::warn!(%queue, "the queue is not deleted in time"),
            }
        }
    }

    /// Forgets old keys; and, where the log is too large or too old, the writes that a snapshot has.
    pub(super) async fn truncate(self: &Arc<Self>, epoch: u64) -> Result<(), LogError> {
        let log = &self.parts.log;
        let age = |max: Duration| Timestamp(self.now().0.saturating_sub(max.as_millis() as i64));
        log.truncate(0, age(self.options.keys_age_max)).await?;
        let (bytes, oldest) = log.size().await?;
        {
            let mut state = self.state();
            (state.log_bytes, state.oldest) = (bytes, oldest);
        }
        let first = log.after(oldest - 1, 1, 1).await?;
        let Some(first) = first.first() else {
            return Ok(());
        };
        let is_old = first.write.at < age(self.options.log_age_max);
        if bytes <= self.options.log_bytes_max && !is_old {
            return Ok(());
        }
        let Some(through) = self.keep_snapshot(epoch).await? else {
            return Ok(());
        };
        // A node that follows closely is not made to restore.
        let through = {
            let state = self.state();
            let lease = self.options.node_lease;
            let members = state.members.by_id.values();
            let reachable = members.filter(|member| member.is_reachable(Instant::now(), lease));
            let slowest = reachable.map(|member| member.position.seq).min();
            slowest.unwrap_or(through).min(through)
        };
        let gone = log
            .truncate(through, age(self.options.keys_age_max))
            .await?;
        self.metrics.truncated.add(gone);
        let (bytes, oldest) = log.size().await?;
        let mut state = self.state();
        (state.log_bytes, state.oldest) = (bytes, oldest);
        Ok(())
    }

    /// Takes a snapshot from a node and keeps it. Returns the last write in it, or none if no node gives one.
    async fn keep_snapshot(self: &Arc<Self>, epoch: u64) -> Result<Option<u64>, LogError> {
        let directory = self.options.directory.clone();
        let snapshot = match self.snapshot_for("", "sqlite", directory.clone()).await {
            Ok(snapshot) => snapshot,
            Err(error) => {
                tracing::warn!(%error, "no node gives a snapshot: the log is not truncated");
                return Ok(None);
            }
        };
        let seq = snapshot.position.seq;
        let path = directory.join(format!("snapshot-{seq}.db"));
        let moved = tokio::fs::rename(&snapshot.path, &path).await;
        moved.map_err(|error| LogError::Unavailable {
            detail: format!("{}: {error}", path.display()),
        })?;
        let kept = Kept {
            path,
            position: snapshot.position,
            digest: snapshot.digest.to_vec(),
            size_bytes: snapshot.size_bytes,
        };
        let value = serde_json::to_string(&kept).expect("numbers and texts print");
        self.parts
            .log
            .put_fact(epoch, SNAPSHOT_FACT, &value)
            .await?;
        let before = self.state().kept.replace(kept.clone());
        if let Some(before) = before
            && before.path != kept.path
        {
            // One that cannot be removed takes space only.
            drop(tokio::fs::remove_file(before.path).await);
        }
        Ok(Some(seq))
    }

    /// A snapshot for a node of this kind: from the freshest other node that is well, else the one that is kept.
    pub(super) async fn snapshot_for(
        &self,
        node_id: &str,
        kind: &str,
        into: PathBuf,
    ) -> Result<Snapshot, LinkError> {
        let mut able: Vec<_> = {
            let state = self.state();
            let now = Instant::now();
            let members = state.members.by_id.iter();
            let able = members.filter(|(id, member)| {
                let is_well = member.serves(now, self.options.node_lease);
                ***id != *node_id && member.record.kind == kind && is_well
            });
            let able = able.map(|(_, member)| (member.position, member.link.clone()));
            able.collect()
        };
        able.sort_by_key(|(position, _)| std::cmp::Reverse(*position));
        let mut failure = LinkError::Unavailable {
            detail: format!("there is no other node of kind '{kind}' that is well"),
        };
        for link in able.into_iter().filter_map(|(_, link)| link) {
            match link.snapshot(into.clone()).await {
                Ok(snapshot) => {
                    self.metrics.snapshots.inc();
                    return Ok(snapshot);
                }
                Err(error) => failure = error,
            }
        }
        let (kept, cluster) = {
            let state = self.state();
            (state.kept.clone(), state.cluster.clone())
        };
        let kept = kept.filter(|_| kind == "sqlite");
        let digest = |kept: &Kept| <[u8; 32]>::try_from(&kept.digest[..]).ok();
        let Some((kept, digest)) = kept.and_then(|kept| digest(&kept).map(|digest| (kept, digest)))
        else {
            return Err(failure);
        };
        let path = into.join(format!("snapshot-{}.part", uuid::Uuid::now_v7()));
        let copied = tokio::fs::copy(&kept.path, &path).await;
        copied.map_err(|error| LinkError::Unavailable {
            detail: format!("{}: {error}", kept.path.display()),
        })?;
        self.metrics.snapshots.inc();
        Ok(Snapshot {
            path,
            position: kept.position,
            cluster: Some(cluster),
            digest,
            size_bytes: kept.size_bytes,
        })
    }
}
