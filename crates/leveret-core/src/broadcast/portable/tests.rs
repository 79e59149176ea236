use super::*;

#[test]
fn what_is_portable_is_rewritten() {
    let check = |sql: &str, expect: &str| {
        let portable = portable(sql).unwrap_or_else(|refusal| panic!("{sql}: {refusal}"));
        assert_eq!(portable.sql, expect);
    };
    check(
        "INSERT INTO t (a, B) VALUES (?, ?)",
        "insert into t ( a , b ) values ( $1 , $2 )",
    );
    check(
        "UPDATE t SET a = ?2 WHERE b = ? -- c ?\n;",
        "update t set a = $2 where b = $3",
    );
    check(
        "INSERT INTO t VALUES ('it''s ? random()', \"A?\" /* now() /* ? */ */)",
        "insert into t values ( 'it''s ? random()' , \"A?\" )",
    );
    check(
        "INSERT INTO t VALUES (CURRENT_TIMESTAMP, now(), current_date)",
        "insert into t values ( (_leveret_second()::timestamp) , _leveret_now() , (_leveret_second()::date) )",
    );
    check(
        "CREATE TABLE t (id integer PRIMARY KEY, at timestamptz DEFAULT now(), n numeric(10, 2), CHECK (n > 0))",
        "create table t ( id bigint primary key , at timestamptz default _leveret_now() , n numeric ( 10 , 2 ) , check ( n > 0 ) )",
    );
    check(
        "UPDATE t SET a = a::text || lower(?), b = 1.5e-3 WHERE c >= -.5 AND d IS NOT DISTINCT FROM 1",
        "update t set a = a :: text || lower ( $1 ) , b = 1.5e-3 where c >= - .5 and d is not distinct from 1",
    );
    check(
        "WITH a (x) AS (SELECT 1), b (y) AS (SELECT 2) INSERT INTO t SELECT x FROM a",
        "with a ( x ) as ( select 1 ) , b ( y ) as ( select 2 ) insert into t select x from a",
    );
    check("DROP TABLE IF EXISTS t", "drop table if exists t");
    check(
        "INSERT INTO t (share, identity) VALUES (1, 2)",
        "insert into t ( share , identity ) values ( 1 , 2 )",
    );
    check(
        "CREATE UNIQUE INDEX i ON t (lower(a))",
        "create unique index i on t ( lower ( a ) )",
    );
    check(
        "ALTER TABLE t ADD COLUMN x int, DROP y",
        "alter table t add column x bigint , drop y",
    );
    check(
        "CREATE TABLE t (\"int\" INT, real REAL NOT NULL, integer int, b blob, CHECK (CAST(b AS int) > 0))",
        "create table t ( \"int\" bigint , real double precision not null , integer bigint , b bytea , check ( cast ( b as int ) > 0 ) )",
    );
    check(
        "ALTER TABLE t ALTER COLUMN int TYPE real, RENAME int TO real",
        "alter table t alter column int type double precision , rename int to real",
    );
    check(
        "INSERT INTO t VALUES (1) ON CONFLICT (id) DO UPDATE SET a = excluded.a RETURNING *",
        "insert into t values ( 1 ) on conflict ( id ) do update set a = excluded . a returning *",
    );
    check(
        "INSERT INTO t SELECT string_agg(x, ',' ORDER BY x) FROM u",
        "insert into t select string_agg ( x , ',' order by x ) from u",
    );
    check(
        "INSERT INTO t VALUES ('now is the time for it')",
        "insert into t values ( 'now is the time for it' )",
    );
}

#[test]
fn what_may_differ_is_refused_by_name() {
    let check = |sql: &str, expect: &str| {
        let refusal = portable(sql).expect_err(sql);
        assert!(refusal.contains(expect), "{sql}: {refusal}");
    };
    check("INSERT INTO t VALUES (random())", "random()");
    check("INSERT INTO t VALUES (\"random\"())", "random()");
    check(
        "INSERT INTO t SELECT 1 FROM a JOIN b ON random() < 0.5",
        "random()",
    );
    check(
        "INSERT INTO t SELECT * FROM generate_series(1, 3)",
        "generate_series()",
    );
    check("DELETE FROM t USING gen() WHERE a = 1", "gen()");
    check("UPDATE t SET a = gen_random_uuid()", "gen_random_uuid()");
    check("UPDATE t SET a = nextval('s')", "nextval()");
    check("CREATE TABLE t (id serial)", "SERIAL");
    check(
        "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY)",
        "IDENTITY",
    );
    check(
        "CREATE TABLE t (id uuid DEFAULT gen_random_uuid())",
        "gen_random_uuid()",
    );
    check("CREATE TEMP TABLE t (x int)", "CREATE TEMP");
    check("CREATE FUNCTION f() RETURNS int AS 'x'", "CREATE FUNCTION");
    check("CREATE SEQUENCE s", "CREATE SEQUENCE");
    check(
        "DELETE FROM t WHERE id IN (SELECT id FROM t LIMIT 1)",
        "LIMIT",
    );
    check(
        "INSERT INTO t SELECT DISTINCT ON (a) a FROM u",
        "DISTINCT ON",
    );
    check(
        "INSERT INTO t SELECT row_number() OVER () FROM u",
        "row_number()",
    );
    check(
        "INSERT INTO t SELECT string_agg(x, (SELECT y FROM u ORDER BY y)) FROM u",
        "ORDER BY",
    );
    check(
        "INSERT INTO t SELECT * FROM u ON CONFLICT DO NOTHING",
        "ON CONFLICT",
    );
    check(
        "UPDATE t SET a = u.a FROM u WHERE u.id = t.id",
        "UPDATE … FROM",
    );
    check(
        "WITH x AS (DELETE FROM t RETURNING *) INSERT INTO u SELECT * FROM x",
        "at one place",
    );
    check("WITH x AS (SELECT 1) SELECT * FROM x", "SELECT is no write");
    check("SELECT 1", "SELECT");
    check("INSERT INTO t VALUES ('now')", "CURRENT_TIMESTAMP");
    check("INSERT INTO t VALUES ('Today 10:00')", "CURRENT_TIMESTAMP");
    check("INSERT INTO t VALUES (current_timestamp(3))", "precision");
    check("INSERT INTO t VALUES ($1)", "$");
    check("INSERT INTO t VALUES ($$x$$)", "$");
    check("INSERT INTO t VALUES (:a)", "parameters are ?");
    check("INSERT INTO t VALUES (E'\\'')", "prefix");
    check("INSERT INTO t VALUES (X'00')", "prefix");
    check("INSERT INTO t VALUES (U&'x')", "U&");
    check(
        "INSERT INTO t VALUES (1); DELETE FROM t",
        "several statements",
    );
    check(
        "INSERT INTO _leveret_replica VALUES (1)",
        "belongs to leveret",
    );
    check(
        "INSERT INTO \"_Leveret_x\" VALUES (1)",
        "belongs to leveret",
    );
    check("DELETE FROM pg_catalog.pg_class", "pg_catalog");
    check("DELETE FROM public.t", "without a schema");
    check("DELETE FROM t WHERE ctid = '(0,1)'", "CTID");
    check("ALTER TABLE t ADD x int, OWNER TO u", "OWNER");
    check("ALTER TABLE t SET SCHEMA s", "SET");
    check("VACUUM", "VACUUM");
    check("SET x = 1", "SET");
    check("/* x", "not closed");
    check("INSERT INTO t VALUES ('x", "not closed");
    check("", "no statement");
    check(";", "no statement");
}

#[test]
fn questions() {
    let asked = portable_question("SELECT random(), now() FROM t WHERE a = ? LIMIT 3;").unwrap();
    assert_eq!(
        asked.sql,
        "select random ( ) , now ( ) from t where a = $1 limit 3"
    );
    assert_eq!((asked.verb, asked.parameters), (Verb::Question, 1));
    for sql in [
        "INSERT INTO t VALUES (1)",
        "SELECT pg_terminate_backend(1)",
        "SELECT set_config('a', 'b', false)",
        "SELECT * FROM _leveret_replica",
        "TABLE t",
        "SELECT 1; SELECT 2",
    ] {
        assert!(portable_question(sql).is_err(), "{sql}");
    }
}

#[test]
fn sums_of_an_unknown_order_are_told() {
    let unordered = |sql: &str| portable(sql).unwrap().unordered;
    assert_eq!(
        unordered("UPDATE t SET a = (SELECT sum(x) FROM u)").as_deref(),
        Some("sum")
    );
    assert_eq!(
        unordered("UPDATE t SET a = (SELECT avg(x ORDER BY id) FROM u)"),
        None
    );
    assert_eq!(unordered("UPDATE t SET a = (SELECT count(x) FROM u)"), None);
}

/// Whatever the text, it is refused or written in a form that is read the same again.
#[test]
fn what_is_written_reads_the_same() {
    let pieces = [
        "INSERT INTO t VALUES (",
        ")",
        "?",
        "?3",
        "'",
        "''",
        "\"",
        "/*",
        "*/",
        "--",
        "\n",
        "a",
        ".",
        "1",
        "1e",
        "::",
        ",",
        ";",
        "$",
        "ä",
        "<=",
        "-",
        "now()",
    ];
    let mut random = 7_u64;
    for _ in 0..20_000 {
        let mut sql = "INSERT INTO t VALUES (".to_owned();
        for _ in 0..8 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            sql.push_str(pieces[(random >> 33) as usize % pieces.len()]);
        }
        let Ok(written) = portable(&sql) else {
            continue;
        };
        let again = tokens(&written.sql.replace('$', "?")).unwrap();
        let first = tokens(&sql).unwrap();
        assert!(again.len() >= first.len(), "{sql}: {}", written.sql);
    }
}
