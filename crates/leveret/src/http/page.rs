//! Pages of lists, and the opaque cursors between them.

use leveret_core::{ids::RunId, time::Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::problem::Problem;

/// Items of a page when nothing else is asked.
pub(super) const LIMIT_DEFAULT: u32 = 50;
/// The most items of a page.
pub(super) const LIMIT_MAX: u32 = 500;

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// The `after` of the next page; null at the end of the list.
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// A page of a list of which one item more than `limit` was asked, so as to know whether there is more.
    pub(super) fn cut<R>(
        mut records: Vec<R>,
        limit: u32,
        cursor: impl Fn(&R) -> String,
        item: impl Fn(R) -> T,
    ) -> Page<T> {
        let limit = limit as usize;
        let more = records.len() > limit;
        records.truncate(limit);
        let next = records.last().filter(|_| more).map(cursor);
        Page {
            items: records.into_iter().map(item).collect(),
            next,
        }
    }
}

/// Checks a page size.
pub(super) fn limit(asked: Option<u32>) -> Result<u32, Problem> {
    match asked {
        None => Ok(LIMIT_DEFAULT),
        Some(limit) if (1..=LIMIT_MAX).contains(&limit) => Ok(limit),
        Some(_) => Err(Problem::bad_request(format!(
            "limit is from 1 to {LIMIT_MAX}"
        ))),
    }
}

/// A cursor: text that goes through URLs and shells as it is.
pub(super) fn encode(text: &str) -> String {
    text.bytes()
        .fold(String::with_capacity(text.len() * 2), |mut hex, byte| {
            hex.push(char::from_digit(u32::from(byte >> 4), 16).expect("a hexadecimal digit"));
            hex.push(char::from_digit(u32::from(byte & 15), 16).expect("a hexadecimal digit"));
            hex
        })
}

/// Reads a cursor that was encoded here.
pub(super) fn decode(cursor: &str) -> Result<String, Problem> {
    let bad = || Problem::bad_request("after is no cursor: take it from `next` of the page before");
    let digits: Option<Vec<u8>> = cursor
        .chars()
        .map(|c| c.to_digit(16).map(|digit| digit as u8))
        .collect();
    let digits = digits
        .filter(|digits| digits.len() % 2 == 0)
        .ok_or_else(bad)?;
    let bytes = digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect();
    String::from_utf8(bytes).map_err(|_| bad())
}

/// The cursor behind a run.
pub(super) fn run_cursor(created_at: Timestamp, run_id: &RunId) -> String {
    encode(&format!("{}/{run_id}", created_at.0))
}

pub(super) fn run_position(cursor: &str) -> Result<(Timestamp, RunId), Problem> {
    let text = decode(cursor)?;
    let position = text
        .split_once('/')
        .and_then(|(ms, id)| Some((Timestamp(ms.parse().ok()?), RunId::new(id).ok()?)));
    position.ok_or_else(|| Problem::bad_request("after is no cursor of this list"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_lead_back() {
        let run_id = RunId::new("übung/1").unwrap();
        let cursor = run_cursor(Timestamp(-5), &run_id);
        assert_eq!(run_position(&cursor).unwrap(), (Timestamp(-5), run_id));
        for bad in [
            "",
            "x",
            "zz",
            "ff",
            "6",
            "2f",
            "é",
            &encode("1/"),
            &encode("x/y"),
        ] {
            assert!(run_position(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn knows_whether_there_is_more() {
        let page = |count: u32| Page::cut((0..count).collect(), 2, ToString::to_string, |n| n);
        assert_eq!(
            page(2),
            Page {
                items: vec![0, 1],
                next: None
            }
        );
        assert_eq!(
            page(3),
            Page {
                items: vec![0, 1],
                next: Some("1".to_owned())
            }
        );
        assert_eq!(
            page(0),
            Page {
                items: vec![],
                next: None
            }
        );
    }
}
