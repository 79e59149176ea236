//! What a process needs in order to be ready, and whether it has it.

use std::sync::atomic::{AtomicBool, Ordering};

/// A part that readiness depends on. The names are part of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The store answers.
    Store,
    /// The broker is connected.
    Broker,
    /// The worker's consumer is live.
    Consumer,
}

/// Readiness, as parts.
#[derive(Debug)]
pub(crate) struct Health {
    parts: [AtomicBool; 3],
}

impl Default for Health {
    /// Store and broker were just connected; the consumer comes later.
    fn default() -> Health {
        Health {
            parts: [
                AtomicBool::new(true),
                AtomicBool::new(true),
                AtomicBool::new(false),
            ],
        }
    }
}

impl Health {
    pub(crate) fn set(&self, part: Part, well: bool) {
        let before = self.parts[part as usize].swap(well, Ordering::AcqRel);
        if before != well {
            tracing::info!(?part, well, "health changed");
        }
    }

    pub(crate) fn get(&self, part: Part) -> bool {
        self.parts[part as usize].load(Ordering::Acquire)
    }
}
