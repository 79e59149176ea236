//! Everything in one process: needs nothing installed.

use serde_json::{Value, json};

use super::{load::write, rig::client};
use crate::support::{Directory, Server, leveret};

fn start(directory: &Directory) -> Server {
    let data = directory.path();
    let args = ["heart", "--embedded", "--nodes", "3", "--data", &data];
    let rest = ["--listen", "127.0.0.1:0", "--log", "error"];
    Server::start(&[&args[..], &rest].concat())
}

fn operator(server: &Server, args: &[&str]) -> (Option<i32>, Value) {
    let ended = leveret(&[&["cluster", "--heart", &server.url(), "--json"], args].concat());
    (ended.code, ended.json())
}

/// Writes, reads, verifies, stops on SIGTERM with 0, and goes on where it was, a kill included.
#[tokio::test]
async fn a_cluster_in_one_process() {
    let directory = Directory::new();
    let http = client();
    let server = start(&directory);
    let table = json!({ "sql": "CREATE TABLE t (id INTEGER PRIMARY KEY, x REAL DEFAULT (random()))", "ack": "all" });
    let first = write(&http, &server.url(), "table", &table).await;
    server.terminate();
    assert_eq!(server.wait().0, Some(0));
    let server = start(&directory);
    let insert = json!({ "sql": "INSERT INTO t DEFAULT VALUES", "ack": "quorum" });
    assert!(write(&http, &server.url(), "row", &insert).await > first);
    server.kill();
    let server = start(&directory);
    let question = json!({ "sql": "SELECT count(*) FROM t", "level": "latest" });
    let answer = http
        .post(format!("{}/read", server.url()))
        .json(&question)
        .send()
        .await
        .unwrap();
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(answer["rows"], json!([[1]]), "{answer}");
    let (code, verified) = operator(&server, &["verify"]);
    assert_eq!(
        (code, &verified["equal"]),
        (Some(0), &json!(true)),
        "{verified}"
    );
    let (code, status) = operator(&server, &["status"]);
    assert_eq!(
        (code, status["nodes"].as_array().map(Vec::len)),
        (Some(0), Some(3)),
        "{status}"
    );
    server.terminate();
    assert_eq!(server.wait().0, Some(0));
}

#[test]
fn the_demo_ends_equal() {
    let ended = leveret(&["demo", "broadcast", "--json"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let told = ended.json();
    assert_eq!(told["verified"]["equal"], true, "{told}");
    assert_eq!(
        told["verified"]["nodes"].as_array().map(Vec::len),
        Some(4),
        "{told}"
    );
    assert!(
        told["elapsed_ms"].as_u64().is_some_and(|ms| ms < 60_000),
        "{told}"
    );
}

#[test]
fn the_benchmark_has_its_figures() {
    let ended = leveret(&[
        "bench",
        "broadcast",
        "--nodes",
        "3",
        "--writes",
        "100",
        "--clients",
        "8",
        "--json",
    ]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let told = ended.json();
    for figure in [
        "applied_per_s",
        "bare_per_s",
        "quorum_p50_ms",
        "delivery_p50_ms",
        "fdatasync_p50_ms",
    ] {
        assert!(
            told[figure].as_f64().is_some_and(|figure| figure > 0.0),
            "{figure}: {told}"
        );
    }
}
