//! Writes into the log: they gather, one append commits them, and whoever waits is known before a node can answer.

use std::{sync::Arc, time::Duration};

use leveret_core::{
    broadcast::{Logged, Outcome, Position, Statement, Value, Write, portable},
    time::Timestamp,
};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

use super::{
    Heart, Shared, WriteError, Written,
    request::{Ack, WriteRequest},
    state::Outgoing,
};
use crate::{
    broadcast::log::{Appended, Key, LogError, NewWrite},
    crash::{self, Point},
};

/// How long an append may take beyond a request's own timeout, before its client is told that it is uncertain.
const APPEND_GRACE: Duration = Duration::from_secs(5);

/// A write on its way.
#[derive(Debug)]
pub(super) struct Submit {
    statements: Vec<Statement>,
    key: Option<Key>,
    ack: Ack,
}

/// A write in the log, and its outcome when its level is reached.
#[derive(Debug)]
pub(super) struct Submitted {
    position: Position,
    outcome: oneshot::Receiver<Outcome>,
}

impl Heart {
    /// Logs a write and waits for its level. `Ok` means that it is durable in the log, and applied as widely as asked; after
    /// [`WriteError::NotYet`] it is durable too. A crash before it returns leaves it in the log or not: with a key the same request can be
    /// repeated.
    ///
    /// What is wrong with its SQL is its outcome, but for what a member of the portable subset would not take.
    pub async fn write(&self, request: WriteRequest) -> Result<Written, WriteError> {
        let shared = &self.0;
        shared.check_portable(&request.statements)?;
        let deadline = Instant::now() + request.timeout;
        let ack = request.ack;
        let submit = Submit {
            key: request.log_key(),
            statements: request.statements,
            ack,
        };
        let submits = shared.submits.get().expect("a heart is made with it");
        let submitted = timeout_at(deadline + APPEND_GRACE, submits.submit(submit)).await;
        let Ok(Ok(submitted)) = submitted else {
            return Err(WriteError::Uncertain {
                detail: "the log does not answer in time".to_owned(),
            });
        };
        let submitted = submitted?;
        let position = submitted.position;
        if ack == Ack::Accepted {
            return Ok(Written {
                position,
                outcome: None,
            });
        }
        let Ok(Ok(outcome)) = timeout_at(deadline, submitted.outcome).await else {
            shared.metrics.writes_not_yet.inc();
            return Err(WriteError::NotYet { position });
        };
        Ok(Written {
            position,
            outcome: Some(outcome),
        })
    }
}

impl Shared {
    /// What a PostgreSQL node would refuse while SQLite nodes do it is refused before it is logged.
    fn check_portable(&self, statements: &[Statement]) -> Result<(), WriteError> {
        if !self.state().members.has_portable_only() {
            return Ok(());
        }
        for (statement, asked) in statements.iter().enumerate() {
            portable(&asked.sql).map_err(|detail| WriteError::NotPortable { statement, detail })?;
        }
        Ok(())
    }
}

/// One append of what gathered.
pub(super) async fn append(
    shared: &Arc<Shared>,
    batch: Vec<Submit>,
) -> Vec<Result<Submitted, WriteError>> {
    shared.settled().await;
    let _open = shared.gate.read().await;
    let acks: Vec<_> = batch
        .iter()
        .map(|one| (one.ack, one.key.is_some()))
        .collect();
    let prepared = {
        let mut state = shared.state();
        let epoch = state.phase.epoch().ok_or_else(|| WriteError::Unavailable {
            detail: state.phase.refusal(),
        });
        epoch.map(|epoch| {
            let at = shared.now().max(state.at);
            state.at = at;
            (epoch, at)
        })
    };
    let (epoch, at) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return acks.iter().map(|_| Err(error.clone())).collect(),
    };
    let writes: Vec<NewWrite> = batch.into_iter().map(|one| new(shared, one, at)).collect();
    crash::reached(Point::HeartBeforeCommit);
    let appended = shared.parts.log.append(epoch, writes.clone(), at).await;
    let appended = match appended {
        Ok(appended) => {
            crash::reached(Point::HeartAfterCommit);
            appended
        }
        Err(error) => {
            let error = failed(shared, &error);
            return acks.iter().map(|_| Err(error.clone())).collect();
        }
    };
    let mut outcomes = Vec::with_capacity(appended.len());
    for one in &appended {
        outcomes.push(match one {
            Appended::Known(position) => known_outcome(shared, *position).await,
            Appended::New(_) | Appended::KeyTaken => None,
        });
    }
    admit(shared, writes, appended, outcomes, &acks)
}

fn new(shared: &Shared, submit: Submit, at: Timestamp) -> NewWrite {
    // 53 random bits each.
    let random = || shared.parts.clock.random().to_bits();
    NewWrite {
        write: Write {
            statements: submit.statements,
            at,
            seed: random().rotate_left(32) ^ random(),
        },
        key: submit.key,
    }
}

/// What an append that failed means for its writes, and for this heart.
fn failed(shared: &Shared, error: &LogError) -> WriteError {
    shared.metrics.append_failures.inc();
    match error {
        LogError::Fenced { epoch } => {
            shared.lose(*epoch);
            WriteError::Unavailable {
                detail: error.to_string(),
            }
        }
        LogError::Refused { .. } => WriteError::Unavailable {
            detail: error.to_string(),
        },
        _ => {
            // It may be there: then nodes find a gap, and fetch it.
            shared.state().is_uncertain = true;
            tracing::warn!(%error, "writes were not logged, or nobody knows");
            WriteError::Uncertain {
                detail: error.to_string(),
            }
        }
    }
}

/// One that cannot be read now is asked of the nodes again.
async fn known_outcome(shared: &Shared, position: Position) -> Option<Outcome> {
    let outcome = shared.parts.log.outcome(position.seq).await;
    outcome.unwrap_or_else(|error| {
        tracing::warn!(%error, seq = position.seq, "a kept outcome cannot be read");
        None
    })
}

/// Writes that are in the log: who waits, what is published.
fn admit(
    shared: &Arc<Shared>,
    writes: Vec<NewWrite>,
    appended: Vec<Appended>,
    outcomes: Vec<Option<Outcome>>,
    acks: &[(Ack, bool)],
) -> Vec<Result<Submitted, WriteError>> {
    let now = Instant::now();
    let mut state = shared.state();
    let mut submitted = Vec::with_capacity(writes.len());
    let mut known = Vec::new();
    let each = writes.into_iter().zip(appended).zip(outcomes).zip(acks);
    for (((new, appended), outcome), &(ack, is_keyed)) in each {
        let position = match appended {
            Appended::KeyTaken => {
                submitted.push(Err(WriteError::KeyTaken));
                continue;
            }
            Appended::Known(position) => {
                known.push(position.seq);
                position
            }
            Appended::New(position) => {
                assert!(position.seq > state.last.seq, "seqs only grow");
                state.last = position;
                state.recent.note(position.seq, now);
                shared.metrics.writes.inc();
                let is_wanted = ack != Ack::Accepted || is_keyed;
                let bytes = bytes_of(&new.write);
                let logged = Logged {
                    position,
                    write: new.write,
                };
                state.outbox.push(Outgoing {
                    logged,
                    is_wanted,
                    bytes,
                });
                position
            }
        };
        let outcome = if ack == Ack::Accepted && !is_keyed {
            // Nobody waits, and nobody asks again.
            oneshot::channel().1
        } else {
            state
                .waiting
                .wait(position.seq, ack, is_keyed, outcome, now)
        };
        submitted.push(Ok(Submitted { position, outcome }));
    }
    drop(state);
    shared.outgoing.notify_one();
    // What was logged before may be applied as widely as asked already.
    for seq in known {
        let lacking = shared.advance(seq - 1, seq);
        // Who applied it may have told an earlier heart.
        shared.pull_from_any(&lacking);
    }
    submitted
}

fn bytes_of(write: &Write) -> usize {
    let value = |value: &Value| match value {
        Value::Text(text) => text.len() + 3,
        Value::Blob(bytes) => bytes.len() * 4 / 3 + 16,
        _ => 12,
    };
    let statement = |statement: &Statement| {
        statement.sql.len() + 24 + statement.args.iter().map(value).sum::<usize>()
    };
    64 + write.statements.iter().map(statement).sum::<usize>()
}
