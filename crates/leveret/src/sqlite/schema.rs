//! Versions of the tables, one for each component that lives in the file.

use rusqlite::{Connection, OptionalExtension};

use super::DatabaseError;

pub(super) fn prepare(connection: &Connection) -> Result<(), DatabaseError> {
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS schema_versions (
             component TEXT PRIMARY KEY,
             version INTEGER NOT NULL
         ) WITHOUT ROWID",
    )?;
    Ok(())
}

pub(super) fn versions(connection: &Connection) -> Result<Vec<(String, u32)>, DatabaseError> {
    let mut statement =
        connection.prepare("SELECT component, version FROM schema_versions ORDER BY component")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(super) fn migrate(
    connection: &Connection,
    component: &'static str,
    migrations: &[&str],
) -> Result<(), DatabaseError> {
    let found: usize = connection
        .query_row(
            "SELECT version FROM schema_versions WHERE component = ?1",
            [component],
            |row| row.get::<_, i64>(0),
        )
        .optional()?
        .map_or(0, |version| version as usize);
    let known = migrations.len();
    if found > known {
        return Err(DatabaseError::NewerSchema {
            component,
            found,
            known,
        });
    }
    for migration in &migrations[found..] {
        connection.execute_batch(migration)?;
    }
    connection.execute(
        "INSERT INTO schema_versions (component, version) VALUES (?1, ?2)
         ON CONFLICT (component) DO UPDATE SET version = excluded.version",
        (component, known as i64),
    )?;
    Ok(())
}
