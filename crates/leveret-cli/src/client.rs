//! The HTTP client of `leveret workflows`, `leveret runs` and `leveret dlq`.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use leveret::redact_url;
use reqwest::{Method, RequestBuilder, Response, Url};
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::Value;

use crate::{exit::BadInput, proxies, settings::Settings, variables::given_by};

/// How long a server may take to start.
const STARTING_MAX: Duration = Duration::from_secs(5);
/// How often it is looked for meanwhile.
const STARTING_POLL: Duration = Duration::from_millis(100);

/// Talks to one server.
pub(crate) struct Client {
    base: Url,
    http: reqwest::Client,
    token: Option<String>,
}

/// An error as the server tells it (RFC 9457).
#[derive(Debug, Deserialize)]
struct Problem {
    title: Option<String>,
    detail: Option<String>,
    #[serde(default)]
    diagnostics: Vec<Value>,
}

impl Client {
    /// A client of the server in the settings.
    pub(crate) fn new(settings: &Settings) -> anyhow::Result<Client> {
        // An error only says that a provider is installed already.
        drop(rustls::crypto::ring::default_provider().install_default());
        let server = settings.server();
        let base = Url::parse(server)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https"))
            .ok_or_else(|| {
                let given = given_by("--server", "LEVERET_SERVER", server);
                let server = redact_url(server);
                BadInput::new(format!("{given} {server}: say http://HOST:PORT"))
            })?;
        let mut http = reqwest::Client::builder().connect_timeout(Duration::from_secs(10));
        if proxies::are_off() {
            http = http.no_proxy();
        }
        let http = http.build();
        Ok(Client {
            base,
            http: http.context("cannot make an HTTP client")?,
            token: settings.token.clone(),
        })
    }

    /// A request to `/api/v1/…`; the segments are escaped.
    pub(crate) fn request(&self, method: Method, segments: &[&str]) -> RequestBuilder {
        let mut url = self.base.clone();
        // A URL of http or https can be a base, which the constructor saw to.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["api", "v1"]).extend(segments);
        }
        let request = self.http.request(method, url);
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Sends a request and reads the JSON of the answer.
    pub(crate) async fn json<T: DeserializeOwned>(
        &self,
        request: RequestBuilder,
    ) -> anyhow::Result<T> {
        let response = self.send(request).await?;
        let body = response
            .bytes()
            .await
            .context("the server's answer broke off")?;
        if serde_json::from_slice::<IgnoredAny>(&body).is_err() {
            bail!(BadInput::new(self.stranger()));
        }
        serde_json::from_slice(&body).context(
            "the server's answer is not what this program knows; is it of another version?",
        )
    }

    /// Sends a request; an answer that is no success is an error.
    pub(crate) async fn send(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        let sent = self
            .sent(request)
            .await
            .map_err(reqwest::Error::without_url);
        let response = sent.with_context(|| {
            let server = redact_url(self.base.as_str());
            format!(
                "cannot reach the server at {server}: start one with `leveret up`, or give --server"
            )
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.bytes().await.unwrap_or_default();
        let stranger = || format!("{} (it answered {status})", self.stranger());
        let message = problem(&body).unwrap_or_else(stranger);
        if status == reqwest::StatusCode::UNAUTHORIZED {
            let help = "give --token or set LEVERET_TOKEN";
            bail!(BadInput::new(format!("{message}; {help}")));
        }
        if status.is_client_error() {
            bail!(BadInput::new(message));
        }
        bail!(message)
    }

    /// Sends; a server that takes no connections yet may be starting, and has a few seconds.
    async fn sent(&self, mut request: RequestBuilder) -> Result<Response, reqwest::Error> {
        let begun = Instant::now();
        loop {
            let again = request.try_clone();
            match (request.send().await, again) {
                (Err(error), Some(again))
                    if error.is_connect() && begun.elapsed() < STARTING_MAX =>
                {
                    tokio::time::sleep(STARTING_POLL).await;
                    request = again;
                }
                (sent, _) => return sent,
            }
        }
    }

    /// Says that what answers is no Leveret server. What it answers is left out: a page for a browser, as a rule.
    fn stranger(&self) -> String {
        let server = redact_url(self.base.as_str());
        format!("what answers at {server} is not Leveret: give another --server")
    }
}

/// What the server has against a request, in words; `None` when that is no answer of ours.
fn problem(body: &[u8]) -> Option<String> {
    let problem: Problem = serde_json::from_slice(body).ok()?;
    let mut message = match (problem.title, problem.detail) {
        (Some(title), Some(detail)) if title != detail => format!("{title}: {detail}"),
        (Some(text), _) | (None, Some(text)) => text,
        (None, None) => return None,
    };
    for diagnostic in &problem.diagnostics {
        let text = |key: &str| diagnostic[key].as_str().unwrap_or_default();
        message = format!("{message}\n  {}: {}", text("path"), text("message"));
        if !text("help").is_empty() {
            message = format!("{message}\n    help: {}", text("help"));
        }
    }
    Some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_become_sentences() {
        let check = |body: &str, expect: Option<&str>| {
            assert_eq!(problem(body.as_bytes()).as_deref(), expect);
        };
        check(
            r#"{"title":"Not found","detail":"no run x"}"#,
            Some("Not found: no run x"),
        );
        check(r#"{"title":"Not found"}"#, Some("Not found"));
        check(
            r#"{"title":"Bad","diagnostics":[{"path":"nodes[0]","message":"no","help":"say yes"},{"path":"id","message":"none","help":null}]}"#,
            Some("Bad\n  nodes[0]: no\n    help: say yes\n  id: none"),
        );
        check("<html>", None);
        check("{}", None);
    }

    #[test]
    fn the_token_is_sent() {
        let settings = Settings {
            token: Some("t-1".to_owned()),
            ..Settings::default()
        };
        let client = Client::new(&settings).unwrap();
        let request = client.request(Method::GET, &["runs"]).build().unwrap();
        assert_eq!(request.headers()["authorization"], "Bearer t-1");
    }

    #[test]
    fn ids_are_escaped() {
        let settings = Settings {
            server: Some("http://h:1/base/".to_owned()),
            ..Settings::default()
        };
        let request = Client::new(&settings)
            .unwrap()
            .request(Method::GET, &["runs", "a/b c"])
            .build()
            .unwrap();
        assert_eq!(
            request.url().as_str(),
            "http://h:1/base/api/v1/runs/a%2Fb%20c"
        );
        let settings = Settings {
            server: Some("localhost:7070".to_owned()),
            ..Settings::default()
        };
        assert!(Client::new(&settings).is_err());
    }
}
