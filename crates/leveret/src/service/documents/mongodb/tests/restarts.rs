//! The server is killed under load, and started again. It is the test's own: `LEVERET_TEST_XTASK` starts it.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::{Command, Output},
};

use tokio::sync::{mpsc, watch};

use super::*;

/// The longest that it may take.
const TIME_MAX: Duration = Duration::from_secs(150);

const WRITERS: usize = 4;
const MESSAGES: u64 = 40;
/// How many commits are done when the server is killed.
const KILLS: [u64; 3] = [15, 60, 110];

/// A server that is killed, stopped and removed when this is dropped.
struct Server {
    xtask: String,
    description: String,
    url: String,
}

impl Server {
    fn up() -> Option<Server> {
        let Ok(xtask) = std::env::var("LEVERET_TEST_XTASK") else {
            println!("skipped: LEVERET_TEST_XTASK is not set");
            return None;
        };
        let mut up = Command::new(&xtask);
        let up = up.args(["servers", "up", "--private", "mongodb"]).output();
        let up = succeeded(up.unwrap());
        let exported = |name: &str| {
            let lines = String::from_utf8_lossy(&up.stdout);
            let prefix = format!("export {name}='");
            let mut lines = lines.lines();
            let value = lines.find_map(|line| line.strip_prefix(&prefix)?.strip_suffix('\''));
            value.expect("it is exported").to_owned()
        };
        Some(Server {
            description: exported("LEVERET_TEST_SERVERS"),
            url: exported("LEVERET_TEST_MONGODB_URL"),
            xtask,
        })
    }

    fn order(&self, args: &[&str]) {
        let mut command = Command::new(&self.xtask);
        command.arg("servers").args(args);
        command.env("LEVERET_TEST_SERVERS", &self.description);
        succeeded(command.output().unwrap());
    }
}

fn succeeded(output: Output) -> Output {
    assert!(output.status.success(), "{output:?}");
    output
}

impl Drop for Server {
    fn drop(&mut self) {
        self.order(&["down"]);
    }
}

/// Each message of a document, which several processes change, is decided upon once, and what follows from it goes out, in order; some of it
/// again.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn killed_under_load() {
    let Some(server) = tokio::task::spawn_blocking(Server::up).await.unwrap() else {
        return;
    };
    let server = Arc::new(server);
    let open = || async {
        let options = MongoDocumentsOptions {
            lease: Duration::from_secs(2),
            ..MongoDocumentsOptions::new(&*server.url, "restarts", &conformance::kinds())
        };
        MongoDocuments::connect(options).await.unwrap()
    };
    let (wire, mut sent) = mpsc::unbounded_channel();
    let (progress, seen) = watch::channel(0_u64);
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let (documents, wire, progress) = (open().await, wire.clone(), progress.clone());
        tasks.spawn(async move {
            for number in 0..MESSAGES {
                // Two write to each document.
                let id = format!("d{}", writer % 2);
                let claimed = change(&documents, &id, &format!("{writer}.{number}")).await;
                progress.send_modify(|done| *done += 1);
                send(&documents, claimed, &wire).await;
            }
        });
    }
    let killer = tokio::spawn(kill(server.clone(), seen));
    let load = async {
        while let Some(task) = tasks.join_next().await {
            task.unwrap();
        }
        killer.await.unwrap();
        let documents = open().await;
        while documents.backlog().await.unwrap().outgoing > 0 {
            let claimed = documents.claim_outgoing(100, NOW).await.unwrap();
            if claimed.is_empty() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            send(&documents, claimed, &wire).await;
        }
        documents
    };
    let documents = tokio::time::timeout(TIME_MAX, load).await;
    let documents = documents.expect("it ends in time");
    drop(wire);

    let mut firsts: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    while let Some((lane, version)) = sent.recv().await {
        if seen.insert((lane.clone(), version)) {
            firsts.entry(lane).or_default().push(version);
        }
    }
    let all: Vec<u64> = (1..=2 * MESSAGES).collect();
    for id in ["d0", "d1"] {
        let found = documents.load(&[Key::new("order", id)]).await.unwrap();
        assert_eq!(found[0].version, 2 * MESSAGES, "{id}");
        assert_eq!(firsts[&format!("order/{id}")], all, "{id}");
    }
    documents.close().await;
}

/// Kills the server and starts it, each time that so much is done.
async fn kill(server: Arc<Server>, mut progress: watch::Receiver<u64>) {
    for count in KILLS {
        progress.wait_for(|done| *done >= count).await.unwrap();
        let server = server.clone();
        let restart = move || {
            server.order(&["kill", "mongodb"]);
            server.order(&["start", "mongodb"]);
        };
        tokio::task::spawn_blocking(restart).await.unwrap();
    }
}

/// Decides upon a message until it is known that it counts.
async fn change(documents: &MongoDocuments, id: &str, message: &str) -> Vec<Claimed> {
    loop {
        let found = documents.load(&[Key::new("order", id)]).await;
        let version = match found {
            Ok(found) => found[0].version,
            Err(error) => {
                assert!(error.is_retryable(), "{error:?}");
                continue;
            }
        };
        let commit = Commit {
            handled: vec![handled(message)],
            publish: vec![outgoing(&format!("order/{id}"), &(version + 1).to_string())],
            ..put(id, version)
        };
        match documents.commit(&[commit], NOW).await {
            Ok(mut committed) => match committed.remove(0) {
                Committed::Done(claimed) => return claimed,
                // It was done before the server went away; the lease ends what it held.
                Committed::Repeated(_) => return Vec::new(),
                Committed::Conflict(_) => {}
            },
            Err(error) => assert!(error.is_retryable(), "{error:?}"),
        }
    }
}

/// Publishes what is claimed and what follows it.
async fn send(
    documents: &MongoDocuments,
    mut claimed: Vec<Claimed>,
    wire: &mpsc::UnboundedSender<(String, u64)>,
) {
    while !claimed.is_empty() {
        for one in &claimed {
            let body = &one.outgoing.publication.message.body;
            let version = String::from_utf8_lossy(body).parse().unwrap();
            wire.send((one.outgoing.lane.to_string(), version)).unwrap();
        }
        claimed = match documents.sent(&ids(&claimed), NOW).await {
            Ok(next) => next,
            Err(error) => {
                assert!(error.is_retryable(), "{error:?}");
                return;
            }
        };
    }
}
