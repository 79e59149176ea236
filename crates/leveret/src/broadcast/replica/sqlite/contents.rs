//! A digest of what users have in the database, at one position: equal on replicas that are.

use rusqlite::{Connection, Result, types::ValueRef};
use sha2::{Digest, Sha256};

use super::{
    super::{
        Contents, Standing,
        portable::{self, Portable, Table},
    },
    own::{self, is_own},
    rowids::{Keys, keys, quoted},
    statement::value,
};

/// Reads everything, in a transaction of its own.
pub(super) fn digest(
    connection: &Connection,
    of: Contents,
) -> Result<(Option<Standing>, [u8; 32])> {
    connection.execute_batch("BEGIN")?;
    let digested = own::standing(connection).and_then(|standing| {
        let digest = match of {
            Contents::All => digest_all(connection),
            Contents::Portable => digest_portable(connection),
        };
        Ok((standing, digest?))
    });
    connection.execute_batch("ROLLBACK")?;
    digested
}

/// What a virtual table keeps is looked at through it: how it keeps it is its own affair.
fn digest_all(connection: &Connection) -> Result<[u8; 32]> {
    let mut sha = Sha256::new();
    for object in objects(connection)? {
        for part in [&object.kind, &object.name, &object.table, &object.sql] {
            hash_bytes(&mut sha, part.as_bytes());
        }
        if object.kind == "table" && !is_shadow(connection, &object.name)? {
            hash_rows(connection, &object.name, &mut sha)?;
        }
    }
    Ok(sha.finalize().into())
}

fn digest_portable(connection: &Connection) -> Result<[u8; 32]> {
    let mut tables = portable_tables(connection)?;
    portable::sort(&mut tables);
    let mut digest = Portable::default();
    for table in &tables {
        digest.table(table);
        let columns: Vec<String> = table.columns.iter().map(|name| quoted(name)).collect();
        // A row counts although none of its columns is looked at.
        let columns = if columns.is_empty() {
            "NULL".to_owned()
        } else {
            columns.join(", ")
        };
        let sql = format!("SELECT {columns} FROM {}", quoted(&table.name));
        let mut select = connection.prepare(&sql)?;
        let mut rows = select.raw_query();
        while let Some(row) = rows.next()? {
            let values = (0..table.columns.len()).map(|column| row.get_ref(column).map(value));
            digest.row(&values.collect::<Result<Vec<_>>>()?);
        }
    }
    Ok(digest.finish())
}

fn portable_tables(connection: &Connection) -> Result<Vec<Table>> {
    let mut tables = connection.prepare(
        "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'",
    )?;
    let tables = tables.query_map((), |row| row.get(0))?;
    let tables = tables.collect::<Result<Vec<String>>>()?;
    let mut columns = connection
        .prepare("SELECT name, type FROM pragma_table_xinfo(?) WHERE hidden = 0 ORDER BY cid")?;
    let mut all = Vec::new();
    for name in tables.into_iter().filter(|name| !is_own(name)) {
        let columns = columns.query_map([&name], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
        })?;
        let columns = columns.collect::<Result<Vec<_>>>()?.into_iter();
        let columns = columns.filter(|(_, declared)| portable::is_alike(declared));
        let columns = columns.map(|(name, _)| name).collect();
        all.push(Table { name, columns });
    }
    Ok(all)
}

struct Object {
    kind: String,
    name: String,
    table: String,
    sql: String,
}

fn objects(connection: &Connection) -> Result<Vec<Object>> {
    let mut select = connection.prepare(
        "SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema ORDER BY type, name",
    )?;
    let objects = select.query_map((), |row| {
        Ok(Object {
            kind: row.get(0)?,
            name: row.get(1)?,
            table: row.get(2)?,
            sql: row.get(3)?,
        })
    })?;
    let objects = objects.collect::<Result<Vec<Object>>>()?;
    let users = |object: &Object| !is_own(&object.name) && !is_own(&object.table);
    Ok(objects.into_iter().filter(users).collect())
}

fn is_shadow(connection: &Connection, table: &str) -> Result<bool> {
    connection
        .prepare_cached("SELECT 1 FROM pragma_table_list WHERE schema = 'main' AND name = ? AND type = 'shadow'")?
        .exists([table])
}

/// Rows in the order of their keys. Columns that are computed when they are read may depend on the time of day, and say nothing more.
fn hash_rows(connection: &Connection, table: &str, sha: &mut Sha256) -> Result<()> {
    let mut columns = connection.prepare_cached(
        "SELECT name, pk FROM pragma_table_xinfo(?) WHERE hidden IN (0, 3) ORDER BY cid",
    )?;
    let columns = columns.query_map([table], |row| {
        Ok((quoted(&row.get::<_, String>(0)?), row.get::<_, i64>(1)?))
    })?;
    let columns = columns.collect::<Result<Vec<(String, i64)>>>()?;
    let names = columns.iter().map(|(name, _)| name.as_str());
    let (row_id, order) = match keys(connection, table)? {
        // Leveret's own tables have statistics too, so that the row ids of the others say nothing.
        _ if table.starts_with("sqlite_stat") => (None, "tbl, idx, rowid".to_owned()),
        Keys::RowIds(alias) => (Some(alias), alias.to_owned()),
        Keys::Virtual => (Some("rowid"), "rowid".to_owned()),
        Keys::Other => (None, primary_key(&columns)),
    };
    let selected: Vec<&str> = row_id.into_iter().chain(names).collect();
    let sql = format!(
        "SELECT {} FROM {} ORDER BY {order}",
        selected.join(", "),
        quoted(table)
    );
    let mut select = connection.prepare(&sql)?;
    let mut rows = select.raw_query();
    let mut count: u64 = 0;
    while let Some(row) = rows.next()? {
        count += 1;
        for column in 0..selected.len() {
            hash_value(sha, row.get_ref(column)?);
        }
    }
    sha.update(count.to_le_bytes());
    Ok(())
}

fn primary_key(columns: &[(String, i64)]) -> String {
    let mut keys: Vec<_> = columns.iter().filter(|(_, place)| *place > 0).collect();
    keys.sort_by_key(|(_, place)| *place);
    if keys.is_empty() {
        // All three names of the row id are taken by columns.
        keys = columns.iter().collect();
    }
    let names: Vec<&str> = keys.iter().map(|(name, _)| name.as_str()).collect();
    names.join(", ")
}

fn hash_value(sha: &mut Sha256, value: ValueRef<'_>) {
    match value {
        ValueRef::Null => sha.update([0]),
        ValueRef::Integer(number) => {
            sha.update([1]);
            sha.update(number.to_le_bytes());
        }
        ValueRef::Real(number) => {
            sha.update([2]);
            sha.update(number.to_bits().to_le_bytes());
        }
        ValueRef::Text(text) => {
            sha.update([3]);
            hash_bytes(sha, text);
        }
        ValueRef::Blob(bytes) => {
            sha.update([4]);
            hash_bytes(sha, bytes);
        }
    }
}

fn hash_bytes(sha: &mut Sha256, bytes: &[u8]) {
    sha.update((bytes.len() as u64).to_le_bytes());
    sha.update(bytes);
}
