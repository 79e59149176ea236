//! Strange texts, strange and large states; what cannot be is refused.

use leveret_core::json::Json;
use serde_json::{Value, json};

use super::world::{
    FAR, With, World, bodies, handled, order, outgoing, parked, put, put_with, query, repeated,
};
use crate::service::documents::{
    Commit, Committed, DocumentsError, FIELD_BYTES_MAX, KEY_BYTES_MAX, Key, NAME_BYTES_MAX,
    NewState, Put, Query,
};

/// Whatever a text is in SQL, JSON, or the adapter's own encoding.
const STRANGE: [&str; 9] = [
    "'; DROP TABLE documents; --",
    "\"quoted\" \\ back\\\\slash",
    "{a,b}",
    "NULL",
    "$1 ?1 %s",
    "1:2:3",
    "  spaces  ",
    "\u{1f407}\u{0301}\u{feff}\u{202e}",
    "ÄÖÜäöüß\u{10ffff}",
];

pub(super) async fn strange_texts(world: &mut World) {
    for text in STRANGE {
        let commit = put_with(text, 0, &[("status", text)]).handling(&[text]);
        let mut commit = commit.deadline(text, world.now).parking(text, 1);
        commit.publish = vec![outgoing(text, text), outgoing(text, "behind")];
        let held = world.done(commit).await;
        assert_eq!(bodies(&held), [text, "behind"]);
        assert_eq!(&*held[0].outgoing.lane, text);
        assert!(world.sent(&held).await.is_empty());
        let found = world.load(text).await;
        assert_eq!((&*found.key.id, found.version), (text, 1));
        assert_eq!(found.parked[0].handled, handled(text));
        assert_eq!(world.listed(&[("status", text)]).await, [text]);
        let due = world.claim_deadlines(10).await;
        assert_eq!((&due[0].key, &*due[0].name), (&order(text), text));
        let again = Commit::default().handling(&[text]);
        assert_eq!(world.commit(again).await, repeated(&[text]));
    }
    assert_eq!(world.listed(&[]).await.len(), STRANGE.len());
    // Empty and long values are values.
    let long = "é".repeat(FIELD_BYTES_MAX / 2);
    let fields = [("status", ""), ("user_id", &*long)];
    world.done(put_with("long", 0, &fields)).await;
    assert_eq!(world.listed(&fields).await, ["long"]);
    let id = "x".repeat(KEY_BYTES_MAX);
    world.done(put(&id, 0, &json!(1))).await;
    assert_eq!(world.load(&id).await.version, 1);
    let name = "n".repeat(NAME_BYTES_MAX);
    let commit = put("names", 0, &json!(1)).handling(&[&name]);
    let commit = commit
        .deadline(&name, FAR)
        .publishing(&[&format!("{name}: x")]);
    assert_eq!(world.done(commit).await.len(), 1);
}

pub(super) async fn strange_json(world: &mut World) {
    let states = [
        r"null",
        r"[]",
        r#""""#,
        r#""a\u0000b""#,
        r"12345678901234567890123",
        r"1.7976931348623157e308",
        r#"{"":{"":[]},"a":"\ud83d\udc07","b":"\\u0000"}"#,
        r#"{"twice":1,"twice":2}"#,
        r#" {"spaces" : [ 1 , 2 ] } "#,
    ];
    for (number, text) in states.into_iter().enumerate() {
        let id = format!("a{number}");
        let state = Json::from_text(text.to_owned()).expect("JSON");
        let mut commit = put(&id, 0, &Value::Null);
        commit.put[0].state = NewState::Set(state.clone(), [].into());
        world.done(commit).await;
        let found = world.load(&id).await.state;
        assert_eq!(found, Some(state), "{text}");
    }
}

pub(super) async fn megabytes(world: &mut World) {
    let large = json!({ "text": "x\u{1f407}\"".repeat(400_000) });
    let mut commit = put("a", 0, &large).handling(&["m"]);
    commit.publish = vec![outgoing("l", &"y".repeat(1 << 20))];
    let message = parked(&order("a"), &"p".repeat(100), 1);
    commit.park = vec![message.clone()];
    commit.park[0].message.body = vec![7; 1 << 20].into();
    let held = world.done(commit).await;
    assert_eq!(held[0].outgoing.publication.message.body.len(), 1 << 20);
    let found = world.load("a").await;
    assert_eq!(found.state, Some(large.into()));
    assert_eq!(found.parked[0].message.body.len(), 1 << 20);
    world.release(&held).await;
    let again = world.claim(1).await;
    assert_eq!(again, held);
}

/// A batch of any size, a few of which cannot be done.
pub(super) async fn large_batch(world: &mut World) {
    const COUNT: usize = 2000;
    world.done(put("a7", 0, &json!(0))).await;
    world.done(Commit::default().handling(&["m8"])).await;
    let batch: Vec<Commit> = (0..COUNT)
        .map(|number| {
            let fields = [("status", "new"), ("user_id", &*(number % 10).to_string())];
            let commit = put_with(&format!("a{number}"), 0, &fields);
            let commit = commit.handling(&[&format!("m{number}")]).deadline("d", FAR);
            commit.publishing(&[&format!("l{}: {number}", number % 500)])
        })
        .collect();
    let committed = world.batch(&batch).await;
    let done = committed
        .iter()
        .enumerate()
        .filter(|(_, committed)| matches!(committed, Committed::Done(_)));
    assert_eq!(done.count(), COUNT - 2);
    let count = query(&[("user_id", "7")], 1).filter;
    let count = world.documents.count("order", &count).await.unwrap();
    assert_eq!(count, COUNT as u64 / 10 - 1);
    let backlog = world.documents.backlog().await.unwrap();
    assert_eq!((backlog.outgoing, backlog.deadlines), (1998, 1998));
}

/// Nothing asked for is nothing done.
pub(super) async fn nothing(world: &mut World) {
    assert!(world.batch(&[]).await.is_empty());
    assert!(world.done(Commit::default()).await.is_empty());
    assert!(world.documents.load(&[]).await.unwrap().is_empty());
    assert!(world.sent(&[]).await.is_empty());
    world.release(&[]).await;
    assert!(world.claim(0).await.is_empty());
    assert!(world.claim_deadlines(0).await.is_empty());
    let pruned = world
        .documents
        .prune(world.now, std::time::Duration::ZERO, 0);
    assert_eq!(pruned.await.unwrap(), 0);
    world.documents.ping().await.unwrap();
}

/// What cannot be is told, and nothing of its batch happens.
pub(super) async fn invalid_is_refused(world: &mut World) {
    let changed = |change: &dyn Fn(&mut Put)| {
        let mut commit = put("bad", 0, &json!(1));
        change(&mut commit.put[0]);
        commit
    };
    let key = |kind: &str, id: &str| {
        let key = Key::new(kind, id);
        changed(&move |put| put.key = key.clone())
    };
    let field = |name: &str, value: &str| put_with("bad", 0, &[(name, value)]);
    let other = parked(&order("other"), "m", 1);
    let long = "x".repeat(1001);
    let bad = [
        key("nobody's", "a"),
        key("order", ""),
        key("order", "a\0b"),
        key("order", "a\nb"),
        key("order", &long),
        changed(&|put| put.version = 0),
        changed(&|put| put.version = u64::MAX),
        field("undeclared", "x"),
        field("status", "a\0b"),
        field("status", &long),
        put("bad", 0, &json!(1)).handling(&[""]),
        put("bad", 0, &json!(1)).handling(&["a\0b"]),
        put("bad", 0, &json!(1)).handling(&[&long]),
        put("bad", 0, &json!(1)).handling(&["m", "m"]),
        put("bad", 0, &json!(1)).publishing(&[": x"]),
        put("bad", 0, &json!(1)).publishing(&[&format!("{long}: x")]),
        put("bad", 0, &json!(1)).deadline("", FAR),
        put("bad", 0, &json!(1)).parking("m", u64::MAX),
        Commit {
            park: vec![other],
            ..put("bad", 0, &json!(1))
        },
        Commit {
            unpark: vec![(order("other"), handled("m"))],
            ..put("bad", 0, &json!(1))
        },
        put("good", 0, &json!(1)),
    ];
    for commit in bad {
        let batch = [put("good", 0, &json!(1)), commit];
        let error = world.documents.commit(&batch, world.now).await;
        let error = error.expect_err(&format!("refused: {:?}", batch[1]));
        assert!(matches!(error, DocumentsError::Invalid { .. }), "{error:?}");
        assert!(!error.is_retryable());
        assert!(error.to_string().len() < 400, "{error}");
    }
    assert_eq!(world.load("good").await.version, 0);
    for bad in [
        query(&[("undeclared", "x")], 1),
        query(&[], 0),
        query(&[], 1001),
        Query {
            kind: "nobody's".into(),
            ..query(&[], 1)
        },
        Query {
            after: Some("no cursor".into()),
            ..query(&[], 1)
        },
    ] {
        let error = world.documents.list(&bad).await.expect_err("refused");
        assert!(matches!(error, DocumentsError::Invalid { .. }), "{error:?}");
    }
    assert!(world.documents.load(&[order("")]).await.is_err());
    assert!(world.documents.count("nobody's", &[]).await.is_err());
}

pub(super) async fn closed(world: &mut World) {
    world.documents.close().await;
    world.documents.close().await;
    let error = world
        .documents
        .load(&[order("a")])
        .await
        .expect_err("closed");
    assert!(matches!(error, DocumentsError::Closed), "{error:?}");
    let commit = [put("a", 0, &json!(1))];
    let error = world.documents.commit(&commit, world.now).await;
    assert!(matches!(error, Err(DocumentsError::Closed)), "{error:?}");
    assert!(world.documents.ping().await.is_err());
}
