//! Events of a decision.

use std::sync::Arc;

use leveret_core::{
    event::{AggregateRef, Event},
    json::Json,
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Catalogue, EventData, Party};
use crate::{broker::Message, service::decider::Publish};

/// Names events. It is in every event id: it never changes.
const EVENTS: Uuid = Uuid::from_u128(0x1d6c_8e0b_52f4_4f0e_9a3b_6f7d_2c41_90e5);

/// In whose course something is decided, and because of what. A state can keep it, for a deadline that falls due later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cause {
    /// The saga: a uuid.
    pub correlation_id: Arc<str>,
    /// The event that is followed; none at the root.
    pub causation_id: Option<Arc<str>>,
}

impl Cause {
    /// The root of a saga.
    pub fn root(correlation_id: impl Into<Arc<str>>) -> Cause {
        Cause {
            correlation_id: correlation_id.into(),
            causation_id: None,
        }
    }

    /// What follows from an event.
    pub fn of(event: &Event) -> Cause {
        Cause {
            correlation_id: event.correlation_id.clone(),
            causation_id: Some(event.event_id.clone()),
        }
    }
}

/// Makes the events of one decision.
#[derive(Clone, Debug)]
pub struct Emitter<'a> {
    catalogue: &'a Catalogue,
    party: Party,
    cause: Cause,
    now: Timestamp,
}

impl<'a> Emitter<'a> {
    /// Events that this service tells now, because of this.
    pub fn new(
        catalogue: &'a Catalogue,
        party: Party,
        cause: Cause,
        now: Timestamp,
    ) -> Emitter<'a> {
        Emitter {
            catalogue,
            party,
            cause,
            now,
        }
    }

    /// An event about an aggregate that has its `version`-th one with it, from 1. Its id is made of type, aggregate and version, so that the same
    /// decision made again tells the same event.
    ///
    /// # Panics
    /// If the catalogue does not let this service publish the type: a mistake in the program, found by the first test that gets here.
    pub fn event<E: EventData>(&self, data: &E, version: u64) -> Publish {
        let known = self.catalogue.event(E::TYPE);
        let known =
            known.filter(|event| event.publisher == self.party && event.version == E::VERSION);
        assert!(
            known.is_some(),
            "the catalogue does not let {} publish {} {}",
            self.party.name,
            E::TYPE,
            E::VERSION,
        );
        let event_id = event_id(E::TYPE, data.subject(), version);
        let event = Event {
            event_id: event_id.clone(),
            event_type: E::TYPE.into(),
            event_version: E::VERSION,
            timestamp: self.now,
            source: self.party.source.into(),
            correlation_id: self.cause.correlation_id.clone(),
            causation_id: self.cause.causation_id.clone(),
            aggregate: AggregateRef {
                id: data.subject().into(),
                version,
            },
            data: Json::from_serialize(data).expect("data print as JSON"),
        };
        let message = Message {
            message_id: Some(event_id),
            correlation_id: Some(event.correlation_id.clone()),
            kind: Some(event.event_type.clone()),
            timestamp: Some(self.now),
            ..Message::json(event.encode())
        };
        Publish {
            must_route: known.is_some_and(|event| !event.consumers.is_empty()),
            ..Publish::event(self.catalogue.exchange, E::TYPE, message)
        }
    }
}

/// The id of the `version`-th event of an aggregate.
fn event_id(event_type: &str, subject: &str, version: u64) -> Arc<str> {
    let name = format!("{event_type}\n{version}\n{subject}");
    Uuid::new_v5(&EVENTS, name.as_bytes()).to_string().into()
}
