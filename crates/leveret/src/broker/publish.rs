//! Publishing that persists: what all who publish call.
//!
//! A batch goes out at once. Where only some of it is confirmed, only the others go again, after pauses that grow: a queue that is full, or
//! was deleted, holds up what must go there and nothing else, and what was confirmed is never sent a second time. What goes again
//! [says so](Publication::again). If exchange, queue or binding are gone, they are declared again first.
//!
//! A message whose exchange routes it to several queues, one of which is full, is not confirmed as a whole: each try gives the others a
//! copy with the same `message_id`. The pauses bound how many.

use std::{fmt, time::Duration};

use tokio::time::{Instant, sleep};

use super::{Broker, BrokerError, Publication, Receipt, Remedy, Topology, Unfinished};

/// How often in a row what is missing is declared before it counts as missing for good: nothing that we declare takes the message.
const DECLARED_MAX: u32 = 3;

/// Pauses between tries: the first, and doubled from one to the next up to the longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pauses {
    /// After the first failure.
    pub first: Duration,
    /// The bound.
    pub longest: Duration,
}

/// 100 ms to 5 s.
impl Default for Pauses {
    fn default() -> Pauses {
        Pauses {
            first: Duration::from_millis(100),
            longest: Duration::from_secs(5),
        }
    }
}

impl Pauses {
    /// The pause after so many failures, which counts from 0.
    pub fn after(&self, failed: u32) -> Duration {
        let grown = self.first.saturating_mul(1 << failed.min(20));
        grown.min(self.longest)
    }
}

/// How long to go on, and with what help.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Persist<'a> {
    /// Declared again when a part of it is gone.
    pub topology: &'a Topology,
    /// Between tries.
    pub pauses: Pauses,
    /// When to give up. Never, if there is none: as long as waiting may help.
    pub deadline: Option<Instant>,
    /// Called after each try that left something, with the worst reason and how many messages are left: for logs, counts and readiness.
    pub on_failure: &'a (dyn Fn(&BrokerError, usize) + Sync),
}

impl<'a> Persist<'a> {
    /// Without a deadline.
    pub fn new(topology: &'a Topology) -> Persist<'a> {
        Persist {
            topology,
            pauses: Pauses::default(),
            deadline: None,
            on_failure: &|_, _| {},
        }
    }

    /// Until then.
    pub fn until(topology: &'a Topology, deadline: Instant) -> Persist<'a> {
        Persist {
            deadline: Some(deadline),
            ..Persist::new(topology)
        }
    }

    /// With somebody who is told of failures.
    #[must_use]
    pub fn telling(self, on_failure: &'a (dyn Fn(&BrokerError, usize) + Sync)) -> Persist<'a> {
        Persist { on_failure, ..self }
    }
}

impl fmt::Debug for Persist<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Persist")
            .field("pauses", &self.pauses)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

/// Publishes a batch. When it returns, all is confirmed. An error says what is not: the deadline is over, or waiting does not help
/// (a message is too large, no queue takes it whatever we declare, the broker was closed). Then the rest of the batch was sent once at
/// least, so that one such message does not keep the others back.
///
/// Dropped before it returns, or after a crash, any part of the batch may have arrived.
pub async fn all(
    broker: &dyn Broker,
    batch: Vec<Publication>,
    persist: &Persist<'_>,
) -> Result<(), Unfinished> {
    let mut tries = Tries::new(broker, persist);
    let mut left = batch;
    loop {
        let results = broker.publish(left.clone()).await;
        let Err(unfinished) = Unfinished::of(left, results, Vec::new()) else {
            return Ok(());
        };
        if !tries.again(&unfinished).await {
            return Err(unfinished);
        }
        left = again(unfinished.left);
    }
}

/// Publishes a batch as [`all`] does, and then acks. An error also comes when none of the receipts has an effect any more: the connection
/// that the deliveries came by is gone, and they come again.
///
/// When it returns without an error, all is confirmed and acked. A crash before that, or an error, redelivers.
pub async fn all_then_ack(
    broker: &dyn Broker,
    batch: Vec<Publication>,
    receipts: Vec<Receipt>,
    persist: &Persist<'_>,
) -> Result<(), Unfinished> {
    let mut tries = Tries::new(broker, persist);
    let (mut left, mut open) = (batch, receipts);
    loop {
        let Err(unfinished) = broker.publish_then_ack(left, open).await else {
            return Ok(());
        };
        let has_receipts = !unfinished.receipts.is_empty();
        let goes_on = tries.again(&unfinished).await;
        let is_gone = has_receipts && !unfinished.receipts.iter().any(Receipt::is_open);
        if !goes_on || is_gone {
            return Err(unfinished);
        }
        (left, open) = (again(unfinished.left), unfinished.receipts);
    }
}

fn again(left: Vec<Publication>) -> Vec<Publication> {
    left.into_iter().map(Publication::again).collect()
}

struct Tries<'a> {
    broker: &'a dyn Broker,
    persist: &'a Persist<'a>,
    failed: u32,
    /// How often something was missing since the last try at which nothing was.
    missing: u32,
}

impl<'a> Tries<'a> {
    fn new(broker: &'a dyn Broker, persist: &'a Persist<'a>) -> Tries<'a> {
        Tries {
            broker,
            persist,
            failed: 0,
            missing: 0,
        }
    }

    /// After a try that left something: does what may help, and says whether to try again.
    async fn again(&mut self, unfinished: &Unfinished) -> bool {
        let Unfinished { error, left, .. } = unfinished;
        (self.persist.on_failure)(error, left.len());
        let is_over = |deadline| deadline <= Instant::now();
        if self.persist.deadline.is_some_and(is_over) {
            return false;
        }
        match error.remedy() {
            Remedy::Wait => self.missing = 0,
            Remedy::Declare if self.missing < DECLARED_MAX => {
                self.missing += 1;
                match self.broker.declare(self.persist.topology).await {
                    // It is there now: no need to wait.
                    Ok(()) if self.missing == 1 => return true,
                    Ok(()) => {}
                    Err(error) => {
                        tracing::warn!(%error, "what is missing cannot be declared");
                        if !error.is_retryable() {
                            return false;
                        }
                        self.missing = 0;
                    }
                }
            }
            Remedy::Declare | Remedy::Nothing => return false,
        }
        self.pause().await;
        true
    }

    async fn pause(&mut self) {
        let pause = self.persist.pauses.after(self.failed);
        self.failed = self.failed.saturating_add(1);
        let left = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
        sleep(
            self.persist
                .deadline
                .map_or(pause, |at| pause.min(left(at))),
        )
        .await;
    }
}

#[cfg(test)]
mod tests;
