//! Versions of the tables, one for each component that lives in a schema. Migrations are part of the program and apply in one transaction,
//! under a lock that keeps others away.

use tokio_postgres::Client;

use super::{PostgresError, quoted};

/// Names the lock: "leveret" in ASCII.
const LOCK: i64 = 0x6c_65_76_65_72_65_74;

/// The table of a schema that has one version without a name, which is the store's, becomes one of named versions.
const NAME_VERSION: &str = "
    ALTER TABLE schema_version RENAME TO schema_versions;
    ALTER TABLE schema_versions ADD COLUMN component text PRIMARY KEY DEFAULT 'store';
    ALTER TABLE schema_versions ALTER COLUMN component DROP DEFAULT";

/// The tables of a component: `migrations[n]` leads from version `n` to `n + 1`. What was applied once never changes.
#[derive(Clone, Copy)]
pub(super) struct Component<'a> {
    pub(super) schema: &'a str,
    pub(super) name: &'static str,
    pub(super) migrations: &'a [&'a str],
}

impl Component<'_> {
    fn newest(&self) -> u32 {
        self.migrations.len() as u32
    }

    fn error(&self, found: u32, help: &'static str) -> PostgresError {
        PostgresError::Schema {
            component: self.name,
            found,
            needed: self.newest(),
            help,
        }
    }
}

/// Checks the version, without changing anything.
pub(super) async fn check(client: &Client, component: Component<'_>) -> Result<(), PostgresError> {
    match version(client, component).await? {
        found if found > component.newest() => Err(component.error(found, "use a newer program")),
        found if found < component.newest() => {
            Err(component.error(found, "apply the migrations first"))
        }
        _ => Ok(()),
    }
}

/// Brings the tables to this program's version; returns the versions before and after. Several programs may try at once; the first does it,
/// the others wait and find it done.
pub(super) async fn migrate(
    client: &Client,
    component: Component<'_>,
) -> Result<(u32, u32), PostgresError> {
    let before = version(client, component).await?;
    if before == component.newest() {
        return Ok((before, before));
    }
    client
        .batch_execute(&format!("BEGIN; SELECT pg_advisory_xact_lock({LOCK})"))
        .await?;
    let result = migrate_locked(client, component).await;
    let end = if result.is_ok() { "COMMIT" } else { "ROLLBACK" };
    let ended = client.batch_execute(end).await;
    let before = result?;
    ended?;
    Ok((before, component.newest()))
}

async fn migrate_locked(client: &Client, component: Component<'_>) -> Result<u32, PostgresError> {
    prepare(client, component.schema).await?;
    let found = version(client, component).await?;
    let Some(pending) = component.migrations.get(found as usize..) else {
        return Err(component.error(found, "use a newer program"));
    };
    for migration in pending {
        client.batch_execute(migration).await?;
    }
    client
        .execute(
            "INSERT INTO schema_versions (component, version) VALUES ($1, $2)
             ON CONFLICT (component) DO UPDATE SET version = excluded.version",
            &[&component.name, &(component.newest() as i32)],
        )
        .await?;
    Ok(found)
}

/// Makes the schema and its table of versions, and works in it until the transaction ends. A schema that is there needs no right to make one.
async fn prepare(client: &Client, schema: &str) -> Result<(), PostgresError> {
    let exists = "SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1)";
    let exists: bool = client.query_one(exists, &[&schema]).await?.get(0);
    let name = quoted(schema);
    if !exists {
        client
            .batch_execute(&format!("CREATE SCHEMA {name}"))
            .await?;
    }
    client
        .batch_execute(&format!("SET LOCAL search_path TO {name}"))
        .await?;
    if has_table(client, schema, "schema_versions").await? {
        return Ok(());
    }
    let make = if has_table(client, schema, "schema_version").await? {
        NAME_VERSION
    } else {
        "CREATE TABLE schema_versions (component text PRIMARY KEY, version integer NOT NULL)"
    };
    Ok(client.batch_execute(make).await?)
}

/// 0 when there is nothing yet.
async fn version(client: &Client, component: Component<'_>) -> Result<u32, PostgresError> {
    if !has_table(client, component.schema, "schema_versions").await? {
        return Ok(0);
    }
    let version = format!(
        "SELECT version FROM {}.schema_versions WHERE component = $1",
        quoted(component.schema)
    );
    let row = client.query_opt(&version, &[&component.name]).await?;
    Ok(row.map_or(0, |row| row.get::<_, i32>(0) as u32))
}

/// Looks into the catalog as a table, which is as new as the statement; name functions answer from a cache that may be older than a lock just
/// taken.
async fn has_table(client: &Client, schema: &str, table: &str) -> Result<bool, PostgresError> {
    let exists =
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_tables WHERE schemaname = $1 AND tablename = $2)";
    Ok(client.query_one(exists, &[&schema, &table]).await?.get(0))
}
