//! Versions of the tables. Migrations are part of the program and apply in one transaction, under a lock that keeps others away.

use tokio_postgres::Client;

use super::{error::Failure, pool::quoted};
use crate::store::StoreError;

/// In order; the version is how many have been applied.
const MIGRATIONS: &[&str] = &[include_str!("schema.sql")];

/// Names the lock: "leveret" in ASCII.
const LOCK: i64 = 0x6c_65_76_65_72_65_74;

fn schema_error(found: u32, help: &'static str) -> Failure {
    let needed = MIGRATIONS.len() as u32;
    Failure::Store(StoreError::Schema {
        found,
        needed,
        help,
    })
}

/// Checks the version, without changing anything.
pub(super) async fn check(client: &Client, schema: &str) -> Result<(), Failure> {
    match version(client, schema).await? {
        found if found as usize > MIGRATIONS.len() => {
            Err(schema_error(found, "use a newer program"))
        }
        found if (found as usize) < MIGRATIONS.len() => {
            Err(schema_error(found, "apply the migrations first"))
        }
        _ => Ok(()),
    }
}

/// Brings the schema to this program's version; returns the versions before and after. Several programs may try at once; the first does it,
/// the others wait and find it done.
pub(super) async fn migrate(client: &Client, schema: &str) -> Result<(u32, u32), Failure> {
    let before = version(client, schema).await?;
    let after = MIGRATIONS.len() as u32;
    if before == after {
        return Ok((before, after));
    }
    client
        .batch_execute(&format!("BEGIN; SELECT pg_advisory_xact_lock({LOCK})"))
        .await?;
    let result = migrate_locked(client, schema).await;
    let end = if result.is_ok() { "COMMIT" } else { "ROLLBACK" };
    let ended = client.batch_execute(end).await;
    result?;
    ended?;
    Ok((before, after))
}

async fn migrate_locked(client: &Client, schema: &str) -> Result<(), Failure> {
    let found = version(client, schema).await?;
    let Some(pending) = MIGRATIONS.get(found as usize..) else {
        return Err(schema_error(found, "use a newer program"));
    };
    let schema = quoted(schema);
    if found == 0 {
        let create = format!(
            "CREATE SCHEMA IF NOT EXISTS {schema};
             CREATE TABLE {schema}.schema_version (version integer NOT NULL);
             INSERT INTO {schema}.schema_version VALUES (0)"
        );
        client.batch_execute(&create).await?;
    }
    client
        .batch_execute(&format!("SET LOCAL search_path TO {schema}"))
        .await?;
    for migration in pending {
        client.batch_execute(migration).await?;
    }
    let applied = MIGRATIONS.len();
    client
        .batch_execute(&format!("UPDATE schema_version SET version = {applied}"))
        .await?;
    Ok(())
}

/// 0 when there is nothing yet. Looks into the catalog as a table, which is as new as the statement; name functions answer from a cache
/// that may be older than a lock just taken.
async fn version(client: &Client, schema: &str) -> Result<u32, Failure> {
    let exists = "SELECT EXISTS (SELECT FROM pg_catalog.pg_tables WHERE schemaname = $1 AND tablename = 'schema_version')";
    if !client
        .query_one(exists, &[&schema])
        .await?
        .get::<_, bool>(0)
    {
        return Ok(0);
    }
    let version = format!("SELECT version FROM {}.schema_version", quoted(schema));
    let row = client.query_one(&version, &[]).await?;
    Ok(row.get::<_, i32>(0) as u32)
}
