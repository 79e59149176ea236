//! What every replica must do. An adapter's test is a call of [`exercise`] with a way to open databases by number: the same number, after a
//! close, opens the same one again. Statements are of the portable subset.

use std::{sync::Arc, time::Duration};

use leveret_core::{
    broadcast::{Logged, Outcome, Position, Statement, Value, Write, rolled},
    time::Timestamp,
};

use super::{Applied, Contents, Query, ReadError, ReadLimits, Replica, ReplicaError};

/// 2026-11-21T02:24:23.755Z.
const AT: Timestamp = Timestamp(1_795_227_863_755);

const TABLE: &str =
    "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT UNIQUE, at TEXT DEFAULT CURRENT_TIMESTAMP)";

/// Runs all checks, each over databases of its own. Panics where a promise is broken.
pub async fn exercise(open: impl AsyncFn(u32) -> Arc<dyn Replica>) {
    belongs_to_one_cluster(&*open(0).await, &*open(1).await).await;
    applies_in_order(&*open(2).await).await;
    mistakes_are_outcomes(&*open(3).await).await;
    is_equal_however_it_is_delivered(&*open(4).await, &*open(5).await).await;
    refuses_what_is_not_the_users(&*open(6).await).await;
    keeps_values(&*open(7).await).await;
    answers_questions(&*open(8).await).await;
    bounds_questions(&*open(9).await).await;
    answers_of_one_position(open(10).await).await;
    is_rebuilt(&*open(11).await, &*open(12).await).await;
    survives_a_call_that_is_dropped(&*open(13).await).await;
    let replica = open(14).await;
    let before = fill(&*replica).await;
    replica.close().await;
    replica.close().await;
    drop(replica);
    goes_on_where_it_was(&*open(14).await, before).await;
}

/// A write at its place.
pub fn logged(seq: u64, statements: &[(&str, Vec<Value>)]) -> Logged {
    let statements = statements.iter().map(|(sql, args)| Statement {
        sql: (*sql).to_owned(),
        args: args.clone(),
    });
    Logged {
        position: Position { epoch: 1, seq },
        write: Write {
            statements: statements.collect(),
            at: AT + Duration::from_secs(seq),
            seed: 7,
        },
    }
}

fn one(seq: u64, sql: &str) -> Logged {
    logged(seq, &[(sql, Vec::new())])
}

fn insert(seq: u64, id: i64, v: &str) -> Logged {
    let args = vec![Value::Integer(id), Value::Text(v.to_owned())];
    logged(seq, &[("INSERT INTO t (id, v) VALUES (?, ?)", args)])
}

async fn apply_all(replica: &dyn Replica, writes: Vec<Logged>) -> Vec<Applied> {
    let applied = replica.apply(writes).await.unwrap();
    for one in &applied {
        assert!(matches!(one.outcome, Outcome::Done(_)), "{one:?}");
    }
    applied
}

fn failed(applied: &Applied) -> &str {
    match &applied.outcome {
        Outcome::Failed(error) => &error.code,
        Outcome::Done(_) => panic!("{applied:?}"),
    }
}

fn query(sql: &str) -> Query {
    Query {
        statement: Statement {
            sql: sql.to_owned(),
            args: Vec::new(),
        },
        min_seq: 0,
        limits: ReadLimits::default(),
    }
}

async fn number(replica: &dyn Replica, sql: &str) -> i64 {
    let rows = replica.query(query(sql)).await.unwrap();
    match rows.rows[0][0] {
        Value::Integer(number) => number,
        ref other => panic!("{other:?}"),
    }
}

async fn belongs_to_one_cluster(replica: &dyn Replica, other: &dyn Replica) {
    let standing = replica.standing().await.unwrap();
    assert_eq!(
        (
            standing.position,
            standing.hash,
            standing.cluster,
            standing.has_tables
        ),
        (Position::default(), 0, None, false)
    );
    assert_ne!(
        standing.database_id,
        other.standing().await.unwrap().database_id
    );
    replica.adopt("c1", false).await.unwrap();
    apply_all(replica, vec![one(1, TABLE)]).await;
    replica.adopt("c1", false).await.unwrap();
    let refused = replica.adopt("c2", true).await;
    assert!(matches!(refused, Err(ReplicaError::OtherCluster { other }) if other == "c1"));
    let standing = replica.standing().await.unwrap();
    assert_eq!(
        (standing.cluster.as_deref(), standing.has_tables),
        (Some("c1"), true)
    );

    apply_all(other, vec![one(1, TABLE)]).await;
    let refused = other.adopt("c1", false).await;
    assert!(matches!(refused, Err(ReplicaError::NotEmpty)));
    other.adopt("c1", true).await.unwrap();
}

async fn applies_in_order(replica: &dyn Replica) {
    assert_eq!(replica.apply(Vec::new()).await.unwrap(), []);
    apply_all(replica, vec![one(1, TABLE), insert(2, 1, "a")]).await;
    for wrong in [insert(2, 2, "b"), insert(4, 2, "b")] {
        let seq = wrong.position.seq;
        let refused = replica.apply(vec![wrong]).await;
        assert!(matches!(refused, Err(ReplicaError::OutOfOrder { seq: found }) if found == seq));
    }
    let gap = replica
        .apply(vec![insert(3, 2, "b"), insert(5, 3, "c")])
        .await;
    assert!(matches!(gap, Err(ReplicaError::OutOfOrder { seq: 5 })));
    assert_eq!(number(replica, "SELECT count(*) FROM t").await, 1);
    let mut next = insert(3, 2, "b");
    next.position.epoch = 4;
    let applied = apply_all(replica, vec![next]).await;
    assert_eq!(applied[0].position, Position { epoch: 4, seq: 3 });
    let earlier = replica.apply(vec![insert(4, 3, "c")]).await;
    assert!(matches!(earlier, Err(ReplicaError::OutOfOrder { seq: 4 })));
    let standing = replica.standing().await.unwrap();
    assert_eq!(
        (standing.position, standing.hash),
        (applied[0].position, applied[0].hash)
    );

    let known = replica.outcomes(0, 10).await.unwrap();
    let seqs: Vec<u64> = known.iter().map(|one| one.position.seq).collect();
    assert_eq!(seqs, [1, 2, 3]);
    assert_eq!(replica.outcomes(1, 1).await.unwrap(), known[1..2]);
    assert_eq!(replica.outcomes(3, 10).await.unwrap(), []);
}

/// A mistake undoes its own write, all of it, and nobody else's; it is recorded and hashed like any other outcome.
async fn mistakes_are_outcomes(replica: &dyn Replica) {
    let second = [
        ("INSERT INTO t (id, v) VALUES (2, 'b')", Vec::new()),
        ("INSERT INTO t (id, v) VALUES (1, 'c')", Vec::new()),
    ];
    let writes = vec![
        one(1, TABLE),
        insert(2, 1, "a"),
        logged(3, &second),
        one(4, "INSERT INTO missing VALUES (1)"),
        one(5, "INSERT INTO t (id, v) VALUES (?, ?)"),
        one(6, "no statement at all"),
        one(7, ""),
        one(8, "INSERT INTO t (id, v) VALUES (8, 'h'); DELETE FROM t"),
        logged(
            9,
            &[
                ("CREATE TABLE u (x INTEGER)", Vec::new()),
                ("INSERT INTO u VALUES (missing)", Vec::new()),
            ],
        ),
        one(10, "INSERT INTO u VALUES (1)"),
        insert(11, 3, "d"),
    ];
    let applied = replica.apply(writes).await.unwrap();
    assert!(failed(&applied[2]).contains("CONSTRAINT"), "{applied:?}");
    let Outcome::Failed(error) = &applied[2].outcome else {
        unreachable!()
    };
    assert_eq!(error.statement, 1);
    for mistake in &applied[3..10] {
        failed(mistake);
    }
    let mut hash = 0;
    for one in &applied {
        hash = rolled(hash, one.position, &one.outcome);
        assert_eq!(one.hash, hash);
    }
    assert_eq!(replica.outcomes(0, 100).await.unwrap(), applied);
    assert_eq!(number(replica, "SELECT count(*) FROM t").await, 2);
    assert_eq!(number(replica, "SELECT max(id) FROM t").await, 3);
}

/// How the portable digest of the contents begins after [`mixed`] writes.
const MIXED_DIGEST: [u8; 4] = [48, 207, 194, 168];

fn mixed() -> Vec<Logged> {
    let mut writes = vec![
        one(1, TABLE),
        one(
            2,
            "CREATE TABLE cells (id INTEGER PRIMARY KEY, value INTEGER NOT NULL)",
        ),
    ];
    writes.extend((0..4).map(|id| {
        logged(
            3 + id,
            &[(
                "INSERT INTO cells VALUES (?, 1)",
                vec![Value::Integer(id as i64)],
            )],
        )
    }));
    writes.extend((7..60).map(|seq| {
        let (id, number) = (
            Value::Integer((seq % 4) as i64),
            Value::Integer((seq * 7 % 100) as i64),
        );
        logged(
            seq,
            &[
                (
                    "UPDATE cells SET value = (value * 31 + ?) % 1000003 WHERE id = ?",
                    vec![number.clone(), id.clone()],
                ),
                (
                    "INSERT INTO t (id, v) VALUES (?, ?)",
                    vec![
                        Value::Integer(seq as i64 % 40),
                        Value::Text(format!("v{seq}")),
                    ],
                ),
                (
                    "UPDATE cells SET value = value + 1 WHERE value > ? RETURNING id, value",
                    vec![number],
                ),
            ],
        )
    }));
    writes.push(one(60, "DELETE FROM t WHERE id % 3 = 0"));
    writes
}

/// Together or one by one: outcomes, hash and contents are the same, the write's time included.
async fn is_equal_however_it_is_delivered(together: &dyn Replica, single: &dyn Replica) {
    let applied = together.apply(mixed()).await.unwrap();
    assert!(
        applied
            .iter()
            .any(|one| matches!(one.outcome, Outcome::Failed(_)))
    );
    for (write, expected) in mixed().into_iter().zip(&applied) {
        assert_eq!(
            single.apply(vec![write]).await.unwrap(),
            std::slice::from_ref(expected)
        );
    }
    let contents = together.contents(Contents::All).await.unwrap();
    assert_eq!(contents.0, Position { epoch: 1, seq: 60 });
    assert_eq!(single.contents(Contents::All).await.unwrap(), contents);
    for replica in [together, single] {
        let (position, digest) = replica.contents(Contents::Portable).await.unwrap();
        assert_eq!(position, contents.0);
        assert_eq!(digest[..4], MIXED_DIGEST, "replicas of all kinds have it");
    }
    let rows = single
        .query(query("SELECT at FROM t WHERE id = 7"))
        .await
        .unwrap();
    let Value::Text(at) = &rows.rows[0][0] else {
        panic!("{rows:?}")
    };
    assert!(
        at.starts_with("2026-11-21 02:24:30"),
        "the write's time: {at}"
    );
    apply_all(
        single,
        vec![one(61, "UPDATE cells SET value = value + 1 WHERE id = 0")],
    )
    .await;
    assert_ne!(
        single.contents(Contents::All).await.unwrap().1,
        contents.1,
        "contents that differ digest differently"
    );
    apply_all(together, vec![one(61, "CREATE INDEX i ON t (v)")]).await;
    assert_ne!(
        together.contents(Contents::All).await.unwrap().1,
        contents.1,
        "and so does the schema"
    );
}

async fn refuses_what_is_not_the_users(replica: &dyn Replica) {
    apply_all(replica, vec![one(1, TABLE), insert(2, 1, "a")]).await;
    let refused = [
        "UPDATE _leveret_replica SET seq = 7",
        "DROP TABLE _leveret_outcomes",
        "BEGIN",
        "COMMIT",
        "ROLLBACK",
        "SAVEPOINT x",
        "RELEASE leveret",
        "CREATE TEMP TABLE x (y INTEGER)",
    ];
    let writes = refused
        .iter()
        .zip(3..)
        .map(|(sql, seq)| one(seq, sql))
        .collect();
    let applied = replica.apply(writes).await.unwrap();
    for (sql, one) in refused.iter().zip(&applied) {
        assert!(failed(one).ends_with("_AUTH"), "{sql}: {one:?}");
    }
    let seq = applied.last().unwrap().position.seq + 1;
    let applied = replica.apply(vec![one(seq, "VACUUM")]).await.unwrap();
    failed(&applied[0]);
    let last = applied[0].position;
    assert_eq!(replica.standing().await.unwrap().position, last);
    let fine = "INSERT INTO t (id, v) VALUES (2, 'random() BEGIN; COMMIT') -- PRAGMA";
    apply_all(replica, vec![one(last.seq + 1, fine)]).await;
}

async fn keeps_values(replica: &dyn Replica) {
    let table =
        "CREATE TABLE k (id INTEGER PRIMARY KEY, i BIGINT, r DOUBLE PRECISION, x TEXT, b BYTEA)";
    let rows = [
        vec![
            Value::Integer(1),
            Value::Integer(i64::MIN),
            Value::Real(0.1 + 0.2),
            Value::Text("ä'\"\u{10FFFF}\\".to_owned()),
            Value::Blob(vec![0, 255, 92]),
        ],
        vec![
            Value::Integer(2),
            Value::Integer(i64::MAX),
            Value::Real(f64::INFINITY),
            Value::Text(String::new()),
            Value::Blob(Vec::new()),
        ],
        vec![
            Value::Integer(3),
            Value::Integer(0),
            Value::Real(5e-324),
            Value::Text("a\nb".to_owned()),
            Value::Blob(vec![39]),
        ],
        vec![
            Value::Integer(4),
            Value::Null,
            Value::Null,
            Value::Null,
            Value::Null,
        ],
    ];
    let mut writes = vec![one(1, table)];
    writes.extend(rows.iter().zip(2..).map(|(row, seq)| {
        logged(
            seq,
            &[(
                "INSERT INTO k VALUES (?, ?, ?, ?, ?) RETURNING *",
                row.clone(),
            )],
        )
    }));
    let applied = apply_all(replica, writes).await;
    for (row, one) in rows.iter().zip(&applied[1..]) {
        let Outcome::Done(results) = &one.outcome else {
            unreachable!()
        };
        assert_eq!(results[0].rows_affected, 1);
        assert_eq!(
            results[0].columns.as_deref().unwrap(),
            ["id", "i", "r", "x", "b"]
        );
        assert_eq!(
            results[0].rows.as_deref().unwrap(),
            std::slice::from_ref(row)
        );
    }
    let all = replica
        .query(query("SELECT * FROM k ORDER BY id"))
        .await
        .unwrap();
    assert_eq!(all.rows, rows);
}

async fn answers_questions(replica: &dyn Replica) {
    apply_all(
        replica,
        vec![one(1, TABLE), insert(2, 1, "a"), insert(3, 2, "b")],
    )
    .await;
    let before = replica.contents(Contents::All).await.unwrap();
    let rows = replica
        .query(query("SELECT id AS n, v FROM t ORDER BY id DESC;"))
        .await
        .unwrap();
    assert_eq!(
        (rows.seq, &rows.columns[..]),
        (3, &["n".to_owned(), "v".to_owned()][..])
    );
    assert_eq!(
        rows.rows[0],
        [Value::Integer(2), Value::Text("b".to_owned())]
    );
    let mut argued = query("SELECT v FROM t WHERE id = ? AND v = ?");
    argued.statement.args = vec![Value::Integer(1), Value::Text("a".to_owned())];
    assert_eq!(replica.query(argued).await.unwrap().rows.len(), 1);
    assert_eq!(
        number(replica, "WITH x AS (SELECT 7 AS a) SELECT a FROM x").await,
        7
    );
    let none = replica
        .query(query("SELECT * FROM t WHERE id > 9"))
        .await
        .unwrap();
    assert_eq!((none.columns.len(), none.rows.len()), (3, 0));
    for sql in [
        "INSERT INTO t (id) VALUES (9)",
        "DELETE FROM t",
        "DROP TABLE t",
        "BEGIN",
        "COMMIT",
        "SELECT * FROM _leveret_replica",
        "SELECT 1; SELECT 2",
        "",
    ] {
        let refused = replica.query(query(sql)).await;
        assert!(
            matches!(refused, Err(ReadError::NotReadOnly { .. })),
            "{sql}: {refused:?}"
        );
    }
    for sql in ["SELECT missing FROM t", "SELECT ?"] {
        let mistaken = replica.query(query(sql)).await;
        assert!(
            matches!(mistaken, Err(ReadError::Sql { .. })),
            "{sql}: {mistaken:?}"
        );
    }
    assert_eq!(replica.contents(Contents::All).await.unwrap(), before);
}

async fn bounds_questions(replica: &dyn Replica) {
    apply_all(
        replica,
        vec![one(1, TABLE), insert(2, 1, "a"), insert(3, 2, "b")],
    )
    .await;
    let mut ahead = query("SELECT 1");
    ahead.min_seq = 4;
    ahead.limits.time = Duration::from_millis(50);
    let late = replica.query(ahead.clone()).await;
    assert!(
        matches!(late, Err(ReadError::Behind { at: 3, min_seq: 4 })),
        "{late:?}"
    );
    ahead.limits.time = Duration::from_secs(30);
    let (answer, _) = tokio::join!(replica.query(ahead), replica.apply(vec![insert(4, 3, "c")]));
    assert_eq!(answer.unwrap().seq, 4);
    let mut few = query("SELECT v FROM t");
    few.limits.rows_max = 2;
    let many = replica.query(few).await;
    assert!(
        matches!(many, Err(ReadError::Limit { what: "rows" })),
        "{many:?}"
    );
    let mut small = query("SELECT v FROM t");
    small.limits.bytes_max = 10;
    let large = replica.query(small).await;
    assert!(
        matches!(large, Err(ReadError::Limit { what: "bytes" })),
        "{large:?}"
    );
    let mut endless = query(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000000000) SELECT count(*) FROM n",
    );
    endless.limits.time = Duration::from_millis(300);
    let endless = replica.query(endless).await;
    assert!(
        matches!(endless, Err(ReadError::Limit { what: "time" })),
        "{endless:?}"
    );
    assert_eq!(
        number(replica, "SELECT count(*) FROM t").await,
        3,
        "it goes on"
    );
}

/// While writes go on, the seq of an answer is that of the rows.
async fn answers_of_one_position(replica: Arc<dyn Replica>) {
    apply_all(&*replica, vec![one(1, TABLE)]).await;
    let writer = replica.clone();
    let writing = tokio::spawn(async move {
        for seq in 2..60_u64 {
            apply_all(&*writer, vec![insert(seq, seq as i64, &seq.to_string())]).await;
        }
    });
    loop {
        let is_last = writing.is_finished();
        let rows = replica
            .query(query("SELECT count(*) FROM t"))
            .await
            .unwrap();
        assert_eq!(rows.rows[0], [Value::Integer(rows.seq as i64 - 1)]);
        if is_last {
            break;
        }
    }
    writing.await.unwrap();
}

/// By replay, and by a snapshot where there are such.
async fn is_rebuilt(replica: &dyn Replica, other: &dyn Replica) {
    replica.adopt("c1", false).await.unwrap();
    replica.apply(mixed()).await.unwrap();
    let before = (
        replica.contents(Contents::All).await.unwrap(),
        replica.standing().await.unwrap(),
    );
    replica.clear().await.unwrap();
    let cleared = replica.standing().await.unwrap();
    assert_eq!(
        (cleared.position, cleared.hash, cleared.has_tables),
        (Position::default(), 0, false)
    );
    assert_eq!(cleared.cluster, before.1.cluster);
    assert_eq!(cleared.database_id, before.1.database_id);
    assert_eq!(replica.outcomes(0, 10).await.unwrap(), []);
    replica.apply(mixed()).await.unwrap();
    assert_eq!(
        (
            replica.contents(Contents::All).await.unwrap(),
            replica.standing().await.unwrap()
        ),
        before
    );

    let path =
        std::env::temp_dir().join(format!("leveret-conformance-{}.db", uuid::Uuid::now_v7()));
    let snapshot = match replica.snapshot(path.clone()).await {
        Err(ReplicaError::Unsupported { .. }) => return,
        taken => taken.unwrap(),
    };
    other.restore(snapshot).await.unwrap();
    std::fs::remove_file(path).unwrap();
    let restored = other.standing().await.unwrap();
    assert_eq!(
        (restored.position, restored.hash),
        (before.1.position, before.1.hash)
    );
    assert_ne!(restored.database_id, before.1.database_id);
    assert_eq!(other.contents(Contents::All).await.unwrap(), before.0);
}

/// Somebody stops waiting: the position tells what is applied, and nothing is half done.
async fn survives_a_call_that_is_dropped(replica: &dyn Replica) {
    apply_all(replica, vec![one(1, TABLE)]).await;
    for wait_us in [0, 100, 300, 1_000, 3_000, 10_000] {
        let seq = replica.standing().await.unwrap().position.seq;
        let writes = (1..=20).map(|n| insert(seq + n, (seq + n) as i64, &(seq + n).to_string()));
        let applying = replica.apply(writes.collect());
        drop(tokio::time::timeout(Duration::from_micros(wait_us), applying).await);
        let standing = replica.standing().await.unwrap();
        let rows = number(replica, "SELECT count(*) FROM t").await;
        assert_eq!(rows, standing.position.seq as i64 - 1);
        assert!(
            [seq, seq + 20].contains(&standing.position.seq),
            "{standing:?}"
        );
    }
}

type Before = ((Position, [u8; 32]), super::Standing);

async fn fill(replica: &dyn Replica) -> Before {
    replica.adopt("c1", false).await.unwrap();
    replica.apply(mixed()).await.unwrap();
    (
        replica.contents(Contents::All).await.unwrap(),
        replica.standing().await.unwrap(),
    )
}

async fn goes_on_where_it_was(replica: &dyn Replica, before: Before) {
    assert_eq!(
        (
            replica.contents(Contents::All).await.unwrap(),
            replica.standing().await.unwrap()
        ),
        before
    );
    assert_eq!(replica.outcomes(0, 100).await.unwrap().len(), 60);
    apply_all(replica, vec![one(61, "DELETE FROM t")]).await;
}
