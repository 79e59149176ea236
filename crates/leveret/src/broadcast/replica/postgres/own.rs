//! The tables of a replica beside those of its users: who it is, how far it has come, what came of the last writes; and the functions
//! that give a write's time.

use std::sync::Arc;

use leveret_core::broadcast::Position;
use tokio_postgres::{Client, Row, types::ToSql};

use super::super::{Applied, ReplicaError, Standing};
use super::fault::fault;

/// How many outcomes are kept, at least.
const OUTCOMES_KEPT: u64 = 10_000;

/// In the schema of the users' tables. `leveret.now` is set in each write's savepoint; a question, such as of a view, has the node's own time.
const MAKE: &str = "
    CREATE TABLE IF NOT EXISTS _leveret_replica (
        id integer PRIMARY KEY CHECK (id = 1),
        database_id text NOT NULL,
        cluster text,
        epoch bigint NOT NULL,
        seq bigint NOT NULL,
        hash bigint NOT NULL
    );
    CREATE TABLE IF NOT EXISTS _leveret_outcomes (
        first_seq bigint PRIMARY KEY,
        last_seq bigint NOT NULL,
        applied text NOT NULL
    );
    CREATE OR REPLACE FUNCTION _leveret_now() RETURNS timestamptz LANGUAGE sql STABLE AS
        'SELECT coalesce(nullif(current_setting(''leveret.now'', true), '''')::timestamptz, now())';
    CREATE OR REPLACE FUNCTION _leveret_second() RETURNS timestamptz LANGUAGE sql STABLE AS
        'SELECT date_trunc(''second'', coalesce(nullif(current_setting(''leveret.now'', true), '''')::timestamptz, now()))';
";

/// What users have in the schema of the connection.
pub(super) const USERS_RELATIONS: &str = "
    SELECT c.relname::text, c.relkind::text FROM pg_class c
    WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema()) AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
        AND c.relname NOT LIKE '\\_leveret\\_%'
    ORDER BY c.relname COLLATE \"C\"";

/// Makes what is not there.
pub(super) async fn prepare(client: &Client) -> Result<(), ReplicaError> {
    let made = client.batch_execute(&format!("BEGIN; {MAKE} COMMIT")).await;
    made.map_err(|error| fault(&error))?;
    let database_id = uuid::Uuid::now_v7().to_string();
    let insert =
        "INSERT INTO _leveret_replica VALUES (1, $1, NULL, 0, 0, 0) ON CONFLICT DO NOTHING";
    let inserted = client.execute(insert, &[&database_id]).await;
    inserted.map(drop).map_err(|error| fault(&error))
}

const STANDING: &str =
    "SELECT database_id, cluster, epoch, seq, hash FROM _leveret_replica WHERE id = 1";

/// Where the database stands. It does not look whether there are tables of users.
pub(super) async fn standing(client: &Client) -> Result<Standing, tokio_postgres::Error> {
    read(&client.query_one(STANDING, &[]).await?)
}

/// The same, and nobody else writes it until the transaction ends.
pub(super) async fn locked(client: &Client) -> Result<Standing, tokio_postgres::Error> {
    let sql = format!("{STANDING} FOR UPDATE");
    read(&client.query_one(&sql, &[]).await?)
}

fn read(row: &Row) -> Result<Standing, tokio_postgres::Error> {
    let whole =
        |column| Ok::<_, tokio_postgres::Error>(row.try_get::<_, i64>(column)?.cast_unsigned());
    Ok(Standing {
        database_id: row.try_get::<_, String>(0)?.into(),
        cluster: row.try_get::<_, Option<String>>(1)?.map(Arc::from),
        position: Position {
            epoch: whole(2)?,
            seq: whole(3)?,
        },
        hash: whole(4)?,
        has_tables: false,
    })
}

pub(super) async fn has_users_contents(client: &Client) -> Result<bool, tokio_postgres::Error> {
    Ok(!client.query(USERS_RELATIONS, &[]).await?.is_empty())
}

/// Writes where the database stands.
pub(super) async fn put_standing(
    client: &Client,
    standing: &Standing,
) -> Result<(), tokio_postgres::Error> {
    let put =
        "UPDATE _leveret_replica SET cluster = $1, epoch = $2, seq = $3, hash = $4 WHERE id = 1";
    let numbers = [
        standing.position.epoch,
        standing.position.seq,
        standing.hash,
    ]
    .map(u64::cast_signed);
    let cluster = standing.cluster.as_deref();
    let params: [&(dyn ToSql + Sync); 4] = [&cluster, &numbers[0], &numbers[1], &numbers[2]];
    let changed = client.execute(put, &params).await?;
    assert_eq!(changed, 1, "a replica has one standing");
    Ok(())
}

/// Records what came of writes that follow each other, and forgets the oldest.
pub(super) async fn record(client: &Client, applied: &[Applied]) -> Result<(), ReplicaError> {
    let (Some(first), Some(last)) = (applied.first(), applied.last()) else {
        return Ok(());
    };
    let text = serde_json::to_string(applied).map_err(|error| ReplicaError::LocalFault {
        detail: error.to_string(),
    })?;
    let (first, last) = (first.position.seq, last.position.seq);
    let insert = "INSERT INTO _leveret_outcomes (first_seq, last_seq, applied) VALUES ($1, $2, $3)";
    let forget = "DELETE FROM _leveret_outcomes WHERE last_seq < $1";
    let kept_from = last.saturating_sub(OUTCOMES_KEPT).cast_signed();
    let (first, last) = (first.cast_signed(), last.cast_signed());
    let inserted = client.execute(insert, &[&first, &last, &text]).await;
    inserted.map_err(|error| fault(&error))?;
    let forgotten = client.execute(forget, &[&kept_from]).await;
    forgotten.map(drop).map_err(|error| fault(&error))
}

/// The recorded outcomes behind `after`, oldest first.
pub(super) async fn outcomes(
    client: &Client,
    after: u64,
    limit: u32,
) -> Result<Vec<Applied>, ReplicaError> {
    let select =
        "SELECT applied FROM _leveret_outcomes WHERE last_seq > $1 ORDER BY first_seq LIMIT $2";
    let after_signed = i64::try_from(after).unwrap_or(i64::MAX);
    let rows = client
        .query(select, &[&after_signed, &i64::from(limit)])
        .await;
    let mut outcomes = Vec::new();
    for row in rows.map_err(|error| fault(&error))? {
        let text: &str = row.try_get(0).map_err(|error| fault(&error))?;
        let applied: Vec<Applied> =
            serde_json::from_str(text).map_err(|error| ReplicaError::LocalFault {
                detail: format!("recorded outcomes cannot be read: {error}"),
            })?;
        let newer = applied.into_iter().filter(|one| one.position.seq > after);
        outcomes.extend(newer.take(limit as usize - outcomes.len()));
        if outcomes.len() == limit as usize {
            break;
        }
    }
    Ok(outcomes)
}
