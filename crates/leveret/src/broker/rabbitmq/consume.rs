//! One subscription: a task with a channel of its own, which hands deliveries out, sends settlements, and subscribes again
//! whenever it is no longer counted by the broker.
//!
//! ```text
//! Live --lost: link, channel, cancel by the broker, watchdog--> Lost --subscribed again--> Live
//! Live, Lost --cancel--> Draining --last delivery settled--> end
//! ```
//!
//! The receipts of a channel settle into a queue of that channel. With the channel gone the queue is gone, and receipts that
//! come late have no effect: the broker has returned their messages by then.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{FutureExt, StreamExt};
use lapin::{
    Channel,
    options::{
        BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
    },
    types::FieldTable,
};
use tokio::{
    sync::{
        mpsc::{self, error::TrySendError},
        watch,
    },
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};

use super::{
    Shared,
    acks::{Frame, Outstanding},
    backoff,
    link::Link,
    screen, topology,
    wire::{self, short},
};
use crate::broker::{
    BrokerError, ConsumeOptions, Consumer, ConsumerState, Delivery, QueueStats, Receipt, Settle,
    Settlement,
};

/// The most settlements, or deliveries, that one round of the task takes.
const ROUND_MAX: usize = 1024;

/// A consumer is given up after so many low counts in a row. A quorum queue whose leader does not answer counts no consumers.
const LOW_COUNTS_MAX: u32 = 3;

/// How many subscriptions of this process the broker should count, by queue.
#[derive(Default)]
pub(super) struct LiveCounts(Mutex<HashMap<Arc<str>, u32>>);

impl LiveCounts {
    fn of(&self, queue: &str) -> u32 {
        self.lock().get(queue).copied().unwrap_or(0)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Arc<str>, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of the counted, for as long as this exists.
struct Counted {
    shared: Arc<Shared>,
    queue: Arc<str>,
}

impl Counted {
    fn new(shared: &Arc<Shared>, queue: &Arc<str>) -> Counted {
        *shared.live.lock().entry(queue.clone()).or_default() += 1;
        Counted {
            shared: shared.clone(),
            queue: queue.clone(),
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.shared.live.lock();
        if let Some(count) = counts.get_mut(&self.queue) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.queue);
            }
        }
    }
}

/// Where the receipts of one channel settle.
struct ChannelSettle(mpsc::UnboundedSender<(u64, Settlement)>);

impl Settle for ChannelSettle {
    fn settle(&self, tag: u64, settlement: Settlement) {
        // Never more than prefetch. With the channel gone this has no effect.
        let _ = self.0.send((tag, settlement));
    }

    fn is_open(&self) -> bool {
        !self.0.is_closed()
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

/// Subscribes, and keeps the subscription up in a task, which holds `alive` until it has ended.
pub(super) async fn consume(
    shared: Arc<Shared>,
    options: ConsumeOptions,
    alive: mpsc::Sender<()>,
) -> Result<Consumer, BrokerError> {
    let deadline = Instant::now() + shared.options.outage_wait;
    let link = shared.consume_keeper().await?.link_by(deadline).await?;
    let attached = Attached::new(&shared, link, &options).await?;
    let (deliveries, receiver) = mpsc::channel(usize::from(options.prefetch.max(1)));
    let state = watch::Sender::new(ConsumerState::Live);
    let cancel = watch::Sender::new(false);
    let consumer = Consumer::new(receiver, state.subscribe(), {
        let cancel = cancel.clone();
        move || {
            cancel.send_replace(true);
        }
    });
    let subscription = Subscription {
        shared,
        options,
        state,
        deliveries,
        cancel: cancel.subscribe(),
    };
    tokio::spawn(async move {
        subscription.run(attached).await;
        drop((alive, cancel));
    });
    Ok(consumer)
}

/// What a subscription has while it is subscribed.
struct Attached {
    link: Arc<Link>,
    channel: Channel,
    stream: lapin::Consumer,
    settle: Arc<dyn Settle>,
    settlements: mpsc::UnboundedReceiver<(u64, Settlement)>,
    outstanding: Outstanding,
    /// Deliveries for which the consumer's buffer has no room: those of the channel before are still in it.
    backlog: VecDeque<Delivery>,
    /// Until it is no longer to be counted.
    counted: Option<Counted>,
}

impl Attached {
    async fn new(
        shared: &Arc<Shared>,
        link: Arc<Link>,
        options: &ConsumeOptions,
    ) -> Result<Attached, BrokerError> {
        let channel = link.channel().await?;
        let prefetch = options.prefetch.max(1);
        let qos = channel.basic_qos(prefetch, BasicQosOptions::default());
        link.request("channel", qos).await?;
        let tag = format!("{}.{:08x}", options.tag, fastrand::u32(..));
        let subscribing = channel.basic_consume(
            short(&options.queue)?,
            short(&tag)?,
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        let what = format!("queue '{}'", options.queue);
        let stream = link.request(&what, subscribing).await?;
        let (settle, settlements) = mpsc::unbounded_channel();
        Ok(Attached {
            link,
            channel,
            stream,
            settle: Arc::new(ChannelSettle(settle)),
            settlements,
            outstanding: Outstanding::new(),
            backlog: VecDeque::new(),
            counted: Some(Counted::new(shared, &options.queue)),
        })
    }

    /// Notes a delivery as outstanding; `None` if the broker does not number them as it must.
    fn take(&mut self, delivery: lapin::message::Delivery) -> Option<Delivery> {
        let tag = delivery.delivery_tag;
        let noted = self.outstanding.delivered(tag);
        noted.then(|| {
            let mut message = wire::message(&delivery.properties, delivery.data);
            Delivery {
                flaw: screen::flaw(&mut message.headers),
                message,
                exchange: Arc::from(delivery.exchange.as_str()),
                routing_key: Arc::from(delivery.routing_key.as_str()),
                redelivered: delivery.redelivered,
                receipt: Receipt::new(self.settle.clone(), tag),
            }
        })
    }

    /// Sends settlements. They are handed to the connection at once, and leave in order before anything that follows.
    fn send(&mut self, gathered: &[(u64, Settlement)]) {
        for frame in self.outstanding.settle(gathered) {
            send_frame(&self.channel, frame);
        }
    }

    /// Drops everything: receipts of this channel have no effect from here on.
    fn give_up(self) -> (Arc<Link>, Channel) {
        (self.link, self.channel)
    }

    fn send_waiting(&mut self) {
        let mut gathered = Vec::new();
        while let Ok(one) = self.settlements.try_recv() {
            gathered.push(one);
        }
        self.send(&gathered);
    }
}

fn send_frame(channel: &Channel, frame: Frame) {
    let Frame { tag, multiple, .. } = frame;
    // Handed over by the first poll; a failure to send it is a lost link, which is noticed as such.
    let _ = match frame.settlement {
        Settlement::Ack => channel
            .basic_ack(tag, BasicAckOptions { multiple })
            .now_or_never(),
        Settlement::Requeue | Settlement::Reject => {
            let requeue = frame.settlement == Settlement::Requeue;
            channel
                .basic_nack(tag, BasicNackOptions { multiple, requeue })
                .now_or_never()
        }
    };
}

/// Why a subscription stopped pumping.
#[derive(Debug)]
enum End {
    Lost(&'static str),
    Cancelled,
    Closed,
}

struct Subscription {
    shared: Arc<Shared>,
    options: ConsumeOptions,
    state: watch::Sender<ConsumerState>,
    deliveries: mpsc::Sender<Delivery>,
    cancel: watch::Receiver<bool>,
}

impl Subscription {
    async fn run(self, mut attached: Attached) {
        loop {
            match self.pump(&mut attached).await {
                End::Cancelled => return self.drain(attached).await,
                End::Closed => return self.end(attached).await,
                End::Lost(why) => {
                    self.state.send_replace(ConsumerState::Lost);
                    tracing::warn!(
                        queue = &*self.options.queue,
                        why,
                        "a consumer was lost, subscribing again"
                    );
                    let (link, channel) = attached.give_up();
                    topology::close(&link, &channel).await;
                }
            }
            let mut cancel = self.cancel.clone();
            let mut closing = self.shared.closing.subscribe();
            attached = tokio::select! {
                attached = self.attach_again() => match attached {
                    Some(attached) => attached,
                    None => return,
                },
                _ = cancel.wait_for(|cancelled| *cancelled) => {
                    self.state.send_replace(ConsumerState::Draining);
                    return;
                }
                _ = closing.wait_for(|closing| *closing) => return,
            };
            self.state.send_replace(ConsumerState::Live);
            tracing::info!(
                queue = &*self.options.queue,
                "a consumer is subscribed again"
            );
        }
    }

    /// Tries until it is subscribed; `None` when the broker was closed.
    async fn attach_again(&self) -> Option<Attached> {
        let mut declared = self.shared.topology.declared();
        let mut failed = 0;
        loop {
            declared.mark_unchanged();
            let keeper = self.shared.consume_keeper().await.ok()?;
            let link = keeper.link().await.ok()?;
            match Attached::new(&self.shared, link.clone(), &self.options).await {
                Ok(attached) => return Some(attached),
                Err(error) => {
                    tracing::debug!(queue = &*self.options.queue, %error, "subscribing failed");
                    let is_missing = matches!(error, BrokerError::NotFound { .. });
                    if is_missing && failed == 0 {
                        // The queue may have been deleted: it comes back if it was declared here.
                        let _ = self.shared.topology.restore(&link).await;
                    } else if is_missing {
                        // Each try costs a channel, so that they become rare; whoever declares the queue here ends the pause.
                        let _ = timeout(backoff::while_missing(failed), declared.changed()).await;
                    } else {
                        backoff::wait(failed).await;
                    }
                    failed += 1;
                    if failed > 5 && failed % 5 == 0 {
                        let _ = self.shared.topology.restore(&link).await;
                    }
                }
            }
        }
    }

    /// Hands out deliveries and sends settlements until something ends it.
    async fn pump(&self, attached: &mut Attached) -> End {
        let mut cancel = self.cancel.clone();
        let mut closing = self.shared.closing.subscribe();
        let link = attached.link.clone();
        let lost = link.lost();
        let uncounted = watch_count(&self.shared, &self.options.queue);
        tokio::pin!(lost, uncounted);
        let mut gathered = Vec::new();
        loop {
            // All branches are cancel-safe: channel receives, a stream's `next`, a permit, and futures that are kept.
            tokio::select! {
                biased;
                _ = cancel.wait_for(|cancelled| *cancelled) => return End::Cancelled,
                _ = closing.wait_for(|closing| *closing) => return End::Closed,
                () = &mut lost => return End::Lost("the connection was lost"),
                _ = attached.settlements.recv_many(&mut gathered, ROUND_MAX) => {
                    attached.send(&gathered);
                    gathered.clear();
                }
                permit = self.deliveries.reserve(), if !attached.backlog.is_empty() => {
                    match (permit, attached.backlog.pop_front()) {
                        (Ok(permit), Some(delivery)) => permit.send(delivery),
                        // The consumer is gone: cancelled as well, as is seen in the next round.
                        (Err(_), _) => attached.backlog.clear(),
                        (Ok(_), None) => {}
                    }
                }
                next = attached.stream.next() => {
                    if let Some(end) = self.hand_out(attached, next) {
                        return end;
                    }
                }
                () = &mut uncounted => return End::Lost("the broker does not count it"),
            }
        }
    }

    /// Hands out one delivery and those that are here with it.
    fn hand_out(
        &self,
        attached: &mut Attached,
        first: Option<lapin::Result<lapin::message::Delivery>>,
    ) -> Option<End> {
        let mut next = first;
        for _ in 0..ROUND_MAX {
            let Some(Ok(delivery)) = next else {
                return Some(End::Lost("the broker cancelled it"));
            };
            let Some(delivery) = attached.take(delivery) else {
                return Some(End::Lost("the broker skipped a delivery tag"));
            };
            if !attached.backlog.is_empty() {
                attached.backlog.push_back(delivery);
            } else if let Err(TrySendError::Full(delivery)) = self.deliveries.try_send(delivery) {
                attached.backlog.push_back(delivery);
            }
            // With the consumer gone the delivery was dropped, so that it goes back to its queue.
            next = attached.stream.next().now_or_never()?;
        }
        self.hand_out(attached, next)
    }

    /// Unsubscribes, returns what was not handed out, and settles until nothing is outstanding.
    async fn drain(self, mut attached: Attached) {
        unsubscribe(&mut attached).await;
        self.state.send_replace(ConsumerState::Draining);
        let mut closing = self.shared.closing.subscribe();
        let link = attached.link.clone();
        attached.send_waiting();
        let mut gathered = Vec::new();
        while attached.outstanding.unsettled() > 0 {
            tokio::select! {
                _ = attached.settlements.recv_many(&mut gathered, ROUND_MAX) => {
                    attached.send(&gathered);
                    gathered.clear();
                }
                () = link.lost() => return,
                _ = closing.wait_for(|closing| *closing) => break,
            }
        }
        self.end(attached).await;
    }

    /// Sends the settlements that wait and closes the channel; the broker has them when this returns.
    async fn end(self, mut attached: Attached) {
        attached.send_waiting();
        topology::close(&attached.link, &attached.channel).await;
    }
}

/// After this no delivery comes, and all that were not handed out are on their way back.
async fn unsubscribe(attached: &mut Attached) {
    attached.backlog.clear();
    attached.counted = None;
    let tag = attached.stream.tag();
    let cancelling = attached
        .channel
        .basic_cancel(tag, BasicCancelOptions::default());
    if attached.link.request("channel", cancelling).await.is_err() {
        return;
    }
    // What arrived in between stands before the end of the stream.
    while let Some(Some(Ok(delivery))) = attached.stream.next().now_or_never() {
        drop(attached.take(delivery));
    }
}

/// Returns when the broker counts fewer consumers of the queue than this process has, several times in a row.
async fn watch_count(shared: &Shared, queue: &Arc<str>) {
    let every = shared.options.watchdog_interval;
    // Consumers that started together do not ask together.
    let first = Instant::now() + every.mul_f64(0.5 + fastrand::f64() / 2.0);
    let mut ticks = interval_at(first, every.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut low = 0;
    while low < LOW_COUNTS_MAX {
        ticks.tick().await;
        let ours = shared.live.of(queue);
        match count(shared, queue).await {
            // One that was cancelled since is not counted any more by either.
            Ok(stats) => low = low_counts(low, stats.consumers, ours.min(shared.live.of(queue))),
            Err(BrokerError::NotFound { .. }) => return,
            // No answer is no verdict: a lost link is noticed as such.
            Err(_) => {}
        }
    }
}

/// What the broker says of the queue, whichever connection the subscription is on.
async fn count(shared: &Shared, queue: &str) -> Result<QueueStats, BrokerError> {
    let link = shared.consume_keeper().await?.link().await?;
    topology::stats(&link, queue).await
}

/// How many counts in a row were low, with this one.
fn low_counts(before: u32, counted: u32, ours: u32) -> u32 {
    if counted < ours { before + 1 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_full_count_makes_up_for_low_ones() {
        let low = |counts: &[u32]| {
            counts
                .iter()
                .fold(0, |low, count| low_counts(low, *count, 2))
        };
        assert!(low(&[0, 1, 2, 0, 0]) < LOW_COUNTS_MAX);
        assert!(low(&[0, 3, 0]) < LOW_COUNTS_MAX);
        assert!(low(&[2, 1, 0, 1]) >= LOW_COUNTS_MAX);
    }
}
