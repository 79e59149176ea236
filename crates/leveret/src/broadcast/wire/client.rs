//! The links over HTTP, from the asking side.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use leveret_core::broadcast::Position;
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    DATABASE_HEADER, file, heart_path, node_path,
    read::{Answer, Question},
};
use crate::{
    broadcast::{
        link::{CONTENTS_MAX, Fetched, HeartLink, Joined, LinkError, NodeLink, Registration},
        replica::{Applied, Contents, Query, ReadError, Rows, Snapshot},
    },
    redact_url,
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a small answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How long one heart of several may take to renew a lease: one that hangs leaves the others time within the lease.
const TURN: Duration = Duration::from_secs(3);

/// How much longer than its own limit a question may take.
const QUERY_GRACE: Duration = Duration::from_millis(500);

/// How long a node may take to make a snapshot, and nothing of it may arrive.
const SNAPSHOT_SILENCE: Duration = Duration::from_secs(120);

/// The largest answer that is read as a whole.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// A client of one side. Clones share connections.
#[derive(Clone, Debug)]
struct Caller {
    client: Client,
    token: Option<Arc<str>>,
}

impl Caller {
    /// Knows no proxies: heart and nodes are neighbours.
    fn new(token: Option<Arc<str>>) -> Result<Caller, LinkError> {
        crate::tls::install_provider();
        let client = Client::builder()
            .user_agent(concat!("leveret/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(SNAPSHOT_SILENCE)
            .tcp_nodelay(true)
            .no_proxy()
            .build()
            .map_err(|error| LinkError::Refused {
                detail: format!("HTTP client: {}", chain(&error)),
            })?;
        Ok(Caller { client, token })
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, LinkError> {
        let request = match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        let response = request.send().await.map_err(|error| unavailable(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(refusal(response).await)
    }

    async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, LinkError> {
        parse(self.send(request).await?).await
    }
}

async fn parse<T: DeserializeOwned>(response: Response) -> Result<T, LinkError> {
    let body = read_all(response).await?;
    serde_json::from_slice(&body).map_err(|error| LinkError::Unavailable {
        detail: format!("the answer is not what is expected: {error}"),
    })
}

async fn read_all(mut response: Response) -> Result<Vec<u8>, LinkError> {
    let mut body = Vec::new();
    while let Some(piece) = response
        .chunk()
        .await
        .map_err(|error| unavailable(&error))?
    {
        if body.len() + piece.len() > ANSWER_BYTES_MAX {
            return Err(LinkError::Refused {
                detail: format!("the answer has more than {ANSWER_BYTES_MAX} bytes"),
            });
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

/// The part of a problem that a caller acts on.
#[derive(Deserialize)]
struct Problem {
    detail: String,
    node_id: Option<String>,
    advertise: Option<String>,
}

/// What an answer that is no success means: 5xx, 408 and 429 pass, others stay.
async fn refusal(response: Response) -> LinkError {
    let status = response.status();
    let body = read_all(response).await.unwrap_or_default();
    let problem = serde_json::from_slice::<Problem>(&body).unwrap_or(Problem {
        detail: format!("status {status}"),
        node_id: None,
        advertise: None,
    });
    if let (StatusCode::CONFLICT, Some(node_id), Some(advertise)) =
        (status, problem.node_id, problem.advertise)
    {
        return LinkError::NameTaken { node_id, advertise };
    }
    let detail = problem.detail;
    let passes = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
    if status.is_server_error() || passes.contains(&status) {
        LinkError::Unavailable { detail }
    } else {
        LinkError::Refused { detail }
    }
}

fn unavailable(error: &reqwest::Error) -> LinkError {
    LinkError::Unavailable {
        detail: chain(error),
    }
}

/// An error with its causes; URLs in it have no secrets, tokens are in headers.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// A heart, or several of which one is active: asks the one that answered last, else the others in turn.
#[derive(Clone, Debug)]
pub struct HttpHeart {
    caller: Caller,
    urls: Arc<[String]>,
    current: Arc<AtomicUsize>,
}

impl HttpHeart {
    /// Hearts at these URLs, such as `http://127.0.0.1:7090`; at least one. The token goes as a bearer.
    pub fn new(urls: &[String], token: Option<Arc<str>>) -> Result<HttpHeart, LinkError> {
        let urls: Arc<[String]> = urls.iter().map(|url| base(url)).collect::<Result<_, _>>()?;
        if urls.is_empty() {
            return Err(LinkError::Refused {
                detail: "there is no heart to ask".to_owned(),
            });
        }
        Ok(HttpHeart {
            caller: Caller::new(token)?,
            urls,
            current: Arc::default(),
        })
    }

    fn turn(&self) -> Duration {
        if self.urls.len() > 1 { TURN } else { TIMEOUT }
    }

    /// Asks one heart after the other while they are unavailable. One that was is not the first that is asked next time, also when nobody
    /// waits for the others.
    async fn ask<T, F, Fut>(&self, ask: F) -> Result<T, LinkError>
    where
        F: Fn(Caller, String) -> Fut,
        Fut: Future<Output = Result<T, LinkError>>,
    {
        let first = self.current.load(Ordering::Relaxed);
        let mut last = None;
        for turn in 0..self.urls.len() {
            let at = (first + turn) % self.urls.len();
            match ask(self.caller.clone(), self.urls[at].clone()).await {
                Err(error) if error.is_retryable() => {
                    let next = (at + 1) % self.urls.len();
                    self.current.store(next, Ordering::Relaxed);
                    last = Some(error);
                }
                answered => {
                    self.current.store(at, Ordering::Relaxed);
                    return answered;
                }
            }
        }
        Err(last.expect("there is at least one heart"))
    }
}

/// A URL without the slash behind it.
fn base(url: &str) -> Result<String, LinkError> {
    let parsed = reqwest::Url::parse(url);
    if !parsed.is_ok_and(|url| ["http", "https"].contains(&url.scheme())) {
        return Err(LinkError::Refused {
            detail: format!(
                "'{}' is no URL of a heart or node, such as http://127.0.0.1:7090",
                redact_url(url)
            ),
        });
    }
    Ok(url.trim_end_matches('/').to_owned())
}

#[async_trait]
impl HeartLink for HttpHeart {
    async fn register(&self, registration: Registration) -> Result<Joined, LinkError> {
        let (registration, turn) = (&registration, self.turn());
        self.ask(|caller, url| async move {
            let request = caller.client.post(url + heart_path::NODES);
            let request = request.json(registration).timeout(turn);
            caller.json(request).await
        })
        .await
    }

    async fn fetch(&self, after: u64) -> Result<Fetched, LinkError> {
        self.ask(|caller, url| async move {
            let request = caller.client.get(url + heart_path::LOG);
            let request = request.query(&[("after", after)]).timeout(TIMEOUT);
            caller.json(request).await
        })
        .await
    }

    async fn snapshot(&self, node_id: &str, into: PathBuf) -> Result<Snapshot, LinkError> {
        let into = &into;
        self.ask(|caller, url| async move {
            let request = caller.client.get(url + heart_path::SNAPSHOT);
            let request = request.query(&[("node_id", node_id)]);
            file::receive(caller.send(request).await?, into.clone()).await
        })
        .await
    }
}

/// A node.
#[derive(Clone, Debug)]
pub struct HttpNode {
    caller: Caller,
    url: String,
    database_id: Arc<str>,
}

/// Which contents are asked for.
#[derive(Serialize, Deserialize)]
pub(super) struct At {
    pub(super) at: u64,
    pub(super) of: Contents,
}

/// What a node's contents are.
#[derive(Serialize, Deserialize)]
pub(super) struct Digested {
    pub(super) position: Position,
    pub(super) digest: String,
}

impl HttpNode {
    /// The node with this database at this URL. What another one answers there is no answer. The token goes as a bearer.
    pub fn new(
        url: &str,
        database_id: impl Into<Arc<str>>,
        token: Option<Arc<str>>,
    ) -> Result<HttpNode, LinkError> {
        Ok(HttpNode {
            caller: Caller::new(token)?,
            url: base(url)?,
            database_id: database_id.into(),
        })
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, LinkError> {
        let response = self.caller.send(request).await?;
        let says = response.headers().get(DATABASE_HEADER);
        if says.is_some_and(|says| says.as_bytes() == self.database_id.as_bytes()) {
            return Ok(response);
        }
        Err(LinkError::Unavailable {
            detail: format!("another node answers at {}", self.url),
        })
    }
}

#[async_trait]
impl NodeLink for HttpNode {
    async fn query(&self, query: Query) -> Result<Result<Rows, ReadError>, LinkError> {
        let timeout = query.limits.time + QUERY_GRACE;
        let request = self.caller.client.post(self.url(node_path::QUERY));
        let request = request.json(&Question::from(query)).timeout(timeout);
        let answer: Answer = parse(self.send(request).await?).await?;
        Ok(answer.into())
    }

    async fn contents(&self, at: u64, of: Contents) -> Result<(Position, [u8; 32]), LinkError> {
        let request = self.caller.client.get(self.url(node_path::CONTENTS));
        let request = request.query(&At { at, of }).timeout(CONTENTS_MAX);
        let contents: Digested = parse(self.send(request).await?).await?;
        let digest = file::unhex(&contents.digest).ok_or_else(|| LinkError::Refused {
            detail: "the answer has no digest".to_owned(),
        })?;
        Ok((contents.position, digest))
    }

    async fn outcomes(&self, after: u64, limit: u32) -> Result<Vec<Applied>, LinkError> {
        let request = self.caller.client.get(self.url(node_path::OUTCOMES));
        let request = request.query(&[("after", after), ("limit", limit.into())]);
        parse(self.send(request.timeout(TIMEOUT)).await?).await
    }

    async fn snapshot(&self, into: PathBuf) -> Result<Snapshot, LinkError> {
        let request = self.caller.client.get(self.url(node_path::SNAPSHOT));
        file::receive(self.send(request).await?, into).await
    }

    async fn nudge(&self) -> Result<(), LinkError> {
        let request = self.caller.client.post(self.url(node_path::NUDGE));
        self.send(request.timeout(TIMEOUT)).await.map(drop)
    }
}
