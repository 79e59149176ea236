//! Rules of the sources that no compiler holds them to: which layer may name which, and the names that are stored or sent.

use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::paths;

/// The sources in a directory, and below it, that are no tests: each with its path from the root and its text up to the tests in it.
fn sources(dir: &str) -> Vec<(String, String)> {
    let mut files = Vec::new();
    collect(&paths::root().join(dir), &mut files).expect("the sources can be read");
    files.sort();
    let read = |path: PathBuf| {
        let name = path.strip_prefix(paths::root()).expect("it is below");
        let text = fs::read_to_string(&path).expect("a source can be read");
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        (name.display().to_string(), code.to_owned())
    };
    files.into_iter().map(read).collect()
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        // Suites and tests name what they please.
        if matches!(&*name, "tests" | "conformance" | "testing") {
            continue;
        }
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// The lines of code, without comments, that have one of these words, as `FILE:LINE: TEXT`.
fn found(sources: &[(String, String)], words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (file, text) in sources {
        for (at, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if words.iter().any(|word| code.contains(word)) {
                found.push(format!("{file}:{}: {}", at + 1, line.trim()));
            }
        }
    }
    found
}

fn expect_none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
}

/// `leveret-core` is pure: no async, no I/O, no clock, no randomness, no logging.
#[test]
fn the_core_is_pure() {
    let core = sources("crates/leveret-core/src");
    assert!(core.len() > 40, "{} files", core.len());
    let words = [
        "tokio",
        "async fn",
        ".await",
        "std::fs",
        "std::net",
        "std::env",
        "std::process",
        "SystemTime",
        "Instant::now",
        "Timestamp::now",
        "tracing::",
        "fastrand",
        "println!",
        "eprintln!",
    ];
    expect_none(
        "leveret-core is pure; take it as an argument",
        &found(&core, &words),
    );
}

/// Nothing below the binary reads the environment or asks for the time of day but by `Clock`.
#[test]
fn nothing_below_the_binary_reads_the_environment() {
    let library = sources("crates/leveret/src");
    assert!(library.len() > 200, "{} files", library.len());
    expect_none(
        "a setting comes as an option",
        &found(&library, &["env::var", "env::args"]),
    );
    let clocks: Vec<String> = found(&library, &["SystemTime::now"])
        .into_iter()
        .filter(|line| !line.starts_with("crates/leveret/src/clock.rs"))
        .collect();
    expect_none("time comes from a `Clock`", &clocks);
}

/// `runtime`, `service` and `broadcast` are siblings: none names another.
#[test]
fn siblings_do_not_name_each_other() {
    let siblings = ["runtime", "service", "broadcast"];
    let mut named = Vec::new();
    for one in siblings {
        let mut own = sources(&format!("crates/leveret/src/{one}"));
        let file = paths::root().join(format!("crates/leveret/src/{one}.rs"));
        let text = fs::read_to_string(file).expect("the module has a file");
        own.push((format!("crates/leveret/src/{one}.rs"), text));
        for other in siblings.iter().filter(|other| **other != one) {
            let inner = [format!("crate::{other}"), format!("    {other}::")];
            let words: Vec<&str> = inner.iter().map(String::as_str).collect();
            named.extend(found(&own, &words));
        }
    }
    // The clock is of all three.
    named.retain(|line| !line.ends_with("runtime::Clock,"));
    expect_none("what both need stands beside them", &named);
}

/// Nothing names an adapter but what makes it from a URL, and what joins two that share a file.
#[test]
fn adapters_are_made_by_connect() {
    let adapters = [
        "SqliteStore",
        "PostgresStore",
        "MemoryStore",
        "EmbeddedBroker",
        "RabbitMq",
        "MemoryBroker",
    ];
    let may = [
        "crates/leveret/src/connect.rs",
        "crates/leveret/src/one_file.rs",
        "crates/leveret/src/store/",
        "crates/leveret/src/broker/",
        "crates/leveret/src/store.rs",
        "crates/leveret/src/broker.rs",
        "crates/leveret/src/lib.rs",
    ];
    let named = found(&sources("crates/leveret/src"), &adapters).into_iter();
    let named: Vec<String> = named
        .filter(|line| !may.iter().any(|file| line.starts_with(file)))
        .collect();
    expect_none("take an `Arc<dyn Store>`, or an `Arc<dyn Broker>`", &named);
}

/// Names in stored rows and in messages, which others have written and read: a new one is added here, and none is changed.
const PERSISTED: [(&str, &[&str]); 2] = [
    (
        "RunStatus",
        &["running", "completed", "failed", "cancelled"],
    ),
    (
        "StepStatus",
        &["waiting", "completed", "failed", "skipped", "cancelled"],
    ),
];

/// Headers of messages.
const HEADERS: [&str; 14] = [
    "again",
    "attempts",
    "bytes",
    "cluster",
    "database",
    "dead-at",
    "deaths",
    "epoch",
    "exchange",
    "flaw",
    "headers-left-out",
    "queue",
    "reason",
    "routing-key",
];

#[test]
fn persisted_names_stay() {
    let library = sources("crates/leveret/src");
    let text: String = library.iter().map(|(_, text)| text.as_str()).collect();
    for (name, expect) in PERSISTED {
        let begin = format!("persisted!({name} {{");
        let (_, block) = text
            .split_once(&begin)
            .unwrap_or_else(|| panic!("there is no {begin}"));
        let (block, _) = block.split_once("});").expect("the list ends");
        let found: Vec<&str> = block.split('"').skip(1).step_by(2).collect();
        assert_eq!(found, expect, "{name} is stored: rows have these names");
    }
    for header in HEADERS {
        let quoted = format!("\"x-leveret-{header}\"");
        assert!(
            text.contains(&quoted),
            "{quoted} is in messages that others have sent"
        );
    }
}
