//! What is counted of the work queues that a process consumes, and its text.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use super::{
    ConsumerGauge, Counter, DURATION_BOUNDS_US, Histogram,
    text::{Kind, TextWriter},
};
use crate::broker::ConsumerState;

/// What is counted of one work queue, and where its consumer stands.
#[derive(Debug)]
pub struct QueueMetrics {
    /// Deliveries that their handler was done with, and that were acknowledged.
    pub handled: Counter,
    /// Those among the handled which the handler knew already.
    pub duplicates: Counter,
    /// Deliveries that are tried again after a delay.
    pub retried: Counter,
    /// Deliveries that went to the dead letter queue.
    pub dead_letters: Counter,
    /// Times that a handler could not handle a delivery for a fault of this machine.
    pub requeued: Counter,
    /// Deliveries that may have ended their process, and were counted before their handler saw them.
    pub suspected: Counter,
    /// Tries to publish what follows from deliveries of which something was not confirmed.
    pub publish_failures: Counter,
    /// How long handlers took, in microseconds.
    pub duration_us: Histogram,
    /// The consumer.
    pub consumer: ConsumerGauge,
    paused: AtomicBool,
    held_back: AtomicUsize,
}

impl Default for QueueMetrics {
    fn default() -> QueueMetrics {
        QueueMetrics {
            handled: Counter::default(),
            duplicates: Counter::default(),
            retried: Counter::default(),
            dead_letters: Counter::default(),
            requeued: Counter::default(),
            suspected: Counter::default(),
            publish_failures: Counter::default(),
            duration_us: Histogram::new(DURATION_BOUNDS_US),
            consumer: ConsumerGauge::default(),
            paused: AtomicBool::new(false),
            held_back: AtomicUsize::new(0),
        }
    }
}

impl QueueMetrics {
    /// Whether a fault of this machine keeps the consumer from handling anything: from the first delivery that it says it of, to the next one
    /// that is handled.
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Acquire)
    }

    /// How many deliveries wait because what follows from them cannot be published.
    pub fn held_back(&self) -> usize {
        self.held_back.load(Ordering::Acquire)
    }

    /// Whether the queue is consumed: the broker counts the consumer, and nothing keeps it from its work. What readiness tells.
    pub fn is_ready(&self) -> bool {
        self.consumer.get() == Some(ConsumerState::Live)
            && !self.is_paused()
            && self.held_back() == 0
    }

    pub(crate) fn set_paused(&self, paused: bool) {
        self.paused.store(paused, Ordering::Release);
    }

    /// Counts a delivery as held back until this is dropped.
    pub(crate) fn hold_back(self: &Arc<Self>) -> HeldBack {
        self.held_back.fetch_add(1, Ordering::AcqRel);
        HeldBack(self.clone())
    }
}

/// A delivery that is held back.
#[derive(Debug)]
pub(crate) struct HeldBack(Arc<QueueMetrics>);

impl Drop for HeldBack {
    fn drop(&mut self) {
        self.0.held_back.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Writes the families of work queues, each with a sample for every queue.
pub fn write(writer: &mut TextWriter, queues: &[(&str, &QueueMetrics)]) {
    type Count = fn(&QueueMetrics) -> u64;
    let counters: [(&'static str, &str, Count); 7] = [
        (
            "leveret_work_handled_total",
            "Deliveries handled and acknowledged.",
            |m| m.handled.get(),
        ),
        (
            "leveret_work_duplicates_total",
            "Deliveries handled that the handler knew already.",
            |m| m.duplicates.get(),
        ),
        (
            "leveret_work_retried_total",
            "Deliveries that are tried again after a delay.",
            |m| m.retried.get(),
        ),
        (
            "leveret_work_dead_letters_total",
            "Deliveries that went to the dead letter queue.",
            |m| m.dead_letters.get(),
        ),
        (
            "leveret_work_requeued_total",
            "Times that a fault of this machine kept a delivery from being handled.",
            |m| m.requeued.get(),
        ),
        (
            "leveret_work_suspected_total",
            "Deliveries counted because they may have ended their process.",
            |m| m.suspected.get(),
        ),
        (
            "leveret_work_publish_failures_total",
            "Tries to publish what follows from deliveries that left something unconfirmed.",
            |m| m.publish_failures.get(),
        ),
    ];
    for (name, help, count) in counters {
        let mut family = writer.family(name, Kind::Counter, help);
        for (queue, metrics) in queues {
            family.sample(&[("queue", queue)], count(metrics));
        }
    }
    let mut family = writer.family(
        "leveret_work_duration_seconds",
        Kind::Histogram,
        "How long handlers took.",
    );
    for (queue, metrics) in queues {
        family.histogram(&[("queue", queue)], 1e6, &metrics.duration_us);
    }
    let mut family = writer.family(
        "leveret_work_consumer_state",
        Kind::Gauge,
        "1 for the state that the consumer is in.",
    );
    for (queue, metrics) in queues {
        for (state, name) in ConsumerGauge::STATES {
            let is = u8::from(metrics.consumer.get() == Some(state));
            family.sample(&[("queue", queue), ("state", name)], is);
        }
    }
    let gauges: [(&'static str, &str, Count); 3] = [
        (
            "leveret_work_paused",
            "1 while a fault of this machine keeps deliveries from being handled.",
            |m| m.is_paused().into(),
        ),
        (
            "leveret_work_held_back",
            "Deliveries that wait because what follows from them cannot be published.",
            |m| m.held_back() as u64,
        ),
        (
            "leveret_work_ready",
            "1 while the queue is consumed and nothing keeps it from that.",
            |m| m.is_ready().into(),
        ),
    ];
    for (name, help, value) in gauges {
        let mut family = writer.family(name, Kind::Gauge, help);
        for (queue, metrics) in queues {
            family.sample(&[("queue", queue)], value(metrics));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_each_queue_once_in_every_family() {
        let (orders, payments) = (Arc::<QueueMetrics>::default(), QueueMetrics::default());
        orders.handled.add(3);
        orders.consumer.set(ConsumerState::Live);
        assert!(orders.is_ready());
        let held = orders.hold_back();
        assert!(!orders.is_ready());
        orders.duration_us.observe(700);
        let mut writer = TextWriter::default();
        write(
            &mut writer,
            &[("orders", &*orders), ("payments", &payments)],
        );
        let text = writer.finish();
        for line in [
            "leveret_work_handled_total{queue=\"orders\"} 3",
            "leveret_work_handled_total{queue=\"payments\"} 0",
            "leveret_work_duration_seconds_bucket{queue=\"orders\",le=\"0.001\"} 1",
            "leveret_work_consumer_state{queue=\"orders\",state=\"live\"} 1",
            "leveret_work_consumer_state{queue=\"payments\",state=\"live\"} 0",
            "leveret_work_held_back{queue=\"orders\"} 1",
            "leveret_work_ready{queue=\"orders\"} 0",
        ] {
            assert!(
                text.lines().any(|written| written == line),
                "{line}: {text}"
            );
        }
        assert_eq!(text.matches("# TYPE").count(), 12);
        drop(held);
        orders.set_paused(true);
        assert!(!orders.is_ready());
        orders.set_paused(false);
        assert!(orders.is_ready());
    }
}
