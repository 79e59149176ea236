//! How long to wait between attempts to connect or subscribe.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// The pause after so many failed attempts: doubles from 100 ms up to 5 s; `jitter` in `0.0..1.0` takes away up to half of it,
/// so that clients that lost the same broker do not come back in step.
pub(super) fn pause(failed: u32, jitter: f64) -> Duration {
    let full = FIRST.saturating_mul(1 << failed.min(16)).min(LONGEST);
    full.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0)
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
        assert_eq!(pauses, [100, 200, 400, 3200, 5000, 5000]);
        assert_eq!(pause(0, 1.0).as_millis(), 50);
    }
}
