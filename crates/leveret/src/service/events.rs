//! Events between services: a catalogue declared in code, typed events in decisions, subscriptions that the catalogue knows.
//!
//! ```text
//! Catalogue ──declares──> exchange, event types: version, publisher, consumers, what must follow
//!    │                        └── asyncapi(): the same as a document
//!    ├── topology(): the exchange and the queues of all consumers, which every service declares
//!    ├── Emitter: a decision's event ──> Publish (envelope, message_id = eventId, routing key = eventType)
//!    ├── Subscriptions: queue {service}-{event-subject}, bound to the type, envelope read strictly ──> Decider
//!    └── sagas: all events of the exchange, by correlation id: what happened, what is missing, what is late
//! ```
//!
//! - **An event is published where it happened**, by the service that the catalogue names, in the commit of what it tells of.
//! - **It waits for nobody to have subscribed**: whoever publishes declares the queues of all consumers first, so that services may start in any
//!   order, for the first time too.
//! - **Its id is made of what it tells**, type, aggregate and version: a decision that is made again tells the same event.
//! - **It is read strictly**: an envelope with a missing member, of another type or version than its queue's, or about another aggregate than its
//!   `data` names is a dead letter with its reason, and no document is touched.
//! - **A service subscribes to what the catalogue says, all of it and no more**: else it does not start.

mod asyncapi;
mod emit;
pub mod sagas;
mod subscriptions;
#[cfg(test)]
mod tests;

use std::fmt;

use leveret_core::event::Event;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

pub use self::{
    emit::{Cause, Emitter},
    subscriptions::{Subscriptions, envelope},
};
use crate::broker::{Binding, Exchange, ExchangeKind, Queue, Topology};

/// What happened, typed: the `data` of an event.
pub trait EventData: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The type, such as `quote.approved`.
    const TYPE: &'static str;
    /// The version of the form of these data, from 1.
    const VERSION: u32 = 1;

    /// The id of the aggregate that it happened to.
    fn subject(&self) -> &str;
}

/// A service, as events name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Party {
    /// Where the names of its queues begin.
    pub name: &'static str,
    /// The `source` of its events.
    pub source: &'static str,
}

/// A type of events.
#[derive(Clone, Copy)]
pub struct EventType {
    /// Its name and routing key.
    pub name: &'static str,
    /// The version that is published, and the only one that is read.
    pub version: u32,
    /// Who publishes it.
    pub publisher: Party,
    /// Who has a queue for it.
    pub consumers: &'static [Party],
    /// What it means, in a sentence.
    pub summary: &'static str,
    /// The JSON schema of its data.
    pub data: fn() -> Value,
}

impl fmt::Debug for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventType")
            .field("name", &self.name)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// All events of a system.
#[derive(Clone, Copy, Debug)]
pub struct Catalogue {
    /// What the system is called.
    pub title: &'static str,
    /// The topic exchange that all of them go to.
    pub exchange: &'static str,
    /// Each type once.
    pub events: &'static [EventType],
    /// Queues that take every event, such as that of [`sagas`].
    pub watchers: &'static [&'static str],
}

impl Catalogue {
    /// The type of this name.
    pub fn event(&self, name: &str) -> Option<&EventType> {
        self.events.iter().find(|event| event.name == name)
    }

    /// The exchange and the queues of all who consume: a service has it in its [`topology`](crate::service::ServiceOptions::topology), so that
    /// what it publishes reaches those that were never started.
    pub fn topology(&self) -> Topology {
        let of_type = |event: &'static EventType| {
            let consumers = event.consumers.iter();
            consumers.map(|&consumer| (queue_name(consumer, event.name), event.name))
        };
        let watchers = self.watchers.iter();
        let watchers = watchers.map(|&queue| (queue.to_owned(), "#"));
        let bindings = self.events.iter().flat_map(of_type).chain(watchers);
        let bindings: Vec<Binding> = bindings
            .map(|(queue, routing_key)| Binding {
                exchange: self.exchange.into(),
                queue: queue.into(),
                routing_key: routing_key.into(),
            })
            .collect();
        Topology {
            exchanges: vec![Exchange {
                name: self.exchange.into(),
                kind: ExchangeKind::Topic,
            }],
            queues: bindings
                .iter()
                .map(|binding| Queue::plain(binding.queue.clone()))
                .collect(),
            bindings,
        }
    }

    /// The types that a service has queues for.
    pub fn consumed_by(&self, party: Party) -> impl Iterator<Item = &EventType> {
        let of_party = move |event: &&EventType| event.consumers.contains(&party);
        self.events.iter().filter(of_party)
    }
}

/// The queue of a service for a type: `os-quote-approved`.
pub fn queue_name(party: Party, event_type: &str) -> String {
    format!("{}-{}", party.name, event_type.replace('.', "-"))
}

/// The data of an event of this type and version that is about what they name.
pub fn read<E: EventData>(event: &Event) -> Result<E, String> {
    if &*event.event_type != E::TYPE {
        return Err(format!(
            "`eventType` is not {}: it is {}",
            E::TYPE,
            event.event_type
        ));
    }
    if event.event_version != E::VERSION {
        let (read, found) = (E::VERSION, event.event_version);
        return Err(format!("`eventVersion` is {found}; only {read} is read"));
    }
    let data: E =
        serde_json::from_str(event.data.text()).map_err(|error| format!("`data`: {error}"))?;
    if data.subject() != &*event.aggregate.id {
        return Err(format!(
            "`aggregate.id` is '{}', and `data` is about '{}'",
            event.aggregate.id,
            data.subject().chars().take(60).collect::<String>()
        ));
    }
    Ok(data)
}

/// A service subscribes to something else than the catalogue says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {service} service and the catalogue differ: it has no queue for [{}], and one for [{}] that it should not have", missing.join(", "), unknown.join(", "))]
pub struct CatalogueError {
    /// The service.
    pub service: &'static str,
    /// Types that it should consume.
    pub missing: Vec<&'static str>,
    /// Types that it consumes.
    pub unknown: Vec<&'static str>,
}
