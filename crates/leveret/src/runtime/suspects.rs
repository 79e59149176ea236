//! Steps that may have ended their worker's process, and how they are told from those that were only there when it ended.
//!
//! Each redelivery of a step is counted in the store before the step is executed again, and at a bound the step is given up. Whatever else
//! ends processes, or takes their jobs away, must not bring an innocent step to that bound:
//!
//! - Steps that were counted before are tried one at a time: when the process ends, one of them at most is counted again.
//! - Before that they wait, longer each time, and are counted after the wait: a process that keeps ending soon after its start accuses
//!   nobody.
//! - A process that lost its jobs and lives takes back what it counted for them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use leveret_core::ids::StepKey;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::Inner;

/// The wait before a step that was counted once is tried again. Doubles with the count.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest wait.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// The suspects of this process.
#[derive(Debug)]
pub(crate) struct Suspects {
    lane: Semaphore,
    on_trial: Mutex<OnTrial>,
}

/// The steps that are executed although they are suspected, with their counts before.
#[derive(Debug, Default)]
struct OnTrial {
    steps: HashMap<u64, (StepKey, u32)>,
    next: u64,
}

impl Default for Suspects {
    fn default() -> Suspects {
        Suspects {
            lane: Semaphore::new(1),
            on_trial: Mutex::default(),
        }
    }
}

/// A suspected step is executed, until this is dropped.
#[derive(Debug)]
pub(crate) struct Trial<'a> {
    suspects: &'a Suspects,
    number: u64,
}

impl Suspects {
    /// Waits for the turn of a step that was counted before. It is alone until the permit is dropped.
    pub(crate) async fn turn(&self, counted: u32) -> Option<SemaphorePermit<'_>> {
        tokio::time::sleep(pause(counted)).await;
        self.lane.acquire().await.ok()
    }

    /// A step that was counted so often before is about to be counted and executed.
    pub(crate) fn trial(&self, step: StepKey, counted: u32) -> Trial<'_> {
        let mut on_trial = self.on_trial();
        let number = on_trial.next;
        on_trial.next += 1;
        on_trial.steps.insert(number, (step, counted));
        Trial {
            suspects: self,
            number,
        }
    }

    fn on_trial(&self) -> MutexGuard<'_, OnTrial> {
        self.on_trial.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        self.suspects.on_trial().steps.remove(&self.number);
    }
}

fn pause(counted: u32) -> Duration {
    PAUSE
        .saturating_mul(1 << counted.saturating_sub(1).min(16))
        .min(PAUSE_MAX)
}

/// Takes back what was counted for the steps that are on trial now: their jobs are lost to this process, and it lives.
pub(crate) fn acquit(inner: &Arc<Inner>) -> impl Future<Output = ()> + Send + 'static {
    let steps: Vec<_> = inner.suspects.on_trial().steps.drain().collect();
    let inner = inner.clone();
    async move {
        for (_, (step, counted)) in steps {
            if let Err(error) = inner.set_redeliveries(&step, counted).await {
                tracing::warn!(%error, "a redelivery stays counted");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_to_a_bound() {
        let pauses: Vec<_> = [1, 2, 3, 4, 7, 40].map(|n| pause(n).as_millis()).into();
        assert_eq!(pauses, [500, 1000, 2000, 4000, 30_000, 30_000]);
    }
}
