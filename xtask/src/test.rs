//! `cargo xtask test`: build, start the servers, run the tests, leave nothing behind.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};
use std::{env, fs};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::servers::{Fleet, Kind, fleet};
use crate::watchdog::Watchdog;
use crate::{install, paths, process, say, validators};

/// The packages whose tests have a module `crashed`: there, processes end at crash points.
const CRASHING: [&str; 3] = ["orders", "garage", "leveret-cli"];

/// The variable that says how often these end a process at each point.
const ROUNDS: &str = "LEVERET_TEST_CRASH_ROUNDS";

/// Runs the tests that end processes at crash points, so many rounds at each.
pub(crate) fn chaos(rounds: u32) -> Result<ExitCode> {
    let packages = CRASHING.iter().flat_map(|package| ["--package", package]);
    let args: Vec<_> = packages.chain(["crashed::"]).map(str::to_owned).collect();
    run_with(&args, &[(ROUNDS, rounds.to_string())])
}

/// Runs all tests, or those that the arguments select. The exit code is the test runner's.
pub(crate) fn run(args: &[String]) -> Result<ExitCode> {
    run_with(args, &[])
}

fn run_with(args: &[String], settings: &[(&str, String)]) -> Result<ExitCode> {
    let kinds = wanted();
    // Before the watchdog is there: sudo may ask for a password at the terminal.
    let source = install::ensure(&kinds)?;
    let data = paths::data()?;
    remove_leftovers(&data);
    let dir = data.join(format!("test-{}", std::process::id()));
    let watchdog = Watchdog::start(&dir)?;
    let result = (|| {
        build(&watchdog, args)?;
        let fleet = Fleet::plan(&dir, &kinds, &source)?;
        if !kinds.is_empty() {
            say(format_args!(
                "starting {}",
                kinds
                    .iter()
                    .map(|kind| kind.name())
                    .collect::<Vec<_>>()
                    .join(", ")
            ));
            fleet.start()?;
        }
        tests(&watchdog, &fleet, args, settings)
    })();
    watchdog.stop();
    watchdog.leave_interrupted();
    let status = result?;
    say(if status.success() {
        "all tests passed; servers are stopped"
    } else {
        "tests failed; servers are stopped"
    });
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(code(status))
    })
}

/// The servers that nobody has named to us.
fn wanted() -> Vec<Kind> {
    let (given, wanted): (Vec<Kind>, Vec<Kind>) = Kind::ALL
        .into_iter()
        .partition(|kind| env::var_os(kind.url_env()).is_some_and(|url| !url.is_empty()));
    for kind in given {
        say(format_args!(
            "using the {} server of {}",
            kind.name(),
            kind.url_env()
        ));
    }
    wanted
}

/// What a run left that was killed together with its watchdog.
fn remove_leftovers(data: &Path) {
    for entry in fs::read_dir(data).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix("test-").and_then(|pid| pid.parse().ok());
        if owner.is_some_and(|pid| process::birth(pid).is_none()) {
            fleet::remove(&entry.path());
        }
    }
}

/// Builds what tests run: all targets, or, for a selection of packages, the binaries that tests start.
fn build(watchdog: &Watchdog, args: &[String]) -> Result<()> {
    let mut command = cargo("build");
    if selects_packages(args) {
        command.args(["--package", "leveret-cli", "--bins"]);
    } else {
        command.args(["--workspace", "--all-targets"]);
    }
    say("building");
    if !watchdog.run(&mut command)?.success() {
        bail!("the build failed");
    }
    Ok(())
}

fn tests(
    watchdog: &Watchdog,
    fleet: &Fleet,
    args: &[String],
    settings: &[(&str, String)],
) -> Result<ExitStatus> {
    let mut variables = fleet.variables()?;
    if let Some(python) = validators::ensure() {
        variables.push((validators::ENV, python.display().to_string()));
    }
    let run = |command: &mut Command| {
        command.envs(variables.iter().cloned());
        watchdog.run(command.envs(settings.iter().cloned()))
    };
    let nextest = paths::program("cargo-nextest").is_some() || cargo_home_has("cargo-nextest");
    let mut command = if nextest {
        cargo("nextest")
    } else {
        cargo("test")
    };
    if nextest {
        command.arg("run");
    }
    if !selects_packages(args) {
        command.arg("--workspace");
    }
    say(if nextest {
        "running the tests with nextest"
    } else {
        "running the tests"
    });
    let status = run(command.args(args))?;
    // Plain `cargo test` has run them, and a selection of tests does not mean them.
    if !status.success() || !nextest || !args.is_empty() || !has_doc_tests()? {
        return Ok(status);
    }
    say("running the documentation tests");
    run(cargo("test").args(["--workspace", "--doc"]))
}

fn selects_packages(args: &[String]) -> bool {
    // What follows `--` is for the test binaries.
    let own = args.iter().take_while(|arg| *arg != "--");
    own.into_iter()
        .any(|arg| arg.starts_with("-p") || arg.starts_with("--package"))
}

/// Whether any library of the workspace has its documentation tests on.
fn has_doc_tests() -> Result<bool> {
    let output = cargo("metadata")
        .args(["--no-deps", "--format-version", "1"])
        .output()?;
    let metadata: Value =
        serde_json::from_slice(&output.stdout).context("cargo metadata did not answer in JSON")?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let mut targets =
        packages.flat_map(|package| package["targets"].as_array().into_iter().flatten());
    Ok(targets.any(|target| target["doctest"] == true && target["kind"][0] == "lib"))
}

fn cargo(subcommand: &str) -> Command {
    let mut command = Command::new(paths::cargo());
    command.arg(subcommand).current_dir(paths::root());
    for (name, _) in env::vars_os() {
        if is_of_a_package(&name.to_string_lossy()) {
            command.env_remove(name);
        }
    }
    command
}

/// Whether a variable describes the package that `cargo run` runs, which is this one. Build scripts of dependencies that look at these would
/// run again whenever cargo is called by us after it was called by hand, or the other way round, and all that is built on them with them.
fn is_of_a_package(variable: &str) -> bool {
    variable.starts_with("CARGO_PKG_") || variable.starts_with("CARGO_MANIFEST_")
}

/// Cargo finds its subcommands there too.
fn cargo_home_has(program: &str) -> bool {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    home.is_some_and(|home| home.join("bin").join(program).is_file())
}

/// The runner's code; one that was killed has none.
fn code(status: ExitStatus) -> u8 {
    status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .filter(|code| *code != 0)
        .unwrap_or(1)
}

#[cfg(test)]
mod tests {
    /// Only arguments of cargo itself select packages, not those of the test binaries.
    #[test]
    fn packages_are_selected_before_the_dashes() {
        let selects = |line: &str| {
            super::selects_packages(&line.split(' ').map(str::to_owned).collect::<Vec<_>>())
        };
        assert!(selects("-p leveret broker::"));
        assert!(selects("--package=leveret"));
        assert!(!selects("broker:: -- -p"));
        assert!(!selects("--profile ci"));
    }
}
