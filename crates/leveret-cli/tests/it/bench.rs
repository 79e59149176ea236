//! `leveret bench` with a small load: what it prints, not how fast it is.

use crate::support::leveret;

const CHAIN: [&str; 10] = [
    "bench",
    "chain",
    "--nodes",
    "3",
    "--runs",
    "20",
    "--concurrency",
    "4",
    "--input-bytes",
    "8",
];

/// The parameters, the places and the mode that it ran with, and figures that agree with each other.
#[test]
fn a_chain_is_reported_as_json() {
    let ended = leveret(&[&CHAIN[..], &["--json"]].concat());
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let report = ended.json();
    for (name, value) in [
        ("nodes", 3),
        ("runs", 20),
        ("concurrency", 4),
        ("input_bytes", 8),
    ] {
        assert_eq!(report[name], value, "{name}");
    }
    for (name, text) in [
        ("store", "a temporary SQLite file"),
        ("broker", "the embedded broker"),
        ("status", "off"),
    ] {
        assert_eq!(report[name], text, "{name}");
    }
    let figure = |name: &str| report[name].as_f64().filter(|figure| *figure > 0.0);
    let figure = |name: &str| figure(name).unwrap_or_else(|| panic!("{name} in {report}"));
    let close = |a: f64, b: f64| (a / b - 1.0).abs() < 0.01;
    let runs_per_s = figure("runs_per_s");
    assert!(close(figure("steps_per_s"), 3.0 * runs_per_s), "{report}");
    assert!(
        close(figure("step_us") * figure("steps_per_s"), 1e6),
        "{report}"
    );
    assert!(close(figure("elapsed_ms") * runs_per_s, 20e3), "{report}");
    let [p50, p99, max] = ["p50_ms", "p99_ms", "max_ms"].map(figure);
    assert!(
        p50 <= p99 && p99 <= max && max <= figure("elapsed_ms"),
        "{report}"
    );
}

/// The mode in force is told, whether it was asked for or is the default.
#[test]
fn the_status_mode_is_told() {
    let last = |more: &[&str]| {
        let ended = leveret(&[&CHAIN[..], more].concat());
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ended.stdout.lines().last().unwrap_or_default().to_owned()
    };
    let with = "20 runs of 3 nodes, 4 at once, 8 bytes of input, on a temporary SQLite file and the embedded broker";
    assert_eq!(last(&[]), format!("{with}, status messages off"));
    let told = last(&["--status", "final"]);
    assert_eq!(told, format!("{with}, status messages final"));
}

/// What is published for others is consumed, all of it: of 20 runs and 2 to warm up, two status messages a node and a completion.
#[test]
fn what_is_published_is_consumed() {
    let more = ["--status", "all", "--completion", "true", "--json"];
    let ended = leveret(&[&CHAIN[..], &more].concat());
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(ended.json()["messages"], 22 * (3 * 2 + 1), "{ended:?}");
    assert_eq!(ended.stderr, "");
}

/// Parameters, and figures that agree with each other.
#[test]
fn a_batch_is_reported_as_json() {
    let args = [
        "bench",
        "batch",
        "--items",
        "30",
        "--runs",
        "2",
        "--concurrency",
        "8",
        "--json",
    ];
    let ended = leveret(&args);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let report = ended.json();
    for (name, value) in [("items", 30), ("runs", 2), ("concurrency", 8)] {
        assert_eq!(report[name], value, "{name}");
    }
    let figure = |name: &str| report[name].as_f64().expect(name);
    let items = figure("items_per_s") * figure("elapsed_ms") / 1e3;
    assert!((items / 60.0 - 1.0).abs() < 0.01, "{report}");
    let us = figure("items_per_s") * figure("item_us");
    assert!((us / 1e6 - 1.0).abs() < 0.01, "{report}");
    let told = leveret(&args[..6]);
    let last = told.stdout.lines().last().unwrap_or_default();
    assert!(
        last.starts_with("2 runs of 30 items, one after the other, on "),
        "{told:?}"
    );
}
