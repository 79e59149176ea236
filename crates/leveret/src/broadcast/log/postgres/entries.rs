//! The writes that are kept: reading them on, and forgetting the oldest.

use leveret_core::{broadcast::Logged, time::Timestamp};

use super::{
    append::ROW_BYTES,
    rows::{int, logged, one, position, whole},
};
use crate::{broadcast::log::LogError, postgres::Lease};

/// The writes behind `seq`, at most `limit` and about `bytes_max`, one at least.
pub(super) async fn after(
    lease: &mut Lease,
    seq: u64,
    limit: u32,
    bytes_max: u64,
) -> Result<Vec<Logged>, LogError> {
    // One statement, so that what is gone is seen to be gone. The bytes of rows that do not fit are not read.
    let rows = lease
        .query(
            "SELECT seq, epoch, at, seed, statements FROM (
                 SELECT *, sum(octet_length(statements)) OVER (ORDER BY seq) - octet_length(statements) AS before
                 FROM (SELECT * FROM broadcast_log WHERE seq > $1 ORDER BY seq LIMIT $2) AS next
             ) AS sized WHERE before <= $3::bigint ORDER BY seq",
            &[&int(seq), &i64::from(limit), &i64::try_from(bytes_max).unwrap_or(i64::MAX)],
        )
        .await?;
    let mut entries = Vec::with_capacity(rows.len());
    let mut bytes = 0;
    for row in &rows {
        let (entry, size) = logged(row)?;
        bytes += size;
        if bytes > bytes_max && !entries.is_empty() {
            break;
        }
        entries.push(entry);
    }
    if entries
        .first()
        .is_some_and(|first| first.position.seq == seq + 1)
    {
        return Ok(entries);
    }
    let row = lease
        .query("SELECT base_seq FROM broadcast_heart", &[])
        .await?;
    let base = whole(&one(row)?, 0)?;
    if seq < base {
        return Err(LogError::Truncated { oldest: base + 1 });
    }
    Ok(Vec::new())
}

/// Forgets the writes up to `seq`, and keys older than `keys_before`. Returns how many writes went.
pub(super) async fn truncated(
    lease: &mut Lease,
    seq: u64,
    keys_before: Timestamp,
) -> Result<u64, LogError> {
    // The row first, as an append does.
    lease
        .query("SELECT 1 FROM broadcast_heart FOR UPDATE", &[])
        .await?;
    lease
        .query(
            "DELETE FROM broadcast_keys WHERE at < $1",
            &[&keys_before.0],
        )
        .await?;
    let end = lease
        .query(
            "SELECT epoch, seq FROM broadcast_log WHERE seq <= $1 ORDER BY seq DESC LIMIT 1",
            &[&int(seq)],
        )
        .await?;
    let Some(end) = end.first() else { return Ok(0) };
    let end = position(end, 0)?;
    let gone = lease
        .query(
            "WITH gone AS (DELETE FROM broadcast_log WHERE seq <= $1 RETURNING octet_length(statements) AS bytes)
             SELECT count(*), coalesce(sum(bytes), 0)::bigint FROM gone",
            &[&int(end.seq)],
        )
        .await?;
    let gone = one(gone)?;
    let count: i64 = gone.try_get(0)?;
    let bytes = gone.try_get::<_, i64>(1)? + count * ROW_BYTES as i64;
    lease
        .query(
            "UPDATE broadcast_heart SET base_epoch = $1, base_seq = $2, bytes = greatest(bytes - $3, 0)",
            &[&int(end.epoch), &int(end.seq), &bytes],
        )
        .await?;
    Ok(count.cast_unsigned())
}
