//! How long to wait before the next attempt. Pure: the randomness is an argument.

use std::time::Duration;

/// A policy of bounded, growing, jittered delays.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    /// The delay after the first attempt.
    pub delay: Duration,
    /// No delay is longer.
    pub delay_max: Duration,
    /// How much longer each delay is than the one before, at least 1.
    pub factor: f64,
    /// The part of a delay that is random, 0 to 1: a delay of 10 s with jitter 0.1 lies between 9 s and 11 s.
    pub jitter: f64,
}

impl Backoff {
    /// The delay after `attempt` failed attempts (at least 1), for a `random` number in `0.0..1.0`.
    pub fn after(&self, attempt: u32, random: f64) -> Duration {
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let plain = self.delay.as_secs_f64() * self.factor.max(1.0).powi(exponent);
        let jittered =
            plain.min(self.delay_max.as_secs_f64()) * (1.0 + self.jitter * (random * 2.0 - 1.0));
        Duration::try_from_secs_f64(jittered.max(0.0))
            .unwrap_or(self.delay_max)
            .min(self.delay_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff {
        delay: Duration::from_secs(1),
        delay_max: Duration::from_secs(30),
        factor: 2.0,
        jitter: 0.0,
    };

    #[test]
    fn grows_to_its_bound() {
        let seconds: Vec<_> = (1..=7).map(|n| BACKOFF.after(n, 0.5).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(BACKOFF.after(u32::MAX, 0.5), Duration::from_secs(30));
    }

    #[test]
    fn spreads_by_its_jitter() {
        let jittered = Backoff {
            jitter: 0.5,
            ..BACKOFF
        };
        assert_eq!(jittered.after(1, 0.0), Duration::from_millis(500));
        assert_eq!(jittered.after(1, 1.0), Duration::from_millis(1500));
        let none = Backoff {
            delay: Duration::ZERO,
            ..jittered
        };
        assert_eq!(none.after(3, 0.9), Duration::ZERO);
    }
}
