//! The bound on the work of a write, in steps of SQLite's virtual machine: the same on every node, however fast it is.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use rusqlite::{Connection, Result};

/// What all statements of a write may take together: seconds. Part of what nodes must agree on.
pub(super) const WRITE_STEPS_MAX: u64 = 50_000_000;

/// How often SQLite asks.
const EVERY: u64 = 10_000;

/// Ends a statement that takes far too many steps. Where exactly it does so depends on what ran before; so a statement that ended by itself
/// is held against the bound too, by its exact count.
#[derive(Clone, Debug)]
pub(super) struct Steps(Arc<AtomicU64>);

impl Steps {
    pub(super) fn install(connection: &mut Connection) -> Result<Steps> {
        let steps = Steps(Arc::new(AtomicU64::new(u64::MAX)));
        let left = steps.0.clone();
        let ask = move || {
            let before = left.load(Ordering::Relaxed);
            left.store(before.saturating_sub(1), Ordering::Relaxed);
            before == 0
        };
        connection.progress_handler(EVERY as i32, Some(ask))?;
        Ok(steps)
    }

    /// The statement that begins now may take this many, and is ended soon after.
    pub(super) fn allow(&self, steps: u64) {
        self.0.store(steps / EVERY + 2, Ordering::Relaxed);
    }

    /// There is no bound from here on.
    pub(super) fn free(&self) {
        self.0.store(u64::MAX, Ordering::Relaxed);
    }
}
