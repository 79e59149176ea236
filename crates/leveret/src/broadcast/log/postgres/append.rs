//! One append: the epoch is checked, keys are looked up, and a batch is written by columns.

use std::collections::HashMap;

use leveret_core::{broadcast::Position, time::Timestamp};

use super::{
    epoch::locked,
    rows::{int, position, unreadable},
};
use crate::{
    broadcast::log::{Appended, Key, LogError, NewWrite},
    postgres::Lease,
};

/// The writes of a batch by columns, and the keys of those that have one.
#[derive(Default)]
struct Columns {
    seqs: Vec<i64>,
    ats: Vec<i64>,
    seeds: Vec<i64>,
    statements: Vec<String>,
    names: Vec<String>,
    digests: Vec<Vec<u8>>,
    key_seqs: Vec<i64>,
}

pub(super) async fn append(
    lease: &mut Lease,
    epoch: u64,
    batch: &[NewWrite],
    now: Timestamp,
) -> Result<Vec<Appended>, LogError> {
    let mut last = locked(lease, epoch).await?;
    let mut known = known(lease, batch).await?;
    let mut columns = Columns::default();
    let mut appended = Vec::with_capacity(batch.len());
    for new in batch {
        let found = new.key.as_ref().and_then(|key| {
            let (digest, position) = known.get(&*key.name)?;
            Some(if digest[..] == key.digest {
                Appended::Known(*position)
            } else {
                Appended::KeyTaken
            })
        });
        if let Some(found) = found {
            appended.push(found);
            continue;
        }
        last = Position {
            epoch,
            seq: last.seq + 1,
        };
        columns.push(new, last)?;
        if let Some(key) = &new.key {
            known.insert(key.name.to_string(), (key.digest.to_vec(), last));
        }
        appended.push(Appended::New(last));
    }
    columns.insert(lease, last, now).await?;
    Ok(appended)
}

type Known = HashMap<String, (Vec<u8>, Position)>;

async fn known(lease: &mut Lease, batch: &[NewWrite]) -> Result<Known, LogError> {
    let keys = batch.iter().filter_map(|new| new.key.as_ref());
    let names: Vec<&str> = keys.map(|key: &Key| &*key.name).collect();
    if names.is_empty() {
        return Ok(Known::new());
    }
    let rows = lease
        .query(
            "SELECT name, digest, epoch, seq FROM broadcast_keys WHERE name = ANY($1)",
            &[&names],
        )
        .await?;
    let rows = rows.iter().map(|row| {
        let known = (row.try_get(1)?, position(row, 2)?);
        Ok((row.try_get(0)?, known))
    });
    rows.collect()
}

impl Columns {
    fn push(&mut self, new: &NewWrite, at: Position) -> Result<(), LogError> {
        self.seqs.push(int(at.seq));
        self.ats.push(new.write.at.0);
        self.seeds.push(new.write.seed.cast_signed());
        let statements =
            serde_json::to_string(&new.write.statements).map_err(|error| unreadable(&error))?;
        self.statements.push(statements);
        if let Some(key) = &new.key {
            self.names.push(key.name.to_string());
            self.digests.push(key.digest.to_vec());
            self.key_seqs.push(int(at.seq));
        }
        Ok(())
    }

    async fn insert(
        self,
        lease: &mut Lease,
        last: Position,
        now: Timestamp,
    ) -> Result<(), LogError> {
        if self.seqs.is_empty() {
            return Ok(());
        }
        let epoch = int(last.epoch);
        lease
            .query(
                "INSERT INTO broadcast_log (seq, epoch, at, seed, statements)
                 SELECT seq, $1, at, seed, statements
                 FROM unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::text[]) AS new (seq, at, seed, statements)",
                &[&epoch, &self.seqs, &self.ats, &self.seeds, &self.statements],
            )
            .await?;
        if !self.names.is_empty() {
            lease
                .query(
                    "INSERT INTO broadcast_keys (name, digest, epoch, seq, at)
                     SELECT name, digest, $1, seq, $2
                     FROM unnest($3::text[], $4::bytea[], $5::bigint[]) AS new (name, digest, seq)",
                    &[&epoch, &now.0, &self.names, &self.digests, &self.key_seqs],
                )
                .await?;
        }
        let bytes = self.statements.iter().map(|text| text.len() + ROW_BYTES);
        let bytes = bytes.sum::<usize>() as i64;
        lease
            .query(
                "UPDATE broadcast_heart SET last_epoch = $1, last_seq = $2, bytes = bytes + $3",
                &[&epoch, &int(last.seq), &bytes],
            )
            .await?;
        Ok(())
    }
}

/// What a row takes beside its statements, about.
pub(super) const ROW_BYTES: usize = 64;
