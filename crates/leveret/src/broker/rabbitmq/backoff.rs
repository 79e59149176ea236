//! How long to wait between attempts to connect or subscribe.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(1);
const LONGEST_WHILE_MISSING: Duration = Duration::from_secs(30);
/// A connection that lived so long worked.
const WORKED_AFTER: Duration = Duration::from_secs(10);

/// The pause after so many failed attempts: doubles from 100 ms up to 1 s; `jitter` in `0.0..1.0` takes away up to half of it,
/// so that clients that lost the same broker do not come back in step.
pub(super) fn pause(failed: u32, jitter: f64) -> Duration {
    doubled(failed, jitter, LONGEST)
}

/// The pause after so many attempts to consume from a queue that is not there.
pub(super) fn while_missing(failed: u32) -> Duration {
    doubled(failed, fastrand::f64(), LONGEST_WHILE_MISSING)
}

fn doubled(failed: u32, jitter: f64, longest: Duration) -> Duration {
    let full = FIRST.saturating_mul(1 << failed.min(16)).min(longest);
    full.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0)
}

/// What counts as failed attempts when a connection is lost that lived so long. One that soon ends for the same reason as the one before, over
/// a message that cannot be read for example, is no success.
pub(super) fn after_loss(failed: u32, lived: Duration) -> u32 {
    if lived < WORKED_AFTER {
        failed.saturating_add(1)
    } else {
        0
    }
}

/// Waits for that time.
pub(super) async fn wait(failed: u32) {
    tokio::time::sleep(pause(failed, fastrand::f64())).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_a_bound() {
        let pauses: Vec<_> = [0, 1, 2, 5, 6, 40]
            .map(|n| pause(n, 0.0).as_millis())
            .into();
        assert_eq!(pauses, [100, 200, 400, 1000, 1000, 1000]);
        assert_eq!(pause(0, 1.0).as_millis(), 50);
        let missing = while_missing(40);
        assert!(
            missing <= LONGEST_WHILE_MISSING && missing > LONGEST,
            "{missing:?}"
        );
    }

    #[test]
    fn short_lives_are_failures() {
        let lives = [60, 1, 0, 9, 10, 1].map(Duration::from_secs);
        let failed = lives.iter().scan(0, |failed, lived| {
            *failed = after_loss(*failed, *lived);
            Some(*failed)
        });
        assert_eq!(failed.collect::<Vec<_>>(), [0, 1, 2, 3, 0, 1]);
        assert_eq!(after_loss(u32::MAX, Duration::ZERO), u32::MAX);
    }
}
