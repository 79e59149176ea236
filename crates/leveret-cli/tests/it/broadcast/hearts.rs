//! Hearts that follow each other, on one log in PostgreSQL: killed, stopped and frozen under load.

use std::time::{Duration, Instant};

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use super::{
    load::{Load, post},
    rig::{Cluster, LOG, client, free_url},
};
use crate::{kill::servers::Place, support::Server};

/// Writes between one blow and the next.
const BETWEEN: usize = 60;

/// What a heart is told.
struct Hearts {
    amqp: String,
    log: String,
    exchange: String,
    queue_name: String,
    directory: String,
}

impl Hearts {
    fn start(&self, url: &str) -> Server {
        let listen = url.trim_start_matches("http://");
        let args = ["heart", "--listen", listen, "--write-log", &self.log];
        let names = [
            "--exchange",
            &self.exchange,
            "--queue-name",
            &self.queue_name,
        ];
        let rest = [
            "--broker",
            &self.amqp,
            "--data",
            &self.directory,
            "--log",
            LOG,
        ];
        Server::start(&[&args[..], &names, &rest].concat())
    }
}

/// Two hearts and three nodes. The first heart is active and at `urls[0]`.
async fn start(place: &Place) -> (Cluster, Hearts, [String; 2], [Server; 2]) {
    let mut cluster = Cluster::new(place.amqp.clone());
    let urls = [free_url(), free_url()];
    cluster.heart_urls = Some(urls.join(","));
    let hearts = Hearts {
        amqp: place.amqp.clone(),
        log: place.postgres.clone(),
        exchange: cluster.exchange(),
        queue_name: cluster.name.clone(),
        directory: cluster.beside("hearts"),
    };
    let first = hearts.start(&urls[0]);
    cluster.heart_url.clone_from(&urls[0]);
    for node in 1..=3 {
        cluster.start_node(node);
    }
    cluster.until_settled(3).await;
    let second = hearts.start(&urls[1]);
    let http = client();
    until_state(&http, &urls[1], "standby").await;
    (cluster, hearts, urls, [first, second])
}

async fn state(http: &Client, heart: &str) -> Option<String> {
    let answer = http
        .get(format!("{heart}/status"))
        .timeout(Duration::from_secs(2))
        .send()
        .await;
    let status: Value = answer.ok()?.json().await.ok()?;
    Some(status["state"].as_str()?.to_owned())
}

async fn until_state(http: &Client, heart: &str, expect: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let found = state(http, heart).await;
        if found.as_deref() == Some(expect) {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{heart} is {found:?}, not {expect}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The active one is killed, and the other one; then one is asked to stop, and is followed at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over() {
    let Some(place) = Place::shared("hearts").await else {
        return;
    };
    let (mut cluster, hearts, urls, [first, second]) = start(&place).await;
    let http = client();
    let load = Load::start(&urls.join(","), "quorum", usize::MAX).await;
    load.until_more(BETWEEN).await;
    first.kill();
    load.until_more(BETWEEN).await;
    assert_eq!(state(&http, &urls[1]).await.as_deref(), Some("active"));
    let first = hearts.start(&urls[0]);
    until_state(&http, &urls[0], "standby").await;
    // An operator names both, and the one that has the log is asked.
    let status = cluster.operator(&["status"]);
    assert_eq!(status.json()["state"], "active", "{status:?}");
    second.kill();
    load.until_more(BETWEEN).await;
    let second = hearts.start(&urls[1]);
    until_state(&http, &urls[1], "standby").await;
    load.until_more(BETWEEN).await;

    let began = Instant::now();
    first.terminate();
    until_state(&http, &urls[1], "active").await;
    // A lease lasts 8 s. What is waited for here is answered, and the log given up.
    let took = began.elapsed();
    assert!(took < Duration::from_secs(5), "followed after {took:?}");
    assert_eq!(first.wait().0, Some(0), "the heart drains");
    load.until_more(BETWEEN).await;
    cluster.put_heart(second);
    let history = load.stop().await;
    history.assert_holds(&cluster.assert_equal().await);
    place.remove().await;
}

/// The way to a server, which can be blocked: connections stay open, and nothing comes through.
struct Way {
    port: u16,
    blocked: tokio::sync::watch::Sender<bool>,
}

impl Way {
    async fn to(server: String) -> Way {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (blocked, is_blocked) = tokio::sync::watch::channel(false);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(&server).await else {
                    continue;
                };
                let (near, far) = (near.into_split(), far.into_split());
                tokio::spawn(pass(near.0, far.1, is_blocked.clone()));
                tokio::spawn(pass(far.0, near.1, is_blocked.clone()));
            }
        });
        Way { port, blocked }
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut blocked: tokio::sync::watch::Receiver<bool>,
) {
    let mut piece = vec![0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut piece).await {
        if blocked.wait_for(|blocked| !*blocked).await.is_err() {
            return;
        }
        if to.write_all(&piece[..count]).await.is_err() {
            return;
        }
    }
}

/// A heart whose log gives no answer says so within a bound, lets ask questions of any moment, no longer answers what is latest, and stops when
/// it is asked to. With the log back, writes go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_cut_off_is_told() {
    let Some(place) = Place::shared("cut-off").await else {
        return;
    };
    let (base, database) = place.postgres.rsplit_once('/').unwrap();
    let (user, server) = base.rsplit_once('@').unwrap_or(("postgres://", base));
    let server = server.trim_start_matches("postgres://").to_owned();
    let way = Way::to(server).await;
    let separator = if user.ends_with("//") { "" } else { "@" };
    let mut cluster = Cluster::new(place.amqp.clone());
    let hearts = Hearts {
        amqp: place.amqp.clone(),
        log: format!("{user}{separator}127.0.0.1:{}/{database}", way.port),
        exchange: cluster.exchange(),
        queue_name: cluster.name.clone(),
        directory: cluster.beside("hearts"),
    };
    let heart = hearts.start(&cluster.heart_url);
    cluster.put_heart(heart);
    for node in 1..=3 {
        cluster.start_node(node);
    }
    cluster.until_settled(3).await;
    let (http, url) = (client(), cluster.heart_url.clone());
    let load = Load::start(&url, "quorum", 40).await;
    let history = load.finish().await;

    way.blocked.send_replace(true);
    let insert = json!({
        "sql": "INSERT INTO journal (key, client) VALUES ('blocked', 99)",
        "ack": "accepted",
        "timeout_ms": 500,
    });
    let began = Instant::now();
    let (status, body) = post(&http, &url, "write", Some("blocked"), &insert)
        .await
        .expect("it answers");
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
    assert!(began.elapsed() < Duration::from_secs(9), "{body}");
    let any = json!({ "sql": "SELECT count(*) FROM journal", "level": "any" });
    let (status, body) = post(&http, &url, "read", None, &any)
        .await
        .expect("it answers");
    assert_eq!(status, StatusCode::OK, "{body}");
    let latest = json!({ "sql": "SELECT 1", "level": "latest" });
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let (status, body) = post(&http, &url, "read", None, &latest)
            .await
            .expect("it answers");
        if status == StatusCode::SERVICE_UNAVAILABLE {
            break;
        }
        assert!(Instant::now() < deadline, "past its lease: {body}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    way.blocked.send_replace(false);
    super::load::write(&http, &url, "blocked", &insert).await;
    cluster.until_settled(3).await;
    way.blocked.send_replace(true);
    let began = Instant::now();
    cluster.stop_heart();
    assert!(began.elapsed() < Duration::from_secs(20), "it stops");
    way.blocked.send_replace(false);
    let heart = hearts.start(&cluster.heart_url);
    cluster.put_heart(heart);
    let dump = cluster.assert_equal().await;
    history.assert_holds(&dump);
    let is_blocked =
        |row: &&Vec<rusqlite::types::Value>| row.contains(&"blocked".to_owned().into());
    assert_eq!(dump["journal"].1.iter().filter(is_blocked).count(), 1);
    place.remove().await;
}

/// A heart that was frozen for longer than its lease does not take itself for the active one when it goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_heart_is_not_active() {
    let Some(place) = Place::shared("frozen-hearts").await else {
        return;
    };
    let (mut cluster, _, urls, [first, second]) = start(&place).await;
    let http = client();
    let load = Load::start(&urls.join(","), "quorum", usize::MAX).await;
    load.until_more(BETWEEN).await;
    first.freeze(true);
    until_state(&http, &urls[1], "active").await;
    load.until_more(BETWEEN).await;
    first.freeze(false);
    let insert = json!({
        "sql": "INSERT INTO journal (key, client) VALUES ('frozen', 99)",
        "ack": "accepted",
    });
    let question = |level: &str| json!({ "sql": "SELECT 1", "level": level, "max_lag_ms": 0 });
    let [latest, bounded] = ["latest", "bounded"].map(question);
    let (write, latest, bounded) = tokio::join!(
        post(&http, &urls[0], "write", None, &insert),
        post(&http, &urls[0], "read", None, &latest),
        post(&http, &urls[0], "read", None, &bounded),
    );
    for answer in [write, latest, bounded] {
        let (status, body) = answer.expect("it answers");
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
    }
    let shown = state(&http, &urls[0]).await;
    assert_ne!(shown.as_deref(), Some("active"));
    load.until_more(BETWEEN).await;
    first.terminate();
    assert_eq!(first.wait().0, Some(0), "the heart drains");
    cluster.put_heart(second);
    let history = load.stop().await;
    let dump = cluster.assert_equal().await;
    history.assert_holds(&dump);
    let is_frozen = |row: &Vec<rusqlite::types::Value>| row.contains(&"frozen".to_owned().into());
    assert!(!dump["journal"].1.iter().any(is_frozen), "it took a write");
    place.remove().await;
}
