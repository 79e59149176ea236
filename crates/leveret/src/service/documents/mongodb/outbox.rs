//! Claims of outgoing messages, by the server's clock, and what ends them: each an update of the document that the messages lie in.

use std::{collections::HashMap, sync::atomic::Ordering};

use futures_util::TryStreamExt;
use mongodb::{
    bson::{Document as Doc, doc},
    options::ReturnDocument,
};
use uuid::Uuid;

use super::{
    Inner, all,
    error::Failure,
    expressions::{
        array, claim as claim_stages, claimed_by, filter, first_of_free, is_one_of, lanes, literal,
        map, merged_if, not, now, settled,
    },
    inbox::remove_empty,
    layout::{self, Stored, as_document},
};
use crate::service::documents::{Claimed, LANE_CLAIM_MAX, OutgoingId};

/// How often it is looked again when others were quicker everywhere.
const LOOKS_MAX: u32 = 3;

/// Claims of the documents that wait longest the first messages of each lane.
pub(super) async fn claim(inner: &Inner, limit: usize) -> Result<Vec<Claimed>, Failure> {
    for _ in 0..LOOKS_MAX {
        let waiting = waiting(inner, limit).await?;
        let mut left = limit;
        let mut shares = Vec::new();
        for (home, messages) in waiting {
            let share = messages.min(LANE_CLAIM_MAX).min(left);
            left -= share;
            if share > 0 {
                shares.push((home, share));
            }
        }
        if shares.is_empty() {
            return Ok(Vec::new());
        }
        let claims = shares
            .iter()
            .map(|(home, share)| claim_of(inner, home, *share));
        let claimed = all(claims.collect()).await?.concat();
        if !claimed.is_empty() {
            return Ok(claimed);
        }
    }
    Ok(Vec::new())
}

/// Documents with a lane that can be claimed, and how many messages they have.
async fn waiting(inner: &Inner, limit: usize) -> Result<Vec<(String, usize)>, Failure> {
    if limit == 0 {
        return Ok(Vec::new());
    }
    let stages = [
        doc! { "$match": { "due": { "$gte": 0_i64 } } },
        doc! { "$sort": { "due": 1 } },
        doc! { "$limit": limit as i64 },
        doc! { "$project": { "due": 1, "now": now(), "messages": { "$size": array("out") } } },
    ];
    let found: Vec<Doc> = inner
        .exchange(async { inner.durable.aggregate(stages).await?.try_collect().await })
        .await?;
    let mut waiting = Vec::new();
    for document in found.iter().map(Stored) {
        if document.number("due")? <= document.number("now")? {
            let messages = document.number("messages")? as usize;
            waiting.push((document.text("_id")?.to_owned(), messages));
        }
    }
    Ok(waiting)
}

async fn claim_of(inner: &Inner, home: &str, limit: usize) -> Result<Vec<Claimed>, Failure> {
    let by = Uuid::now_v7().simple().to_string();
    let taken = first_of_free(lanes(array("out")), limit);
    let mut update = vec![doc! { "$set": { "taken": taken } }];
    update.extend(claim_stages("taken", &by, inner.lease_ms));
    update.push(settled());
    let there = doc! { "_id": home, "due": { "$gte": 0_i64 } };
    claimed_of(inner, there, update, home, &by).await
}

/// Forgets messages, and claims the next ones of lanes that nobody holds any more.
pub(super) async fn sent(inner: &Inner, ids: &[OutgoingId]) -> Result<Vec<Claimed>, Failure> {
    let sent = by_home(ids).into_iter().map(|(home, ids)| async move {
        let by = Uuid::now_v7().simple().to_string();
        let is_gone = is_one_of("id", literal(ids.clone()));
        let touched = lanes(filter(array("out"), is_gone.clone()));
        let mut update = vec![
            doc! { "$set": { "touched": touched, "out": filter(array("out"), not(is_gone)) } },
            doc! { "$set": { "touched": first_of_free("$touched", i32::MAX as usize) } },
        ];
        update.extend(claim_stages("touched", &by, inner.lease_ms));
        update.push(settled());
        let there = doc! { "_id": home, "out.id": { "$in": ids.clone() } };
        let next = claimed_of(inner, there, update, home, &by).await?;
        if next.is_empty() {
            remove_empty(inner, home).await?;
        }
        Ok(next)
    });
    Ok(all(sent.collect()).await?.concat())
}

/// Makes an update, and reads what it claimed.
async fn claimed_of(
    inner: &Inner,
    there: Doc,
    update: Vec<Doc>,
    home: &str,
    by: &str,
) -> Result<Vec<Claimed>, Failure> {
    let updated = inner
        .light
        .find_one_and_update(there, update)
        .return_document(ReturnDocument::After)
        .projection(doc! { "held": claimed_by(by) });
    let updated = inner.exchange(updated).await?;
    let mut claimed = Vec::new();
    for entry in updated.iter().flat_map(|it| Stored(it).array("held")) {
        for entry in entry {
            claimed.push(layout::claimed(as_document(entry)?, home)?);
        }
    }
    Ok(claimed)
}

/// Ends leases now: the lanes' turn is behind those that wait, one after the other.
pub(super) async fn release(inner: &Inner, ids: &[OutgoingId]) -> Result<(), Failure> {
    for (home, ids) in by_home(ids) {
        let is_held = doc! { "$and": [
            is_one_of("id", literal(ids.clone())),
            { "$gt": ["$$e.until", now()] },
        ] };
        // In the past, so that it can be claimed at once, and apart from others of the same millisecond.
        let turn = inner.turns.fetch_add(1, Ordering::Relaxed) % 1000;
        let over = doc! { "$add": [now(), turn as f64 / 1000.0 - 1.0] };
        let free = merged_if(is_held, doc! { "until": over, "by": "" });
        let update = vec![
            doc! { "$set": { "out": map(array("out"), free) } },
            settled(),
        ];
        let there = doc! { "_id": home, "out.id": { "$in": ids } };
        inner
            .exchange(inner.light.update_one(there, update))
            .await?;
    }
    Ok(())
}

/// The ids that this adapter gave out, by where the messages lie, in the order of the first of each.
fn by_home(ids: &[OutgoingId]) -> Vec<(&str, Vec<&str>)> {
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut by_home: Vec<(&str, Vec<&str>)> = Vec::new();
    for (entry, home) in ids.iter().filter_map(OutgoingId::entry_and_home) {
        let place = *places.entry(home).or_insert(by_home.len());
        if place == by_home.len() {
            by_home.push((home, Vec::new()));
        }
        by_home[place].1.push(entry);
    }
    by_home
}
