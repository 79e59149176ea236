//! Servers that a test may break: its own, started with the program in `LEVERET_TEST_XTASK`.

use std::process::Command;

const XTASK: &str = "LEVERET_TEST_XTASK";
const SERVERS: &str = "LEVERET_TEST_SERVERS";

/// Some servers of a test, ended when dropped.
pub(crate) struct Servers {
    xtask: String,
    exports: Vec<(String, String)>,
}

impl Servers {
    /// None: there is no program to start them, and the test is skipped.
    pub(crate) async fn private(kind: &'static str) -> Option<Servers> {
        let Ok(xtask) = std::env::var(XTASK) else {
            println!("skipped: {XTASK} is not set");
            return None;
        };
        let up = tokio::task::spawn_blocking(move || Servers::up(xtask, kind));
        Some(up.await.expect("no panic"))
    }

    fn up(xtask: String, kind: &str) -> Servers {
        let mut command = Command::new(&xtask);
        command.args(["servers", "up", "--private", kind]);
        let output = command.output().expect("xtask starts");
        assert!(output.status.success(), "{output:?}");
        let stdout = String::from_utf8(output.stdout).expect("text");
        let export = |line: &str| {
            let (name, value) = line.strip_prefix("export ")?.split_once('=')?;
            Some((name.to_owned(), value.trim_matches('\'').to_owned()))
        };
        Servers {
            xtask,
            exports: stdout.lines().filter_map(export).collect(),
        }
    }

    /// The value of a variable that says where they are.
    pub(crate) fn exported(&self, variable: &str) -> String {
        let mut exports = self.exports.iter();
        let found = exports.find(|(name, _)| name == variable);
        found.expect("servers are described").1.clone()
    }

    /// Gives an order, such as `stop postgres`, and waits until it is done.
    pub(crate) async fn order(&self, order: &str, server: &str) {
        let mut command = self.command(&[order, server]);
        let output = tokio::task::spawn_blocking(move || command.output())
            .await
            .expect("no panic")
            .expect("xtask starts");
        assert!(output.status.success(), "{order} {server}: {output:?}");
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.xtask);
        command.env(SERVERS, self.exported(SERVERS));
        command.arg("servers").args(arguments);
        command
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        let ended = self.command(&["down"]).output();
        if let Ok(output) = ended.map(|output| (!output.status.success()).then_some(output))
            && let Some(output) = output
        {
            eprintln!("servers do not end: {output:?}");
        }
    }
}
