//! Settings: flags over `LEVERET_*` over `leveret.toml`, all in one struct.
//!
//! The fields of [`Settings`] are at once the flags (`--drain-timeout`), the variables (`LEVERET_DRAIN_TIMEOUT`) and the
//! keys of the file (`drain_timeout`). Nothing below the binary reads the environment. Passwords in URLs are never printed:
//! [`Settings::effective`] leaves them out, and `--help` shows no values of variables.

use std::{
    collections::BTreeMap,
    fmt,
    num::NonZeroU16,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use leveret::{
    http::Guard,
    nodes::Reach,
    redact_url,
    runtime::{EngineOptions, StatusMessages, WorkerOptions},
};
use leveret_core::{suggest::nearest, time::parse_duration};
use serde::{Deserialize, Serialize};

use crate::exit::BadInput;

/// The file of settings, when none is named.
const FILE: &str = "leveret.toml";

/// What can be set. Everything has a default; see the methods.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Settings (flags over LEVERET_* over leveret.toml)")]
pub(crate) struct Settings {
    /// The file of settings [default: ./leveret.toml, if there is one]
    #[arg(
        long,
        value_name = "FILE",
        env = "LEVERET_CONFIG",
        hide_env_values = true,
        global = true
    )]
    #[serde(skip)]
    pub(crate) config: Option<PathBuf>,

    /// The store: sqlite:PATH or postgres://USER:PASSWORD@HOST/DATABASE [default: sqlite:DATA/leveret.db]
    #[arg(
        long,
        value_name = "URL",
        env = "LEVERET_STORE",
        hide_env_values = true,
        global = true
    )]
    pub(crate) store: Option<String>,

    /// The broker: embedded:, embedded:PATH, amqp://… or amqps://… [default: embedded: if the store is SQLite]
    #[arg(
        long,
        value_name = "URL",
        env = "LEVERET_BROKER",
        hide_env_values = true,
        global = true
    )]
    pub(crate) broker: Option<String>,

    /// The directory of the default store [default: .leveret; `run` and `demo` use a temporary one]
    #[arg(
        long,
        value_name = "DIR",
        env = "LEVERET_DATA",
        hide_env_values = true,
        global = true
    )]
    pub(crate) data: Option<PathBuf>,

    /// Where the API listens [default: 127.0.0.1:7070]. For a worker: where its health and metrics do [default: nowhere]
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "LEVERET_LISTEN",
        hide_env_values = true,
        hide_short_help = true,
        global = true
    )]
    pub(crate) listen: Option<String>,

    /// The server that `workflows`, `runs` and `dlq` talk to [default: http://127.0.0.1:7070]
    #[arg(
        long,
        value_name = "URL",
        env = "LEVERET_SERVER",
        hide_env_values = true,
        hide_short_help = true,
        global = true
    )]
    pub(crate) server: Option<String>,

    /// Tokens that the API asks for: NAME:TOKEN or NAME:TOKEN:SCOPE with commas between; scopes are read, run and admin, which is the default
    /// [default: none]
    #[arg(
        long,
        value_name = "TOKENS",
        env = "LEVERET_API_TOKENS",
        hide_env_values = true,
        hide_short_help = true,
        global = true
    )]
    pub(crate) api_tokens: Option<String>,

    /// Names by which the API may be asked without tokens, with commas between [default: addresses and localhost]
    #[arg(
        long,
        value_name = "NAMES",
        value_delimiter = ',',
        env = "LEVERET_API_HOSTS",
        hide_env_values = true,
        hide_short_help = true,
        global = true
    )]
    pub(crate) api_hosts: Option<Vec<String>>,

    /// Whether the API may do without tokens where others can reach it [default: false]
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        default_missing_value = "true",
        require_equals = true,
        env = "LEVERET_INSECURE",
        hide_env_values = true,
        hide_short_help = true,
        global = true
    )]
    pub(crate) insecure: Option<bool>,

    /// The token that `workflows`, `runs` and `cluster` send to the server, and heart and nodes to each other
    #[arg(
        long,
        value_name = "TOKEN",
        env = "LEVERET_TOKEN",
        hide_env_values = true,
        hide_short_help = true,
        global = true
    )]
    pub(crate) token: Option<String>,

    /// Jobs that a worker executes at once [default: 256]
    #[arg(
        long,
        value_name = "N",
        env = "LEVERET_WORKER_CONCURRENCY",
        hide_env_values = true,
        hide_short_help = true,
        global = true
    )]
    pub(crate) worker_concurrency: Option<NonZeroU16>,

    /// Jobs that a worker takes from the broker at once, at least as many as it executes [default: 512]
    #[arg(
        long,
        value_name = "N",
        env = "LEVERET_PREFETCH",
        hide_env_values = true,
        hide_short_help = true,
        global = true
    )]
    pub(crate) prefetch: Option<NonZeroU16>,

    /// Status messages of nodes that workers publish [default: all on RabbitMQ, off on an embedded broker]
    #[arg(
        long,
        env = "LEVERET_STATUS",
        hide_env_values = true,
        hide_short_help = true,
        global = true
    )]
    pub(crate) status: Option<Status>,

    /// Whether a message is published when a run ends [default: true on RabbitMQ, false on an embedded broker]
    #[arg(
        long,
        value_name = "BOOL",
        env = "LEVERET_COMPLETION",
        hide_env_values = true,
        hide_short_help = true,
        global = true
    )]
    pub(crate) completion: Option<bool>,

    /// Goes before the names of exchange and queues, and into that of the schema in PostgreSQL, so that installations can share a broker and a
    /// database [default: none]
    #[arg(
        long,
        value_name = "TEXT",
        env = "LEVERET_PREFIX",
        hide_env_values = true,
        hide_short_help = true,
        global = true
    )]
    pub(crate) prefix: Option<String>,

    /// On shutdown, how long jobs that run may take before they go back to their queue [default: 30s]
    #[arg(
        long,
        value_name = "TIME",
        env = "LEVERET_DRAIN_TIMEOUT",
        hide_env_values = true,
        hide_short_help = true,
        global = true
    )]
    pub(crate) drain_timeout: Option<Span>,

    /// A run in which nothing was recorded for so long, and nothing runs, waits or sleeps, is taken up again [default: 60s]
    #[arg(
        long,
        value_name = "TIME",
        env = "LEVERET_STALLED_AFTER",
        hide_env_values = true,
        hide_short_help = true,
        global = true
    )]
    pub(crate) stalled_after: Option<Span>,

    /// How long runs are kept after their end, or `off` for ever [default: 30d]
    #[arg(
        long,
        value_name = "TIME",
        env = "LEVERET_RETENTION",
        hide_env_values = true,
        hide_short_help = true,
        global = true
    )]
    pub(crate) retention: Option<Retention>,

    /// Where others reach the API, which `webhook` nodes tell them [default: http:// and the address of --listen]
    #[arg(
        long,
        value_name = "URL",
        env = "LEVERET_PUBLIC_URL",
        hide_env_values = true,
        hide_short_help = true,
        global = true
    )]
    pub(crate) public_url: Option<String>,

    /// Hosts (`api.example.com`, `*.example.com`), addresses and ranges that `http` nodes may ask, with commas between; all others are refused
    /// [default: everything but metadata addresses]
    #[arg(
        long,
        value_name = "HOSTS",
        value_delimiter = ',',
        env = "LEVERET_HTTP_ALLOW",
        hide_env_values = true,
        hide_short_help = true,
        global = true
    )]
    pub(crate) http_allow: Option<Vec<String>>,

    /// Hosts, addresses and ranges that `http` nodes may not ask, with commas between [default: none]
    #[arg(
        long,
        value_name = "HOSTS",
        value_delimiter = ',',
        env = "LEVERET_HTTP_DENY",
        hide_env_values = true,
        hide_short_help = true,
        global = true
    )]
    pub(crate) http_deny: Option<Vec<String>>,

    /// Whether idle CPUs poll for work while steps are committed, where that is quicker and allowed: on a virtual machine, as root [default: true]
    #[arg(
        long,
        value_name = "BOOL",
        env = "LEVERET_KEEP_CPUS_AWAKE",
        hide_env_values = true,
        hide_short_help = true,
        global = true
    )]
    pub(crate) keep_cpus_awake: Option<bool>,

    /// What is logged to stderr: a level, or directives such as `info,leveret::log=debug` [default: info; warnings and
    /// `log` nodes for `run`]
    #[arg(
        long,
        value_name = "FILTER",
        env = "LEVERET_LOG",
        hide_env_values = true,
        hide_short_help = true,
        global = true
    )]
    pub(crate) log: Option<String>,

    /// The form of the log [default: text]
    #[arg(
        long,
        env = "LEVERET_LOG_FORMAT",
        hide_env_values = true,
        hide_short_help = true,
        global = true
    )]
    pub(crate) log_format: Option<LogFormat>,

    /// Node types that workers elsewhere have, each a table `[nodes.TYPE]` of the file: the server takes definitions that use them
    #[arg(skip)]
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[expect(clippy::zero_sized_map_values)]
    // A table says nothing yet but that there is the node type.
    pub(crate) nodes: BTreeMap<String, NodeDeclared>,
}

/// What the file says of a node type: that there is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NodeDeclared {}

/// Which status messages are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    /// `running`, `waiting`, `success` and `failed`
    All,
    /// `success` and `failed`
    Final,
    /// None
    Off,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Status::All => "all",
            Status::Final => "final",
            Status::Off => "off",
        })
    }
}

impl From<Status> for StatusMessages {
    fn from(status: Status) -> StatusMessages {
        match status {
            Status::All => StatusMessages::All,
            Status::Final => StatusMessages::Final,
            Status::Off => StatusMessages::Off,
        }
    }
}

/// The form of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// A line for people
    #[default]
    Text,
    /// A JSON object a line
    Json,
}

/// A time span as text: `250ms`, `10s`, `5m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Span(pub(crate) Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Span, String> {
        let span = parse_duration(text).map(Span);
        span.ok_or_else(|| format!("'{text}' is no time span: say 250ms, 10s, 5m, 1h or 2d"))
    }
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Span, String> {
        text.parse()
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_millis() {
            ms if ms.is_multiple_of(1000) => write!(f, "{}s", ms / 1000),
            ms => write!(f, "{ms}ms"),
        }
    }
}

impl From<Span> for String {
    fn from(span: Span) -> String {
        span.to_string()
    }
}

/// How long something is kept: a time span, or `off` for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Retention(pub(crate) Option<Span>);

impl FromStr for Retention {
    type Err = String;

    fn from_str(text: &str) -> Result<Retention, String> {
        match text {
            "off" => Ok(Retention(None)),
            text => Ok(Retention(Some(text.parse()?))),
        }
    }
}

impl TryFrom<String> for Retention {
    type Error = String;

    fn try_from(text: String) -> Result<Retention, String> {
        text.parse()
    }
}

impl From<Retention> for String {
    fn from(Retention(span): Retention) -> String {
        span.map_or_else(|| "off".to_owned(), |span| span.to_string())
    }
}

impl Settings {
    /// These settings (flags and variables) over those of the file. A file that was named must exist; `./leveret.toml` may.
    pub(crate) fn load(self) -> anyhow::Result<Settings> {
        let (path, named) = match &self.config {
            Some(path) => (path.clone(), true),
            None => (PathBuf::from(FILE), false),
        };
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                let file =
                    parse(&text).with_context(|| format!("settings file {}", path.display()))?;
                Ok(Settings {
                    config: Some(path),
                    ..self.over(file)
                })
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !named => Ok(self),
            Err(error) => Err(BadInput::new(format!(
                "cannot read the settings file {}: {error}",
                path.display()
            ))
            .into()),
        }
    }

    fn over(self, file: Settings) -> Settings {
        Settings {
            config: self.config.or(file.config),
            store: self.store.or(file.store),
            broker: self.broker.or(file.broker),
            data: self.data.or(file.data),
            listen: self.listen.or(file.listen),
            server: self.server.or(file.server),
            api_tokens: self.api_tokens.or(file.api_tokens),
            api_hosts: self.api_hosts.or(file.api_hosts),
            insecure: self.insecure.or(file.insecure),
            token: self.token.or(file.token),
            worker_concurrency: self.worker_concurrency.or(file.worker_concurrency),
            prefetch: self.prefetch.or(file.prefetch),
            status: self.status.or(file.status),
            completion: self.completion.or(file.completion),
            prefix: self.prefix.or(file.prefix),
            drain_timeout: self.drain_timeout.or(file.drain_timeout),
            stalled_after: self.stalled_after.or(file.stalled_after),
            retention: self.retention.or(file.retention),
            public_url: self.public_url.or(file.public_url),
            http_allow: self.http_allow.or(file.http_allow),
            http_deny: self.http_deny.or(file.http_deny),
            keep_cpus_awake: self.keep_cpus_awake.or(file.keep_cpus_awake),
            log: self.log.or(file.log),
            log_format: self.log_format.or(file.log_format),
            nodes: file.nodes,
        }
    }

    /// The URL of the store.
    pub(crate) fn store(&self) -> String {
        let default = || format!("sqlite:{}", self.data().join("leveret.db").display());
        self.store.clone().unwrap_or_else(default)
    }

    /// The URL of the broker. There is a default only beside a store in SQLite.
    pub(crate) fn broker(&self) -> anyhow::Result<String> {
        let store = self.store();
        refuse_memory("store", &store, "sqlite:leveret.db")?;
        match &self.broker {
            Some(url) => Ok(url.clone()),
            // What is no kind of store is told when it is opened.
            None if !store.starts_with("postgres") => Ok("embedded:".to_owned()),
            None => bail!(BadInput::new(
                "a store that is no SQLite file needs a broker: give --broker amqp://… or embedded:PATH"
            )),
        }
    }

    /// The URL of a broker that this process can open beside a server: a shared one, or a file of its own.
    pub(crate) fn own_broker(&self) -> Option<&str> {
        let url = self.broker.as_deref()?;
        (url != "embedded:").then_some(url)
    }

    fn data(&self) -> &Path {
        self.data.as_deref().unwrap_or(Path::new(".leveret"))
    }

    /// Whether it was said where data goes.
    pub(crate) fn says_where(&self) -> bool {
        self.store.is_some() || self.broker.is_some() || self.data.is_some()
    }

    /// Where the API listens.
    pub(crate) fn listen(&self) -> &str {
        self.listen.as_deref().unwrap_or("127.0.0.1:7070")
    }

    /// The server to talk to.
    pub(crate) fn server(&self) -> &str {
        self.server.as_deref().unwrap_or("http://127.0.0.1:7070")
    }

    /// How a worker of this process works.
    pub(crate) fn worker(&self) -> WorkerOptions {
        let default = WorkerOptions::default();
        let concurrency = self
            .worker_concurrency
            .map_or(default.concurrency, NonZeroU16::get);
        WorkerOptions {
            concurrency,
            prefetch: self
                .prefetch
                .map_or(default.prefetch, NonZeroU16::get)
                .max(concurrency),
            drain_timeout: self.drain_timeout(),
        }
    }

    /// How long a shutdown waits for what runs.
    pub(crate) fn drain_timeout(&self) -> Duration {
        self.drain_timeout
            .map_or(WorkerOptions::default().drain_timeout, |span| span.0)
    }

    /// Bounds and policies of the engine.
    pub(crate) fn engine(&self) -> EngineOptions {
        let default = EngineOptions::default();
        EngineOptions {
            quiet: self.stalled_after.map_or(default.quiet, |span| span.0),
            retention: self.retention(),
            keep_cpus_awake: self.keep_cpus_awake.unwrap_or(true),
            ..default
        }
    }

    /// How long runs are kept after their end.
    pub(crate) fn retention(&self) -> Option<Duration> {
        let default = EngineOptions::default().retention;
        self.retention
            .map_or(default, |Retention(span)| span.map(|span| span.0))
    }

    /// Who may ask the API.
    pub(crate) fn guard(&self) -> anyhow::Result<Guard> {
        let tokens = self.api_tokens.as_deref().unwrap_or_default().parse();
        let hosts = self.api_hosts.clone().unwrap_or_default();
        Ok(Guard {
            tokens: tokens.map_err(|error| BadInput::new(format!("api_tokens: {error}")))?,
            hosts,
        })
    }

    /// Where others reach the API.
    pub(crate) fn public_url(&self) -> anyhow::Result<String> {
        let Some(given) = &self.public_url else {
            return Ok(format!("http://{}", self.listen()));
        };
        let url = reqwest::Url::parse(given);
        let is_good = url.is_ok_and(|url| {
            matches!(url.scheme(), "http" | "https")
                && url.has_host()
                && url.query().is_none()
                && url.fragment().is_none()
        });
        if is_good {
            return Ok(given.trim_end_matches('/').to_owned());
        }
        let message = format!("public_url: '{given}' is no URL such as https://example.com");
        Err(BadInput::new(message).into())
    }

    /// Which hosts `http` nodes may ask.
    pub(crate) fn reach(&self) -> anyhow::Result<Reach> {
        let of = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
        let reach = Reach::new(&of(&self.http_allow), &of(&self.http_deny));
        Ok(reach.map_err(|error| BadInput::new(format!("http_allow, http_deny: {error}")))?)
    }

    /// The status messages that are published.
    pub(crate) fn status(&self) -> Status {
        let default = if self.is_shared() {
            Status::All
        } else {
            Status::Off
        };
        self.status.unwrap_or(default)
    }

    /// Whether others can use the broker, too.
    fn is_shared(&self) -> bool {
        let url = self.broker.as_ref();
        url.is_some_and(|url| url.starts_with("amqp"))
    }

    /// The settings with all defaults in place and without passwords, for printing.
    pub(crate) fn effective(&self) -> Settings {
        let worker = self.worker();
        Settings {
            config: self.config.clone(),
            store: Some(redact_url(&self.store())),
            broker: self.broker().ok().map(|url| redact_url(&url)),
            data: Some(self.data().to_owned()),
            listen: Some(self.listen().to_owned()),
            server: Some(redact_url(self.server())),
            api_tokens: self.guard().ok().map(|guard| guard.tokens.to_string()),
            api_hosts: Some(self.api_hosts.clone().unwrap_or_default()),
            insecure: Some(self.insecure.unwrap_or(false)),
            token: self.token.as_ref().map(|_| "***".to_owned()),
            worker_concurrency: NonZeroU16::new(worker.concurrency),
            prefetch: NonZeroU16::new(worker.prefetch),
            status: Some(self.status()),
            completion: self.completion.or(Some(self.is_shared())),
            prefix: Some(self.prefix.clone().unwrap_or_default()),
            drain_timeout: Some(Span(worker.drain_timeout)),
            stalled_after: Some(Span(self.engine().quiet)),
            retention: Some(Retention(self.retention().map(Span))),
            public_url: self.public_url().ok(),
            http_allow: Some(self.http_allow.clone().unwrap_or_default()),
            http_deny: Some(self.http_deny.clone().unwrap_or_default()),
            keep_cpus_awake: Some(self.engine().keep_cpus_awake),
            log: Some(self.log.clone().unwrap_or_else(|| "info".to_owned())),
            log_format: Some(self.log_format.unwrap_or_default()),
            nodes: self.nodes.clone(),
        }
    }
}

/// The settings in the text of a file. An unknown key is an error that names the nearest known one.
fn parse(text: &str) -> anyhow::Result<Settings> {
    let known: Vec<String> = known_keys();
    if let Ok(table) = text.parse::<toml::Table>()
        && let Some(unknown) = table.keys().find(|key| !known.contains(key))
    {
        let help = match nearest(unknown, known.iter().map(String::as_str)) {
            Some(near) => format!("did you mean '{near}'?"),
            None => format!("known: {}", known.join(", ")),
        };
        bail!(BadInput::new(format!(
            "unknown setting '{unknown}': {help}"
        )));
    }
    toml::from_str(text).map_err(|error: toml::de::Error| {
        let (at, message) = if let Some((at, key)) = misfit(text) {
            (at, format!("'{key}' must be {}", expected(&key)))
        } else {
            // Of the error only the place and the message: the line itself may hold a password.
            let at = error.span().map_or(0, |span| span.start);
            (at, error.message().to_owned())
        };
        let line = text[..at].matches('\n').count() + 1;
        BadInput::new(format!("line {line}: {message}")).into()
    })
}

/// The first key whose value cannot be used, and where that is.
fn misfit(text: &str) -> Option<(usize, String)> {
    let table: BTreeMap<String, toml::Spanned<toml::Value>> = toml::from_str(text).ok()?;
    let misfits = table.into_iter().filter_map(|(key, value)| {
        let at = value.span().start;
        let single = toml::Table::from_iter([(key.clone(), value.into_inner())]);
        let is_misfit = Settings::deserialize(single).is_err();
        is_misfit.then_some((at, key))
    });
    misfits.min()
}

/// What the value of a key must be.
fn expected(key: &str) -> &'static str {
    match key {
        "worker_concurrency" | "prefetch" => "a whole number from 1 to 65535",
        "http_allow" | "http_deny" | "api_hosts" => {
            "a list of texts, as in ['api.example.com', '10.0.0.0/8']"
        }
        "completion" | "keep_cpus_awake" | "insecure" => "true or false, without quotes",
        "status" => "'all', 'final' or 'off'",
        "log_format" => "'text' or 'json'",
        "nodes" => "tables, each named as a node type: [nodes.charge-card]",
        "retention" => "a time in quotes, such as '30d', or 'off'",
        "drain_timeout" | "stalled_after" => "a time in quotes, such as '250ms', '30s' or '5m'",
        _ => "text in quotes",
    }
}

/// What is accepted must be kept.
pub(crate) fn refuse_memory(what: &str, url: &str, example: &str) -> anyhow::Result<()> {
    if url.starts_with("memory:") {
        let message = format!("memory: keeps nothing; a {what} needs a file, such as {example}");
        bail!(BadInput::new(message));
    }
    Ok(())
}

fn known_keys() -> Vec<String> {
    let command = Settings::augment_args(clap::Command::new("settings"));
    let keys = command.get_arguments().map(|arg| arg.get_id().to_string());
    let keys = keys.filter(|key| key != "config");
    keys.chain(["nodes".to_owned()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_go_over_the_file() {
        let file =
            parse("store = 'sqlite:a.db'\nprefetch = 7\ndrain_timeout = '5s'\nstatus = 'final'")
                .unwrap();
        let flags = Settings {
            store: Some("sqlite:b.db".to_owned()),
            ..Settings::default()
        };
        let settings = flags.over(file);
        assert_eq!(settings.store(), "sqlite:b.db");
        assert_eq!(settings.broker().unwrap(), "embedded:");
        assert_eq!(settings.worker().prefetch, 256, "at least the concurrency");
        assert_eq!(settings.drain_timeout(), Duration::from_secs(5));
        assert_eq!(settings.status, Some(Status::Final));
    }

    #[test]
    fn mistakes_in_the_file_are_named() {
        let check = |text: &str, expect: &str| {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.contains(expect), "{error}");
            assert!(!error.contains("hush"), "{error}");
        };
        check(
            "brokr = 'amqp://u:hush@h'",
            "unknown setting 'brokr': did you mean 'broker'?",
        );
        check("zzz = 1", "known: store, broker");
        check(
            "data = 'x'\nprefetch = 0",
            "line 2: 'prefetch' must be a whole number from 1",
        );
        check("drain_timeout = 'soon'", "'drain_timeout' must be a time");
        check(
            "retention = 'never'",
            "'retention' must be a time in quotes, such as '30d', or 'off'",
        );
        check("stalled_after = 5", "'stalled_after' must be a time");
        check(
            "store = 5\nprefetch = 'hush'",
            "line 1: 'store' must be text",
        );
        check("\nstatus = 'hush'", "line 2: 'status' must be 'all'");
        check("http_deny = '::1'", "'http_deny' must be a list of texts");
        check("completion = 'true'", "must be true or false");
        check("store = 'postgres://u:hush@h\n", "line 1");
        check("config = 'x'", "unknown setting 'config'");
        check(
            "[nodes.a]\nb = 1",
            "'nodes' must be tables, each named as a node type",
        );
    }

    #[test]
    fn retention_can_be_off() {
        let check = |text: &str, expect: Option<u64>| {
            let settings = parse(text).unwrap();
            assert_eq!(settings.engine().retention, expect.map(Duration::from_secs));
        };
        check("", Some(30 * 24 * 3600));
        check("retention = '7d'", Some(7 * 24 * 3600));
        check("retention = 'off'", None);
    }

    #[test]
    fn a_foreign_store_needs_a_broker() {
        let settings = Settings {
            store: Some("postgres://h/d".to_owned()),
            ..Settings::default()
        };
        assert!(
            settings
                .broker()
                .unwrap_err()
                .to_string()
                .contains("--broker")
        );
    }

    #[test]
    fn hosts_that_are_none_are_told() {
        let settings = parse("http_allow = ['10.0.0.0/8', 'https://x']").unwrap();
        let error = settings.reach().unwrap_err().to_string();
        assert!(error.contains("'https://x' is no host name"), "{error}");
        assert!(Settings::default().reach().is_ok());
    }

    #[test]
    fn passwords_are_never_printed() {
        let settings = Settings {
            store: Some("postgres://u:hush@h/d".to_owned()),
            broker: Some("amqp://u:hush@h".to_owned()),
            server: Some("http://u:hush@h".to_owned()),
            api_tokens: Some("ops:hush:run".to_owned()),
            token: Some("hush".to_owned()),
            ..Settings::default()
        };
        assert!(
            !toml::to_string(&settings.effective())
                .unwrap()
                .contains("hush")
        );
    }

    #[test]
    fn spans_print_as_they_are_read() {
        for text in ["250ms", "10s", "300s"] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
    }
}
