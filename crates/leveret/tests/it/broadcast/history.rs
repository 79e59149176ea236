//! What clients saw, and whether the promises hold.
//!
//! Every write adds to or puts one of a few names, and its number is unique, so that the values of a name at every seq follow from the log.

use std::collections::{BTreeMap, BTreeSet};

use leveret::core::broadcast::{Logged, Value};

/// A call of a client, with the moments of its beginning and end on one count of events.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) client: usize,
    pub(super) began: u64,
    pub(super) ended: u64,
    pub(super) what: What,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    /// A write that was acknowledged, or that is known to be logged.
    Logged {
        number: i64,
        seq: u64,
        sum: Option<i64>,
    },
    /// A write of which nobody knows.
    Unknown,
    /// An answer.
    Read {
        name: String,
        value: Option<i64>,
        seq: u64,
        is_latest: bool,
        min_seq: u64,
    },
}

/// The values of all names behind each seq, from the log alone.
pub(super) fn replay(log: &[Logged]) -> Vec<BTreeMap<String, i64>> {
    let mut values = BTreeMap::new();
    let mut all = vec![values.clone()];
    for (at, logged) in log.iter().enumerate() {
        assert_eq!(logged.position.seq, at as u64 + 1, "seqs have no gaps");
        for statement in &logged.write.statements {
            let (verb, name) = statement.sql.split_once(' ').unwrap();
            let value: &mut i64 = values.entry(name.to_owned()).or_default();
            let number = number(&statement.args[0]);
            *value = match verb {
                "add" => value.wrapping_mul(3).wrapping_add(number),
                _ => number,
            };
        }
        all.push(values.clone());
    }
    all
}

fn number(value: &Value) -> i64 {
    match value {
        Value::Integer(number) => *number,
        other => panic!("{other:?}"),
    }
}

/// Panics where a promise is broken.
pub(super) fn check(log: &[Logged], calls: &[Call]) {
    let values = replay(log);
    let numbers = log
        .iter()
        .map(|logged| number(&logged.write.statements[0].args[0]));
    let numbers: Vec<i64> = numbers.collect();
    let distinct: BTreeSet<_> = numbers.iter().collect();
    assert_eq!(distinct.len(), numbers.len(), "a write is in the log twice");
    for call in calls {
        match &call.what {
            What::Logged { number, seq, sum } => {
                assert_eq!(
                    numbers.get(*seq as usize - 1),
                    Some(number),
                    "{call:?} is lost"
                );
                if let Some(sum) = sum {
                    let name = log[*seq as usize - 1].write.statements[0]
                        .sql
                        .split_once(' ');
                    let expected = values[*seq as usize].get(name.unwrap().1);
                    assert_eq!(Some(sum), expected, "{call:?} has another result");
                }
            }
            What::Unknown => {}
            What::Read {
                name,
                value,
                seq,
                min_seq,
                ..
            } => {
                assert!(seq >= min_seq, "{call:?} is older than asked for");
                assert_eq!(value.as_ref(), values[*seq as usize].get(name), "{call:?}");
            }
        }
    }
    sessions(calls);
    latest(calls);
}

/// A client that says the highest seq it has seen never goes back, and reads its own writes.
fn sessions(calls: &[Call]) {
    let mut seen: BTreeMap<usize, u64> = BTreeMap::new();
    for call in calls {
        let seen = seen.entry(call.client).or_default();
        match &call.what {
            What::Read {
                seq,
                is_latest: false,
                ..
            } => {
                assert!(seq >= seen, "{call:?} goes back behind {seen}");
                *seen = *seq;
            }
            What::Logged { seq, .. } | What::Read { seq, .. } => *seen = (*seen).max(*seq),
            What::Unknown => {}
        }
    }
}

/// Writes have their places in one order, the log's. With them, questions of level latest are linearizable if each has the seq of every write
/// and of every such question that ended before it began; and no write that began after a question ended is in it, which the log shows by
/// seqs: a write that begins later has a higher one.
fn latest(calls: &[Call]) {
    let mut marks: Vec<(u64, u64)> = Vec::new();
    for call in calls {
        match &call.what {
            What::Logged { seq, .. }
            | What::Read {
                seq,
                is_latest: true,
                ..
            } => {
                marks.push((call.ended, *seq));
            }
            _ => {}
        }
    }
    for call in calls {
        match &call.what {
            What::Read {
                seq,
                is_latest: true,
                ..
            } => {
                let before = marks.iter().filter(|(ended, _)| *ended < call.began);
                let known = before.map(|(_, seq)| *seq).max().unwrap_or(0);
                assert!(*seq >= known, "{call:?} does not see seq {known}");
            }
            What::Logged { seq, .. } => {
                let before = marks.iter().filter(|(ended, _)| *ended < call.began);
                let known = before.map(|(_, seq)| *seq).max().unwrap_or(0);
                assert!(
                    *seq > known,
                    "{call:?} has a place before seq {known}, which ended before it began"
                );
            }
            _ => {}
        }
    }
}

/// The checker finds what it is for.
#[test]
fn broken_promises_are_found() {
    use leveret::core::{
        broadcast::{Position, Statement, Write},
        time::Timestamp,
    };
    let logged = |seq: u64, sql: &str| Logged {
        position: Position { epoch: 1, seq },
        write: Write {
            statements: vec![Statement {
                sql: sql.to_owned(),
                args: vec![Value::Integer(seq.cast_signed() * 10)],
            }],
            at: Timestamp(0),
            seed: 0,
        },
    };
    let log = [logged(1, "put x"), logged(2, "add x")];
    let call = |began, ended, what| Call {
        client: 0,
        began,
        ended,
        what,
    };
    let wrote = |number, seq, sum| What::Logged { number, seq, sum };
    let read = |value, seq, is_latest| What::Read {
        name: "x".to_owned(),
        value: Some(value),
        seq,
        is_latest,
        min_seq: 0,
    };
    let good = vec![
        call(1, 2, wrote(10, 1, Some(10))),
        call(3, 4, wrote(20, 2, Some(50))),
        call(5, 6, read(50, 2, true)),
    ];
    check(&log, &good);
    let is_found = |calls: Vec<Call>| std::panic::catch_unwind(|| check(&log, &calls)).is_err();
    assert!(
        is_found(vec![call(1, 2, wrote(30, 3, None))]),
        "a lost write"
    );
    assert!(
        is_found(vec![call(1, 2, wrote(10, 1, Some(11)))]),
        "a wrong result"
    );
    assert!(
        is_found(vec![good[1].clone(), call(5, 6, read(10, 1, true))]),
        "a stale latest"
    );
    assert!(
        is_found(vec![good[1].clone(), call(5, 6, read(10, 1, false))]),
        "a session that goes back"
    );
    assert!(
        is_found(vec![call(1, 2, read(11, 1, false))]),
        "a wrong value"
    );
}
