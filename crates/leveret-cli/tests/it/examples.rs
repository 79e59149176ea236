//! Every workflow under `examples/workflows/` and in the documentation, with its output.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::{Directory, Ended, Server, get, leveret, payments, root, until};

/// The workflows, as paths from the root.
pub(crate) fn files() -> Vec<String> {
    let entries = std::fs::read_dir(root().join("examples/workflows")).unwrap();
    let mut files: Vec<String> = entries
        .map(|entry| {
            format!(
                "examples/workflows/{}",
                entry.unwrap().file_name().to_str().unwrap()
            )
        })
        .collect();
    files.sort();
    files
}

/// Every example has a test here.
#[test]
fn no_example_is_forgotten() {
    let tests = include_str!("examples.rs");
    for file in files() {
        let name = file
            .trim_start_matches("examples/workflows/")
            .trim_end_matches(".yaml");
        assert!(
            tests.contains(&format!("\"{name}\"")),
            "add a test of {file} to tests/it/examples.rs"
        );
    }
}

fn run(name: &str, more: &[&str]) -> Ended {
    let file = format!("examples/workflows/{name}.yaml");
    let mut args = vec!["run", &*file, "--json"];
    args.extend(more);
    leveret(&args)
}

/// The output of an example that completes.
fn output(name: &str, more: &[&str]) -> Value {
    let ended = run(name, more);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    ended.json()["output"].take()
}

#[test]
fn hello() {
    assert_eq!(output("hello", &[]), json!("Hello, leveret with 4 legs!"));
}

#[test]
fn diamond_join() {
    assert_eq!(
        output("diamond-join", &[]),
        json!({ "count": 3, "words": ["ONE", "TWO", "THREE"] })
    );
    let well = output(
        "diamond-join",
        &["--input", r#"{"words": ["all", "is", "well"]}"#],
    );
    assert_eq!(well["words"], json!(["ALL", "IS", "WELL"]));
}

#[test]
fn any_join() {
    assert_eq!(output("any-join", &[]), json!("the fast one was first"));
}

#[test]
fn a_loop() {
    assert_eq!(output("loop", &[]), json!("8 passes to 1"));
    let long = output("loop", &["--input", r#"{"n": 27}"#]);
    assert_eq!(long, json!("111 passes to 1"));
}

#[test]
fn batch() {
    let expect = "2 of 3 lines have a price, the last one is of pot";
    assert_eq!(output("batch", &[]), json!(expect));
    let items = r#"{"items": [{"sku": "tea", "cents": 450, "count": 2}]}"#;
    let one = output("batch", &["--input", items]);
    assert_eq!(
        one,
        json!("1 of 1 lines have a price, the last one is of tea")
    );
}

#[test]
fn routing() {
    assert_eq!(
        output("routing", &[]),
        json!("4200 cents, decided by nobody within 0 days")
    );
    let abroad = output("routing", &["--input", r#"{"country": "NL"}"#]);
    assert_eq!(
        abroad,
        json!("4200 cents, decided by the office abroad within 3 days")
    );
}

#[test]
fn fallback() {
    assert_eq!(
        output("fallback", &[]),
        json!({ "euro_cents": 4600, "rates_from": "yesterday" })
    );
}

#[test]
fn sleep() {
    let result = run("sleep", &[]).json();
    assert_eq!(result["output"]["message"], json!("Remember the kettle."));
    assert!(result["duration_ms"].as_u64().unwrap() >= 1000);
}

/// Nobody sends a signal to a run of `leveret run`; to one of a server, the command does.
#[test]
fn wait() {
    assert_eq!(output("wait", &[]), json!({ "remind": "it is not paid" }));
    let directory = Directory::new();
    let data = directory.path();
    let server = Server::start(&[
        "up",
        "--listen",
        "127.0.0.1:0",
        "--data",
        &data,
        "--log",
        "error",
    ]);
    let url = server.url();
    let client = |args: &[&str]| leveret(&[args, &["--server", &url, "--json"]].concat());
    let put = client(&["workflows", "put", "examples/workflows/wait.yaml"]);
    assert_eq!(put.code, Some(0), "{put:?}");
    let input = r#"{"order": 7, "patience": "1h"}"#;
    let begun = client(&["runs", "start", "wait", "--run-id", "r", "--input", input]);
    assert_eq!(begun.code, Some(0), "{begun:?}");
    let signal = [
        "runs",
        "signal",
        "r",
        "paid",
        "--data",
        r#"{"cents": 5}"#,
        "--id",
        "p",
    ];
    let taken = client(&signal);
    assert_eq!(taken.code, Some(0), "{taken:?}");
    until("the run ends", || {
        client(&["runs", "show", "r"]).json()["status"] == "completed"
    });
    let shown = client(&["runs", "show", "r"]).json();
    assert_eq!(shown["output"], json!({ "ship": "shipped for 5 cents" }));
    assert_eq!(client(&signal).json()["status"], "repeated");
    let refused = client(&["runs", "signal", "r", "paid"]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(
        refused.stderr.contains("ended before as completed"),
        "{refused:?}"
    );
    let unknown = client(&["runs", "signal", "nobody", "paid"]);
    assert_eq!(unknown.code, Some(2), "{unknown:?}");
    server.terminate();
    assert_eq!(server.wait().0, Some(0));
}

#[test]
fn webhook() {
    assert_eq!(output("webhook", &[]), json!({ "remind": "nobody called" }));
}

/// By the deadline, and by the commands.
#[test]
fn approve() {
    assert_eq!(
        output("approve", &[]),
        json!({ "escalate": "nobody decided" })
    );
    let directory = Directory::new();
    let data = directory.path();
    let server = Server::start(&[
        "up",
        "--listen",
        "127.0.0.1:0",
        "--data",
        &data,
        "--log",
        "error",
    ]);
    let url = server.url();
    let client = |args: &[&str]| leveret(&[args, &["--server", &url, "--json"]].concat());
    let put = client(&["workflows", "put", "examples/workflows/approve.yaml"]);
    assert_eq!(put.code, Some(0), "{put:?}");
    for run_id in ["r", "s"] {
        let input = r#"{"cents": 5, "patience": "1h"}"#;
        let begun = client(&[
            "runs", "start", "approve", "--run-id", run_id, "--input", input,
        ]);
        assert_eq!(begun.code, Some(0), "{begun:?}");
    }
    let waiting = || client(&["runs", "approvals"]).json();
    until("both wait", || {
        waiting()["items"]
            .as_array()
            .is_some_and(|items| items.len() == 2)
    });
    assert_eq!(waiting()["items"][0]["title"], "Pay 5 cents");
    let misfit = client(&[
        "runs",
        "approve",
        "r",
        "manager",
        "--data",
        r#"{"limit": -1}"#,
    ]);
    assert_eq!(misfit.code, Some(2), "{misfit:?}");
    assert!(
        misfit.stderr.contains("limit: must be at least 0"),
        "{misfit:?}"
    );
    let approve = [
        "runs",
        "approve",
        "r",
        "manager",
        "--data",
        r#"{"limit": 9}"#,
        "--by",
        "ada",
    ];
    assert_eq!(client(&approve).code, Some(0));
    assert_eq!(
        client(&approve).code,
        Some(2),
        "a second decision is refused"
    );
    let rejected = client(&["runs", "reject", "s", "manager", "--by", "grace"]);
    assert_eq!(rejected.code, Some(0), "{rejected:?}");
    for (run_id, expect) in [
        ("r", json!({ "pay": "ada pays up to 9" })),
        ("s", json!({ "refuse": "grace refuses" })),
    ] {
        until("it ends", || {
            client(&["runs", "show", run_id]).json()["status"] == "completed"
        });
        assert_eq!(client(&["runs", "show", run_id]).json()["output"], expect);
    }
    server.terminate();
    assert_eq!(server.wait().0, Some(0));
}

#[test]
fn transforms() {
    assert_eq!(
        output("transforms", &[]),
        json!("Noor Jansen, Utrecht: 2 lines, the first for 4990 cents")
    );
}

#[test]
fn map() {
    let expect =
        json!([{ "line": "1 of 2: CAP", "cents": 1000 }, { "line": "2 of 2: MAP", "cents": 90 }]);
    assert_eq!(output("map", &[]), expect);
}

#[test]
fn filter() {
    let kept = output("filter", &["--input", r#"{"minimum": 500}"#]);
    let skus: Vec<_> = kept
        .as_array()
        .unwrap()
        .iter()
        .map(|line| &line["sku"])
        .collect();
    assert_eq!(skus, ["CAP", "TENT"]);
}

#[test]
fn sort() {
    let sorted = output("sort", &[]);
    let skus: Vec<_> = sorted
        .as_array()
        .unwrap()
        .iter()
        .map(|line| &line["sku"])
        .collect();
    assert_eq!(skus, ["CAP", "MAP", "PEN", "BAG"]);
}

#[test]
fn limit() {
    let input = r#"{"words": ["one", "two", "three"], "count": 2}"#;
    assert_eq!(output("limit", &["--input", input]), json!(["one", "two"]));
}

#[test]
fn edit() {
    let expect = json!({
        "id": "o-1",
        "customer": { "name": "NOOR" },
        "lines": [{ "sku": "CAP", "cents": 1000 }],
        "checked": { "by": "Ada" },
    });
    assert_eq!(output("edit", &["--input", r#"{"by": "Ada"}"#]), expect);
}

#[test]
fn datetime() {
    let expect = json!({
        "ordered": "2026-03-28T12:00:00+01:00",
        "next_day": "2026-03-29T12:00:00+02:00",
        "in_24_hours": "2026-03-29T13:00:00+02:00",
        "label": "Saturday, 28 March",
    });
    let input = r#"{"ordered": "28.03.2026 12:00"}"#;
    assert_eq!(output("datetime", &["--input", input]), expect);
}

#[test]
fn error_handling() {
    let refused = run("error-handling", &["--input", r#"{"age": 17}"#]);
    let result = refused.json();
    assert_eq!(
        (refused.code, result["status"].as_str()),
        (Some(1), Some("failed"))
    );
    assert_eq!(
        result["error"]["message"],
        json!("an applicant of 17 years is too young")
    );
    assert_eq!(
        result["steps"]["audit"]["status"],
        json!("completed"),
        "other branches go on"
    );
    let welcome = output("error-handling", &["--input", r#"{"age": 40}"#]);
    assert_eq!(
        welcome["welcome"],
        json!("welcome, your membership comes as a letter")
    );
}

/// The flaky charge needs more than one try, and the one whose answer is late is charged once.
#[test]
fn retry_and_timeout() {
    let payments = payments();
    let ended = run(
        "retry-and-timeout",
        &["--set", &format!("payments_url={}", payments.url())],
    );
    let result = ended.json();
    assert_eq!(
        result["output"],
        json!({ "flaky": "approved", "stalled": "approved" }),
        "{ended:?}"
    );
    for step in ["flaky", "stalled"] {
        assert!(
            result["steps"][step]["attempts"].as_u64().unwrap() > 1,
            "{result:#}"
        );
    }
    let ledger = get(&payments.address, "/charges");
    assert_eq!(
        (
            ledger["charges"].as_array().unwrap().len(),
            &ledger["orders_charged_twice"]
        ),
        (2, &json!([]))
    );
}

/// All orders, once per line: results in the order of the lines, outcomes as the payment service's seed decides, nothing charged
/// twice.
#[test]
fn order_fulfilment() {
    let payments = payments();
    let url = format!("payments_url={}", payments.url());
    let ended = run(
        "order-fulfilment",
        &["--each", "@examples/data/orders.jsonl", "--set", &url],
    );
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for (at, line) in ended.stdout.lines().enumerate() {
        let result: Value = serde_json::from_str(line).unwrap();
        assert_eq!(
            result["output"]["order_id"],
            json!(format!("ord-{:06}", at + 1))
        );
        let outcome = &result["output"]["result"];
        let by = outcome["payment"]["by"].as_str().unwrap_or_default();
        let kind = format!("{} {by}", outcome["status"].as_str().unwrap());
        *counts.entry(kind.trim_end().to_owned()).or_default() += 1;
    }
    let ledger = get(&payments.address, "/charges");
    let charges = ledger["charges"].as_array().unwrap().len();
    let expect =
        json!({ "declined": 25, "fulfilled card": 239, "fulfilled invoice": 24, "rejected": 12 });
    assert_eq!(json!(counts), expect);
    assert_eq!(
        (charges, &ledger["orders_charged_twice"]),
        (239, &json!([]))
    );
}

/// The workflow of the README runs, and says hello.
#[test]
fn the_readme_is_right() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let workflow = readme
        .split("```yaml\n")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap();
    let directory = Directory::new();
    let file = directory.file("greet.yaml", workflow);
    let ended = leveret(&["run", &file, "--json", "--input", r#"{"name": "Ada"}"#]);
    assert_eq!(
        (ended.code, &ended.json()["output"]["hello"]),
        (Some(0), &json!("Hello, Ada!"))
    );
    let ended = leveret(&["run", &file, "--json", "--input", r#"{"name": ""}"#]);
    assert_eq!(
        (ended.code, &ended.json()["error"]["message"]),
        (Some(1), &json!("nobody to greet"))
    );
}

/// What the documentation shows is true: its workflows have neither errors nor warnings, and `leveret run` gives the output that stands as
/// JSON behind a command.
#[test]
fn the_documentation_shows_what_works() {
    let directory = Directory::new();
    for page in ["README.md", "docs/WORKFLOWS.md"] {
        let text = std::fs::read_to_string(root().join(page)).unwrap();
        let blocks = text.split("```yaml\n").skip(1);
        for block in blocks.filter_map(|rest| rest.split("```").next()) {
            let id = block.lines().find_map(|line| line.strip_prefix("id: "));
            let file = directory.file(&format!("{}.yaml", id.unwrap()), block);
            let ended = leveret(&["check", "--json", &file]);
            let found = (ended.code, ended.json());
            assert_eq!(found, (Some(0), json!([])), "{page}: {block}");
        }
        let commands = text.lines().filter_map(|line| {
            let (command, remark) = line.strip_prefix("$ leveret run ")?.split_once(" # ")?;
            Some((command, serde_json::from_str::<Value>(remark).ok()?))
        });
        for (command, expect) in commands {
            let (file, more) = command.trim_end().split_once(' ').unwrap_or((command, ""));
            let file = format!("{}/{}", directory.path(), file.trim_end());
            let mut args = vec!["run", &*file, "--json"];
            let pieces = more.trim().split('\'');
            args.extend(pieces.map(str::trim).filter(|piece| !piece.is_empty()));
            let ended = leveret(&args);
            assert_eq!(ended.json()["output"], expect, "{page}: {command}");
        }
    }
}
