//! Statements and what comes of them, on three replicas: `outcomes.txt` has both. A group of lines is a cluster of its own.

use std::fmt::Write as _;

use super::*;

const TABLE: &str = include_str!("outcomes.txt");

/// To see what would be in the file: run it, and take what it prints.
#[tokio::test]
async fn statements_have_these_outcomes_on_all_replicas() {
    let mut actual = String::new();
    for group in TABLE.split("\n\n") {
        let lines: Vec<&str> = group
            .lines()
            .filter(|line| !line.trim().is_empty() && !line.starts_with("    -> "))
            .collect();
        if lines.is_empty() {
            continue;
        }
        let writes: Vec<_> = lines.iter().map(|line| write(line)).collect();
        for (line, outcome) in lines.iter().zip(three(&writes).await) {
            writeln!(actual, "{line}\n    -> {outcome}").unwrap();
        }
        actual.push('\n');
    }
    println!("{actual}");
    assert_eq!(actual.trim(), TABLE.trim());
}

/// A statement that would never end is ended everywhere, takes nothing along, and the next write is applied.
#[tokio::test]
async fn what_never_ends_is_ended() {
    const FOREVER: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)";
    let outcomes = three(&[
        write("CREATE TABLE t (a)"),
        write(&format!(
            "INSERT INTO t VALUES (1);; {FOREVER} SELECT count(*) FROM n"
        )),
        write("INSERT INTO t VALUES (2) RETURNING (SELECT count(*) FROM t)"),
    ])
    .await;
    assert_eq!(
        outcomes,
        [
            "0",
            "SQLITE_INTERRUPT@1 the write takes more than 50000000 steps",
            "1 #1 [1]"
        ]
    );
}
