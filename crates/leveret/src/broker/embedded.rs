//! The broker inside the process, in the SQLite file that the store uses, too.
//!
//! - **A publish that resolved is on disk**: one transaction for a batch, shared with whatever else is written at that
//!   moment. Consumers get the messages right after the commit, from memory.
//! - **An ack removes the row** with the next transaction, at the latest after [`LINGER`](crate::sqlite::LINGER). A crash before
//!   that redelivers.
//! - **[`publish_then_ack`](Broker::publish_then_ack) is one transaction**: entirely or not at all.
//! - **Redelivered is never missing.** Before a message is delivered, the file says that it may be, a few messages ahead
//!   ([`RESERVE`]): after a crash every message that was delivered is marked, and up to that many more. After
//!   [`close`](Broker::close) the mark is exact. Requeued messages keep their place and carry the mark.
//! - **Memory is bounded.** A queue keeps [`WINDOW`] messages or [`WINDOW_BYTES`] of bodies in memory, and a consumer holds its prefetch
//!   or [`HELD_BYTES`]; the rest waits on disk and is read in order.
//!
//! Delay queues keep the time of each message in the file, so that it counts on through a restart.

mod rows;
mod shared;

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
};

use async_trait::async_trait;
use tokio::sync::oneshot;

use self::{
    rows::MIGRATIONS,
    shared::{Routed, Shared},
};
use super::{
    Binding, Broker, BrokerError, Capabilities, ConsumeOptions, Consumer, Delivery, Publication,
    QueueStats, Receipt, Topology, Unfinished, header::check_headers, local, properties,
    routes::QueueId,
};
use crate::sqlite::{Database, DatabaseError, Session};

/// The largest body that is accepted.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// The messages of one queue that wait in memory.
pub const WINDOW: usize = 1024;

/// The bytes of their bodies.
pub const WINDOW_BYTES: usize = 4 << 20;

/// The bytes of bodies from which on a consumer gets no more, whatever its prefetch, until it settles some.
pub const HELD_BYTES: usize = 256 << 20;

/// How many messages ahead the file says that they may be delivered.
pub const RESERVE: u64 = 1024;

/// The broker in a database file. Cheap to clone.
#[derive(Clone)]
pub struct EmbeddedBroker(Arc<Shared>);

impl EmbeddedBroker {
    /// Opens the broker in a file: its exchanges, queues, bindings and messages are there again. Blocks for the disk. Called
    /// within a tokio runtime, on which the delay queues' timer runs.
    ///
    /// One file has one broker at a time; close it before the database.
    pub fn open(database: Database) -> Result<EmbeddedBroker, BrokerError> {
        database.migrate("broker", MIGRATIONS).map_err(error)?;
        let loaded = database.write_blocking(rows::load).map_err(error)?;
        let marks: HashMap<QueueId, u64> = loaded
            .queues
            .iter()
            .map(|row| (row.id, row.delivered))
            .collect();
        let shared = Shared::new(database, marks);
        {
            let mut hub = shared.hub();
            for exchange in &loaded.exchanges {
                hub.routes.add_exchange(exchange);
            }
            for row in &loaded.queues {
                hub.add_queue(&row.queue, row.id, (row.count, row.tail, row.delivered));
            }
            for binding in &loaded.bindings {
                hub.routes.add_binding(binding);
            }
        }
        // Delay queues read their first messages.
        shared.dispatch(loaded.queues.iter().map(|row| row.id));
        shared.start_timer();
        Ok(EmbeddedBroker(shared))
    }

    /// The broker has the file for itself: [`close`](Broker::close) closes that, too.
    pub(crate) fn with_own_file(self) -> EmbeddedBroker {
        self.0.has_own_file.store(true, Ordering::Relaxed);
        self
    }

    /// The file it lives in.
    pub fn database(&self) -> &Database {
        &self.0.database
    }

    /// Routes a batch: what goes where, and for the rest the reason.
    fn route(&self, batch: Vec<Publication>) -> Vec<Result<Routed, BrokerError>> {
        let hub = self.0.hub();
        let route = |publication: Publication| {
            hub.check_open()?;
            check_size(&publication)?;
            check_headers(&publication.message)?;
            let routed = hub.route(&publication.exchange, &publication.routing_key)?;
            Ok(Routed {
                targets: routed.targets,
                places: routed.places,
                properties: properties::to_text(&publication.message),
                stored: local::stored(publication),
            })
        };
        batch.into_iter().map(route).collect()
    }
}

/// How [`EmbeddedBroker::publish_with`] ended: what the job returned, and the messages that are handed over.
type PublishedWith<T> = Result<(T, Vec<Delivery>), DatabaseError>;

fn check_size(publication: &Publication) -> Result<(), BrokerError> {
    let size_bytes = publication.message.body.len();
    if size_bytes > MESSAGE_BYTES_MAX {
        return Err(BrokerError::TooLarge {
            size_bytes,
            max_bytes: MESSAGE_BYTES_MAX,
        });
    }
    Ok(())
}

impl EmbeddedBroker {
    /// Runs a job and, if it says so, publishes a batch, in one transaction: both happen or neither. Queued at the call, as
    /// [`Database::write`] is.
    ///
    /// With `hold` it is queued as [`Database::write_soon`], and messages that are first in line are handed to the caller instead of a
    /// consumer. Those that are not take the ordinary way.
    pub(crate) fn publish_with<T, F>(
        &self,
        batch: Vec<Publication>,
        job: F,
        hold: bool,
    ) -> Result<oneshot::Receiver<PublishedWith<T>>, BrokerError>
    where
        T: Send + 'static,
        F: FnMut(&Session<'_>) -> Result<(T, bool), DatabaseError> + Send + 'static,
    {
        let routed = self
            .route(batch)
            .into_iter()
            .collect::<Result<Vec<_>, _>>()?;
        let (sender, written) = oneshot::channel();
        self.0.put_with(routed, job, hold, |result| {
            // Whoever asked may have gone.
            drop(sender.send(result));
        });
        Ok(written)
    }
}

impl std::fmt::Debug for EmbeddedBroker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EmbeddedBroker({})", self.0.database.path().display())
    }
}

#[async_trait]
impl Broker for EmbeddedBroker {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            durable: true,
            shared: false,
            atomic_publish_then_ack: true,
        }
    }

    async fn declare(&self, topology: &Topology) -> Result<(), BrokerError> {
        let turn = self.0.topology.clone().lock_owned().await;
        let missing = {
            let mut hub = self.0.hub();
            hub.check_open()?;
            let missing = hub.routes.missing(topology)?;
            hub.touch(&topology.queues);
            missing
        };
        if missing == Topology::default() {
            return Ok(());
        }
        let new = missing.clone();
        let job = move |session: &Session<'_>| {
            for exchange in &new.exchanges {
                rows::add_exchange(session, exchange)?;
            }
            let queues = new.queues.iter();
            let ids = queues
                .map(|queue| rows::add_queue(session, queue))
                .collect::<Result<Vec<_>, _>>()?;
            for binding in &new.bindings {
                rows::add_binding(session, binding)?;
            }
            Ok(ids)
        };
        let apply = move |hub: &mut local::Hub, ids: Vec<QueueId>| {
            for exchange in &missing.exchanges {
                hub.routes.add_exchange(exchange);
            }
            for (queue, id) in missing.queues.iter().zip(ids) {
                hub.add_queue(queue, id, (0, 0, 0));
            }
            for binding in &missing.bindings {
                hub.routes.add_binding(binding);
            }
        };
        self.0.change(turn, job, apply).await
    }

    async fn unbind(&self, bindings: &[Binding]) -> Result<(), BrokerError> {
        let turn = self.0.topology.clone().lock_owned().await;
        self.0.hub().check_open()?;
        let bindings: Arc<[Binding]> = bindings.into();
        let removed = bindings.clone();
        let job = move |session: &Session<'_>| {
            let mut bindings = bindings.iter();
            bindings.try_for_each(|binding| rows::remove_binding(session, binding))
        };
        let apply = move |hub: &mut local::Hub, ()| {
            for binding in &*removed {
                hub.routes.remove_binding(binding);
            }
        };
        self.0.change(turn, job, apply).await
    }

    async fn publish(&self, batch: Vec<Publication>) -> Vec<Result<(), BrokerError>> {
        let mut results = Vec::with_capacity(batch.len());
        let mut routed = Vec::with_capacity(batch.len());
        for route in self.route(batch) {
            results.push(route.map(|message| routed.push(message)));
        }
        if routed.is_empty() {
            return results;
        }
        let (sender, written) = oneshot::channel();
        self.0.put(routed, Vec::new(), |_, result| {
            drop(sender.send(result));
        });
        if let Err(error) = written.await.unwrap_or(Err(BrokerError::Closed)) {
            for result in results.iter_mut().filter(|result| result.is_ok()) {
                *result = Err(error.clone());
            }
        }
        results
    }

    async fn publish_then_ack(
        &self,
        batch: Vec<Publication>,
        receipts: Vec<Receipt>,
    ) -> Result<(), Unfinished> {
        let routed = self.route(batch.clone()).into_iter().collect();
        let closed = self.0.hub().is_closed().then_some(BrokerError::Closed);
        let routed = match closed.map_or(routed, Err) {
            Ok(routed) => routed,
            Err(error) => {
                return Err(Unfinished {
                    error,
                    left: batch,
                    receipts,
                });
            }
        };
        let (sender, written) = oneshot::channel();
        self.0.put_then_ack(routed, receipts, |result| {
            // If nobody waits any more, receipts that come back are dropped and so return their messages.
            drop(sender.send(result));
        });
        let closed = Err((BrokerError::Closed, Vec::new()));
        let written = written.await.unwrap_or(closed);
        written.map_err(|(error, receipts)| Unfinished {
            error,
            left: batch,
            receipts,
        })
    }

    async fn consume(&self, options: ConsumeOptions) -> Result<Consumer, BrokerError> {
        let (queue, consumer) = self.0.hub().subscribe(&options)?;
        self.0.dispatch([queue]);
        Ok(consumer)
    }

    async fn queue_stats(&self, queue: &str) -> Result<QueueStats, BrokerError> {
        self.0.hub().stats(queue)
    }

    fn known_queues(&self) -> Vec<Arc<str>> {
        self.0.hub().routes.queue_names()
    }

    async fn purge(&self, queue: &str) -> Result<u64, BrokerError> {
        let (queue, purged) = self.0.hub().purge(queue)?;
        let count = purged.count;
        let written = self.0.database.write(move |session| {
            let single = purged.single.iter();
            rows::delete(session, single.map(|seq| rows::key(queue, *seq)))?;
            match purged.range {
                Some(range) => rows::delete_range(session, queue, range),
                None => Ok(()),
            }
        });
        written.await.map_err(error)?;
        Ok(count)
    }

    async fn delete_queue(&self, queue: &str) -> Result<(), BrokerError> {
        let turn = self.0.topology.clone().lock_owned().await;
        let id = {
            let hub = self.0.hub();
            hub.check_open()?;
            hub.routes.queue(queue)
        };
        match id {
            Some(id) => self.0.delete_queue(turn, id, queue.into()).await,
            None => Ok(()),
        }
    }

    async fn delete_exchange(&self, exchange: &str) -> Result<(), BrokerError> {
        let turn = self.0.topology.clone().lock_owned().await;
        self.0.hub().check_open()?;
        let name: Arc<str> = exchange.into();
        let removed = name.clone();
        let job = move |session: &Session<'_>| rows::remove_exchange(session, &name);
        let apply = move |hub: &mut local::Hub, ()| hub.routes.remove_exchange(&removed);
        self.0.change(turn, job, apply).await
    }

    fn is_connected(&self) -> bool {
        !self.0.hub().is_closed() && self.0.database.is_open()
    }

    async fn close(&self) {
        self.0.close().await;
        if self.0.has_own_file.load(Ordering::Relaxed) {
            self.0.database.close().await;
        }
    }
}

/// What a database error means to those who publish and consume.
fn error(error: DatabaseError) -> BrokerError {
    match error {
        DatabaseError::Closed => BrokerError::Closed,
        error if error.is_retryable() => BrokerError::NotAccepted {
            detail: error.chain(),
        },
        error => BrokerError::Unavailable {
            detail: error.chain(),
        },
    }
}

#[cfg(test)]
mod tests;
