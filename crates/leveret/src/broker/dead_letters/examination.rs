//! Letters in the order in which they lie, a batch at a time.
//!
//! Each batch has a subscription of its own, which may hold the batch and no more, and has ended before a letter of it is settled. So nothing
//! is delivered that is not looked at, and a queue that puts back what returns where it was keeps its order.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout};

use crate::broker::{
    Broker, BrokerError, ConsumeOptions, ConsumerState, Delivery, Receipt, dead_letter_queue_name,
};

/// The most letters of a batch.
pub const BATCH_MAX: u64 = 500;

/// The letters of the first batch, before it is known how large they are.
const BATCH_FIRST: u64 = 32;

/// The bytes of bodies that a batch should not exceed; one letter may.
const BATCH_BYTES: u64 = 16 << 20;

/// The most letters that are held.
pub const HELD_MAX: usize = 50_000;

/// The bytes of the bodies of those that are held. They are the broker's, which keeps them in memory if it is embedded.
pub const HELD_BYTES_MAX: u64 = 128 << 20;

/// How long no letter may come before the count tells whether there is one.
const QUIET: Duration = Duration::from_millis(200);

/// How long no letter may come although the count says that there is one.
const STALLED_MAX: Duration = Duration::from_secs(10);

/// How long to wait until the count says that what was held is back.
const RETURN_MAX: Duration = Duration::from_secs(1);

pub(super) struct Examination<'a> {
    broker: &'a dyn Broker,
    queue: Arc<str>,
    /// Letters at the beginning.
    count: u64,
    /// Of those, the ones that were not looked at.
    left: u64,
    seen: u64,
    seen_bytes: u64,
    /// In order. Dropped, they go back, the first one first.
    held: Vec<Receipt>,
    held_bytes: u64,
}

impl<'a> Examination<'a> {
    /// Of the dead letters of a work queue.
    pub(super) async fn begin(
        broker: &'a dyn Broker,
        queue: &str,
    ) -> Result<Examination<'a>, BrokerError> {
        let queue: Arc<str> = dead_letter_queue_name(queue).into();
        let count = broker.queue_stats(&queue).await?.ready;
        Ok(Examination {
            broker,
            queue,
            count,
            left: count,
            seen: 0,
            seen_bytes: 0,
            held: Vec::new(),
            held_bytes: 0,
        })
    }

    pub(super) fn examined(&self) -> u64 {
        self.seen
    }

    /// How many letters of those wanted the next batch has; none if there are no more, or no more can be held.
    pub(super) fn more(&self, wanted: u64) -> Option<u64> {
        let can_hold = self.held.len() < HELD_MAX && self.held_bytes < HELD_BYTES_MAX;
        let average = self.seen_bytes.checked_div(self.seen);
        let batch = average.map_or(BATCH_FIRST, |bytes| {
            (BATCH_BYTES / bytes.max(1)).clamp(1, BATCH_MAX)
        });
        let batch = batch.min(wanted).min(self.left);
        (can_hold && batch > 0).then_some(batch)
    }

    /// The next letters, at most so many.
    pub(super) async fn next(&mut self, count: u64) -> Result<Vec<Delivery>, BrokerError> {
        let count = count.min(BATCH_MAX) as usize;
        let options = ConsumeOptions {
            prefetch: count as u16,
            tag: "leveret-dlq".into(),
            ..ConsumeOptions::queue(self.queue.clone())
        };
        let mut consumer = self.broker.consume(options).await?;
        let mut batch = Vec::with_capacity(count);
        let mut since = Instant::now();
        while batch.len() < count {
            match timeout(QUIET, consumer.next()).await {
                Ok(Some(delivery)) => {
                    batch.push(delivery);
                    since = Instant::now();
                }
                Ok(None) => return Err(BrokerError::Closed),
                // Somebody else took the rest.
                Err(_) if self.broker.queue_stats(&self.queue).await?.ready == 0 => {
                    self.left = batch.len() as u64;
                    break;
                }
                Err(_) if since.elapsed() > STALLED_MAX => return Err(stalled(&self.queue)),
                Err(_) => {}
            }
        }
        let mut state = consumer.state();
        consumer.cancel();
        let ended = state.wait_for(|state| *state == ConsumerState::Draining);
        // A consumer whose task is gone has ended as well.
        let _ = timeout(STALLED_MAX, ended).await;
        self.left -= batch.len() as u64;
        self.seen += batch.len() as u64;
        let bytes = batch
            .iter()
            .map(|delivery| delivery.message.body.len() as u64);
        self.seen_bytes += bytes.sum::<u64>();
        Ok(batch)
    }

    /// Keeps a letter from being delivered again until the end.
    pub(super) fn hold(&mut self, delivery: Delivery) {
        self.held_bytes += delivery.message.body.len() as u64;
        self.hold_receipt(delivery.receipt);
    }

    pub(super) fn hold_receipt(&mut self, receipt: Receipt) {
        self.held.push(receipt);
    }

    /// Returns what is held, and waits until the broker counts it, unless somebody else takes it. Says how many letters there were, and how many
    /// of them were looked at.
    pub(super) async fn finish(self) -> (u64, u64) {
        let back = self.held.len() as u64;
        let before = self.broker.queue_stats(&self.queue).await;
        drop(self.held);
        let wanted = before.map_or(0, |stats| stats.ready) + back;
        let until = Instant::now() + RETURN_MAX;
        while back > 0 && Instant::now() < until {
            match self.broker.queue_stats(&self.queue).await {
                Ok(stats) if stats.ready < wanted => sleep(Duration::from_millis(5)).await,
                _ => break,
            }
        }
        (self.count, self.seen)
    }
}

fn stalled(queue: &str) -> BrokerError {
    BrokerError::Unavailable {
        detail: format!("queue '{queue}' has messages and delivers none"),
    }
}
