//! Store and embedded broker in one SQLite file: what spans both is one transaction.

use std::fmt;

use crate::{
    broker::{Delivery, Publication, embedded::EmbeddedBroker},
    sqlite::{DatabaseError, Session},
    store::{NewRun, Started, StoreError, sqlite::SqliteStore},
};

/// A store and a broker that share a file.
#[derive(Clone)]
pub struct OneFile {
    store: SqliteStore,
    broker: EmbeddedBroker,
}

impl fmt::Debug for OneFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OneFile")
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

impl OneFile {
    pub(crate) fn new(store: SqliteStore, broker: EmbeddedBroker) -> OneFile {
        OneFile { store, broker }
    }

    /// Records a run and, if it is new, publishes its first jobs: both or neither. Queued at the call, in front of every later write.
    ///
    /// With `hold` it waits for the next write, [`LINGER`](crate::sqlite::LINGER) at most, and shares its commit; and the jobs are handed
    /// to the caller, but for those that others are in front of.
    pub(crate) fn begin(
        &self,
        new: NewRun,
        jobs: Vec<Publication>,
        hold: bool,
    ) -> impl Future<Output = Result<(Started, Vec<Delivery>), StoreError>> + Send + 'static {
        let job = move |session: &Session<'_>| {
            let started = SqliteStore::start_in(session, &new).map_err(DatabaseError::refused)?;
            Ok((started, started == Started::New))
        };
        let queued = self.broker.publish_with(jobs, job, hold);
        async move {
            let written = queued.map_err(|error| StoreError::Refused {
                detail: error.to_string(),
            })?;
            Ok(written.await.unwrap_or(Err(DatabaseError::Closed))?)
        }
    }
}
