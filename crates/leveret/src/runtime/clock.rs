//! The time of a store, for what several processes compare.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use leveret_core::{ids::RunId, time::Timestamp};
use tokio::time::Instant;

pub use crate::clock::{Clock, SystemClock};
use crate::store::{Store, StoreError};

/// The store's time: what several machines compare, such as when a timer is due, is told by one clock.
///
/// It goes on from the last [sample](Self::sample) by this machine's monotonic clock, so that the time of day may be wrong here, or be set. A
/// store that has no clock of its own leaves it to the clock of the process.
#[derive(Debug)]
pub(crate) struct StoreClock {
    own: Arc<dyn Clock>,
    begun: Instant,
    /// The store's time when this was made, in milliseconds; [`UNKNOWN`] before the first sample.
    begun_at_ms: AtomicI64,
}

const UNKNOWN: i64 = i64::MIN;

/// How often the store's time is looked at: clocks drift by milliseconds a minute.
const SAMPLES_EVERY: Duration = Duration::from_secs(60);
/// How soon after one that failed.
const SAMPLE_PAUSE: Duration = Duration::from_secs(1);
/// An answer that took longer tells the time too badly, if another one was better.
const SAMPLE_TIME_MAX: Duration = Duration::from_millis(250);

impl StoreClock {
    pub(crate) fn new(own: Arc<dyn Clock>) -> StoreClock {
        StoreClock {
            own,
            begun: Instant::now(),
            begun_at_ms: AtomicI64::new(UNKNOWN),
        }
    }

    /// Asks the store for its time. Returns whether it is worth asking again, and when.
    pub(crate) async fn sample(&self, store: &dyn Store) -> Result<Option<Duration>, StoreError> {
        let asked = self.begun.elapsed();
        let Some(now) = store.now().await? else {
            return Ok(None);
        };
        let took = self.begun.elapsed().saturating_sub(asked);
        let known = self.begun_at_ms.load(Ordering::Relaxed) != UNKNOWN;
        if known && took > SAMPLE_TIME_MAX {
            return Ok(Some(SAMPLE_PAUSE));
        }
        // It was looked at in between.
        let at_ms = i64::try_from((asked + took / 2).as_millis()).unwrap_or(i64::MAX);
        self.begun_at_ms
            .store(now.0.saturating_sub(at_ms), Ordering::Relaxed);
        Ok(Some(SAMPLES_EVERY))
    }

    /// Asks again and again, as long as somebody else has this clock.
    pub(crate) async fn keep(self: Arc<Self>, store: Arc<dyn Store>) {
        let clock = Arc::downgrade(&self);
        drop(self);
        loop {
            let Some(clock) = clock.upgrade() else {
                return;
            };
            let pause = match clock.sample(&*store).await {
                Ok(None) | Err(StoreError::Closed) => return,
                Ok(Some(pause)) => pause,
                Err(_) => SAMPLE_PAUSE,
            };
            drop(clock);
            tokio::time::sleep(pause).await;
        }
    }
}

impl Clock for StoreClock {
    fn now(&self) -> Timestamp {
        match self.begun_at_ms.load(Ordering::Relaxed) {
            UNKNOWN => self.own.now(),
            begun_at_ms => Timestamp(begun_at_ms) + self.begun.elapsed(),
        }
    }

    fn random(&self) -> f64 {
        self.own.random()
    }

    fn new_run_id(&self) -> RunId {
        self.own.new_run_id()
    }
}
