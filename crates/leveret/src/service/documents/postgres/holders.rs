//! Who holds claims, and whether they live: what a process held when it ended is free within two seconds, and not only when its lease is over.
//!
//! Each process that has the documents open is a *holder*: a row, and an advisory lock that one connection of the process has as long as it
//! lives. When the process ends, the server ends the connection and so frees the lock. Every [`LOOK`] each holder looks for others whose lock is
//! free; what those hold that are without it at two looks in a row can be claimed.
//!
//! A holder that lost nothing but its connection takes its lock again. If that takes longer, others may publish what it publishes: twice, with
//! the same `message_id`, as after the end of a lease. A machine that goes away without a word keeps its connection until the server notices: there
//! the lease counts.

use std::{collections::HashMap, time::Duration};

use tokio::{task::JoinHandle, time::sleep};
use tokio_postgres::{Client, Error};

use super::{error::Failure, now_ms};
use crate::postgres::Pool;

/// How often it is looked who is gone.
const LOOK: Duration = Duration::from_millis(500);
/// After so many looks in a row without its lock, a holder is gone.
const GONE_AFTER: u32 = 2;
/// After so many it is forgotten: until then, what its last connections still wrote is found.
const FORGOTTEN_AFTER: u32 = 40;
/// Between tries to connect.
const PAUSE: Duration = Duration::from_millis(250);

/// The row is there for others when its lock is held.
const ENTER: &str = "
    WITH entered AS (INSERT INTO holders DEFAULT VALUES RETURNING id)
    SELECT id, pg_advisory_lock('holders'::regclass::oid::int4, id)::text FROM entered";

/// Waits for the lock if the server has not noticed yet that the old connection is gone.
const ENTER_AGAIN: &str = "
    WITH entered AS (INSERT INTO holders (id) VALUES ($1) ON CONFLICT (id) DO NOTHING)
    SELECT pg_advisory_lock('holders'::regclass::oid::int4, $1)::text";

const WITHOUT_LOCK: &str = "
    SELECT h.id FROM holders AS h WHERE h.id <> $1 AND NOT EXISTS (
        SELECT FROM pg_locks AS l
        WHERE l.locktype = 'advisory' AND l.classid = 'holders'::regclass::oid AND l.objid = h.id::oid AND l.objsubid = 2 AND l.granted
          AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
    )";

const FREE: &str = concat!(
    "
    WITH messages AS (
        UPDATE outgoing SET claimable_at_ms = ",
    now_ms!(),
    "   WHERE holder = ANY ($1) AND claimable_at_ms > ",
    now_ms!(),
    "
    ), forgotten AS (
        DELETE FROM holders WHERE id = ANY ($2)
    )
    UPDATE deadlines SET claimable_at_ms = ",
    now_ms!(),
    " WHERE holder = ANY ($1) AND claimable_at_ms > ",
    now_ms!()
);

/// This process among the holders, until it is dropped.
#[derive(Debug)]
pub(super) struct Holder {
    id: i32,
    keeping: JoinHandle<()>,
}

impl Holder {
    /// Enters, and begins to look after the others.
    pub(super) async fn enter(pool: &Pool) -> Result<Holder, Failure> {
        let client = pool.connection_apart().await?;
        let id: i32 = client.query_one(ENTER, &[]).await?.try_get(0)?;
        let keeping = tokio::spawn(keep(pool.clone(), id, client));
        Ok(Holder { id, keeping })
    }

    /// What its claims say.
    pub(super) fn id(&self) -> i32 {
        self.id
    }

    /// Leaves: what it still holds is free soon. Idempotent.
    pub(super) fn leave(&self) {
        self.keeping.abort();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Keeps the lock, with another connection when one is lost.
async fn keep(pool: Pool, id: i32, mut client: Client) {
    loop {
        if let Err(error) = look_after_others(&client, id).await {
            tracing::debug!(%error, "the connection that shows that this process lives was lost");
        }
        client = loop {
            sleep(PAUSE).await;
            match enter_again(&pool, id).await {
                Ok(client) => break client,
                Err(error) => tracing::debug!(?error, "not connected again yet"),
            }
        };
    }
}

async fn enter_again(pool: &Pool, id: i32) -> Result<Client, Failure> {
    let client = pool.connection_apart().await?;
    client.query_one(ENTER_AGAIN, &[&id]).await?;
    Ok(client)
}

/// Returns when the connection is lost.
async fn look_after_others(client: &Client, id: i32) -> Result<(), Error> {
    let (without_lock, free) = (
        client.prepare(WITHOUT_LOCK).await?,
        client.prepare(FREE).await?,
    );
    let mut looks: HashMap<i32, u32> = HashMap::new();
    while !client.is_closed() {
        sleep(LOOK).await;
        let mut seen = HashMap::new();
        for row in client.query(&without_lock, &[&id]).await? {
            let other: i32 = row.try_get(0)?;
            seen.insert(other, looks.get(&other).map_or(1, |looks| looks + 1));
        }
        looks = seen;
        let of = |least: u32| -> Vec<i32> {
            let those = looks.iter().filter(|(_, looks)| **looks >= least);
            those.map(|(id, _)| *id).collect()
        };
        let gone = of(GONE_AFTER);
        if !gone.is_empty() {
            // What could not be done is done at the next look.
            if let Err(error) = client.execute(&free, &[&gone, &of(FORGOTTEN_AFTER)]).await {
                tracing::warn!(%error, "what a process held that ended is not free yet");
            }
        }
    }
    Ok(())
}
