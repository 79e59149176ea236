//! What befalls services, by seed.

use std::time::Duration;

use fastrand::Rng;

/// The longest that a shuffled delivery is held back, in milliseconds.
const HELD_MS_MAX: u64 = 10;

/// What is to befall them.
#[derive(Debug)]
pub(super) struct Faults {
    rng: Rng,
    /// How often each delivery comes.
    pub(super) copies: u32,
    /// Whether deliveries come in any order.
    pub(super) shuffled: bool,
    /// One in so many points is a crash.
    pub(super) crash_one_in: u32,
    /// How many there may yet be.
    pub(super) crashes_left: u32,
}

impl Faults {
    pub(super) fn new(seed: u64) -> Faults {
        Faults {
            rng: Rng::with_seed(seed),
            copies: 1,
            shuffled: false,
            crash_one_in: 1,
            crashes_left: 0,
        }
    }

    pub(super) fn calm(&mut self) {
        (self.copies, self.shuffled, self.crashes_left) = (1, false, 0);
    }

    /// How long a delivery is held back; none, if it is not.
    pub(super) fn held_back(&mut self) -> Option<Duration> {
        self.shuffled
            .then(|| Duration::from_millis(self.rng.u64(0..=HELD_MS_MAX)))
    }

    /// Whether whoever is at a point crashes there.
    pub(super) fn is_crash(&mut self) -> bool {
        if self.crashes_left == 0 || self.rng.u32(0..self.crash_one_in) > 0 {
            return false;
        }
        self.crashes_left -= 1;
        true
    }
}
