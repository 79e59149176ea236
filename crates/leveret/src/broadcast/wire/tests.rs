use leveret_core::{
    broadcast::{Logged, Outcome, Position, Statement, StatementResult, Value, Write},
    time::Timestamp,
};

use super::*;
use crate::{broadcast::replica::Applied, broker::Message};

fn logged(epoch: u64, seq: u64) -> Logged {
    Logged {
        position: Position { epoch, seq },
        write: Write {
            statements: vec![Statement {
                sql: "INSERT INTO t VALUES (?)".to_owned(),
                args: vec![Value::Integer(i64::MAX), Value::Blob(vec![0, 255])],
            }],
            at: Timestamp(1_795_141_463_755),
            seed: u64::MAX,
        },
    }
}

fn broadcast(entries: Vec<Logged>) -> Broadcast {
    Broadcast {
        cluster: "c1".into(),
        wanted: vec![1],
        entries,
    }
}

#[test]
fn a_broadcast_comes_as_it_went() {
    let sent = broadcast(vec![logged(1, 1), logged(2, 2)]);
    let message = sent.to_message(Timestamp(5));
    assert_eq!(message.message_id.as_deref(), Some("c1:1-2"));
    assert_eq!(message.kind.as_deref(), Some(KIND_WRITES));
    assert_eq!(Broadcast::from_message(&message), Ok(sent));
}

#[test]
fn what_is_no_broadcast_is_told_why() {
    let check = |body: &str, expect: &str| {
        let error = Broadcast::from_message(&Message::json(body.to_owned())).unwrap_err();
        assert!(error.to_string().contains(expect), "{body}: {error}");
    };
    check("", "EOF");
    check(
        r#"{"write_request":true,"sql":"SELECT 1"}"#,
        "unknown field `write_request`",
    );
    check(r#"{"cluster":"c","entries":[]}"#, "no entries");
    let of = |entries| String::from_utf8(broadcast(entries).to_message(Timestamp(0)).body.to_vec());
    check(
        &of(vec![logged(1, 1), logged(1, 3)]).unwrap(),
        "seq 3 does not follow",
    );
    check(
        &of(vec![logged(2, 1), logged(1, 2)]).unwrap(),
        "seq 2 does not follow",
    );
    check(&of(vec![logged(0, 1)]).unwrap(), "begin with 1");
    let mut empty = logged(1, 1);
    empty.write.statements.clear();
    check(&of(vec![empty]).unwrap(), "no statements");
}

#[test]
fn a_report_comes_as_it_went() {
    let position = Position { epoch: 1, seq: 64 };
    let sent = Report {
        cluster: "c1".into(),
        node_id: "a".into(),
        incarnation: u64::MAX,
        position,
        hash: 7,
        outcomes: vec![Applied {
            position,
            outcome: Outcome::Done(vec![StatementResult::default()]),
            hash: 7,
        }],
        marks: vec![Mark { seq: 64, hash: 7 }],
        took_ms: 3,
    };
    let message = sent.to_message(Timestamp(5));
    assert_eq!(Report::from_message(&message), Ok(sent));
}

#[test]
fn names() {
    assert_eq!(&*Names::default().node_queue("1"), "write_requests_node_1");
    assert_eq!(&*Names::default().heart_queue(), "write_requests_heart");
    assert!(is_node_id("node-1.a_B"));
    for bad in ["", "a b", "a/b", "ä", &"x".repeat(101)] {
        assert!(!is_node_id(bad), "{bad}");
    }
}
