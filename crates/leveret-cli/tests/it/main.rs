//! The binary, end to end: what it prints, how it exits, how it stops. Needs nothing installed; what is done with RabbitMQ and PostgreSQL
//! needs `LEVERET_TEST_AMQP_URL` and `LEVERET_TEST_POSTGRES_URL`.

// How the others start the binary.
mod support;

// `leveret bench`: what it reports.
mod bench;
// A heart and its nodes, as processes.
mod broadcast;
// `leveret check`, `graph`, `config`, `migrate`, `version`: without a server.
mod check;
// `leveret demo`: the outcomes of orders, and that none is charged twice.
mod demo;
// `leveret dlq`: at a file, at RabbitMQ, through a server, and killed.
mod dlq;
// Every workflow under examples/workflows/ and in the documentation, with its output.
mod examples;
// Processes and servers that are killed in the middle of the work, and other mischief.
mod kill;
// The flow of docs/MESSAGES.md, played by a client in Python.
mod messages;
// What is given wrongly and what is interrupted: every answer names the mistake, or how to go on.
mod mistakes;
// `leveret run`: exit codes, inputs, --each.
mod run;
// `leveret up`, `workflows`, `runs`: a server, its clients, and how it drains.
mod up;

/// Every file beside this one is listed above, and every file below `kill` and `broadcast` in `kill.rs` and `broadcast.rs`.
#[test]
fn no_file_is_forgotten() {
    let here = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it");
    let below = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/kill");
    let cluster = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/broadcast");
    let lists = [
        (here, include_str!("main.rs")),
        (below, include_str!("kill.rs")),
        (cluster, include_str!("broadcast.rs")),
    ];
    for (directory, listed) in lists {
        for entry in std::fs::read_dir(directory).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let module = name.trim_end_matches(".rs");
            assert!(
                module == "main" || listed.contains(&format!("mod {module};")),
                "{directory}/{name} is in no list of modules: add `mod {module};`"
            );
        }
    }
}
