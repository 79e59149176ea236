//! Questions: to which node they go, and what is fresh enough.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::{
    Answer, Heart, QuestionError, Shared,
    request::{Level, ReadRequest},
    status::LAPSED,
};
use crate::broadcast::{
    link::{LinkError, NodeLink},
    replica::{Query, ReadError, ReadLimits, Rows},
};

/// When a node has not answered, another one is asked beside it: one that hangs costs this much.
const PATIENCE: Duration = Duration::from_millis(1500);

/// How long a node that did not answer is asked last.
const SLOW: Duration = Duration::from_secs(10);

/// The pause before nodes that could not answer are asked again.
const PAUSE: Duration = Duration::from_millis(200);

/// The most nodes that are asked the same at once.
const BESIDE_MAX: usize = 3;

/// How many tenths of the time that is left a node has: it then says itself that a question takes too long, which one that hangs does not.
const TENTHS: u32 = 9;

/// A node to ask: its link, and how many questions it has.
type Picked = (Arc<str>, Arc<dyn NodeLink>, Arc<AtomicUsize>);

type Asked = (Arc<str>, Result<Result<Rows, ReadError>, LinkError>);

impl Heart {
    /// Asks a node that is healthy and fresh enough; others in its place while there is time. Rows older than asked for are never given.
    pub async fn read(&self, request: ReadRequest) -> Result<Answer, QuestionError> {
        let deadline = Instant::now() + request.timeout;
        let shared = &self.0;
        let min_seq = match (request.level, request.max_lag) {
            (Level::Latest, _) => timeout_at(deadline, shared.latest()).await,
            (_, Some(lag)) => timeout_at(deadline, shared.logged_before(lag)).await,
            (Level::Any | Level::Session | Level::Bounded, None) => Ok(Ok(0)),
        };
        let min_seq = min_seq.unwrap_or_else(|_| Err(not_latest(LAPSED)))?;
        let min_seq = min_seq.max(request.min_seq);
        let answer = shared.ask(&request, min_seq, deadline).await?;
        shared.metrics.reads.inc();
        if request.level == Level::Latest {
            // What one such question has seen, a later one sees.
            let mut state = shared.state();
            state.seen = state.seen.max(answer.rows.seq);
        }
        Ok(answer)
    }
}

impl Shared {
    /// The last write that may have been acknowledged. Nobody else acknowledges one while this heart's lease lasts.
    async fn latest(&self) -> Result<u64, QuestionError> {
        self.settled().await;
        let (epoch, is_uncertain) = {
            let state = self.state();
            // With a log that is behind its nodes nobody knows what was acknowledged.
            let epoch = state.phase.epoch();
            let epoch = epoch.ok_or_else(|| not_latest(state.phase.refusal()))?;
            (epoch, state.is_uncertain)
        };
        if is_uncertain {
            // A write may be in the log of which this heart does not know.
            let last = self.parts.log.last().await;
            let last = last.map_err(|error| not_latest(error.to_string()))?;
            let mut state = self.state();
            state.last = state.last.max(last);
            state.is_uncertain = false;
        }
        let last = {
            let state = self.state();
            state.last.seq.max(state.seen)
        };
        if !self.has_lease() {
            let renewed = self.renew(epoch).await;
            renewed.map_err(|error| not_latest(error.to_string()))?;
        }
        let state = self.state();
        // Another epoch of this heart began with what others had acknowledged in between.
        let is_same = state.phase.epoch() == Some(epoch);
        if is_same && state.phase.has_lease(Instant::now()) {
            Ok(last)
        } else {
            Err(not_latest(LAPSED))
        }
    }

    /// The last write that was logged longer ago than this. Only the heart that has the log knows.
    async fn logged_before(&self, lag: Duration) -> Result<u64, QuestionError> {
        let last = self.latest().await?;
        let state = self.state();
        Ok(state
            .recent
            .before(lag, Instant::now(), state.last.seq)
            .min(last))
    }

    async fn ask(
        &self,
        request: &ReadRequest,
        min_seq: u64,
        deadline: Instant,
    ) -> Result<Answer, QuestionError> {
        let mut running: FuturesUnordered<BoxFuture<'_, Asked>> = FuturesUnordered::new();
        let mut asked = BTreeSet::new();
        let mut next_at = Instant::now();
        let mut failure: Option<LinkError> = None;
        let mut is_behind = false;
        loop {
            let changed = self.changed.notified();
            if Instant::now() >= next_at {
                next_at = Instant::now() + PATIENCE;
                let picked = (running.len() < BESIDE_MAX).then(|| self.pick(&asked, min_seq));
                if let Some((node_id, link, in_flight)) = picked.flatten() {
                    asked.insert(node_id.clone());
                    let query = query(request, min_seq, deadline);
                    running.push(ask_one(node_id, link, in_flight, query).boxed());
                } else if running.is_empty() {
                    // All were asked, or there are none: again in a while, or when something changes.
                    asked.clear();
                    next_at = Instant::now() + PAUSE;
                }
            }
            tokio::select! {
                biased;
                Some((node_id, answered)) = running.next() => match answered {
                    Ok(Ok(rows)) if rows.seq >= min_seq => return Ok(Answer { rows, node_id }),
                    Ok(Err(error)) if is_final(&error) => return Err(error.into()),
                    Ok(Err(ReadError::Behind { .. }) | Ok(_)) => {
                        is_behind = true;
                        next_at = Instant::now();
                    }
                    Ok(Err(error)) => {
                        failure = Some(LinkError::Unavailable { detail: error.to_string() });
                        self.slow(&node_id);
                        next_at = Instant::now();
                    }
                    Err(error) => {
                        failure = Some(error);
                        self.slow(&node_id);
                        next_at = Instant::now();
                    }
                },
                () = sleep_until(deadline) => break,
                () = sleep_until(next_at) => {
                    // Who has not answered by now is asked last for a while.
                    for node_id in &asked {
                        self.slow(node_id);
                    }
                }
                () = changed, if running.is_empty() => next_at = Instant::now().max(next_at - PAUSE),
            }
        }
        if is_behind || min_seq > self.state().members.furthest() {
            return Err(QuestionError::NotYet { min_seq });
        }
        let detail = match failure {
            Some(error) => error.to_string(),
            None if running.is_empty() => "there is none that is healthy".to_owned(),
            None => "those that were asked have not answered in time".to_owned(),
        };
        Err(QuestionError::NoNode { detail })
    }

    /// The best node that was not asked: fresh enough, not slow, with the fewest questions.
    fn pick(&self, asked: &BTreeSet<Arc<str>>, min_seq: u64) -> Option<Picked> {
        let now = Instant::now();
        let turn = self.metrics.reads.get() as usize;
        let state = self.state();
        let count = state.members.by_id.len().max(1);
        let members = state.members.by_id.iter().enumerate();
        let able = members.filter(|(_, (id, member))| {
            !asked.contains(*id) && member.serves(now, self.options.node_lease)
        });
        let best = able.min_by_key(|(at, (_, member))| {
            let is_slow = member.slow_until.is_some_and(|until| now < until);
            let in_flight = member.in_flight.load(Ordering::Relaxed);
            let is_behind = member.position.seq < min_seq;
            (is_slow, is_behind, in_flight, (at + turn) % count)
        });
        let (_, (node_id, member)) = best?;
        let link = member.link.clone()?;
        Some((node_id.clone(), link, member.in_flight.clone()))
    }

    fn slow(&self, node_id: &str) {
        self.metrics.read_failures.inc();
        let mut state = self.state();
        if let Some(member) = state.members.by_id.get_mut(node_id) {
            member.slow_until = Some(Instant::now() + SLOW);
        }
    }
}

fn not_latest(detail: impl Into<String>) -> QuestionError {
    QuestionError::NotLatest {
        detail: detail.into(),
    }
}

fn query(request: &ReadRequest, min_seq: u64, deadline: Instant) -> Query {
    let left = deadline.saturating_duration_since(Instant::now());
    let most = ReadLimits::default();
    let time = (left / 10 * TENTHS).clamp(Duration::from_millis(1), most.time);
    Query {
        statement: request.statement.clone(),
        min_seq,
        limits: ReadLimits { time, ..most },
    }
}

/// Whether every node would say the same.
fn is_final(error: &ReadError) -> bool {
    matches!(
        error,
        ReadError::NotReadOnly { .. } | ReadError::Sql { .. } | ReadError::Limit { .. }
    )
}

/// Counts a question while it is asked, also when nobody waits for its end.
struct InFlight(Arc<AtomicUsize>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn ask_one(
    node_id: Arc<str>,
    link: Arc<dyn NodeLink>,
    in_flight: Arc<AtomicUsize>,
    query: Query,
) -> Asked {
    in_flight.fetch_add(1, Ordering::Relaxed);
    let _counted = InFlight(in_flight);
    let answered = link.query(query).await;
    (node_id, answered)
}
