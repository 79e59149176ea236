//! Who has the log: epochs and leases, by the database's clock.

use leveret_core::{broadcast::Position, time::Timestamp};

use super::rows::{int, one, position, whole};
use crate::{
    broadcast::log::{LOG_LEASE, LogError},
    postgres::Lease,
};

/// Locks the heart's row until the transaction ends: nobody else opens an epoch meanwhile. Returns the last position.
pub(super) async fn locked(lease: &mut Lease, epoch: u64) -> Result<Position, LogError> {
    let row = lease
        .query(
            "SELECT epoch, last_epoch, last_seq FROM broadcast_heart FOR UPDATE",
            &[],
        )
        .await?;
    let row = one(row)?;
    match whole(&row, 0)? {
        found if found == epoch => position(&row, 1),
        found => Err(LogError::Fenced { epoch: found }),
    }
}

fn lease_seconds() -> f64 {
    LOG_LEASE.as_secs_f64()
}

pub(super) async fn open(lease: &mut Lease, owner: &str) -> Result<(u64, Position), LogError> {
    let row = lease
        .query(
            "SELECT owner, owner <> $1 AND until > clock_timestamp(),
                    CASE WHEN until = '-infinity' THEN 0 ELSE (extract(epoch FROM until) * 1000)::bigint END
             FROM broadcast_heart FOR UPDATE",
            &[&owner],
        )
        .await?;
    let row = one(row)?;
    if row.try_get(1)? {
        return Err(LogError::Held {
            owner: row.try_get(0)?,
            until: Timestamp(row.try_get(2)?),
        });
    }
    let row = lease
        .query(
            "UPDATE broadcast_heart
             SET epoch = epoch + 1, owner = $1, until = clock_timestamp() + make_interval(secs => $2)
             RETURNING epoch, last_epoch, last_seq",
            &[&owner, &lease_seconds()],
        )
        .await?;
    let row = one(row)?;
    Ok((whole(&row, 0)?, position(&row, 1)?))
}

pub(super) async fn recovered(
    lease: &mut Lease,
    owner: &str,
    cluster: &str,
    end: Position,
) -> Result<u64, LogError> {
    let row = lease
        .query(
            "UPDATE broadcast_heart
             SET epoch = greatest(epoch, $1) + 1, owner = $3, cluster = $4, bytes = 0,
                 until = clock_timestamp() + make_interval(secs => $5),
                 base_epoch = $1, base_seq = $2, last_epoch = $1, last_seq = $2
             RETURNING epoch",
            &[
                &int(end.epoch),
                &int(end.seq),
                &owner,
                &cluster,
                &lease_seconds(),
            ],
        )
        .await?;
    lease.query("DELETE FROM broadcast_log", &[]).await?;
    whole(&one(row)?, 0)
}

/// Keeps the lease of this epoch for another one.
pub(super) async fn keep(lease: &mut Lease, epoch: u64) -> Result<(), LogError> {
    locked(lease, epoch).await?;
    lease
        .query(
            "UPDATE broadcast_heart SET until = clock_timestamp() + make_interval(secs => $1)",
            &[&lease_seconds()],
        )
        .await?;
    Ok(())
}

/// Ends the lease of this epoch now.
pub(super) async fn release(lease: &mut Lease, epoch: u64) -> Result<(), LogError> {
    locked(lease, epoch).await?;
    lease
        .query("UPDATE broadcast_heart SET until = '-infinity'", &[])
        .await?;
    Ok(())
}
