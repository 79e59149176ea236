//! A digest of what users have in the database, at one position: equal on replicas that are.

use std::pin::pin;

use futures_util::TryStreamExt;
use leveret_core::broadcast::Position;
use sha2::{Digest, Sha256};
use tokio_postgres::{Error, Row, Transaction, types::ToSql};

use super::{
    super::{
        Contents, ReplicaError,
        portable::{self, Portable, Table},
    },
    fault::fault,
    own,
    query::begin,
    values::values,
};
use crate::postgres::{Pool, quoted};

/// Rows that are fetched in one go.
const ROWS_A_FETCH: i32 = 256;

/// The columns, constraints and indexes of a table, and what a view selects, each as one line of text.
const SHAPE: [&str; 4] = [
    "SELECT concat_ws('|', attname, format_type(atttypid, atttypmod), attnotnull, attgenerated, pg_get_expr(adbin, adrelid))
     FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
     WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
    "SELECT conname || '|' || pg_get_constraintdef(oid, true) FROM pg_constraint
     WHERE conrelid = $1::text::regclass AND contype IN ('c', 'f', 'p', 'u', 'x') ORDER BY conname COLLATE \"C\"",
    "SELECT pg_get_indexdef(indexrelid, 0, true) FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
     WHERE indrelid = $1::text::regclass ORDER BY relname COLLATE \"C\"",
    "SELECT pg_get_viewdef(oid, true) FROM pg_class WHERE oid = $1::text::regclass AND relkind IN ('v', 'm')",
];

/// Reads everything, in a transaction of its own.
pub(super) async fn digest(
    pool: &Pool,
    of: Contents,
) -> Result<(Position, [u8; 32]), ReplicaError> {
    let mut lease = pool.lease().await?;
    let transaction = begin(&mut lease).await.map_err(|error| fault(&error))?;
    let digested = digest_begun(&transaction, of).await;
    let ended = transaction.rollback().await;
    if ended.is_ok() {
        lease.set_in_transaction(false);
    }
    digested.map_err(|error| fault(&error))
}

async fn digest_begun(
    transaction: &Transaction<'_>,
    of: Contents,
) -> Result<(Position, [u8; 32]), Error> {
    let standing = own::standing(transaction.client()).await?;
    let digest = match of {
        Contents::All => digest_all(transaction).await?,
        Contents::Portable => digest_portable(transaction).await?,
    };
    Ok((standing.position, digest))
}

/// Rows are looked at in the order of their text: where they lie in the file differs.
async fn digest_all(transaction: &Transaction<'_>) -> Result<[u8; 32], Error> {
    let mut sha = Sha256::new();
    for relation in transaction.query(own::USERS_RELATIONS, &[]).await? {
        let (name, kind): (String, String) = (relation.try_get(0)?, relation.try_get(1)?);
        hash(&mut sha, &name);
        hash(&mut sha, &kind);
        let name = quoted(&name);
        for part in SHAPE {
            hash_lines(transaction, part, &[&name], &mut sha).await?;
        }
        if ["r", "p", "m"].contains(&kind.as_str()) {
            let rows = format!(
                "SELECT line FROM (SELECT (_leveret_row.*)::text AS line FROM {name} AS _leveret_row) AS lines ORDER BY line COLLATE \"C\""
            );
            hash_lines(transaction, &rows, &[], &mut sha).await?;
        }
    }
    Ok(sha.finalize().into())
}

/// The columns of all tables; an `attname` of none where a table has none that is alike.
const ALIKE: &str = "
    SELECT c.relname::text, a.attname::text FROM pg_class c
    LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
        AND a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'bool'::regtype, 'float8'::regtype, 'text'::regtype,
            'varchar'::regtype, 'bytea'::regtype)
    WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema()) AND c.relkind IN ('r', 'p')
        AND c.relname NOT LIKE '\\_leveret\\_%'
    ORDER BY c.relname, a.attnum";

async fn digest_portable(transaction: &Transaction<'_>) -> Result<[u8; 32], Error> {
    let mut tables: Vec<Table> = Vec::new();
    for row in transaction.query(ALIKE, &[]).await? {
        let (name, column): (String, Option<String>) = (row.try_get(0)?, row.try_get(1)?);
        if tables.last().is_none_or(|table| table.name != name) {
            let columns = Vec::new();
            tables.push(Table { name, columns });
        }
        if let Some(table) = tables.last_mut() {
            table.columns.extend(column);
        }
    }
    portable::sort(&mut tables);
    let mut digest = Portable::default();
    for table in &tables {
        digest.table(table);
        let columns: Vec<String> = table.columns.iter().map(|name| quoted(name)).collect();
        let sql = format!("SELECT {} FROM {}", columns.join(", "), quoted(&table.name));
        let hash = |row: &Row| values(row).map(|values| digest.row(&values));
        each_row(transaction, &sql, &[], hash).await?;
    }
    Ok(digest.finish())
}

/// Hashes what a statement returns, one text a row, and how many there are.
async fn hash_lines(
    transaction: &Transaction<'_>,
    sql: &str,
    params: &[&(dyn ToSql + Sync)],
    sha: &mut Sha256,
) -> Result<(), Error> {
    let mut count: u64 = 0;
    let line = |row: &Row| {
        count += 1;
        hash(sha, row.try_get::<_, Option<&str>>(0)?.unwrap_or_default());
        Ok(())
    };
    each_row(transaction, sql, params, line).await?;
    sha.update(count.to_le_bytes());
    Ok(())
}

/// Looks at what a statement returns, a bounded number of rows at a time.
async fn each_row(
    transaction: &Transaction<'_>,
    sql: &str,
    params: &[&(dyn ToSql + Sync)],
    mut look: impl FnMut(&Row) -> Result<(), Error>,
) -> Result<(), Error> {
    let compiled = transaction.prepare(sql).await?;
    let portal = transaction.bind(&compiled, params).await?;
    loop {
        let mut rows = pin!(transaction.query_portal_raw(&portal, ROWS_A_FETCH).await?);
        let mut count = 0;
        while let Some(row) = rows.try_next().await? {
            count += 1;
            look(&row)?;
        }
        if count < ROWS_A_FETCH {
            return Ok(());
        }
    }
}

fn hash(sha: &mut Sha256, text: &str) {
    sha.update((text.len() as u64).to_le_bytes());
    sha.update(text.as_bytes());
}
