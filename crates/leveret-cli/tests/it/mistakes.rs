//! What is given wrongly, and what is interrupted.

use std::{
    io::{Read, Write},
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::support::{Directory, Ended, Server, command, end_of, get, leveret};

const HELLO: &str = "examples/workflows/hello.yaml";
const SLEEPS: &str =
    "id: long\nnodes:\n  - id: rest\n    uses: sleep\n    params: { duration: 1h }\n";

/// A command with a variable set.
fn with(variable: &str, value: &str, args: &[&str]) -> Ended {
    let mut command = command(args);
    command.env(variable, value);
    end_of(command)
}

fn check(ended: &Ended, code: i32, said: &str) {
    assert_eq!(ended.code, Some(code), "{ended:?}");
    assert!(ended.stderr.contains(said), "{said}: {ended:?}");
}

/// A mistake in a variable is told with its name; an empty one is as none; a misspelt one is told.
#[test]
fn variables_are_named() {
    let prefetch = with("LEVERET_PREFETCH", "many", &["config"]);
    check(&prefetch, 2, "the variable LEVERET_PREFETCH");
    let flag = leveret(&["config", "--prefetch", "many"]);
    check(&flag, 2, "--prefetch");
    assert!(!flag.stderr.contains("the variable"), "{flag:?}");
    let store = with("LEVERET_STORE", "mysql://h", &["run", HELLO]);
    check(&store, 2, "LEVERET_STORE");

    for variable in ["LEVERET_STORE", "LEVERET_BROKER", "LEVERET_PREFETCH"] {
        let ended = with(variable, "", &["config", "--json"]);
        assert_eq!(ended.json(), leveret(&["config", "--json"]).json());
    }
    let misspelt = with("LEVERET_STOER", "x", &["version"]);
    check(&misspelt, 0, "did you mean LEVERET_STORE?");
    let secret = with("LEVERET_SECRET_STORE", "x", &["version"]);
    assert_eq!(secret.stderr, "");
}

/// A settings file that is broken keeps from nothing that does not read it.
#[test]
fn a_broken_file_of_settings_is_told_where_it_matters() {
    let directory = Directory::new();
    directory.file("leveret.toml", "store = 'sqlite:a.db'\nprefetch = 'many'\n");
    let file = directory.file("w.yaml", SLEEPS);
    let at = |args: &[&str]| {
        let mut command = command(args);
        command.current_dir(directory.path());
        end_of(command)
    };
    for args in [&["version"][..], &["check", &file], &["graph", &file]] {
        assert_eq!(at(args).code, Some(0), "{args:?}");
    }
    let said = "line 2: 'prefetch' must be a whole number from 1 to 65535";
    check(&at(&["config"]), 2, said);
}

#[test]
fn flags_that_cannot_be_used_say_what_to_do() {
    let directory = Directory::new();
    let data = directory.path();
    let at = |args: &[&str]| leveret(&[args, &["--data", &data]].concat());
    let up = ["up", "--listen", "127.0.0.1:0"];
    let up_with = |args: &[&str]| at(&[&up, args].concat());
    check(
        &up_with(&["--store", "/tmp/x.db"]),
        2,
        "say sqlite:/tmp/x.db",
    );
    check(
        &up_with(&["--store", "mysql://x"]),
        2,
        "there are sqlite:PATH",
    );
    check(&at(&["up", "--listen", ":7070"]), 2, "say 127.0.0.1:7070");
    check(
        &at(&["run", HELLO, "--log", "verbose"]),
        2,
        "'verbose' is no level",
    );
    check(&at(&["run", HELLO, "--set", "name={bad"]), 2, "--set name");
    let query = at(&[
        "run",
        HELLO,
        "--store",
        "postgres://h/d?ssl=1",
        "--broker",
        "amqp://h",
    ]);
    check(&query, 2, "the parameter 'ssl' is not known");
}

#[test]
fn files_that_are_not_utf8_are_told() {
    let directory = Directory::new();
    let file = directory.file("w.yaml", "");
    std::fs::write(&file, b"\xff\xfei\0d\0").unwrap();
    let ended = leveret(&["check", &file]);
    assert!(
        ended.stdout.contains("it is not UTF-8, but UTF-16"),
        "{ended:?}"
    );
    let input = format!("@{}", directory.file("input.json", "\u{feff}{}"));
    for given in ["--input", "--each"] {
        assert_eq!(leveret(&["run", HELLO, given, &input]).code, Some(0));
    }
}

/// Answers every request with a page.
fn stranger(status: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            drop(stream.read(&mut [0; 4096]));
            let page = "<html>Welcome</html>";
            let length = page.len();
            let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n");
            drop(stream.write_all(format!("{head}{page}").as_bytes()));
        }
    });
    url
}

#[test]
fn what_is_not_leveret_is_told() {
    for status in ["200 OK", "404 Not Found"] {
        let url = stranger(status);
        let ended = leveret(&["runs", "list", "--server", &url]);
        check(&ended, 2, "is not Leveret");
        assert!(!ended.stderr.contains("html"), "{ended:?}");
    }
}

fn up(directory: &Directory) -> Server {
    let data = directory.path();
    let args = ["--data", &data, "--log", "warn"];
    Server::start(&[&["up", "--listen", "127.0.0.1:0"][..], &args].concat())
}

/// What a server is asked wrongly, what failed there, and in which order it is shown.
#[test]
fn a_server_is_asked() {
    let directory = Directory::new();
    let server = up(&directory);
    let url = server.url();
    let at = |args: &[&str]| leveret(&[args, &["--server", &url]].concat());
    let detail = |path: &str| get(&server.address, path)["detail"].to_string();
    let status = detail("/api/v1/runs?status=done");
    assert!(
        status.contains("query: status: there is no `done`, but `running`"),
        "{status}"
    );
    let limit = detail("/api/v1/runs?limit=few");
    assert!(
        limit.contains("query: limit: must be a whole number"),
        "{limit}"
    );

    let file = directory.file(
        "steps.yaml",
        "id: steps\nnodes:\n  - { id: z, uses: set }\n  - { id: a, uses: fail, params: { message: no } }\nedges:\n  - { source: z, target: a }\n",
    );
    at(&["workflows", "put", &file]);
    let shown = at(&["workflows", "show", "steps"]).stdout;
    let places = ["\"id\": \"steps\"", "\"nodes\":", "\"edges\":"].map(|key| shown.find(key));
    assert!(places.is_sorted() && places[0].is_some(), "{shown}");
    let ended = at(&["runs", "start", "steps", "--wait", "--run-id", "r"]);
    let steps: Vec<&str> = ended.stdout.lines().collect();
    assert!(
        steps[1].starts_with('z') && steps[2].starts_with('a'),
        "{ended:?}"
    );
    let events = at(&["runs", "events", "r"]);
    assert_eq!(events.code, Some(1), "{events:?}");
    assert!(
        events.stdout.ends_with("end     failed at 'a': no\n"),
        "{events:?}"
    );
}

/// Starts a command that is to be interrupted.
fn started(mut command: Command) -> Child {
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Interrupts a command when it is time to; how it ended.
fn interrupted(child: Child, is_time: impl Fn() -> bool) -> Ended {
    let bound = Instant::now() + Duration::from_secs(60);
    while !is_time() {
        assert!(Instant::now() < bound, "it is never time");
        std::thread::sleep(Duration::from_millis(10));
    }
    let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

#[test]
fn an_interrupted_wait_tells_the_run() {
    let directory = Directory::new();
    let server = up(&directory);
    let url = server.url();
    let file = directory.file("long.yaml", SLEEPS);
    leveret(&["workflows", "put", &file, "--server", &url]);
    let child = started(command(&[
        "runs", "start", "long", "--wait", "--server", &url,
    ]));
    let run = || get(&server.address, "/api/v1/runs")["items"][0]["run_id"].clone();
    let ended = interrupted(child, || run().is_string());
    let said = format!("leveret runs events {}", run().as_str().unwrap());
    check(&ended, 1, &said);
}

#[test]
fn an_interrupted_run_says_how_it_goes_on() {
    let directory = Directory::new();
    let (data, file) = (directory.path(), directory.file("long.yaml", SLEEPS));
    let child = started(command(&["run", &file, "--data", &data]));
    let store = Path::new(&data).join("leveret.db");
    let ended = interrupted(child, || store.exists());
    check(
        &ended,
        1,
        "goes on under `leveret up` with the same settings",
    );
}

/// Its directory is removed.
#[test]
fn an_interrupted_bench_cleans_up() {
    let directory = Directory::new();
    let mut bench = command(&["bench", "chain", "--runs", "100000000"]);
    bench.env("TMPDIR", directory.path());
    let files = || std::fs::read_dir(directory.path()).unwrap().count();
    let ended = interrupted(started(bench), || files() > 0);
    check(&ended, 1, "interrupted before all runs ended");
    assert_eq!(files(), 0);
}
