//! The inbox in a transaction of one's own, for a service that has tables besides its documents.
//!
//! The transaction that asks first about a message, and commits, is the only one that is told `true`, however often and concurrently the
//! message comes, as long as the inbox keeps it. So what the transaction does happens once, if it does it only when told `true`. It shares its
//! entries with the commits of the service's documents.
//!
//! The documents must have been opened once, so that the tables are there.

/// In the file of `SqliteDocuments`.
pub mod sqlite {
    use leveret_core::time::Timestamp;

    use super::super::documents::{Handled, check_handled, sqlite::insert_handled};
    use crate::sqlite::{DatabaseError, Session};

    /// Enters a message, as a part of a job of [`Database::write`](crate::sqlite::Database::write); whether nobody had.
    ///
    /// A crash before the job's write resolves leaves the message unknown, with all else that the job wrote undone.
    ///
    /// # Errors
    /// Names that cannot be ([`DatabaseError::Refused`]), and what the database says. The job must fail with it.
    pub fn first(
        session: &Session<'_>,
        consumer: &str,
        message_id: &str,
        now: Timestamp,
    ) -> Result<bool, DatabaseError> {
        let handled = Handled {
            consumer: consumer.into(),
            message_id: message_id.into(),
        };
        check_handled(&handled)
            .and_then(|()| insert_handled(session, &handled, now))
            .map_err(DatabaseError::refused)
    }
}

/// In the schema of `PostgresDocuments`, in the same database.
#[cfg(feature = "postgres")]
pub mod postgres {
    use leveret_core::time::Timestamp;
    use tokio_postgres::Transaction;

    use super::super::documents::{DocumentsError, Handled, check_handled};
    use crate::postgres::quoted;

    /// Enters a message into the inbox of a service's schema; whether nobody had. While another transaction that entered it is under way, this
    /// waits for its end.
    ///
    /// A crash before the transaction commits leaves the message unknown, with all else that it did undone.
    ///
    /// # Errors
    /// Names that cannot be ([`DocumentsError::Invalid`]), and what the database says: then the transaction cannot commit.
    pub async fn first(
        transaction: &Transaction<'_>,
        schema: &str,
        consumer: &str,
        message_id: &str,
        now: Timestamp,
    ) -> Result<bool, DocumentsError> {
        check_handled(&Handled {
            consumer: consumer.into(),
            message_id: message_id.into(),
        })?;
        let enter = format!(
            "INSERT INTO {}.inbox (consumer, message_id, handled_at_ms) VALUES ($1, $2, $3)
             ON CONFLICT (consumer, message_id) DO NOTHING",
            quoted(schema)
        );
        let entered = transaction
            .execute(&enter, &[&consumer, &message_id, &now.0])
            .await?;
        Ok(entered == 1)
    }
}
