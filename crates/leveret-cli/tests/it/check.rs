//! Commands that need no server.

use crate::support::{Directory, command, end_of, leveret};

/// Problems are told with file, line and column, one a line, and the exit code is 2.
#[test]
fn check_tells_places() {
    let directory = Directory::new();
    let file = directory.file("bad.yaml", "id: bad\nnodes:\n  - id: a\n    uses: sett\n  - id: b\n    uses: set\nedges:\n  - { source: a, target: c }\n");
    let ended = leveret(&["check", &file]);
    assert_eq!(ended.code, Some(2));
    assert!(
        ended.stdout.contains(&format!("{file}:4:11: error: ")),
        "{ended:?}"
    );
    assert!(ended.stdout.contains("did you mean `set`?"), "{ended:?}");

    let ended = leveret(&["check", "--json", "examples/workflows/hello.yaml", &file]);
    let found = ended.json();
    assert_eq!(
        (
            ended.code,
            found[0]["line"].as_u64(),
            found[0]["severity"].as_str()
        ),
        (Some(2), Some(4), Some("error"))
    );
}

/// Every example is free of errors and of warnings.
#[test]
fn check_finds_nothing_in_the_examples() {
    let files = crate::examples::files();
    let mut args = vec!["check", "--json"];
    args.extend(files.iter().map(String::as_str));
    let ended = leveret(&args);
    assert_eq!((ended.code, ended.json()), (Some(0), serde_json::json!([])));
}

#[test]
fn a_missing_file_is_bad_input() {
    for args in [["run", "nowhere.yaml"], ["graph", "nowhere.yaml"]] {
        let ended = leveret(&args);
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(
            ended.stderr.starts_with("error: cannot read nowhere.yaml"),
            "{ended:?}"
        );
    }
}

/// A file that cannot be read is one problem; the others are checked, and the list is printed.
#[test]
fn check_goes_on_after_an_unreadable_file() {
    let directory = Directory::new();
    let latin = directory.file("latin.yaml", "");
    std::fs::write(&latin, b"id: caf\xe9\n").unwrap();
    let bad = directory.file("bad.yaml", "id: bad\nnodes:\n  - id: a\n    uses: sett\n");
    let files = [
        "nowhere.yaml",
        &latin,
        "examples/workflows/hello.yaml",
        &bad,
    ];

    let ended = leveret(&[&["check", "--json"], &files[..]].concat());
    assert_eq!(ended.code, Some(2), "{ended:?}");
    let found = ended.json();
    for (at, file) in files.iter().enumerate().take(2) {
        assert_eq!(
            (found[at]["file"].as_str(), found[at]["code"].as_str()),
            (Some(*file), Some("unreadable")),
        );
        assert_eq!(found[at]["severity"].as_str(), Some("error"));
        assert_eq!(found[at]["line"].as_u64(), Some(0));
    }
    assert_eq!(found[2]["file"].as_str(), Some(&*bad));

    let ended = leveret(&[&["check"], &files[..]].concat());
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert_eq!((ended.code, &*ended.stderr), (Some(2), ""), "{ended:?}");
    assert!(
        lines[0].starts_with("error: cannot read nowhere.yaml: ")
            && lines[1].starts_with(&format!("error: cannot read {latin}: "))
            && lines[2].starts_with("examples/workflows/hello.yaml: ok")
            && lines[3].starts_with(&format!("{bad}:")),
        "{ended:?}"
    );
}

#[test]
fn graph_draws() {
    let ended = leveret(&["graph", "examples/workflows/hello.yaml"]);
    assert_eq!(ended.code, Some(0));
    assert!(ended.stdout.starts_with("flowchart TD\n"), "{ended:?}");
    let chart = leveret(&["graph", "--json", "examples/workflows/hello.yaml"]).json();
    assert_eq!(chart["mermaid"].as_str(), Some(&*ended.stdout));
}

/// Flags go over variables, variables over the file; what is not known is an error; passwords are not printed.
#[test]
fn settings_have_an_order() {
    let directory = Directory::new();
    directory.file("leveret.toml", "store = 'postgres://u:hush@h/d'\nprefetch = 300\nworker_concurrency = 3\nprefix = 'file-'\n");
    let mut config = command(&["config", "--json", "--prefetch", "700"]);
    config
        .current_dir(directory.path())
        .env("LEVERET_PREFETCH", "600")
        .env("LEVERET_PREFIX", "env-");
    let ended = end_of(config);
    let settings = ended.json();
    assert_eq!(
        (
            settings["prefetch"].as_u64(),
            settings["worker_concurrency"].as_u64()
        ),
        (Some(700), Some(3))
    );
    assert_eq!(
        (settings["prefix"].as_str(), settings["store"].as_str()),
        (Some("env-"), Some("postgres://u:***@h/d"))
    );
    assert!(!ended.stdout.contains("hush"));

    directory.file("leveret.toml", "brokr = 'amqp://u:hush@h'\n");
    let mut config = command(&["config"]);
    let ended = end_of({
        config.current_dir(directory.path());
        config
    });
    assert_eq!(ended.code, Some(2));
    assert!(
        ended.stderr.contains("did you mean 'broker'?") && !ended.stderr.contains("hush"),
        "{ended:?}"
    );
}

/// The first call makes the tables, the second has nothing to do.
#[test]
fn migrate_says_what_it_did() {
    let directory = Directory::new();
    let store = format!("sqlite:{}/new.db", directory.path());
    let first = leveret(&["migrate", "--store", &store, "--json"]).json();
    for (at, component) in [(1, "schedules"), (2, "store")] {
        assert_eq!(
            (first[at]["component"].as_str(), first[at]["from"].as_u64()),
            (Some(component), Some(0))
        );
    }
    let second = leveret(&["migrate", "--store", &store]);
    assert_eq!(second.code, Some(0));
    assert!(
        second
            .stdout
            .lines()
            .all(|line| line.ends_with("up to date")),
        "{second:?}"
    );
    let unknown = leveret(&["migrate", "--store", "oracle:x"]);
    assert_eq!(unknown.code, Some(2));
    assert!(
        unknown
            .stderr
            .contains("there are sqlite:PATH and postgres://"),
        "{unknown:?}"
    );
}

#[test]
fn usage_errors_are_2() {
    for args in [
        &["frobnicate"][..],
        &["run"],
        &["run", "f", "--concurrency", "3"],
        &["up", "--prefetch", "0"],
        &["workflows", "show", ".."],
        &["workflows", "show", ""],
        &["runs", "start", "."],
        &["runs", "start", "hello", "--run-id", ".."],
        &["runs", "show", ".."],
        &["runs", "cancel", "."],
        &["runs", "events", ".."],
    ] {
        assert_eq!(leveret(args).code, Some(2), "{args:?}");
    }
    assert_eq!(
        leveret(&["version", "--json"]).json()["version"].as_str(),
        Some(env!("CARGO_PKG_VERSION"))
    );
    assert!(
        leveret(&["completions", "bash"])
            .stdout
            .contains("_leveret")
    );
}
