//! `cargo xtask fuzz`: asks a server what its OpenAPI document allows, and what it does not, and generates a client from the document that calls
//! every operation.

use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::{fs, time};

use anyhow::{Context as _, Result, bail};

use crate::{paths, say};

/// What fuzzes, and what generates the client, as pip knows them.
const PACKAGES: [&str; 2] = ["schemathesis==4.32.5", "openapi-python-client==0.29.1"];

/// Calls every operation of a generated client.
const CALLS: &str = include_str!("fuzz/calls.py");

/// What each answer is held to: no 5xx, and what the document says of status, media type and body.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance";

/// How long the server may take for an answer, in seconds.
const ANSWER_MAX: &str = "30";

/// Fuzzes for so many seconds, as the seed says. Where pip cannot install what it takes, it says so and passes.
pub(crate) fn run(seconds: u32, seed: u64) -> Result<ExitCode> {
    let data = paths::data()?;
    let python = match environment(&data) {
        Ok(python) => python,
        Err(error) => {
            say(format_args!("fuzz: skipped: {error:#}"));
            return Ok(ExitCode::SUCCESS);
        }
    };
    let cargo = ["build", "--package", "leveret-cli"];
    succeed(
        Command::new(paths::cargo())
            .args(cargo)
            .current_dir(paths::root()),
    )?;
    let dir = data.join(format!("fuzz-{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    let fuzzed = fuzz(&python, &dir, seconds, seed);
    fs::remove_dir_all(&dir)?;
    fuzzed?;
    say("fuzz: no answer was other than the document says");
    Ok(ExitCode::SUCCESS)
}

fn fuzz(python: &Path, dir: &Path, seconds: u32, seed: u64) -> Result<()> {
    let server = Server::start(dir)?;
    let put = [
        "workflows",
        "put",
        "examples/workflows/hello.yaml",
        "--server",
    ];
    succeed(
        leveret()?
            .args(put)
            .arg(&server.url)
            .current_dir(paths::root()),
    )?;
    let document = format!("{}/api/openapi.json", server.url);
    say(format_args!("fuzz: asking {} for {seconds} s", server.url));
    let (seconds, seed) = (seconds.to_string(), seed.to_string());
    let run = [
        "run",
        &document,
        "--max-time",
        &seconds,
        "--seed",
        &seed,
        "--checks",
        CHECKS,
        "--request-timeout",
        ANSWER_MAX,
        // A stream ends with its run.
        "--exclude-path-regex",
        "/events$",
        "--warnings",
        "off",
    ];
    let mut fuzzer = Command::new(python.with_file_name("schemathesis"));
    // It keeps what it found beside itself.
    succeed(fuzzer.args(run).current_dir(dir))?;
    let client = dir.join("client");
    let mut generator = Command::new(python.with_file_name("openapi-python-client"));
    generator.args(["generate", "--meta", "none", "--url", &document]);
    succeed(generator.arg("--output-path").arg(&client).current_dir(dir))?;
    let script = dir.join("calls.py");
    fs::write(&script, CALLS)?;
    succeed(
        Command::new(python)
            .arg(&script)
            .arg(&server.url)
            .current_dir(dir),
    )
}

/// A server of the debug build, on a directory of its own; ended with this.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start(dir: &Path) -> Result<Server> {
        let mut command = leveret()?;
        command.args(["up", "--listen", "127.0.0.1:0", "--log", "error", "--data"]);
        command.arg(dir.join("data")).stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start leveret")?;
        let stdout = child.stdout.take().context("leveret has no stdout")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let url = line
            .split_whitespace()
            .find(|word| word.starts_with("http://"));
        let Some(url) = url.map(str::to_owned) else {
            child.kill()?;
            bail!("leveret did not start: {line:?}");
        };
        Ok(Server { child, url })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An error says that it has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn leveret() -> Result<Command> {
    let program = paths::this_binary()?.with_file_name("leveret");
    let mut command = Command::new(program);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("LEVERET_")) {
        command.env_remove(name);
    }
    Ok(command)
}

/// The Python of an environment that has the packages; made once.
fn environment(data: &Path) -> Result<PathBuf> {
    let name: String = PACKAGES.join("-").replace("==", "-");
    let dir = data.join(name);
    let python = dir.join("bin").join("python");
    let installed = dir.join("installed");
    if installed.is_file() {
        return Ok(python);
    }
    say(format_args!("installing {} with pip", PACKAGES.join(", ")));
    let begun = time::Instant::now();
    let system = paths::program("python3").context("python3 is not installed")?;
    succeed(
        Command::new(system)
            .args(["-m", "venv", "--clear"])
            .arg(&dir),
    )?;
    let pip = [
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
        "--quiet",
    ];
    succeed(Command::new(&python).args(pip).args(PACKAGES))?;
    fs::write(installed, format!("{} s", begun.elapsed().as_secs()))?;
    Ok(python)
}

fn succeed(command: &mut Command) -> Result<()> {
    let status = command.stdout(io::stderr()).status();
    let name = command.get_program().display().to_string();
    let status = status.with_context(|| format!("cannot run {name}"))?;
    if !status.success() {
        bail!("`{name} {:?}` failed ({status})", command.get_args());
    }
    Ok(())
}
