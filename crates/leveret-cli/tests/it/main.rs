//! The binary, end to end: what it prints, how it exits, how it stops. Needs nothing installed.

// How the others start the binary.
mod support;

// `leveret check`, `graph`, `config`, `migrate`, `version`: without a server.
mod check;
// Every workflow under examples/workflows/, with its output.
mod examples;
// Workers that are killed in the middle of their work. Needs `LEVERET_TEST_AMQP_URL` and `LEVERET_TEST_POSTGRES_URL`.
mod kill;
// `leveret run`: exit codes, inputs, --each.
mod run;
// `leveret up`, `workflows`, `runs`: a server, its clients, and how it drains.
mod up;

/// Every file beside this one is listed above.
#[test]
fn no_file_is_forgotten() {
    let listed = include_str!("main.rs");
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it");
    for entry in std::fs::read_dir(directory).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let module = name.trim_end_matches(".rs");
        assert!(
            module == "main" || listed.contains(&format!("mod {module};")),
            "add `mod {module};` to {directory}/main.rs"
        );
    }
}
