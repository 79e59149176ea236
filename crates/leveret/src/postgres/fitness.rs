//! Whether a server does for us, looked at once, when a pool is made.

use tokio_postgres::{Client, SimpleQueryMessage};

use super::{PostgresError, pool::Target};

/// Refuses a database that cannot hold any text, and a session that is another one for each transaction.
pub(super) async fn check(target: &Target, client: &Client) -> Result<(), PostgresError> {
    let encoding = value(client, "SHOW server_encoding").await?;
    if !encoding.eq_ignore_ascii_case("UTF8") {
        let detail = format!(
            "the database has the encoding {encoding}, which cannot hold every text: make one with ENCODING 'UTF8'"
        );
        return Err(PostgresError::Unfit { detail });
    }
    if is_pooled(target, client).await? {
        let detail = "a pooler such as PgBouncer in transaction mode is before the server: prepared statements and settings are lost there; \
                      connect to the server itself, or set pool_mode = session";
        return Err(PostgresError::Unfit {
            detail: detail.to_owned(),
        });
    }
    Ok(())
}

/// Whether two clients get the same session, or one gets several: while another one holds a transaction open, a session of one's own stays
/// what it was. A pooler that has more sessions than clients may hand out the same ones for a while.
async fn is_pooled(target: &Target, client: &Client) -> Result<bool, PostgresError> {
    const PID: &str = "SELECT pg_backend_pid()";
    let before = value(client, PID).await?;
    // Where no second connection is to be had, it cannot be told.
    let Ok(other) = target.connect().await else {
        return Ok(false);
    };
    // What refuses a transaction hands out sessions by the statement.
    if other.batch_execute("BEGIN").await.is_err() {
        return Ok(true);
    }
    let of_other = value(&other, PID).await?;
    let after = value(client, PID).await?;
    Ok(before != after || before == of_other)
}

/// The one value of a statement, which is not prepared.
async fn value(client: &Client, sql: &str) -> Result<String, PostgresError> {
    let messages = client.simple_query(sql).await?;
    let value = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    value.ok_or_else(|| PostgresError::Unfit {
        detail: format!("the server has no answer to '{sql}'"),
    })
}
