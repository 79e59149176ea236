//! Time and randomness, as the parts are given them. Nothing else asks the machine for the time of day.

use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

use leveret_core::{ids::RunId, time::Timestamp};

/// Where the runtime gets the time, random numbers and new ids from. Only here.
pub trait Clock: Send + Sync + fmt::Debug + 'static {
    /// Now.
    fn now(&self) -> Timestamp;

    /// A random number in `0.0..1.0`.
    fn random(&self) -> f64;

    /// A new, time-ordered run id.
    fn new_run_id(&self) -> RunId;
}

/// The machine's clock and random numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    fn random(&self) -> f64 {
        fastrand::f64()
    }

    fn new_run_id(&self) -> RunId {
        RunId::new(uuid::Uuid::now_v7().to_string()).expect("a UUID is an id")
    }
}
