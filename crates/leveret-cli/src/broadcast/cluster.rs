//! `leveret cluster`: an operator's orders to a heart.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use leveret::{
    broadcast::{
        HeartLink, Snapshot,
        heart::{HeartState, Recovered, Status, Verified},
        wire::HttpHeart,
    },
    redact_url,
};
use reqwest::{Client, Method, StatusCode, Url};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::args::{ClusterArgs, ClusterCommand};
use crate::{
    exit::{BadInput, Exit},
    output::{self, Output, Table},
    settings::Settings,
    variables::given_by,
};

/// How long a rebuilt node, or a comparison of contents, may take.
const TIMEOUT: Duration = Duration::from_secs(660);

/// How long a heart may take to say whether it has the log.
const LOOK_TIMEOUT: Duration = Duration::from_secs(3);

/// Does it.
pub(crate) async fn cluster(
    args: ClusterArgs,
    settings: &Settings,
    output: Output,
) -> anyhow::Result<Exit> {
    let operator = Operator::new(&args, settings)?;
    match args.command {
        ClusterCommand::Status => status(&operator, output).await,
        ClusterCommand::Verify => verify(&operator, output).await,
        ClusterCommand::Snapshot { to } => snapshot(&operator, &to, output).await,
        ClusterCommand::Rebuild { node } => {
            let path = ["nodes", &node, "rebuild"];
            operator.ask::<Value>(Method::POST, &path).await?;
            done(
                output,
                &json!({ "node_id": node }),
                &format!("node {node} serves again"),
            )
        }
        ClusterCommand::Remove { node } => {
            operator
                .ask::<Value>(Method::DELETE, &["nodes", &node])
                .await?;
            let text = format!("node {node} is no member any more, and its queue is deleted");
            done(output, &json!({ "node_id": node }), &text)
        }
        ClusterCommand::Recover => {
            let recovered: Recovered = operator.ask(Method::POST, &["recover"]).await?;
            let Recovered { epoch, seq } = recovered;
            let text = format!("the log goes on behind seq {seq}, in epoch {epoch}");
            done(output, &serde_json::to_value(recovered)?, &text)
        }
    }
}

fn done(output: Output, json: &Value, text: &str) -> anyhow::Result<Exit> {
    if output.json {
        output::json(json)?;
    } else {
        output::line(text)?;
    }
    Ok(Exit::Ok)
}

async fn status(operator: &Operator, output: Output) -> anyhow::Result<Exit> {
    let status: Status = operator.ask(Method::GET, &["status"]).await?;
    if output.json {
        output::json(&status)?;
        return Ok(Exit::Ok);
    }
    let mut table = Table::new([
        "node",
        "state",
        "applied",
        "behind",
        "behind ms",
        "kind",
        "at",
    ])
    .number(2)
    .number(3)
    .number(4);
    for node in &status.nodes {
        table.row([
            node.node_id.clone(),
            node.state.as_str().to_owned(),
            node.position.to_string(),
            node.lag_entries.to_string(),
            node.lag_ms.to_string(),
            node.kind.clone(),
            node.advertise.clone(),
        ]);
    }
    table.print()?;
    for node in &status.nodes {
        if let Some(detail) = &node.detail {
            output::line(format!("node {}: {detail}", node.node_id))?;
        }
    }
    let state = serde_json::to_value(status.state)?;
    output::line(format!(
        "cluster {}, heart {}, epoch {}, seqs {} to {} in the log, {} of them wait for the broker",
        status.cluster,
        state.as_str().unwrap_or_default(),
        status.epoch,
        status.oldest_seq,
        status.last_seq,
        status.unpublished,
    ))?;
    for fault in status.detail.iter().chain(&status.broker_fault) {
        output::line(fault)?;
    }
    Ok(Exit::Ok)
}

async fn verify(operator: &Operator, output: Output) -> anyhow::Result<Exit> {
    let verified: Verified = operator.ask(Method::POST, &["verify"]).await?;
    if output.json {
        output::json(&verified)?;
        return Ok(Exit::ok_if(verified.equal));
    }
    let mut table = Table::new(["node", "contents", "equal"]);
    for node in &verified.nodes {
        let is_equal = match (&node.error, node.diverged) {
            (Some(error), _) => error.clone(),
            (None, true) => "no: quarantined".to_owned(),
            (None, false) => "yes".to_owned(),
        };
        let digest = node.digest.as_deref().unwrap_or("-");
        table.row([
            node.node_id.clone(),
            digest.chars().take(16).collect(),
            is_equal,
        ]);
    }
    table.print()?;
    let seq = verified.seq;
    let diverged = verified.nodes.iter().filter(|node| node.diverged);
    let diverged: Vec<&str> = diverged.map(|node| &*node.node_id).collect();
    output::line(match (verified.equal, diverged.is_empty()) {
        (true, _) => format!("all contents are equal at seq {seq}"),
        (false, true) => format!("not every node was compared at seq {seq}"),
        (false, false) => format!("at seq {seq} these differ: {}", diverged.join(", ")),
    })?;
    Ok(Exit::ok_if(verified.equal))
}

/// Writes a copy of the furthest node to a file that is not there yet.
async fn snapshot(operator: &Operator, to: &Path, output: Output) -> anyhow::Result<Exit> {
    if to.exists() {
        bail!(BadInput::new(format!("{} exists already", to.display())));
    }
    let directory = to.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new(".")).to_owned();
    let urls: Vec<String> = operator.hearts.iter().map(Url::to_string).collect();
    let heart = HttpHeart::new(&urls, operator.token.clone())?;
    let taken: Snapshot = heart.snapshot("", directory).await?;
    tokio::fs::rename(&taken.path, to)
        .await
        .context("cannot name the snapshot")?;
    let seq = taken.position.seq;
    let told = json!({ "file": to, "seq": seq, "size_bytes": taken.size_bytes });
    let text = format!(
        "{}: {} bytes, all writes up to seq {seq}",
        to.display(),
        taken.size_bytes
    );
    done(output, &told, &text)
}

/// Talks to a heart, or to several of which one is active.
struct Operator {
    hearts: Vec<Url>,
    token: Option<Arc<str>>,
    http: Client,
}

/// An error as the heart tells it (RFC 9457).
#[derive(Deserialize)]
struct Problem {
    detail: String,
}

impl Operator {
    fn new(args: &ClusterArgs, settings: &Settings) -> anyhow::Result<Operator> {
        // An error only says that a provider is installed already.
        drop(rustls::crypto::ring::default_provider().install_default());
        let hearts = args.heart.iter().map(|url| {
            let heart = Url::parse(url).ok();
            let heart = heart.filter(|url| matches!(url.scheme(), "http" | "https"));
            heart.ok_or_else(|| {
                let given = given_by("--heart", "LEVERET_HEART", url);
                let shown = redact_url(url);
                BadInput::new(format!("{given} {shown}: say http://HOST:PORT"))
            })
        });
        let http = Client::builder()
            .timeout(TIMEOUT)
            .connect_timeout(Duration::from_secs(10));
        Ok(Operator {
            hearts: hearts.collect::<Result<_, _>>()?,
            token: settings.token.as_deref().map(Arc::from),
            http: http.build().context("cannot make an HTTP client")?,
        })
    }

    async fn ask<T: DeserializeOwned>(&self, method: Method, path: &[&str]) -> anyhow::Result<T> {
        self.ask_at(self.leading().await, method, path).await
    }

    /// The heart that has the log, as far as one says so; else the first.
    async fn leading(&self) -> &Url {
        if let [one] = &self.hearts[..] {
            return one;
        }
        for heart in &self.hearts {
            let asked = self.ask_at::<Status>(heart, Method::GET, &["status"]);
            if let Ok(Ok(status)) = timeout(LOOK_TIMEOUT, asked).await
                && matches!(status.state, HeartState::Active | HeartState::Behind)
            {
                return heart;
            }
        }
        &self.hearts[0]
    }

    async fn ask_at<T: DeserializeOwned>(
        &self,
        heart: &Url,
        method: Method,
        path: &[&str],
    ) -> anyhow::Result<T> {
        let mut url = heart.clone();
        // A URL of http or https can be a base, which the constructor saw to.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        let mut request = self.http.request(method, url);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        let shown = redact_url(heart.as_str());
        let sent = request.send().await.map_err(reqwest::Error::without_url);
        let response = sent.with_context(|| {
            format!(
                "cannot reach the heart at {shown}: start one with `leveret heart`, or give --heart"
            )
        })?;
        let status = response.status();
        let body = response
            .bytes()
            .await
            .context("the heart's answer broke off")?;
        if status.is_success() {
            return serde_json::from_slice(&body).with_context(|| {
                format!("what answers at {shown} is no heart: give another --heart")
            });
        }
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem)
                if status == StatusCode::NOT_FOUND || status == StatusCode::UNAUTHORIZED =>
            {
                bail!(BadInput::new(problem.detail))
            }
            Ok(problem) => bail!(problem.detail),
            Err(_) => bail!(
                "what answers at {shown} is no heart (it answered {status}): give another --heart"
            ),
        }
    }
}
