//! Statements and arguments by seed: whatever they are, three replicas stay equal, and none stops.

use super::*;

const SEEDS: u64 = 6;
const WRITES: usize = 60;

#[tokio::test]
async fn random_writes_leave_replicas_equal() {
    for seed in 0..SEEDS {
        let writes = any_writes(seed);
        let outcomes = three(&writes).await;
        let done = outcomes
            .iter()
            .filter(|one| !one.starts_with("SQLITE"))
            .count();
        // Most of what is drawn means something, and not all of it works.
        assert!(
            (10..writes.len()).contains(&done),
            "seed {seed}: {outcomes:#?}"
        );
    }
}

/// Writes by seed; the first ones make the tables.
pub(super) fn any_writes(seed: u64) -> Vec<Vec<Statement>> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut writes = vec![
        write("CREATE TABLE a (id INTEGER PRIMARY KEY, x, y UNIQUE, z DEFAULT (random()))"),
        write(
            "CREATE TABLE b (k PRIMARY KEY, x REFERENCES a ON DELETE SET NULL, t DEFAULT CURRENT_TIMESTAMP)",
        ),
        write(
            "CREATE TRIGGER g AFTER UPDATE ON a BEGIN INSERT INTO b (k, x) VALUES (random(), NEW.id); END",
        ),
    ];
    writes.extend((0..WRITES).map(|_| {
        let count = if random.u8(..) < 40 { 3 } else { 1 };
        (0..count).map(|_| any_statement(&mut random)).collect()
    }));
    writes
}

fn any_statement(random: &mut fastrand::Rng) -> Statement {
    const TEXTS: [&str; 24] = [
        "INSERT INTO a (x, y) VALUES (?, ?)",
        "INSERT INTO a (id, x, y) VALUES (?, random(), ?)",
        "INSERT OR IGNORE INTO a (id, y) VALUES (?, ?)",
        "INSERT OR REPLACE INTO a (id, y) VALUES (?, ?)",
        "INSERT OR FAIL INTO a (y) VALUES (?), (?)",
        "INSERT OR ROLLBACK INTO a (y) VALUES (?), (?)",
        "INSERT INTO a (id, y) VALUES (?, ?) ON CONFLICT DO UPDATE SET x = excluded.y RETURNING *",
        "INSERT INTO a (x) SELECT x FROM a ORDER BY random() LIMIT abs(? % 5) + (? IS NULL)",
        "INSERT INTO b (k, x) VALUES (?, ?)",
        "INSERT INTO b (k, x) VALUES (coalesce(?, changes()), coalesce(?, last_insert_rowid()))",
        "UPDATE a SET x = x || ?, y = ? WHERE id % 3 = 0",
        "UPDATE OR IGNORE a SET id = ?, x = datetime('now', '+1 hour') WHERE id = ?",
        "UPDATE a SET x = hex(randomblob(3)) WHERE id > ? OR id < ?",
        "DELETE FROM a WHERE id = ? OR y = ?",
        "DELETE FROM a WHERE rowid IN (SELECT rowid FROM a WHERE x > ? OR ? LIMIT 2)",
        "UPDATE b SET t = strftime('%Y-%m-%d %H:%M:%f', ?, ?)",
        "INSERT INTO a (x, y) VALUES (datetime(?, 'localtime'), date('now', 'localtime', ?))",
        "UPDATE b SET t = julianday(?, 'utc'), x = NULL WHERE strftime('%s', ?, 'localtime') > 0",
        "SELECT *, ?, ? FROM a ORDER BY id DESC LIMIT 3",
        "SELECT group_concat(x), sum(z), avg(y) FROM a WHERE ? IS NOT ?",
        "SELECT printf('%g %d %s', ?, ?, randomblob(2)) || total(x) FROM a",
        "CREATE INDEX IF NOT EXISTS i ON a (x) WHERE ? = ?",
        "SELECT ? FROM missing WHERE ?",
        "ANALYZE",
    ];
    let sql = TEXTS[random.usize(..TEXTS.len())];
    let few = random.u8(..) < 8;
    let count = sql.matches('?').count() - usize::from(few && sql.contains('?'));
    statement(sql, (0..count).map(|_| any_value(random)).collect())
}

fn any_value(random: &mut fastrand::Rng) -> Value {
    const INTEGERS: [i64; 8] = [0, 1, -1, i64::MAX, i64::MAX - 1, i64::MIN, 1 << 53, 42];
    const REALS: [f64; 8] = [
        0.0,
        -0.0,
        0.1,
        1e308,
        5e-324,
        f64::INFINITY,
        -1.5,
        9.007_199_254_740_993e15,
    ];
    const TEXTS: [&str; 8] = [
        "",
        "now",
        "12",
        "ä\u{10FFFF}",
        "a'b\"c",
        "2024-02-30",
        "localtime",
        "a\0b",
    ];
    match random.u8(..6) {
        0 => Value::Null,
        1 => Value::Integer(INTEGERS[random.usize(..8)]),
        2 => Value::Integer(random.i64(-20..20)),
        3 => Value::Real(REALS[random.usize(..8)]),
        4 => Value::Text(TEXTS[random.usize(..8)].to_owned()),
        _ => Value::Blob((0..random.usize(..6)).map(|_| random.u8(..)).collect()),
    }
}
