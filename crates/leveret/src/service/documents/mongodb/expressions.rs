//! What updates are made of: expressions that the server computes, so that a write sees what it changes, and the time is the server's.
//!
//! Values of the service go in by [`literal`]: what begins with `$` would be computed otherwise. Arrays are mapped, not reached into by a path,
//! which not every server that speaks the protocol can.

use mongodb::bson::{Bson, Document as Doc, doc};

use crate::service::documents::LANE_CLAIM_MAX;

/// A value as it is.
pub(super) fn literal(value: impl Into<Bson>) -> Bson {
    doc! { "$literal": value.into() }.into()
}

/// The server's time, in milliseconds.
pub(super) fn now() -> Bson {
    doc! { "$toLong": "$$NOW" }.into()
}

/// Now and so many milliseconds.
pub(super) fn after(milliseconds: i64) -> Bson {
    doc! { "$add": [now(), milliseconds] }.into()
}

/// The entries of an array of the document, none where there is no array.
pub(super) fn array(name: &str) -> Bson {
    doc! { "$ifNull": [format!("${name}"), []] }.into()
}

/// A field of each entry.
pub(super) fn each(entries: impl Into<Bson>, field: &str) -> Bson {
    map(entries, format!("$$e.{field}"))
}

/// Each entry, `$$e`, as something else.
pub(super) fn map(entries: impl Into<Bson>, to: impl Into<Bson>) -> Bson {
    doc! { "$map": { "input": entries.into(), "as": "e", "in": to.into() } }.into()
}

/// The entries, `$$e`, that this is true of.
pub(super) fn filter(entries: impl Into<Bson>, is: impl Into<Bson>) -> Bson {
    doc! { "$filter": { "input": entries.into(), "as": "e", "cond": is.into() } }.into()
}

/// Whether the field of `$$e` is one of these.
pub(super) fn is_one_of(field: &str, values: impl Into<Bson>) -> Bson {
    doc! { "$in": [format!("$$e.{field}"), values.into()] }.into()
}

pub(super) fn not(is: impl Into<Bson>) -> Bson {
    doc! { "$not": [is.into()] }.into()
}

/// Both arrays, one behind the other.
pub(super) fn concat(first: impl Into<Bson>, second: impl Into<Bson>) -> Bson {
    doc! { "$concatArrays": [first.into(), second.into()] }.into()
}

/// `$$e`, with this if that is true.
pub(super) fn merged_if(is: impl Into<Bson>, with: Doc) -> Bson {
    doc! { "$cond": [is.into(), { "$mergeObjects": ["$$e", with] }, "$$e"] }.into()
}

/// The lanes that these messages are of, each once.
pub(super) fn lanes(messages: impl Into<Bson>) -> Bson {
    doc! { "$setUnion": [each(messages, "lane"), []] }.into()
}

/// When the lane, a variable, can be claimed: the end of the last lease.
fn lane_until(lane: &str) -> Bson {
    let of_lane = filter(array("out"), doc! { "$eq": ["$$e.lane", lane] });
    doc! { "$ifNull": [{ "$max": each(of_lane, "until") }, 0_i64] }.into()
}

/// Of those lanes that nobody holds, the first messages of each, by their ids, so many in all.
pub(super) fn first_of_free(lanes: impl Into<Bson>, limit: usize) -> Bson {
    let free = doc! { "$filter": {
        "input": lanes.into(), "as": "lane", "cond": { "$lte": [lane_until("$$lane"), now()] },
    } };
    let of_lane = filter(array("out"), doc! { "$eq": ["$$e.lane", "$$this"] });
    let first = doc! { "$slice": [each(of_lane, "id"), LANE_CLAIM_MAX as i64] };
    doc! { "$slice": [
        { "$reduce": { "input": free, "initialValue": [], "in": concat("$$value", first) } },
        limit as i64,
    ] }
    .into()
}

/// The stage that claims the messages whose ids are in this field, which goes, for a lease.
pub(super) fn claim(taken: &str, by: &str, lease_ms: i64) -> [Doc; 2] {
    let claimed = merged_if(
        is_one_of("id", format!("${taken}")),
        doc! { "until": after(lease_ms), "by": by },
    );
    [
        doc! { "$set": { "out": map(array("out"), claimed) } },
        doc! { "$unset": taken },
    ]
}

/// What was claimed so, in an answer.
pub(super) fn claimed_by(by: &str) -> Bson {
    filter(array("out"), doc! { "$eq": ["$$e.by", by] })
}

/// The stage that ends each update: what indexes find the document by, and nothing empty.
pub(super) fn settled() -> Doc {
    let due =
        doc! { "$map": { "input": lanes(array("out")), "as": "lane", "in": lane_until("$$lane") } };
    let deadline = each(array("deadlines"), "claimable");
    let inbox = each(array("inbox"), "at");
    doc! { "$set": {
        "due": smallest(due),
        "deadline": smallest(deadline),
        "inbox_since": smallest(inbox),
        "out": unless_empty("out"),
        "deadlines": unless_empty("deadlines"),
        "inbox": unless_empty("inbox"),
        "parked": unless_empty("parked"),
    } }
}

fn smallest(numbers: impl Into<Bson>) -> Doc {
    doc! { "$ifNull": [{ "$min": numbers.into() }, "$$REMOVE"] }
}

fn unless_empty(name: &str) -> Doc {
    doc! { "$cond": [{ "$eq": [array(name), []] }, "$$REMOVE", format!("${name}")] }
}
