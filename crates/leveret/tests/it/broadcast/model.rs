//! A model of a database: named numbers, and two statements that do not commute. What it has applied survives the node that ran it.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use leveret::{
    broadcast::{self, Applied, Query, ReadError, Replica, ReplicaError, Rows, Snapshot, Standing},
    core::broadcast::{Logged, Outcome, Position, SqlError, Statement, StatementResult, Value},
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::cluster::Trace;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Contents {
    pub(super) cluster: Option<Arc<str>>,
    pub(super) position: Position,
    pub(super) hash: u64,
    pub(super) values: BTreeMap<String, i64>,
    outcomes: Vec<Applied>,
}

/// The disk of a node. Clones share it.
#[derive(Clone)]
pub(super) struct Model {
    id: Arc<str>,
    disk: Arc<Mutex<Contents>>,
    position: watch::Sender<u64>,
    hangs: Arc<AtomicBool>,
    thinks: Arc<AtomicBool>,
    trace: Trace,
}

impl Model {
    pub(super) fn new(id: &str, trace: Trace) -> Model {
        Model {
            id: format!("database-{id}").into(),
            disk: Arc::default(),
            position: watch::Sender::new(0),
            hangs: Arc::default(),
            thinks: Arc::default(),
            trace,
        }
    }

    /// From now on, or no more, it answers no question.
    pub(super) fn hang(&self, hangs: bool) {
        self.hangs.store(hangs, Ordering::Relaxed);
    }

    /// From now on, or no more, every question takes longer than it may.
    pub(super) fn think(&self, thinks: bool) {
        self.thinks.store(thinks, Ordering::Relaxed);
    }

    pub(super) fn disk(&self) -> MutexGuard<'_, Contents> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Mixes into a rolling hash.
fn mix(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3)
    })
}

impl Contents {
    fn apply(&mut self, logged: &Logged) -> Applied {
        let mut values = self.values.clone();
        let mut results = Vec::new();
        let mut failed = None;
        for (at, statement) in logged.write.statements.iter().enumerate() {
            match step(&mut values, statement) {
                Ok(result) => results.push(result),
                Err(message) => {
                    failed = Some(SqlError {
                        code: "MODEL".to_owned(),
                        message,
                        statement: at,
                    });
                    break;
                }
            }
        }
        let outcome = if let Some(error) = failed {
            Outcome::Failed(error)
        } else {
            self.values = values;
            Outcome::Done(results)
        };
        let printed = serde_json::to_vec(&(logged.position.seq, &outcome)).unwrap();
        self.hash = mix(self.hash, &printed);
        self.position = logged.position;
        let applied = Applied {
            position: logged.position,
            outcome,
            hash: self.hash,
        };
        self.outcomes.push(applied.clone());
        applied
    }
}

/// `add NAME`: one number is added to it; gives the sum. `put NAME`: it is that number. `fail`: a mistake.
fn step(
    values: &mut BTreeMap<String, i64>,
    statement: &Statement,
) -> Result<StatementResult, String> {
    let number = match statement.args.first() {
        Some(Value::Integer(number)) => *number,
        _ => 0,
    };
    let sum = match statement.sql.split_once(' ') {
        Some(("add", name)) => {
            let value = values.entry(name.to_owned()).or_default();
            // Not commutative with itself, and neither with `put`.
            *value = value.wrapping_mul(3).wrapping_add(number);
            *value
        }
        Some(("put", name)) => {
            values.insert(name.to_owned(), number);
            number
        }
        _ => return Err(format!("'{}' is no statement", statement.sql)),
    };
    Ok(StatementResult {
        rows_affected: 1,
        last_insert_id: None,
        columns: Some(vec!["value".to_owned()]),
        rows: Some(vec![vec![Value::Integer(sum)]]),
    })
}

#[async_trait]
impl Replica for Model {
    fn kind(&self) -> &'static str {
        "sqlite"
    }

    async fn standing(&self) -> Result<Standing, ReplicaError> {
        let disk = self.disk();
        Ok(Standing {
            database_id: self.id.clone(),
            cluster: disk.cluster.clone(),
            position: disk.position,
            hash: disk.hash,
            has_tables: !disk.values.is_empty(),
        })
    }

    async fn adopt(&self, cluster: &str, _seed: bool) -> Result<(), ReplicaError> {
        self.disk().cluster = Some(cluster.into());
        Ok(())
    }

    async fn apply(&self, writes: Vec<Logged>) -> Result<Vec<Applied>, ReplicaError> {
        let mut disk = self.disk();
        let mut applied = Vec::new();
        for logged in &writes {
            if logged.position.seq != disk.position.seq + 1 {
                let seq = logged.position.seq;
                return Err(ReplicaError::OutOfOrder { seq });
            }
            applied.push(disk.apply(logged));
        }
        self.position.send_replace(disk.position.seq);
        let (first, last, hash) = (
            writes.first().map(|write| write.position.seq),
            disk.position.seq,
            disk.hash,
        );
        self.trace.note(format_args!(
            "{} applies {first:?} to {last}: {hash:x}",
            self.id
        ));
        Ok(applied)
    }

    async fn outcomes(&self, after: u64, limit: u32) -> Result<Vec<Applied>, ReplicaError> {
        let disk = self.disk();
        let behind = disk.outcomes.iter().filter(|one| one.position.seq > after);
        Ok(behind.take(limit as usize).cloned().collect())
    }

    /// `get NAME`.
    async fn query(&self, query: Query) -> Result<Rows, ReadError> {
        if self.hangs.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        if self.thinks.load(Ordering::Relaxed) {
            tokio::time::sleep(query.limits.time).await;
            return Err(ReadError::Limit { what: "time" });
        }
        let mut position = self.position.subscribe();
        let arrived = position.wait_for(|at| *at >= query.min_seq);
        let arrived = tokio::time::timeout(query.limits.time, arrived).await;
        let disk = self.disk();
        if arrived.is_err() {
            return Err(ReadError::Behind {
                at: disk.position.seq,
                min_seq: query.min_seq,
            });
        }
        let Some(("get", name)) = query.statement.sql.split_once(' ') else {
            return Err(ReadError::NotReadOnly {
                detail: query.statement.sql,
            });
        };
        let value = disk.values.get(name).copied();
        Ok(Rows {
            columns: vec!["value".to_owned()],
            rows: vec![vec![value.map_or(Value::Null, Value::Integer)]],
            seq: disk.position.seq,
        })
    }

    async fn contents(
        &self,
        _of: broadcast::Contents,
    ) -> Result<(Position, [u8; 32]), ReplicaError> {
        let disk = self.disk();
        let printed = serde_json::to_vec(&disk.values).unwrap();
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&mix(1, &printed).to_be_bytes());
        Ok((disk.position, digest))
    }

    async fn snapshot(&self, to: PathBuf) -> Result<Snapshot, ReplicaError> {
        let disk = self.disk().clone();
        let printed = serde_json::to_vec(&disk).unwrap();
        std::fs::write(&to, &printed).unwrap();
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&mix(2, &printed).to_be_bytes());
        Ok(Snapshot {
            path: to,
            position: disk.position,
            cluster: disk.cluster,
            digest,
            size_bytes: printed.len() as u64,
        })
    }

    async fn restore(&self, snapshot: Snapshot) -> Result<(), ReplicaError> {
        let printed = std::fs::read(&snapshot.path).unwrap();
        if mix(2, &printed).to_be_bytes() != snapshot.digest[..8] {
            let detail = "it is damaged".to_owned();
            return Err(ReplicaError::BadSnapshot { detail });
        }
        *self.disk() = serde_json::from_slice(&printed).unwrap();
        self.position.send_replace(snapshot.position.seq);
        self.trace.note(format_args!(
            "{} restores {}",
            self.id, snapshot.position.seq
        ));
        Ok(())
    }

    async fn clear(&self) -> Result<(), ReplicaError> {
        let cluster = self.disk().cluster.clone();
        *self.disk() = Contents {
            cluster,
            ..Contents::default()
        };
        self.position.send_replace(0);
        Ok(())
    }

    async fn close(&self) {}
}
