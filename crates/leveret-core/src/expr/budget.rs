//! What evaluations may cost together.

use std::{cell::Cell, sync::Arc};

use serde_json::Value;

use super::{
    EvalError, EvalErrorKind,
    eval::{Failure, Outcome},
    value::Data,
};

/// The most work that the evaluations of one [`Budget`] may do: parts of expressions visited, and more for what costs more, so that a unit
/// is some 20 ns of work and some 100 bytes of memory. Reached in tens of milliseconds.
pub const WORK_MAX: u64 = 2_000_000;

/// The most text that the evaluations of one [`Budget`] may put into their results, in bytes: as much as comes in with a message.
pub const RENDERED_BYTES_MAX: usize = 16 << 20;

/// What is left of [`WORK_MAX`] and [`RENDERED_BYTES_MAX`] for evaluations that belong together: of the parameters of a step, of its input, of
/// the conditions behind it.
#[derive(Debug)]
pub struct Budget {
    work: Cell<u64>,
    bytes: Cell<usize>,
}

impl Default for Budget {
    fn default() -> Budget {
        Budget::new()
    }
}

impl Budget {
    /// A budget of which nothing is spent.
    pub fn new() -> Budget {
        Budget {
            work: Cell::new(WORK_MAX),
            bytes: Cell::new(RENDERED_BYTES_MAX),
        }
    }

    /// A budget of so much work and so many bytes of text, and not more than a whole one.
    pub fn of(work: u64, bytes: usize) -> Budget {
        Budget {
            work: Cell::new(work.min(WORK_MAX)),
            bytes: Cell::new(bytes.min(RENDERED_BYTES_MAX)),
        }
    }

    /// The units of work that are left.
    pub fn work_left(&self) -> u64 {
        self.work.get()
    }

    /// A copy of `value`, which counts like what an expression makes. An error names it as `name`.
    pub fn copy(&self, value: &Value, name: &str) -> Result<Value, EvalError> {
        let copied = Data::from(value).into_json(self);
        copied.map_err(|failure| failure.of(&Arc::from(name)))
    }

    /// The units of work spent so far.
    #[cfg(test)]
    pub(super) fn spent(&self) -> u64 {
        WORK_MAX - self.work.get()
    }

    #[inline]
    pub(super) fn charge(&self, units: usize) -> Outcome<()> {
        match self.work.get().checked_sub(units as u64) {
            Some(left) => {
                self.work.set(left);
                Ok(())
            }
            None => Err(exhausted()),
        }
    }

    /// Charges for bytes that are copied or compared as they are.
    pub(super) fn charge_bytes(&self, bytes: usize) -> Outcome<()> {
        self.charge(bytes / 16)
    }

    /// Charges for bytes that are looked at one by one.
    pub(super) fn charge_scan(&self, bytes: usize) -> Outcome<()> {
        self.charge(bytes / 8)
    }

    /// Charges for finding `name` among `len` names.
    pub(super) fn charge_lookup(&self, name: &str, len: usize) -> Outcome<()> {
        let steps = len.checked_ilog2().map_or(1, |log| 1 + log as usize);
        self.charge((1 + name.len() / 16) * steps)
    }

    /// Charges for text that goes into the result.
    pub(super) fn render(&self, bytes: usize) -> Outcome<()> {
        match self.bytes.get().checked_sub(bytes) {
            Some(left) => {
                self.bytes.set(left);
                Ok(())
            }
            None => Err(Failure::new(
                EvalErrorKind::Size,
                format!("it makes more text than the {RENDERED_BYTES_MAX} bytes allowed"),
            )),
        }
    }
}

#[cold]
fn exhausted() -> Failure {
    Failure::new(
        EvalErrorKind::Work,
        format!("it takes more work than the {WORK_MAX} units allowed"),
    )
}
