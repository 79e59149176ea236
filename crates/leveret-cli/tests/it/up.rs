//! `leveret up`, `serve` and `worker`; `leveret workflows` and `leveret runs` against them.

use serde_json::{Value, json};

use crate::support::{
    Directory, Ended, Server, command, end_of, get, get_text, leveret, payments, until,
};

/// `leveret up` on a free port with data in a directory.
fn up(directory: &Directory) -> Server {
    start("up", directory)
}

fn start(role: &str, directory: &Directory) -> Server {
    let data = directory.path();
    Server::start(&[
        role,
        "--listen",
        "127.0.0.1:0",
        "--data",
        &data,
        "--log",
        "warn",
    ])
}

/// A command against a server, which must end well.
fn at(server: &Server, args: &[&str]) -> Value {
    let ended = ended_at(server, args);
    assert_eq!(ended.code, Some(0), "{args:?}: {ended:?}");
    ended.json()
}

fn ended_at(server: &Server, args: &[&str]) -> Ended {
    let url = server.url();
    leveret(&[args, &["--json", "--server", &url]].concat())
}

#[test]
fn workflows_and_runs_go_through_the_server() {
    let directory = Directory::new();
    let server = up(&directory);
    assert_eq!(at(&server, &["workflows", "list"]), json!([]));
    let put = at(
        &server,
        &["workflows", "put", "examples/workflows/hello.yaml"],
    );
    assert_eq!(
        (&put["workflow_id"], &put["version"]),
        (&json!("hello"), &json!(1))
    );
    assert_eq!(
        at(&server, &["workflows", "list"])[0]["workflow_id"],
        json!("hello")
    );
    assert_eq!(
        at(&server, &["workflows", "show", "hello"])["definition"]["id"],
        json!("hello")
    );

    let result = at(
        &server,
        &["runs", "start", "hello", "--wait", "--run-id", "first"],
    );
    assert_eq!(result["output"], json!("Hello, leveret with 4 legs!"));
    let shown = at(&server, &["runs", "show", "first"]);
    for name in ["output", "status", "error", "duration_ms"] {
        assert_eq!(shown[name], result[name], "{name}");
    }
    let text = leveret(&["runs", "show", "first", "--server", &server.url()]);
    for part in [
        "workflow      hello, version 1",
        "asked for at  20",
        "input         null",
    ] {
        assert!(text.stdout.contains(part), "{part}: {text:?}");
    }
    let begun = at(
        &server,
        &["runs", "start", "hello", "--idempotency-key", "k"],
    );
    let again = at(
        &server,
        &["runs", "start", "hello", "--idempotency-key", "k"],
    );
    assert_eq!(begun["run_id"], again["run_id"]);
    let listed = at(
        &server,
        &["runs", "list", "--workflow", "hello", "--limit", "1"],
    );
    assert_eq!(listed["items"][0]["run_id"], begun["run_id"]);
    assert!(listed["next"].is_string());
    let next = listed["next"].as_str().unwrap();
    assert_eq!(
        at(&server, &["runs", "list", "--after", next])["items"][0]["run_id"],
        json!("first")
    );
}

/// A run that sleeps is cancelled; its events end with it; what failed or is unknown has its exit code.
#[test]
fn runs_are_cancelled_and_followed() {
    let directory = Directory::new();
    let server = up(&directory);
    let file = directory.file(
        "long.yaml",
        "id: long\nnodes:\n  - id: rest\n    uses: sleep\n    params: { duration: 1h }\n",
    );
    at(&server, &["workflows", "put", &file]);
    at(&server, &["runs", "start", "long", "--run-id", "r"]);
    assert_eq!(
        at(&server, &["runs", "cancel", "r"])["status"],
        json!("cancelled")
    );
    assert_eq!(
        at(&server, &["runs", "show", "r"])["status"],
        json!("cancelled")
    );
    let events = ended_at(&server, &["runs", "events", "r"]);
    assert_eq!(events.code, Some(1), "{events:?}");
    assert!(
        events.stdout.lines().last().unwrap().contains("cancelled"),
        "{events:?}"
    );

    at(
        &server,
        &["workflows", "put", "examples/workflows/error-handling.yaml"],
    );
    let failed = ended_at(
        &server,
        &[
            "runs",
            "start",
            "error-handling",
            "--wait",
            "--input",
            r#"{"age": 1}"#,
        ],
    );
    assert_eq!(
        (failed.code, failed.json()["status"].as_str()),
        (Some(1), Some("failed"))
    );
    let unknown = ended_at(&server, &["runs", "show", "nobody"]);
    assert_eq!((unknown.code, unknown.stdout.as_str()), (Some(2), ""));
    assert!(unknown.stderr.contains("nobody"), "{unknown:?}");
    let bad = directory.file("bad.yaml", "id: bad\nnodes:\n  - id: a\n    uses: sett\n");
    let refused = ended_at(&server, &["workflows", "put", &bad]);
    assert_eq!(refused.code, Some(2));
    assert!(
        refused.stderr.contains("did you mean `set`?"),
        "{refused:?}"
    );
}

/// `--status` of `runs list` is the state of runs, whatever the setting of that name says.
#[test]
fn runs_are_listed_by_status() {
    let directory = Directory::new();
    let server = up(&directory);
    at(
        &server,
        &["workflows", "put", "examples/workflows/hello.yaml"],
    );
    at(&server, &["runs", "start", "hello", "--wait"]);
    for (status, count) in [("completed", 1), ("failed", 0)] {
        for setting in [None, Some("final")] {
            let url = server.url();
            let mut list = command(&["runs", "list", "--status", status, "--json"]);
            list.args(["--server", &url]);
            list.envs(setting.map(|setting| ("LEVERET_STATUS", setting)));
            let ended = end_of(list);
            assert_eq!(ended.code, Some(0), "{ended:?}");
            let items = ended.json()["items"].as_array().map(Vec::len);
            assert_eq!(items, Some(count), "{status} {setting:?}");
        }
    }
}

#[test]
fn a_server_that_is_away_is_named() {
    let ended = leveret(&["runs", "list", "--server", "http://127.0.0.1:9"]);
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.stderr.contains("http://127.0.0.1:9") && ended.stderr.contains("leveret up"),
        "{ended:?}"
    );
}

/// SIGTERM while a step waits for a slow answer: the step ends, is recorded once, and the process exits with 0.
#[test]
fn sigterm_drains() {
    let payments = payments();
    let directory = Directory::new();
    let server = up(&directory);
    let workflow = format!(
        "id: slow\nnodes:\n  - id: charge\n    uses: http\n    params:\n      url: {}/charges\n      json: {{ order_id: o, amount_cents: 100, currency: EUR, token: tok_stalled_x }}\n",
        payments.url()
    );
    let file = directory.file("slow.yaml", &workflow);
    at(&server, &["workflows", "put", &file]);
    at(&server, &["runs", "start", "slow", "--run-id", "r"]);
    // The service charges at once and answers 3 s later: the step is under way now, and for some time.
    until("the step charges", || {
        get(&payments.address, "/charges")["charges"][0].is_object()
    });
    server.terminate();
    assert_eq!(server.wait(), (Some(0), String::new()));

    let server = up(&directory);
    let result = at(&server, &["runs", "show", "r"]);
    assert_eq!(
        (&result["status"], &result["steps"]["charge"]["attempts"]),
        (&json!("completed"), &json!(1))
    );
    assert_eq!(
        get(&payments.address, "/charges")["counts"]["requests"],
        json!(1)
    );
}

/// Two processes cannot share a file, and the second says so; nor can they share an address.
#[test]
fn what_is_in_use_is_named() {
    let directory = Directory::new();
    let server = up(&directory);
    let data = directory.path();
    let second = leveret(&["up", "--listen", "127.0.0.1:0", "--data", &data]);
    assert_eq!(second.code, Some(1));
    assert!(
        second.stderr.contains("in use by another process"),
        "{second:?}"
    );
    let other = Directory::new();
    let second = leveret(&["up", "--listen", &server.address, "--data", &other.path()]);
    assert_eq!(second.code, Some(1));
    assert!(
        second.stderr.contains("give another --listen"),
        "{second:?}"
    );
}

/// A server does not start on a store that would lose what it accepts.
#[test]
fn a_store_that_is_no_file_is_refused() {
    for store in [
        "sqlite:",
        "sqlite::memory:",
        "sqlite:file:x?mode=memory",
        "memory:",
    ] {
        let ended = leveret(&["up", "--listen", "127.0.0.1:0", "--store", store]);
        assert_eq!((ended.code, &*ended.stdout), (Some(2), ""), "{ended:?}");
        let help = "a store needs a file, such as sqlite:leveret.db";
        assert!(ended.stderr.contains(help), "{ended:?}");
    }
}

/// A worker tells health and metrics where it is told to, and has no API.
#[test]
fn a_worker_can_be_watched() {
    let directory = Directory::new();
    let server = start("worker", &directory);
    let ready = get(&server.address, "/health/ready");
    assert_eq!(ready["parts"]["consumer"], json!("ready"));
    let metrics = get_text(&server.address, "/metrics");
    assert!(metrics.contains("state=\"live\"} 1"), "{metrics}");
    let api = get(&server.address, "/api/v1/runs");
    assert_eq!(api["status"], json!(404), "{api}");
    server.terminate();
    assert_eq!(server.wait().0, Some(0));
}

/// `serve` answers and does not work; `up` on the same data then does the work.
#[test]
fn serve_does_not_work() {
    let directory = Directory::new();
    let server = start("serve", &directory);
    at(
        &server,
        &["workflows", "put", "examples/workflows/hello.yaml"],
    );
    at(&server, &["runs", "start", "hello", "--run-id", "r"]);
    assert_eq!(
        get(&server.address, "/health/ready")["status"],
        json!("ready")
    );
    assert_eq!(
        at(&server, &["runs", "show", "r"])["status"],
        json!("running")
    );
    server.terminate();
    assert_eq!(server.wait().0, Some(0));
    let server = up(&directory);
    let events = ended_at(&server, &["runs", "events", "r"]);
    assert_eq!(events.code, Some(0));
    assert_eq!(
        at(&server, &["runs", "show", "r"])["status"],
        json!("completed")
    );
}

/// Who looks into the log of a server sees which run failed, where and why.
#[test]
fn failures_are_in_the_log() {
    let directory = Directory::new();
    let text =
        "id: bad\nnodes:\n  - { id: broken, uses: fail, params: { message: no such luck } }\n";
    let (file, log) = (directory.file("bad.yaml", text), directory.file("log", ""));
    let args = ["up", "--listen", "127.0.0.1:0", "--data", &directory.path()];
    let log_file = std::fs::File::options().append(true).open(&log).unwrap();
    let server = Server::logging_to(log_file, command(&args));
    at(&server, &["workflows", "put", &file]);
    let ended = ended_at(
        &server,
        &["runs", "start", "bad", "--wait", "--run-id", "r-1"],
    );
    assert_eq!(ended.code, Some(1), "{ended:?}");
    server.terminate();
    assert_eq!(server.wait().0, Some(0));
    let log = std::fs::read_to_string(&log).unwrap();
    for part in [
        "step 'broken' of run r-1 failed",
        "run r-1 of 'bad' failed",
        "no such luck",
    ] {
        assert!(log.contains(part) && log.contains("WARN"), "{part}: {log}");
    }
    let run = leveret(&["run", &file]);
    assert!(!run.stderr.contains("WARN"), "{run:?}");
}

#[test]
fn schedules_go_through_the_server() {
    let directory = Directory::new();
    let server = up(&directory);
    at(
        &server,
        &["workflows", "put", "examples/workflows/hello.yaml"],
    );
    let put = ["schedules", "put", "nightly", "--workflow", "hello"];
    let cron = [
        "--cron",
        "0 2 * * *",
        "--time-zone",
        "Europe/Berlin",
        "--input",
        "[1]",
    ];
    let made = at(&server, &[&put[..], &cron[..]].concat());
    assert_eq!(
        (&made["overlap"], &made["input"]),
        (&json!("skip"), &json!([1]))
    );
    assert_eq!(made["next"].as_array().unwrap().len(), 5);
    let again = at(&server, &["schedules", "show", "nightly"]);
    assert_eq!(again, made);
    assert_eq!(at(&server, &["schedules", "list"]), json!([made]));
    assert_eq!(
        at(&server, &["schedules", "pause", "nightly"])["paused"],
        true
    );
    let run_id = at(&server, &["schedules", "run", "nightly"])["run_id"].take();
    assert_eq!(
        at(&server, &["schedules", "history", "nightly"])[0]["run_id"],
        run_id
    );
    assert_eq!(
        at(&server, &["schedules", "resume", "nightly"])["paused"],
        false
    );
    let shown = leveret(&["schedules", "list", "--server", &server.url()]);
    assert!(
        shown.stdout.contains("0 2 * * * Europe/Berlin"),
        "{shown:?}"
    );
    let never = ended_at(&server, &[&put[..], &["--cron", "0 0 30 2 *"]].concat());
    assert_eq!(never.code, Some(2));
    assert!(
        never.stderr.contains("'0 0 30 2 *' is never due"),
        "{never:?}"
    );
    assert_eq!(
        at(&server, &["schedules", "delete", "nightly"])["deleted"],
        true
    );
    assert_eq!(at(&server, &["schedules", "list"]), json!([]));
    assert_eq!(
        ended_at(&server, &["schedules", "show", "nightly"]).code,
        Some(2)
    );
}

/// Who waits for a run is told its name at once, and waits on when the server goes away and comes back.
#[test]
fn waiting_outlives_the_server() {
    let directory = Directory::new();
    let text = "id: naps\nnodes:\n  - { id: nap, uses: sleep, params: { duration: 3s } }\n";
    let (file, log) = (directory.file("naps.yaml", text), directory.file("log", ""));
    let data = format!("{}/data", directory.path());
    let start = |address: &str| {
        Server::start(&["up", "--listen", address, "--data", &data, "--log", "warn"])
    };
    let server = start("127.0.0.1:0");
    at(&server, &["workflows", "put", &file]);
    let (url, address) = (server.url(), server.address.clone());
    let log_file = std::fs::File::options().append(true).open(&log).unwrap();
    let wait = [
        "runs", "start", "naps", "--wait", "--json", "--run-id", "r-1", "--server", &url,
    ];
    let waiting = command(&wait)
        .stdout(std::process::Stdio::piped())
        .stderr(log_file)
        .spawn()
        .unwrap();
    until("the run has begun", || {
        std::fs::read_to_string(&log).unwrap().contains("run r-1\n")
    });
    server.kill();
    let server = start(&address);
    let output = waiting.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&result["run_id"], &result["status"]),
        (&json!("r-1"), &json!("completed"))
    );
    server.kill();
}

/// Who asks a server that is starting waits for it.
#[test]
fn a_server_may_be_starting() {
    let directory = Directory::new();
    let server = up(&directory);
    let (url, address) = (server.url(), server.address.clone());
    server.kill();
    let asking = command(&["runs", "list", "--json", "--server", &url])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let data = directory.path();
    let server = Server::start(&["up", "--listen", &address, "--data", &data, "--log", "warn"]);
    let output = asking.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    server.kill();
}

/// A server takes definitions of node types that only its workers have, if its settings name them; the text is checked by the command.
#[test]
fn node_types_of_workers_are_declared() {
    let directory = Directory::new();
    let text = "id: w\nnodes:\n  - { id: a, uses: charge-card, params: { any: thing } }\n";
    let (file, settings) = (
        directory.file("w.yaml", text),
        directory.file("s.toml", "[nodes.charge-card]\n"),
    );
    let bad = directory.file("bad.yaml", "id: w\nnodes:\n  - { id: a }\n");
    let data = format!("{}/data", directory.path());
    let start = |more: &[&str]| {
        let args = [
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--data",
            &data,
            "--log",
            "error",
        ];
        Server::start(&[&args[..], more].concat())
    };
    let server = start(&[]);
    let refused = ended_at(&server, &["workflows", "put", &file]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(
        refused
            .stderr
            .contains("nodes[0].uses: there is no node type `charge-card`"),
        "{refused:?}"
    );
    server.kill();
    let server = start(&["--config", &settings]);
    assert_eq!(
        at(&server, &["workflows", "put", &file])["version"],
        json!(1)
    );
    let refused = ended_at(&server, &["workflows", "put", &bad]);
    assert!(refused.stderr.contains("bad.yaml:3:5"), "{refused:?}");
}
