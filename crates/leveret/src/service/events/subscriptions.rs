//! The queues of a service for events, as the catalogue has them.

use std::sync::Arc;

use leveret_core::event::{self, Event};

use super::{Catalogue, CatalogueError, EventData, Party, queue_name, read};
use crate::{
    broker::{Message, work::WorkOptions},
    service::{
        ServiceBuilder,
        decider::Decider,
        subscribe::{Input, Subscription},
    },
};

/// Adds a service's subscriptions to it, and holds them against the catalogue.
pub struct Subscriptions {
    catalogue: &'static Catalogue,
    party: Party,
    tune: Arc<dyn Fn(&mut WorkOptions) + Send + Sync>,
    builder: ServiceBuilder,
    subscribed: Vec<&'static str>,
}

impl std::fmt::Debug for Subscriptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscriptions")
            .field("party", &self.party)
            .field("subscribed", &self.subscribed)
            .finish_non_exhaustive()
    }
}

impl Subscriptions {
    /// Of a service in the making; `tune` says how each queue is worked.
    pub fn new(
        catalogue: &'static Catalogue,
        party: Party,
        builder: ServiceBuilder,
        tune: impl Fn(&mut WorkOptions) + Send + Sync + 'static,
    ) -> Subscriptions {
        Subscriptions {
            catalogue,
            party,
            tune: Arc::new(tune),
            builder,
            subscribed: Vec::new(),
        }
    }

    /// Reads the events of a type from `{service}-{event-subject}`; `meaning` makes of one what is decided upon. The event is handed to the decider
    /// with its envelope, since what follows from it names it as its cause.
    #[must_use]
    pub fn on<E: EventData, D: Decider>(
        mut self,
        decider: D,
        meaning: impl Fn(Event, E) -> D::Message + Send + Sync + 'static,
    ) -> Subscriptions {
        let queue = queue_name(self.party, E::TYPE);
        let decode = move |message: &Message| {
            let event = envelope(message)?;
            let data = read::<E>(&event)?;
            let identity = event.event_id.clone();
            Ok(Input::known_by(meaning(event, data), identity))
        };
        let mut subscription = Subscription::queue(&queue, decider, decode);
        (self.tune)(&mut subscription.options);
        let subscription = subscription.bind(self.catalogue.exchange, E::TYPE);
        self.builder = self.builder.subscribe(subscription);
        self.subscribed.push(E::TYPE);
        self
    }

    /// The service in the making.
    ///
    /// # Errors
    /// If it does not subscribe to exactly what the catalogue says.
    pub fn finish(self) -> Result<ServiceBuilder, CatalogueError> {
        let expected = self.catalogue.consumed_by(self.party);
        let expected: Vec<&str> = expected.map(|event| event.name).collect();
        let missing = expected
            .iter()
            .filter(|name| !self.subscribed.contains(name));
        let unknown = self
            .subscribed
            .iter()
            .filter(|name| !expected.contains(name));
        let error = CatalogueError {
            service: self.party.name,
            missing: missing.copied().collect(),
            unknown: unknown.copied().collect(),
        };
        if error.missing.is_empty() && error.unknown.is_empty() {
            Ok(self.builder)
        } else {
            Err(error)
        }
    }
}

/// The event in a message, whose id is the message's if it has one.
pub fn envelope(message: &Message) -> Result<Event, String> {
    let event = event::decode(&message.body).map_err(|malformed| malformed.reason)?;
    match &message.message_id {
        Some(id) if *id != event.event_id => Err(format!(
            "the `message_id` is not the `eventId`, {}",
            event.event_id
        )),
        _ => Ok(event),
    }
}
