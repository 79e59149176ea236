//! The outbox in a transaction of one's own, for a service that has tables besides its documents.
//!
//! What is put is in the outbox of the service's documents exactly if the transaction commits, and then leaves as what a decision publishes: in
//! the order of its lane, after every crash, perhaps twice with the same `message_id`. Nobody holds it: the service's relay finds it at its next
//! look, at the latest when it polls.
//!
//! The documents must have been opened once, so that the tables are there.

/// Into the file of `SqliteDocuments`.
pub mod sqlite {
    use leveret_core::time::Timestamp;

    use super::super::documents::{
        DocumentsError, Outgoing, check_outgoing, sqlite::insert_outgoing,
    };
    use crate::sqlite::{DatabaseError, Session};

    /// Puts messages into the outbox, in this order in each lane, as a part of a job of [`Database::write`](crate::sqlite::Database::write).
    ///
    /// They are durable when the job's write resolves, with all else that it wrote. A crash before leaves none of it.
    ///
    /// # Errors
    /// A message that cannot be ([`DatabaseError::Refused`]), and what the database says. The job must fail with it.
    pub fn put(
        session: &Session<'_>,
        messages: &[Outgoing],
        now: Timestamp,
    ) -> Result<(), DatabaseError> {
        let put = |outgoing| {
            check_outgoing(outgoing)?;
            insert_outgoing(session, outgoing, now).map(drop)
        };
        let all: Result<(), DocumentsError> = messages.iter().try_for_each(put);
        all.map_err(DatabaseError::refused)
    }
}

/// Into the schema of `PostgresDocuments`, in the same database.
#[cfg(feature = "postgres")]
pub mod postgres {
    use leveret_core::time::Timestamp;
    use tokio_postgres::Transaction;

    use super::super::documents::{
        DocumentsError, Outgoing, check_outgoing,
        postgres::{LAST_OF_LANES, Outgoings, PUBLISH, Term, occupied},
    };
    use crate::postgres::quoted;

    /// Puts messages into the outbox of a service's schema, in this order in each lane.
    ///
    /// They are durable when the transaction has committed, with all else that it did; a crash before leaves none of it. Until then, who sends
    /// what is last in one of the lanes waits for this transaction: keep it short.
    ///
    /// The transaction's isolation must be read committed, which is the default: only then it sees what others did to the lanes meanwhile.
    ///
    /// # Errors
    /// A message that cannot be ([`DocumentsError::Invalid`]), and what the database says: then the transaction cannot commit.
    pub async fn put(
        transaction: &Transaction<'_>,
        schema: &str,
        messages: &[Outgoing],
        now: Timestamp,
    ) -> Result<(), DocumentsError> {
        messages.iter().try_for_each(check_outgoing)?;
        let mut lanes: Vec<&str> = messages.iter().map(|one| &*one.lane).collect();
        lanes.sort_unstable();
        lanes.dedup();
        let last = transaction
            .query(&of_schema(LAST_OF_LANES, schema), &[&lanes])
            .await?;
        let mut outgoings = Outgoings::new(occupied(&last)?);
        outgoings.add(messages, now);
        // A lease that is over at once: what is first in its lane can be claimed.
        let publish = of_schema(PUBLISH, schema);
        let over = Term {
            lease_ms: 0,
            holder: None,
        };
        transaction
            .query(&publish, &outgoings.params(&over))
            .await?;
        Ok(())
    }

    /// The statement with its table, which it names once, in that schema.
    fn of_schema(sql: &str, schema: &str) -> String {
        sql.replacen(" outgoing ", &format!(" {}.outgoing ", quoted(schema)), 1)
    }
}
