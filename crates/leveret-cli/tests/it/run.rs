//! `leveret run`.

use serde_json::{Value, json};

use crate::support::{Directory, leveret, leveret_reading};

const ROUTING: &str = "examples/workflows/routing.yaml";

/// The result has exactly the documented fields.
#[test]
fn the_result_is_json() {
    let ended = leveret(&["run", "examples/workflows/hello.yaml", "--json"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let mut result = ended.json();
    let fields: Vec<&str> = result
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let mut expect = [
        "run_id",
        "workflow_id",
        "status",
        "output",
        "error",
        "duration_ms",
        "steps",
    ];
    expect.sort_unstable();
    assert_eq!(fields, expect);
    let step = json!({ "status": "completed", "output": { "name": "leveret", "legs": 4 }, "error": null, "attempts": 1 });
    assert_eq!(result["steps"]["subject"].take(), step);
    assert_eq!(
        (result["status"].as_str(), result["workflow_id"].as_str()),
        (Some("completed"), Some("hello"))
    );
}

/// Without --json, a table of the steps in their order and the output.
#[test]
fn the_table_is_readable() {
    let ended = leveret(&["run", "examples/workflows/hello.yaml"]);
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert!(
        lines[0].starts_with("step")
            && lines[1].starts_with("subject")
            && lines[2].starts_with("greeting"),
        "{ended:?}"
    );
    assert!(ended.stdout.contains("hello completed in "), "{ended:?}");
    assert!(
        ended.stdout.ends_with("\"Hello, leveret with 4 legs!\"\n"),
        "{ended:?}"
    );
}

#[test]
fn inputs_come_in_three_ways() {
    let directory = Directory::new();
    let input = r#"{"amount_cents": 250000, "country": "DE"}"#;
    let at_file = format!("@{}", directory.file("input.json", input));
    let expect = json!("250000 cents, decided by manager within 5 days");
    assert_eq!(
        leveret(&["run", ROUTING, "--json", "--input", input]).json()["output"],
        expect
    );
    assert_eq!(
        leveret(&["run", ROUTING, "--json", "--input", &at_file]).json()["output"],
        expect
    );
    assert_eq!(
        leveret_reading(&["run", ROUTING, "--json", "--input", "-"], input).json()["output"],
        expect
    );
    let set = leveret(&[
        "run",
        ROUTING,
        "--json",
        "--input",
        "{}",
        "--set",
        "amount_cents=250000",
    ]);
    assert_eq!(set.json()["output"], expect);
    let bad = leveret(&["run", ROUTING, "--input", "{amount"]);
    assert_eq!(bad.code, Some(2));
    assert!(
        bad.stderr.contains("not JSON") && bad.stdout.is_empty(),
        "{bad:?}"
    );
}

/// A failed run is exit code 1 and says why; a bad file is 2 and says where.
#[test]
fn exit_codes_tell() {
    let ended = leveret(&[
        "run",
        "examples/workflows/error-handling.yaml",
        "--input",
        r#"{"age": 17}"#,
    ]);
    assert_eq!(ended.code, Some(1));
    assert!(
        ended
            .stdout
            .contains("error at 'refuse': an applicant of 17 years is too young"),
        "{ended:?}"
    );
    let directory = Directory::new();
    let file = directory.file(
        "bad.yaml",
        "id: bad\nnodes:\n  - id: a\n    uses: set\n    params: { output: '{{ inputt }}' }\n",
    );
    let ended = leveret(&["run", &file, "--json"]);
    assert_eq!(ended.code, Some(2));
    assert!(
        ended.stderr.contains(&format!("{file}:5:")) && ended.stdout.is_empty(),
        "{ended:?}"
    );
    let ended = leveret(&[
        "run",
        "examples/workflows/hello.yaml",
        "--store",
        "postgres://u:hush@h/d",
    ]);
    assert_eq!(ended.code, Some(2));
    assert!(
        ended.stderr.contains("--broker") && !ended.stderr.contains("hush"),
        "{ended:?}"
    );
}

/// Results come in the order of the lines, however long each run takes, and one failure is exit code 1.
#[test]
fn each_keeps_the_order() {
    let directory = Directory::new();
    let workflow = "id: wait\nnodes:\n  - id: rest\n    uses: sleep\n    params: { duration: '{{ run.input.ms }}' }\n  - id: out\n    uses: set\n    params: { output: '{{ 100 / run.input.n }}' }\nedges:\n  - { source: rest, target: out }\n";
    let file = directory.file("wait.yaml", workflow);
    let lines = "{\"n\":1,\"ms\":150}\n{\"n\":2,\"ms\":1}\n\n{\"n\":4,\"ms\":60}\n";
    let ended = leveret_reading(
        &["run", &file, "--each", "-", "--json", "--concurrency", "2"],
        lines,
    );
    let outputs: Vec<Value> = ended
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["output"].clone())
        .collect();
    assert_eq!(
        (ended.code, outputs),
        (Some(0), vec![json!(100), json!(50), json!(25)])
    );

    let lines = format!(
        "@{}",
        directory.file("lines.jsonl", "{\"n\":1}\n{\"n\":0}\n{\"n\":5}\n")
    );
    let ended = leveret(&["run", &file, "--each", &lines, "--set", "ms=1"]);
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.stdout.contains("completed     2") && ended.stdout.contains("failed        1"),
        "{ended:?}"
    );
    assert!(
        ended.stdout.contains("line 2: ") && ended.stdout.contains("3 runs in "),
        "{ended:?}"
    );
}

/// A line that is no JSON is told with its number before anything runs.
#[test]
fn each_checks_lines_first() {
    let directory = Directory::new();
    let lines = format!("@{}", directory.file("lines.jsonl", "{}\n{]\n"));
    let ended = leveret(&["run", ROUTING, "--each", &lines, "--json"]);
    assert_eq!((ended.code, &*ended.stdout), (Some(2), ""));
    assert!(
        ended.stderr.contains("lines.jsonl:2: not JSON"),
        "{ended:?}"
    );
}

/// An input that no step could read is refused before anything runs, with its file and the reason.
#[test]
fn an_input_that_cannot_be_read_is_not_null() {
    let directory = Directory::new();
    let file = directory.file("input.json", r#"{"amount_cents": 1e999}"#);
    for given in ["--input", "--each"] {
        let ended = leveret(&["run", ROUTING, given, &format!("@{file}"), "--json"]);
        assert_eq!((ended.code, &*ended.stdout), (Some(2), ""), "{ended:?}");
        assert!(
            ended.stderr.contains(&file) && ended.stderr.contains("number out of range"),
            "{ended:?}"
        );
    }
}

/// What a node or a file says does not drive the terminal, neither in results nor in problems.
#[test]
fn control_characters_are_not_printed() {
    let directory = Directory::new();
    let fail =
        "id: f\nnodes:\n  - { id: a, uses: fail, params: { message: \"x\\e[2J\\r\\u009b7m\" } }\n";
    let unknown = "{\"id\": \"f\", \"nodes\": [{ \"id\": \"a\", \"uses\": \"se\\u001b[2Jt\" }]}";
    let fail = directory.file("fail.yaml", fail);
    let unknown = directory.file("unknown.json", unknown);
    for (args, code) in [
        (&["run", &fail][..], 1),
        (&["run", &fail, "--json"], 1),
        (&["run", &unknown], 2),
        (&["check", &unknown], 2),
    ] {
        let ended = leveret(args);
        assert_eq!(ended.code, Some(code), "{ended:?}");
        let printed = format!("{}{}", ended.stdout, ended.stderr);
        assert!(printed.contains("[2J"), "{ended:?}");
        let drives = |c: char| c.is_control() && c != '\n';
        assert!(!printed.contains(drives), "{ended:?}");
    }
}

/// `log` nodes are seen on stderr; nothing else is said there.
#[test]
fn log_nodes_are_seen() {
    let ended = leveret(&["run", "examples/workflows/sleep.yaml", "--json"]);
    assert!(ended.stderr.contains("Remember the kettle."), "{ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    assert_eq!(
        leveret(&["run", "examples/workflows/sleep.yaml", "--log", "error"]).stderr,
        ""
    );
}

/// A store that is named keeps the run.
#[test]
fn a_named_store_is_kept() {
    let directory = Directory::new();
    let data = directory.path();
    let ended = leveret(&[
        "run",
        "examples/workflows/hello.yaml",
        "--data",
        &data,
        "--json",
    ]);
    assert_eq!(ended.code, Some(0));
    assert!(std::path::Path::new(&data).join("leveret.db").exists());
}
