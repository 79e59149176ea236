//! Dead letters, for those who operate: what lies in a queue's `<queue>.dlq`, and what becomes of it. Over any broker.
//!
//! - **Looking takes nothing away.** A letter that is looked at is held like a delivery, and goes back to its place; a crash in the middle
//!   leaves all of them. It comes marked redelivered from then on. (A quorum queue of RabbitMQ has no places: there the order changes.)
//! - **A replay loses nothing.** Copies are published with confirm, then their letters are acked: a crash in between leaves at most one batch
//!   ([`BATCH_MAX`]) both in its queue and in the dead letters, with the same `message_id`; none where the broker does both at once.
//! - **It ends.** An operation looks at the letters that were there when it began, from the oldest on; what is added meanwhile is left alone.
//! - **Memory is bounded**: what is held keeps its receipt alone, and there are at most [`HELD_MAX`] of it, or [`HELD_BYTES_MAX`] in the broker.
//!   An operation that reaches the bound says that it did not see all.
//!
//! Two that look at the same queue at the same time see each a part of it.

mod examination;
mod letter;

use std::{collections::HashMap, sync::Arc};

use serde::{Deserialize, Serialize};

use self::{examination::Examination, letter::reason};
pub use self::{
    examination::{BATCH_MAX, HELD_BYTES_MAX, HELD_MAX},
    letter::{BODY_BYTES_MAX, Body, Letter},
};
use super::{
    Broker, BrokerError, Delivery, Header, Publication, Receipt, dead_letter_queue_name,
    work::{
        HEADER_ATTEMPTS, HEADER_DEAD_AT, HEADER_DEATHS, HEADER_LEFT_OUT, HEADER_QUEUE,
        HEADER_REASON,
    },
};

/// The letters that a summary looks at, of each queue.
pub const SUMMARY_EXAMINED_MAX: u64 = 5000;

/// The reasons that a summary tells apart; those of the fewest letters are left out beyond.
pub const REASONS_MAX: usize = 20;

/// The bytes of bodies in one answer, beyond which no further letter is added.
pub const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// The failures that a report names.
pub const FAILURES_MAX: usize = 10;

/// Which letters are meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// Those whose reason contains this text.
    pub reason: Option<String>,
    /// Those of this message id.
    pub message_id: Option<String>,
    /// At most so many, from the oldest on.
    pub limit: Option<u64>,
}

impl Choice {
    fn takes(&self, delivery: &Delivery) -> bool {
        let reason_fits =
            |text: &String| reason(delivery).is_some_and(|reason| reason.contains(text));
        let id = delivery.message.message_id.as_deref();
        self.reason.as_ref().is_none_or(reason_fits)
            && self
                .message_id
                .as_deref()
                .is_none_or(|wanted| id == Some(wanted))
    }

    /// How many letters may have to be looked at to find so many.
    fn look_at(&self, wanted: u64) -> u64 {
        if self.reason.is_none() && self.message_id.is_none() {
            wanted
        } else {
            u64::MAX
        }
    }
}

/// What lies in the dead letters of one queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
pub struct Summary {
    /// The work queue.
    pub queue: String,
    /// Its dead letters.
    pub count: u64,
    /// How many of them the rest is about, from the oldest on.
    pub examined: u64,
    /// When the first in line became a dead letter, RFC 3339; null if it does not say.
    pub oldest: Option<String>,
    /// Why they are dead letters, most frequent first.
    pub reasons: Vec<ReasonCount>,
}

/// How many letters have the same reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
pub struct ReasonCount {
    /// The reason; null for letters that say none.
    pub reason: Option<String>,
    /// How many.
    pub count: u64,
}

/// Dead letters of a queue, oldest first.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
pub struct Letters {
    /// The work queue.
    pub queue: String,
    /// Its dead letters.
    pub count: u64,
    /// How many were looked at.
    pub examined: u64,
    /// Those that were meant.
    pub items: Vec<Letter>,
}

/// What became of dead letters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
pub struct Report {
    /// The work queue.
    pub queue: String,
    /// The dead letters that there were.
    pub count: u64,
    /// How many were looked at.
    pub examined: u64,
    /// How many were meant, and moved or discarded; with a dry run, would be.
    pub done: u64,
    /// How many were meant and stay.
    pub failed: u64,
    /// Why the first of them stay.
    pub failures: Vec<Failure>,
    /// Whether nothing was done but looking.
    pub dry_run: bool,
}

/// Why a letter stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
pub struct Failure {
    /// Which.
    pub message_id: Option<String>,
    /// What happened.
    pub error: String,
}

/// The work queue of a name that may be that of its dead letters: `payment` of `payment` and of `payment.dlq`.
pub fn work_queue(name: &str) -> &str {
    let suffix = &dead_letter_queue_name("");
    match name.strip_suffix(suffix.as_str()) {
        Some(queue) if !queue.is_empty() => queue,
        _ => name,
    }
}

/// Sums up the dead letters of those of the queues that have any. A queue without a dead letter queue has none.
pub async fn list(broker: &dyn Broker, queues: &[Arc<str>]) -> Result<Vec<Summary>, BrokerError> {
    let mut names: Vec<&str> = queues.iter().map(|name| work_queue(name)).collect();
    names.sort_unstable();
    names.dedup();
    let mut summaries = Vec::new();
    for name in names {
        match summary(broker, name).await {
            Ok(summary) if summary.count > 0 => summaries.push(summary),
            Ok(_) | Err(BrokerError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(summaries)
}

/// Sums up the dead letters of a queue. [`BrokerError::NotFound`]: it has no dead letter queue.
pub async fn summary(broker: &dyn Broker, queue: &str) -> Result<Summary, BrokerError> {
    let mut examination = Examination::begin(broker, work_queue(queue)).await?;
    let mut oldest = None;
    let mut reasons: HashMap<Option<String>, u64> = HashMap::new();
    while let Some(look_at) = examination.more(SUMMARY_EXAMINED_MAX - examination.examined()) {
        for delivery in examination.next(look_at).await? {
            if reasons.is_empty() {
                oldest = letter::text(&delivery, HEADER_DEAD_AT).map(str::to_owned);
            }
            *reasons
                .entry(reason(&delivery).map(str::to_owned))
                .or_default() += 1;
            examination.hold(delivery);
        }
    }
    let mut reasons: Vec<ReasonCount> = reasons
        .into_iter()
        .map(|(reason, count)| ReasonCount { reason, count })
        .collect();
    reasons.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.reason.cmp(&b.reason)));
    reasons.truncate(REASONS_MAX);
    let (count, examined) = examination.finish().await;
    Ok(Summary {
        queue: work_queue(queue).to_owned(),
        count,
        examined,
        oldest,
        reasons,
    })
}

/// Shows dead letters of a queue, oldest first; with headers and body if in `full`. They are back in their places when it returns.
pub async fn show(
    broker: &dyn Broker,
    queue: &str,
    choice: &Choice,
    full: bool,
) -> Result<Letters, BrokerError> {
    let queue = work_queue(queue);
    let mut examination = Examination::begin(broker, queue).await?;
    let limit = choice.limit.unwrap_or(u64::MAX);
    let (mut items, mut bytes) = (Vec::new(), 0);
    loop {
        let wanted = limit - items.len() as u64;
        if wanted == 0 || bytes >= ANSWER_BYTES_MAX {
            break;
        }
        let Some(look_at) = examination.more(choice.look_at(wanted)) else {
            break;
        };
        for delivery in examination.next(look_at).await? {
            let has_room = (items.len() as u64) < limit && bytes < ANSWER_BYTES_MAX;
            if has_room && choice.takes(&delivery) {
                let letter = Letter::of(&delivery, queue, full);
                bytes += if full {
                    letter.body_bytes.min(BODY_BYTES_MAX as u64)
                } else {
                    0
                };
                items.push(letter);
            }
            examination.hold(delivery);
        }
    }
    let (count, examined) = examination.finish().await;
    Ok(Letters {
        queue: queue.to_owned(),
        count,
        examined,
        items,
    })
}

/// Moves dead letters back to the queues that they came from, with no attempts made; `x-leveret-dead-at` stays, so that who handles one can tell
/// it from a copy. Those that it reports as done are there, confirmed, and no dead letters any more. One that its queue does not take stays a dead letter, and if trying again later may help, the rest stays, too.
///
/// A crash before it returns leaves every letter in one place at least, and at most one batch in both.
pub async fn replay(
    broker: &dyn Broker,
    queue: &str,
    choice: &Choice,
    dry_run: bool,
) -> Result<Report, BrokerError> {
    settle(broker, queue, choice, dry_run, Fate::Replay).await
}

/// Removes dead letters for good. A crash before it returns leaves some of them.
pub async fn discard(
    broker: &dyn Broker,
    queue: &str,
    choice: &Choice,
    dry_run: bool,
) -> Result<Report, BrokerError> {
    settle(broker, queue, choice, dry_run, Fate::Discard).await
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Replay,
    Discard,
}

async fn settle(
    broker: &dyn Broker,
    queue: &str,
    choice: &Choice,
    dry_run: bool,
    fate: Fate,
) -> Result<Report, BrokerError> {
    let queue = work_queue(queue);
    let mut examination = Examination::begin(broker, queue).await?;
    let limit = choice.limit.unwrap_or(u64::MAX);
    let mut outcome = Outcome::default();
    while !outcome.gave_up {
        let wanted = limit - outcome.done - outcome.failed;
        let look_at = choice.look_at(wanted);
        let Some(look_at) = examination.more(look_at).filter(|_| wanted > 0) else {
            break;
        };
        let mut chosen = Vec::new();
        for delivery in examination.next(look_at).await? {
            if (chosen.len() as u64) < wanted && choice.takes(&delivery) {
                chosen.push(delivery);
            } else {
                examination.hold(delivery);
            }
        }
        match fate {
            _ if dry_run => {
                outcome.done += chosen.len() as u64;
                for delivery in chosen {
                    examination.hold(delivery);
                }
            }
            Fate::Discard => {
                outcome.done += chosen.len() as u64;
                for delivery in chosen {
                    delivery.receipt.ack();
                }
            }
            Fate::Replay => {
                for receipt in put_back(broker, queue, chosen, &mut outcome).await {
                    examination.hold_receipt(receipt);
                }
            }
        }
    }
    let (count, examined) = examination.finish().await;
    Ok(Report {
        queue: queue.to_owned(),
        count,
        examined,
        done: outcome.done,
        failed: outcome.failed,
        failures: outcome.failures,
        dry_run,
    })
}

#[derive(Default)]
struct Outcome {
    done: u64,
    failed: u64,
    failures: Vec<Failure>,
    /// Trying more of them now does not help.
    gave_up: bool,
}

impl Outcome {
    fn failed(&mut self, message_id: Option<&str>, error: String) {
        self.failed += 1;
        if self.failures.len() < FAILURES_MAX {
            self.failures.push(Failure {
                message_id: message_id.map(str::to_owned),
                error,
            });
        }
    }
}

/// A letter and the copy that goes in its place.
struct Replayed {
    copy: Publication,
    receipt: Receipt,
}

/// Publishes a batch and acks what is confirmed; returns the receipts of those that stay, in order.
async fn put_back(
    broker: &dyn Broker,
    queue: &str,
    letters: Vec<Delivery>,
    outcome: &mut Outcome,
) -> Vec<Receipt> {
    let mut stay = Vec::new();
    let mut batch = Vec::with_capacity(letters.len());
    for letter in letters {
        // One whose channel is gone is back in its queue already; a copy would double it.
        if !letter.receipt.is_open() {
            let error = "the connection was lost, and it went back to the dead letters";
            outcome.failed(letter.message.message_id.as_deref(), error.to_owned());
            outcome.gave_up = true;
        } else if let Some(flaw) = &letter.flaw {
            outcome.failed(None, format!("its properties cannot be read: {flaw}"));
            stay.push(letter.receipt);
        } else {
            batch.push(Replayed {
                copy: copy(&letter, queue),
                receipt: letter.receipt,
            });
        }
    }
    for (replayed, result) in publish(broker, batch).await {
        match result {
            Ok(()) => outcome.done += 1,
            Err((error, receipt)) => {
                outcome.gave_up |= error.is_retryable() || matches!(error, BrokerError::Closed);
                outcome.failed(replayed.message.message_id.as_deref(), error.to_string());
                stay.extend(receipt);
            }
        }
    }
    stay
}

type Published = (Publication, Result<(), (BrokerError, Option<Receipt>)>);

async fn publish(broker: &dyn Broker, batch: Vec<Replayed>) -> Vec<Published> {
    if broker.capabilities().atomic_publish_then_ack {
        return publish_atomically(broker, batch).await;
    }
    let copies = batch.iter().map(|replayed| replayed.copy.clone()).collect();
    let results = broker.publish(copies).await;
    let pairs = batch.into_iter().zip(results);
    pairs
        .map(|(replayed, result)| match result {
            Ok(()) => {
                replayed.receipt.ack();
                (replayed.copy, Ok(()))
            }
            Err(error) => (replayed.copy, Err((error, Some(replayed.receipt)))),
        })
        .collect()
}

/// All at once; if that fails, each alone, so that one that cannot go does not keep the others.
async fn publish_atomically(broker: &dyn Broker, batch: Vec<Replayed>) -> Vec<Published> {
    let (copies, receipts): (Vec<_>, Vec<_>) = batch
        .into_iter()
        .map(|replayed| (replayed.copy, replayed.receipt))
        .unzip();
    let receipts = match broker.publish_then_ack(copies.clone(), receipts).await {
        Ok(()) => return copies.into_iter().map(|copy| (copy, Ok(()))).collect(),
        Err(unfinished) => unfinished.receipts,
    };
    let mut published = Vec::with_capacity(copies.len());
    let mut receipts = receipts.into_iter();
    for copy in copies {
        // Without its receipt the letter is on its way back.
        let result = match receipts.next() {
            None => Err((BrokerError::Closed, None)),
            Some(receipt) => {
                let alone = broker.publish_then_ack(vec![copy.clone()], vec![receipt]);
                alone
                    .await
                    .map_err(|mut unfinished| (unfinished.error, unfinished.receipts.pop()))
            }
        };
        published.push((copy, result));
    }
    published
}

/// The message as it was before it failed. Where it was first published to stays with it: it comes straight to its queue now.
fn copy(letter: &Delivery, queue: &str) -> Publication {
    let origin = letter::text(letter, HEADER_QUEUE).unwrap_or(queue);
    let origin: Arc<str> = work_queue(origin).into();
    let mut message = letter.message.clone();
    for name in [
        HEADER_ATTEMPTS,
        HEADER_DEATHS,
        HEADER_REASON,
        HEADER_QUEUE,
        HEADER_LEFT_OUT,
    ] {
        message.headers.remove(name);
    }
    Publication {
        copied: true,
        ..Publication::to_queue(origin, message)
    }
}

#[cfg(test)]
mod tests;
