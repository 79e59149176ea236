//! Where schedules are kept: beside the runs, in the same store. The seam, its three adapters, and a conformance suite.
//!
//! A schedule is one document with a version. Whoever changes it says which version was read, and of several that try, one does: this alone keeps
//! a due time from being taken twice, so there is no lease and no leader. What became of due times is remembered in the same transaction.

pub mod conformance;
mod memory;
#[cfg(feature = "postgres")]
mod postgres;
mod sqlite;

use async_trait::async_trait;
use leveret_core::{
    ids::ScheduleId,
    schedule::{Firing, Schedule},
    time::Timestamp,
};

pub use self::memory::MemorySchedules;
#[cfg(feature = "postgres")]
pub use self::postgres::PostgresSchedules;
#[cfg(feature = "postgres")]
pub(crate) use self::postgres::{COMPONENT, MIGRATIONS};
pub use self::sqlite::SqliteSchedules;
use crate::store::StoreError;

/// How many firings of a schedule are remembered, those that are not over aside.
pub const HISTORY_MAX: u64 = 1000;

/// A schedule as it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// Its name.
    pub id: ScheduleId,
    /// Which of its versions this is.
    pub version: u64,
    /// What it is.
    pub schedule: Schedule,
}

/// A schedule as it is to be.
#[derive(Clone, Debug)]
pub struct Change {
    /// Its name.
    pub id: ScheduleId,
    /// The version that was read; 0 if there is none yet.
    pub version: u64,
    /// What it is to be.
    pub schedule: Schedule,
    /// When it must be looked at; `None`: never.
    pub look_at: Option<Timestamp>,
    /// Firings that are over, to be remembered.
    pub over: Vec<Firing>,
}

/// Keeps schedules. Cheap to share behind an `Arc`.
#[async_trait]
pub trait Schedules: Send + Sync + 'static {
    /// A schedule.
    async fn get(&self, id: &ScheduleId) -> Result<Option<Kept>, StoreError>;

    /// Schedules by name, after `after`, at most so many.
    async fn list(&self, after: Option<&ScheduleId>, limit: u32) -> Result<Vec<Kept>, StoreError>;

    /// Those that must be looked at by now, the longest due first, at most so many. One that cannot be read is logged and left out.
    async fn due(&self, now: Timestamp, limit: u32) -> Result<Vec<Kept>, StoreError>;

    /// When the next one must be looked at.
    async fn next_look(&self) -> Result<Option<Timestamp>, StoreError>;

    /// Changes a schedule, or makes it, if its version is still the one that was read; returns whether it was.
    ///
    /// When it returns true, this is durable, with the firings that are over; of several calls with the same version one gets true. After an error,
    /// or a crash before it returns, it happened as a whole or not at all: reading tells.
    async fn change(&self, change: &Change) -> Result<bool, StoreError>;

    /// Removes a schedule with its history; returns whether it was there. When it returns, this is durable.
    async fn remove(&self, id: &ScheduleId) -> Result<bool, StoreError>;

    /// Firings that are over, the newest first, before a number, at most so many.
    async fn history(
        &self,
        id: &ScheduleId,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<Firing>, StoreError>;
}

/// What is stored of a schedule, from its text.
fn read(id: &str, version: i64, text: &str) -> Result<Kept, StoreError> {
    let corrupt = |detail: String| StoreError::corrupt(format!("schedule '{id}': {detail}"));
    Ok(Kept {
        id: ScheduleId::new(id).map_err(|error| corrupt(error.to_string()))?,
        version: u64::try_from(version).map_err(|error| corrupt(error.to_string()))?,
        schedule: serde_json::from_str(text).map_err(|error| corrupt(error.to_string()))?,
    })
}

fn read_firing(text: &str) -> Result<Firing, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::corrupt(error.to_string()))
}

fn text(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("a schedule prints")
}

/// The number up to which firings are forgotten.
fn forgotten(schedule: &Schedule) -> i64 {
    schedule.firings.saturating_sub(HISTORY_MAX) as i64
}

/// A look that never comes.
const NEVER: i64 = i64::MAX;

fn look(change: &Change) -> i64 {
    change.look_at.map_or(NEVER, |at| at.0)
}

/// One that cannot be read is nobody else's trouble.
fn readable(read: Result<Kept, StoreError>) -> Option<Kept> {
    read.inspect_err(|error| tracing::error!(%error, "a schedule is left out"))
        .ok()
}
