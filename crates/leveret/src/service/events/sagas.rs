//! The course of sagas: every event of an exchange, kept by its correlation id, with what has to follow from it and by when.
//!
//! ```text
//! exchange ──#──> queue ──> Sagas (a decider) ──> a document for each correlation id: entries, expectations, how it ended
//!                                                    └── a deadline at the next expectation's time: it is stuck then, until what is missing comes
//! ```
//!
//! [`Rules`] say what is expected: after some events, one of others, within a time. They are facts about types of events; nothing here knows what
//! the events mean. Watching changes nothing: it publishes nothing, and nobody waits for it.
//!
//! - **Events may come late, twice and in any order**: the same events make the same course, but for what was late when they came.
//! - **A saga is stuck when something is overdue**, running when something is expected or nothing has ended it, and else ended.
//! - **What comes after all** is no longer missing; it was late.

mod course;
mod rules;
mod shown;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use leveret_core::{event::Event, time::Timestamp};

pub use self::{
    course::{Course, ENTRIES_MAX, Entry, LATE_MAX, Late, Missing, State},
    rules::{Expectation, Rules},
};
use crate::service::{
    Due, Kind,
    decider::{Change, Decider, Decision, Refusal, View},
    documents::{DeadlineChange, Key},
};

/// What sagas are found by: their [`State`].
pub const STATE: &str = "state";

/// The name of the deadline at which something is overdue.
const OVERDUE: &str = "overdue";

/// What is decided upon.
#[derive(Clone, Debug)]
pub enum SagaMessage {
    /// An event has come.
    Happened(Box<Event>),
    /// Something may be overdue: the correlation id.
    Overdue(String),
}

impl SagaMessage {
    /// What a due deadline of a saga says.
    pub fn due(due: &Due) -> SagaMessage {
        SagaMessage::Overdue(due.key.id.to_string())
    }
}

/// Watches sagas: the decider of a queue that takes every event, and of the deadlines of its kind. It answers with the course.
#[derive(Clone, Debug)]
pub struct Sagas {
    kind: Arc<str>,
    rules: Arc<Rules>,
}

impl Sagas {
    /// Keeps sagas as documents of this kind, by these rules.
    pub fn new(kind: &str, rules: Rules) -> Sagas {
        Sagas {
            kind: kind.into(),
            rules: Arc::new(rules),
        }
    }

    /// The kind of its documents, declared.
    pub fn kind(&self) -> Kind {
        Kind::new(&self.kind, &[STATE])
    }

    /// The rules.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The document of a saga. A correlation id is a uuid, in whatever letters.
    pub fn key(&self, correlation_id: &str) -> Key {
        let id = correlation_id.to_ascii_lowercase();
        Key::new(self.kind.clone(), id)
    }

    fn decision(&self, course: Course, now: Timestamp) -> Decision<Course> {
        let key = self.key(&course.correlation_id);
        let name: Arc<str> = OVERDUE.into();
        let next = course.next_due(&self.rules, now);
        let deadline = match next {
            Some(at) => DeadlineChange::Set {
                key: key.clone(),
                name,
                at,
            },
            None => DeadlineChange::Cancel {
                key: key.clone(),
                name,
            },
        };
        let state = course.state(&self.rules, now).as_str().to_owned();
        Decision {
            put: vec![Change::set(key, &course, [(STATE, state)])],
            deadlines: vec![deadline],
            ..Decision::answer(course)
        }
    }
}

impl Decider for Sagas {
    type Message = SagaMessage;
    type Answer = Course;

    fn keys(&self, message: &SagaMessage) -> Vec<Key> {
        let id = match message {
            SagaMessage::Happened(event) => &*event.correlation_id,
            SagaMessage::Overdue(id) => id,
        };
        vec![self.key(id)]
    }

    fn decide(
        &self,
        documents: &View<'_>,
        message: &SagaMessage,
        now: Timestamp,
    ) -> Result<Decision<Course>, Refusal> {
        let key = &self.keys(message)[0];
        let course: Option<Course> = documents.state(key)?;
        let course = match (message, course) {
            (SagaMessage::Overdue(_), None) => return Err(Refusal::stale("there is no such saga")),
            (SagaMessage::Overdue(_), Some(course)) => course,
            (SagaMessage::Happened(event), course) => {
                let mut course = course.unwrap_or_else(|| Course::new(&key.id));
                if !course.add(&self.rules, event, now) {
                    return Err(Refusal::stale("the event is known"));
                }
                course
            }
        };
        Ok(self.decision(course, now))
    }
}
