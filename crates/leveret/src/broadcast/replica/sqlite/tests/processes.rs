//! Replicas in processes of their own: in other time zones, killed, without room on the disk. A process is this test binary again.

use std::{
    io::{BufRead, BufReader, Write as _},
    process::{Child, ChildStdout, Command, Stdio},
};

use super::*;

/// What the process is to do, and with which file.
const TASK: &str = "LEVERET_TEST_REPLICA_TASK";
const FILE: &str = "LEVERET_TEST_REPLICA_FILE";

const SCHEMA: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, v)";
/// Seeds of the fuzz in a process.
const FUZZ_SEEDS: u64 = 5;
const COUNT: &str = "INSERT INTO t (v) VALUES (hex(randomblob(400)));; UPDATE n SET n = n + 1";

fn spawn(
    task: &str,
    path: &Path,
    shell: &str,
    env: &[(&str, &str)],
) -> (Child, BufReader<ChildStdout>) {
    let binary = std::env::current_exe().unwrap();
    let name = std::thread::current().name().unwrap().to_owned();
    let module = name.rsplit_once("::").unwrap().0;
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("{shell} exec \"$0\" \"$@\"")])
        .arg(binary)
        .args([
            &format!("{module}::process"),
            "--exact",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(TASK, task)
        .env(FILE, path)
        .envs(env.iter().copied())
        .stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    (child, output)
}

/// The lines that a process says to its parent.
fn said(output: BufReader<ChildStdout>) -> impl Iterator<Item = String> {
    let lines = output.lines().map_while(Result::ok);
    lines.filter_map(|line| Some(line.split_once("said: ")?.1.to_owned()))
}

fn say(text: &str) {
    println!("\nsaid: {text}");
    std::io::stdout().flush().unwrap();
}

/// Does nothing, unless it is the process of another test.
#[tokio::test]
async fn process() {
    let (Ok(task), Ok(file)) = (std::env::var(TASK), std::env::var(FILE)) else {
        return;
    };
    let replica = open(Path::new(&file));
    match task.as_str() {
        "table" => table(&replica).await,
        "count" => count(&replica).await,
        "fuzz" => fuzz(&replica).await,
        other => panic!("no task is called {other}"),
    }
}

/// Applies the table of statements, and says the rolling hash and the contents of each group's end.
async fn table(replica: &SqliteReplica) {
    replica.adopt("test", false).await.unwrap();
    let lines = include_str!("outcomes.txt").lines();
    let lines = lines.filter(|line| !line.trim().is_empty() && !line.starts_with("    -> "));
    for (seq, line) in (1..).zip(lines) {
        let applied = replica.apply(vec![logged(seq, write(line))]).await.unwrap();
        say(&format!("{line} -> {}", show(&applied[0].outcome)));
    }
    let (position, digest) = replica.contents(Contents::All).await.unwrap();
    let hash = replica.standing().await.unwrap().hash;
    say(&format!("{position:?} {hash} {digest:?}"));
}

/// Applies what the fuzz draws by several seeds, one after the other, and says what came of each, and the contents.
async fn fuzz(replica: &SqliteReplica) {
    replica.adopt("test", false).await.unwrap();
    let mut seq = 0;
    for seed in 0..FUZZ_SEEDS {
        for statements in super::fuzz::any_writes(seed) {
            seq += 1;
            let applied = replica.apply(vec![logged(seq, statements)]).await.unwrap();
            say(&format!("{seq} -> {}", show(&applied[0].outcome)));
        }
    }
    let (position, digest) = replica.contents(Contents::All).await.unwrap();
    let hash = replica.standing().await.unwrap().hash;
    say(&format!("{position:?} {hash} {digest:?}"));
}

/// Applies without end, and says what is applied, until a fault of the machine, which it says too.
async fn count(replica: &SqliteReplica) {
    loop {
        let next = replica.standing().await.unwrap().position.seq + 1;
        let batch: Vec<_> = (next..next + 5)
            .map(|seq| logged(seq, write(COUNT)))
            .collect();
        match replica.apply(batch).await {
            Ok(applied) => say(&applied.last().unwrap().position.seq.to_string()),
            Err(error) => {
                let again = replica.apply(vec![logged(next, write(COUNT))]).await;
                assert!(again.is_err(), "{again:?}");
                let read = Query {
                    statement: statement("SELECT n FROM n", Vec::new()),
                    min_seq: 0,
                    limits: crate::broadcast::ReadLimits::default(),
                };
                let rows = replica.query(read).await.unwrap();
                say(&format!("fault {} {:?} {error}", next - 1, rows.rows));
                return;
            }
        }
    }
}

/// Neither the time zone nor the language nor the time of day of a node makes a difference.
#[tokio::test]
async fn three_time_zones_are_equal() {
    let said = in_three_time_zones("table");
    assert!(said.len() > 100, "{said:?}");
}

/// Nor does it to statements and arguments that are drawn.
#[tokio::test]
async fn the_fuzz_is_equal_in_three_time_zones() {
    let said = in_three_time_zones("fuzz");
    assert!(said.len() > 200, "{said:?}");
}

/// What the process of this task says, which is the same in all of them.
fn in_three_time_zones(task: &str) -> Vec<String> {
    let all = [
        ("Asia/Kolkata", "de_DE.UTF-8"),
        ("America/New_York", "C"),
        ("UTC", "tr_TR.UTF-8"),
    ];
    let mut said: Vec<Vec<String>> = all
        .iter()
        .map(|(zone, language)| {
            let path = TempPath::new();
            let (mut child, output) =
                spawn(task, &path.0, "", &[("TZ", zone), ("LC_ALL", language)]);
            let said = said(output).collect();
            assert!(child.wait().unwrap().success());
            said
        })
        .collect();
    assert_eq!(said[0], said[1]);
    assert_eq!(said[0], said[2]);
    said.swap_remove(0)
}

/// Wherever a process is killed, what it said to be applied is there, and effects and position agree.
#[tokio::test]
async fn a_killed_process_leaves_position_and_effects_alike() {
    let path = TempPath::new();
    {
        let replica = open(&path.0);
        replica.adopt("test", false).await.unwrap();
        let schema = logged(
            1,
            write(&format!(
                "{SCHEMA};; CREATE TABLE n (n);; INSERT INTO n VALUES (0)"
            )),
        );
        replica.apply(vec![schema]).await.unwrap();
        replica.close().await;
    }
    for round in 0..8 {
        let (mut child, output) = spawn("count", &path.0, "", &[]);
        let mut said = said(output);
        let last = (0..=round * 3).filter_map(|_| said.next()).last();
        child.kill().unwrap();
        child.wait().unwrap();
        let last: u64 = last.unwrap().parse().unwrap();
        let seq = agreed(&path.0).await;
        assert!(seq >= last, "{seq} {last}");
    }
}

/// Without room on the disk a replica stops where it is, still answers, and goes on when there is room.
#[tokio::test]
async fn a_full_disk_stops_a_replica_and_skips_nothing() {
    let path = TempPath::new();
    {
        let replica = open(&path.0);
        replica.adopt("test", false).await.unwrap();
        let schema = logged(
            1,
            write(&format!(
                "{SCHEMA};; CREATE TABLE n (n);; INSERT INTO n VALUES (0)"
            )),
        );
        replica.apply(vec![schema]).await.unwrap();
        replica.close().await;
    }
    // 512 blocks of 512 bytes a file.
    let (mut child, output) = spawn("count", &path.0, "trap '' XFSZ; ulimit -f 512;", &[]);
    let said: Vec<String> = said(output).collect();
    assert!(child.wait().unwrap().success(), "{said:?}");
    let fault = said.last().unwrap();
    let seq = agreed(&path.0).await;
    let counted = seq - 1;
    assert!(
        fault.starts_with(&format!("fault {seq} [[Integer({counted})]]")),
        "{fault}"
    );
    let replica = open(&path.0);
    let applied = replica
        .apply(vec![logged(seq + 1, write(COUNT))])
        .await
        .unwrap();
    assert_eq!(applied[0].position.seq, seq + 1);
    replica.close().await;
    agreed(&path.0).await;
}

/// Checks that there are as many effects as the position says, and returns it.
async fn agreed(path: &Path) -> u64 {
    let replica = open(path);
    let seq = replica.standing().await.unwrap().position.seq;
    let read = Query {
        statement: statement("SELECT n, (SELECT count(*) FROM t) FROM n", Vec::new()),
        min_seq: 0,
        limits: crate::broadcast::ReadLimits::default(),
    };
    let rows = replica.query(read).await.unwrap();
    let counted = Value::Integer(seq as i64 - 1);
    assert_eq!(rows.rows, [[counted.clone(), counted]]);
    assert_eq!(rows.seq, seq);
    replica.close().await;
    seq
}
