//! What is asked of a schedule, and what it compiles to.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::timing::{Timing, TimingError};
use crate::{
    ids::WorkflowId,
    json::Json,
    time::{Timestamp, parse_duration},
};

/// What is asked of a schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Whose runs it starts: of the newest version at each time.
    pub workflow_id: WorkflowId,
    /// The interval: milliseconds, or text as `10s`. Either this or `cron`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<Value>,
    /// The pattern, of five fields, or six with seconds in front.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cron: Option<String>,
    /// The zone of the pattern; `UTC` if none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// The input of its runs.
    #[serde(default)]
    pub input: Json,
    /// What happens while the run before is running.
    #[serde(default)]
    pub overlap: Overlap,
    /// What happens with times that were missed.
    #[serde(default)]
    pub catch_up: CatchUp,
    /// Each firing is late by a share of this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter: Option<Value>,
}

/// What happens at a due time while the run before is running. Persisted by these names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// Nothing.
    #[default]
    Skip,
    /// A run begins when the one before has ended.
    Queue,
    /// A run begins.
    Allow,
}

/// What happens with due times that were missed while no server ran. Persisted by these names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CatchUp {
    /// Nothing.
    None,
    /// The last of them is made up for.
    #[default]
    One,
    /// All of them are.
    All,
}

/// Why a spec is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// There must be one of two.
    #[error("say either `every` or `cron`")]
    EveryOrCron,
    /// The zone means nothing.
    #[error("`time_zone` goes with `cron`")]
    ZoneOfInterval,
    /// Not a time.
    #[error("`{key}` is no time: say milliseconds, or '250ms', '10s', '5m', '1h' or '2d'")]
    Duration {
        /// The field.
        key: &'static str,
    },
    /// As long as the interval, or a day.
    #[error("`jitter` must be shorter than the interval, and than a day")]
    Jitter,
    /// See [`TimingError`].
    #[error(transparent)]
    Timing(#[from] TimingError),
    /// There is no due time.
    #[error("'{0}' is never due")]
    Never(String),
}

/// A spec that can be used.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// When it is due.
    pub timing: Timing,
    /// The most that a firing is late on purpose.
    pub jitter: Duration,
}

/// The longest jitter.
const JITTER_MAX: Duration = Duration::from_secs(86_400);

fn duration(key: &'static str, value: &Value) -> Result<Duration, SpecError> {
    let parsed = match value {
        Value::Number(number) => number.as_u64().map(Duration::from_millis),
        Value::String(text) => parse_duration(text),
        _ => None,
    };
    parsed.ok_or(SpecError::Duration { key })
}

impl Spec {
    /// Checks all of it; a pattern must be due after `now`.
    pub fn compile(&self, now: Timestamp) -> Result<Compiled, SpecError> {
        let compiled = self.compiled()?;
        if compiled.timing.next_due(now, now).is_none() {
            let pattern = self.cron.clone().unwrap_or_default();
            return Err(SpecError::Never(pattern));
        }
        Ok(compiled)
    }

    /// As [`compile`](Self::compile), for one that was checked before, and may be due no more.
    pub fn compiled(&self) -> Result<Compiled, SpecError> {
        let mut jitter_end = JITTER_MAX;
        let timing = match (&self.every, &self.cron) {
            (Some(every), None) => {
                if self.time_zone.is_some() {
                    return Err(SpecError::ZoneOfInterval);
                }
                let every = duration("every", every)?;
                jitter_end = jitter_end.min(every);
                Timing::every(every)?
            }
            (None, Some(cron)) => Timing::cron(cron, self.time_zone.as_deref().unwrap_or("UTC"))?,
            _ => return Err(SpecError::EveryOrCron),
        };
        let jitter = self.jitter.as_ref();
        let jitter = jitter
            .map(|jitter| duration("jitter", jitter))
            .transpose()?;
        let jitter = jitter.unwrap_or_default();
        if !jitter.is_zero() && jitter >= jitter_end {
            return Err(SpecError::Jitter);
        }
        Ok(Compiled { timing, jitter })
    }

    /// Whether both are due at the same times.
    pub(super) fn has_times_of(&self, other: &Spec) -> bool {
        let times = |spec: &Spec| {
            (
                spec.every.clone(),
                spec.cron.clone(),
                spec.time_zone.clone(),
            )
        };
        times(self) == times(other)
    }
}

impl Compiled {
    /// When a due time of a schedule is fired: late by the jitter's share, which is the same whoever asks.
    pub fn fires_at(&self, id: &str, due: Timestamp) -> Timestamp {
        let jitter_ms = self.jitter.as_millis() as u64;
        if jitter_ms == 0 {
            return due;
        }
        let hash = Sha256::new()
            .chain_update(id)
            .chain_update(due.0.to_be_bytes());
        let hash: [u8; 32] = hash.finalize().into();
        let number = u64::from_be_bytes(std::array::from_fn(|at| hash[at]));
        due + Duration::from_millis(number % (jitter_ms + 1))
    }
}
