//! Against the server of `LEVERET_TEST_POSTGRES_URL`, each replica in a schema of its own, which is dropped at the end.

use std::{collections::BTreeMap, sync::Arc};

use leveret_core::broadcast::{Outcome, Value};
use tokio::sync::Mutex;

use super::{
    super::conformance::{exercise, logged},
    *,
};

/// Schemas by number.
struct Place {
    url: String,
    schemas: Mutex<BTreeMap<u32, String>>,
}

impl Place {
    /// None, and said so, without a server.
    fn new() -> Option<Place> {
        let Ok(url) = std::env::var("LEVERET_TEST_POSTGRES_URL") else {
            println!("skipped: LEVERET_TEST_POSTGRES_URL is not set");
            return None;
        };
        Some(Place {
            url,
            schemas: Mutex::default(),
        })
    }

    async fn options(&self, number: u32) -> PostgresReplicaOptions {
        let mut schemas = self.schemas.lock().await;
        let schema = schemas
            .entry(number)
            .or_insert_with(|| format!("replica test \"{:016x}", fastrand::u64(..)));
        PostgresReplicaOptions {
            schema: schema.clone(),
            readers_max: 2,
            ..PostgresReplicaOptions::new(&self.url)
        }
    }

    async fn open(&self, number: u32) -> PostgresReplica {
        PostgresReplica::connect(self.options(number).await)
            .await
            .unwrap()
    }

    async fn admin(&self) -> Pool {
        Pool::connect(PoolOptions::new(&self.url, "public"))
            .await
            .unwrap()
    }

    async fn remove(self) {
        let pool = self.admin().await;
        let lease = pool.lease().await.unwrap();
        for schema in self.schemas.into_inner().into_values() {
            let drop = format!("DROP SCHEMA IF EXISTS {} CASCADE", quoted(&schema));
            lease.client().batch_execute(&drop).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    let Some(place) = Place::new() else { return };
    exercise(async |number| Arc::new(place.open(number).await) as Arc<dyn Replica>).await;
    place.remove().await;
}

/// Each statement, and what it has to do with: an outcome's code, or that it is done.
#[tokio::test(flavor = "multi_thread")]
async fn statements_have_these_outcomes() {
    let Some(place) = Place::new() else { return };
    let replica = place.open(0).await;
    let table = [
        (
            "CREATE TABLE a (id int PRIMARY KEY, n numeric(10, 2), d date, f float8, at timestamptz DEFAULT now(), CHECK (n > 0))",
            "",
        ),
        (
            "INSERT INTO a (id, n, d) VALUES (1, 1.5, '2024-02-29') RETURNING id, n, d, at",
            "",
        ),
        (
            "INSERT INTO a (id, n) VALUES (1, 1)",
            "POSTGRES_CONSTRAINT_UNIQUE",
        ),
        (
            "INSERT INTO a (id, n) VALUES (2, 0)",
            "POSTGRES_CONSTRAINT_CHECK",
        ),
        (
            "INSERT INTO a (n) VALUES (1)",
            "POSTGRES_CONSTRAINT_NOTNULL",
        ),
        ("CREATE TABLE b (a int REFERENCES a (id))", ""),
        ("INSERT INTO b VALUES (7)", "POSTGRES_CONSTRAINT_FOREIGNKEY"),
        ("INSERT INTO a (id, n) VALUES (3, 1 / 0)", "POSTGRES_22012"),
        (
            "INSERT INTO a (id, n, d) VALUES (3, 1, '2024-02-30')",
            "POSTGRES_22008",
        ),
        ("INSERT INTO a (id) VALUES (random())", "POSTGRES_AUTH"),
        ("INSERT INTO a (id, d) VALUES (3, 'now')", "POSTGRES_AUTH"),
        ("CREATE TABLE c (id serial)", "POSTGRES_AUTH"),
        ("UPDATE a SET n = (SELECT sum(f) FROM a)", "POSTGRES_AUTH"),
        ("UPDATE a SET n = 1 + (SELECT count(f) FROM a)", ""),
        ("ALTER TABLE a DROP COLUMN f", ""),
        ("UPDATE a SET n = (SELECT sum(n) FROM a)", ""),
        ("SELECT 1", "POSTGRES_AUTH"),
        (
            "CREATE INDEX i ON a USING btree (lower(d::text))",
            "POSTGRES_42P17",
        ),
        ("CREATE VIEW v AS SELECT id FROM a", ""),
        ("INSERT INTO v VALUES (9)", ""),
        (
            "UPDATE a SET n = 2 WHERE id = 9 RETURNING a",
            "POSTGRES_AUTH",
        ),
        ("DROP TABLE a", "POSTGRES_2BP01"),
        ("DROP TABLE b", ""),
        ("DROP VIEW v", ""),
        ("DROP TABLE a", ""),
    ];
    for ((sql, expected), seq) in table.into_iter().zip(1..) {
        let applied = replica
            .apply(vec![logged(seq, &[(sql, Vec::new())])])
            .await
            .unwrap();
        let code = match &applied[0].outcome {
            Outcome::Done(_) => "",
            Outcome::Failed(error) => &error.code,
        };
        assert_eq!(code, expected, "{sql}: {applied:?}");
        if seq == 2 {
            let Outcome::Done(results) = &applied[0].outcome else {
                unreachable!()
            };
            let text = |text: &str| Value::Text(text.to_owned());
            let expected = vec![
                Value::Integer(1),
                text("1.50"),
                text("2024-02-29"),
                text("2026-11-21 02:24:25.755+00"),
            ];
            assert_eq!(results[0].rows.as_deref().unwrap(), [expected]);
        }
    }
    place.remove().await;
}

/// An argument that PostgreSQL would take for its own time is an outcome, and so is one that does not fit.
#[tokio::test(flavor = "multi_thread")]
async fn arguments_that_do_not_fit_are_outcomes() {
    let Some(place) = Place::new() else { return };
    let replica = place.open(0).await;
    let table = "CREATE TABLE a (i smallint, at timestamptz, x text)";
    replica
        .apply(vec![logged(1, &[(table, Vec::new())])])
        .await
        .unwrap();
    let text = |text: &str| Value::Text(text.to_owned());
    let cases = [
        (
            "INSERT INTO a (at) VALUES (?)",
            text("now"),
            "POSTGRES_RANGE",
        ),
        (
            "INSERT INTO a (at) VALUES (?)",
            text("2024-01-01T00:00:00Z"),
            "",
        ),
        ("INSERT INTO a (x) VALUES (?)", text("now"), ""),
        (
            "INSERT INTO a (x) VALUES (?)",
            text("a\0b"),
            "POSTGRES_22021",
        ),
        (
            "INSERT INTO a (x) VALUES (?)",
            Value::Blob(vec![1]),
            "POSTGRES_RANGE",
        ),
        (
            "INSERT INTO a (i) VALUES (?)",
            Value::Integer(i64::MAX),
            "POSTGRES_22003",
        ),
        (
            "INSERT INTO a (i) VALUES (?)",
            Value::Real(1.5),
            "POSTGRES_22P02",
        ),
        (
            "INSERT INTO a (i) VALUES (1)",
            Value::Null,
            "POSTGRES_RANGE",
        ),
    ];
    for ((sql, value, expected), seq) in cases.into_iter().zip(2..) {
        let applied = replica
            .apply(vec![logged(seq, &[(sql, vec![value])])])
            .await
            .unwrap();
        let code = match &applied[0].outcome {
            Outcome::Done(_) => "",
            Outcome::Failed(error) => &error.code,
        };
        assert_eq!(code, expected, "{sql}: {applied:?}");
    }
    place.remove().await;
}

/// One process has the database; when its connections are cut, it applies nothing twice and goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_cut_connection_loses_and_doubles_nothing() {
    let Some(place) = Place::new() else { return };
    let replica = place.open(0).await;
    replica
        .apply(vec![logged(1, &[("CREATE TABLE a (id int)", Vec::new())])])
        .await
        .unwrap();
    let admin = place.admin().await;
    let schema = place.options(0).await.schema;
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND classid = $1::int8::oid AND objid = (hashtext($2)::int8 & 4294967295)::oid";
    let mut seq = 2;
    let mut faults = 0;
    for round in 0..20 {
        let write = logged(
            seq,
            &[("INSERT INTO a VALUES (?)", vec![Value::Integer(seq as i64)])],
        );
        let class = i64::from(LOCK_CLASS);
        let cutting = async {
            tokio::time::sleep(Duration::from_micros(round * 150)).await;
            let lease = admin.lease().await.unwrap();
            lease.client().query(cut, &[&class, &schema]).await.unwrap();
        };
        let (applied, ()) = tokio::join!(replica.apply(vec![write]), cutting);
        faults += usize::from(applied.is_err());
        let standing = loop {
            match replica.standing().await {
                Ok(standing) => break standing,
                Err(ReplicaError::LocalFault { .. }) => {}
                Err(error) => panic!("{error:?}"),
            }
        };
        assert!(applied.is_err() || standing.position.seq == seq);
        seq = standing.position.seq + 1;
    }
    assert!(faults > 0, "something was cut");
    let rows = replica
        .query(Query {
            statement: leveret_core::broadcast::Statement {
                sql: "SELECT count(*), count(DISTINCT id) FROM a".to_owned(),
                args: Vec::new(),
            },
            min_seq: seq - 1,
            limits: super::super::ReadLimits::default(),
        })
        .await
        .unwrap();
    let count = Value::Integer(seq as i64 - 2);
    assert_eq!(rows.rows, [[count.clone(), count]]);
    place.remove().await;
}
