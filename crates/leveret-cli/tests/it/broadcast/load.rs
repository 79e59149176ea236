//! Clients that write and read, each write with a key of its own, repeated until it is answered.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{
    history::{History, Read, Write},
    rig::{PATIENCE, client},
};

/// Clients at the same time.
pub(crate) const CLIENTS: usize = 8;
/// The rows that all of them change.
const CELLS: u64 = 16;
/// The pause before a request is repeated that was not answered.
const PAUSE: Duration = Duration::from_millis(50);

/// Clients at work.
pub(crate) struct Load {
    pub(crate) history: Arc<History>,
    stop: Arc<AtomicBool>,
    clients: JoinSet<()>,
}

impl Load {
    /// Makes the tables, and starts the clients; they write at most so many times in all. Several hearts have commas between them: a client
    /// that one refuses asks the next.
    pub(crate) async fn start(heart: &str, ack: &'static str, writes_max: usize) -> Load {
        let http = client();
        let cells: Vec<Value> = (0..CELLS)
            .map(|id| json!({ "sql": "INSERT INTO cells VALUES (?, 1, 0)", "args": [id] }))
            .collect();
        for (key, body) in [
            (
                "cells",
                json!({ "sql": "CREATE TABLE cells (id INTEGER PRIMARY KEY, value INTEGER NOT NULL, luck INTEGER NOT NULL)" }),
            ),
            (
                "journal",
                json!({ "sql": "CREATE TABLE journal (id INTEGER PRIMARY KEY, key TEXT NOT NULL, client INTEGER NOT NULL, at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP, luck INTEGER DEFAULT (random()))" }),
            ),
            (
                "index",
                json!({ "sql": "CREATE INDEX journal_of_client ON journal (client)" }),
            ),
            ("rows", json!({ "statements": cells })),
        ] {
            write(&http, heart, key, &body).await;
        }
        let (history, stop) = (
            Arc::new(History::default()),
            Arc::new(AtomicBool::new(false)),
        );
        let left = Arc::new(AtomicUsize::new(writes_max));
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            let works = Works {
                http: http.clone(),
                heart: heart.to_owned(),
                turn: AtomicUsize::new(0),
                history: history.clone(),
                stop: stop.clone(),
                left: left.clone(),
                ack,
                client,
            };
            clients.spawn(works.run());
        }
        Load {
            history,
            stop,
            clients,
        }
    }

    /// Waits until so many more writes are acknowledged.
    pub(crate) async fn until_more(&self, writes: usize) {
        let goal = self.history.writes() + writes;
        let deadline = Instant::now() + PATIENCE;
        while self.history.writes() < goal {
            let at = self.history.writes();
            assert!(
                Instant::now() < deadline,
                "the writes do not go on: {at} of {goal}"
            );
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Lets the clients end what they began.
    pub(crate) async fn stop(self) -> Arc<History> {
        self.stop.store(true, Ordering::Relaxed);
        self.finish().await
    }

    /// Waits until the clients have written all.
    pub(crate) async fn finish(mut self) -> Arc<History> {
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("a client does not panic");
        }
        self.history
    }
}

struct Works {
    http: Client,
    heart: String,
    turn: AtomicUsize,
    history: Arc<History>,
    stop: Arc<AtomicBool>,
    left: Arc<AtomicUsize>,
    ack: &'static str,
    client: usize,
}

impl Works {
    async fn run(self) {
        let mut random = fastrand::Rng::with_seed(self.client as u64);
        let take = |left: usize| left.checked_sub(1);
        for at in 0_u64.. {
            let is_last = self
                .left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
                .is_err();
            if is_last || self.stop.load(Ordering::Relaxed) {
                return;
            }
            let key = format!("{}-{at}", self.client);
            let seq = self
                .write(&key, random.u64(..1000), random.u64(..CELLS))
                .await;
            match at % 8 {
                3 => self.read("session", seq).await,
                7 => self.read("latest", seq).await,
                _ => {}
            }
        }
    }

    /// Two statements that must not change places with others', and one in the journal.
    async fn write(&self, key: &str, number: u64, cell: u64) -> u64 {
        let body = json!({
            "statements": [
                { "sql": "UPDATE cells SET value = (value * 31 + ?) % 1000003, luck = random() WHERE id = ?", "args": [number, cell] },
                { "sql": "INSERT INTO journal (key, client) VALUES (?, ?)", "args": [key, self.client] },
                { "sql": "UPDATE cells SET value = value + (SELECT value FROM cells WHERE id = ?) % 7 WHERE id = ?", "args": [cell, (cell + 1) % CELLS] },
            ],
            "ack": self.ack,
        });
        let asked = Instant::now();
        let seq = write_at(&self.http, &self.heart, &self.turn, key, &body).await;
        self.history.wrote(Write {
            client: self.client,
            key: key.to_owned(),
            asked,
            answered: Instant::now(),
            seq,
        });
        seq
    }

    async fn read(&self, level: &'static str, min_seq: u64) {
        let body = json!({
            "sql": "SELECT count(*) FROM journal WHERE client = ?",
            "args": [self.client],
            "level": level,
            "min_seq": min_seq,
        });
        let asked = Instant::now();
        // A question that is not answered is asked no more: the writes go on.
        let heart = at_turn(&self.heart, &self.turn);
        let Some((StatusCode::OK, answer)) = post(&self.http, heart, "read", None, &body).await
        else {
            return;
        };
        self.history.read(Read {
            client: self.client,
            level,
            asked,
            answered: Instant::now(),
            seq: answer["seq"].as_u64().expect("a seq"),
            own: answer["rows"][0][0].as_u64().expect("a count"),
        });
    }
}

/// Writes, again with the same key until that is acknowledged; its seq.
pub(crate) async fn write(http: &Client, heart: &str, key: &str, body: &Value) -> u64 {
    write_at(http, heart, &AtomicUsize::new(0), key, body).await
}

/// The same at the heart that answered last, `turn` of several, or another one if that does not.
async fn write_at(http: &Client, hearts: &str, turn: &AtomicUsize, key: &str, body: &Value) -> u64 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let heart = at_turn(hearts, turn);
        let answered = post(http, heart, "write", Some(key), body).await;
        if let Some((StatusCode::OK, answer)) = &answered {
            assert_eq!(answer.get("error"), None, "{answer}");
            return answer["seq"].as_u64().expect("a seq");
        }
        let passes = answered
            .as_ref()
            .is_none_or(|(status, _)| status.is_server_error());
        assert!(passes, "{body}: {answered:?}");
        assert!(
            Instant::now() < deadline,
            "not acknowledged in time: {body}: {answered:?}"
        );
        turn.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(PAUSE).await;
    }
}

fn at_turn<'a>(hearts: &'a str, turn: &AtomicUsize) -> &'a str {
    let count = hearts.split(',').count();
    let at = turn.load(Ordering::Relaxed) % count;
    hearts.split(',').nth(at).expect("there is a heart to ask")
}

pub(crate) async fn post(
    http: &Client,
    heart: &str,
    path: &str,
    key: Option<&str>,
    body: &Value,
) -> Option<(StatusCode, Value)> {
    let mut request = http
        .post(format!("{heart}/{path}"))
        .json(body)
        .timeout(Duration::from_secs(10));
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    let answer = request.send().await.ok()?;
    Some((answer.status(), answer.json().await.ok()?))
}
