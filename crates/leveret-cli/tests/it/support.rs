//! Starts the binary at the root of the repository, without settings from outside.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use serde_json::Value;

/// How long anything may take that must happen.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often a condition is looked at that another process brings about.
const POLL: Duration = Duration::from_millis(5);

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// The binary, to be run at the root.
pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leveret"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("LEVERET_")) {
        command.env_remove(name);
    }
    command.args(args).current_dir(root()).stdin(Stdio::null());
    command
}

/// How the binary ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// Stdout as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Runs the binary to its end.
pub(crate) fn leveret(args: &[&str]) -> Ended {
    end_of(command(args))
}

pub(crate) fn end_of(mut command: Command) -> Ended {
    let output = command.output().unwrap();
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// As [`leveret`], with text on stdin.
pub(crate) fn leveret_reading(args: &[&str], stdin: &str) -> Ended {
    let mut child = command(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(stdin.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A process that stays, and says on its first line that it is ready and where. Killed when dropped.
pub(crate) struct Server {
    child: Child,
    stdout: BufReader<ChildStdout>,
    /// `HOST:PORT`.
    pub(crate) address: String,
}

impl Server {
    pub(crate) fn start(args: &[&str]) -> Server {
        Server::of(command(args))
    }

    /// As [`start`](Self::start), by a command of one's own.
    pub(crate) fn of(command: Command) -> Server {
        Server::logging_to(Stdio::inherit(), command)
    }

    /// As [`of`](Self::of), with a place for the log.
    pub(crate) fn logging_to(log: impl Into<Stdio>, mut command: Command) -> Server {
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let at = line
            .split("http://")
            .nth(1)
            .unwrap_or_else(|| panic!("not ready: {line:?}"));
        let address = at.split_whitespace().next().unwrap().to_owned();
        Server {
            child,
            stdout,
            address,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Asks the process to stop.
    pub(crate) fn terminate(&self) {
        terminate(&self.child);
    }

    /// Freezes the process, or lets a frozen one go on.
    pub(crate) fn freeze(&self, is_frozen: bool) {
        let signal = if is_frozen {
            rustix::process::Signal::STOP
        } else {
            rustix::process::Signal::CONT
        };
        let pid = rustix::process::Pid::from_raw(self.child.id().cast_signed()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Kills the process, and waits until it is gone.
    pub(crate) fn kill(self) {
        drop(self);
    }

    /// Waits for the end; the exit code, and what was printed after the first line.
    pub(crate) fn wait(mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap().code(), rest)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An error says that it has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Asks a process to stop: SIGTERM.
pub(crate) fn terminate(child: &Child) {
    let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
}

/// Waits for what another process brings about.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(POLL);
    }
}

/// The payment service of the examples.
pub(crate) fn payments() -> Server {
    Server::start(&["demo", "payments", "--listen", "127.0.0.1:0"])
}

/// GET, and the body as JSON.
pub(crate) fn get(address: &str, path: &str) -> Value {
    let body = get_text(address, path);
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"))
}

/// The body of an answer.
pub(crate) fn get_text(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n").unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let (_, body) = response.split_once("\r\n\r\n").unwrap();
    body.to_owned()
}

/// A directory of this test, removed when dropped.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new() -> Directory {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "cli-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&path).unwrap();
        Directory(path)
    }

    pub(crate) fn path(&self) -> String {
        self.0.to_str().unwrap().to_owned()
    }

    /// Writes a file; returns its path.
    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}
