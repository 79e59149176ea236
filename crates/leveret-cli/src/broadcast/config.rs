//! What heart and node are told: flags and variables over their file.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use leveret::{
    broadcast::{
        LinkError,
        wire::{EXCHANGE_DEFAULT, HttpHeart, Names, QUEUE_NAME_DEFAULT, is_node_id},
    },
    broker,
    http::Guard,
    redact_url,
};

use super::{
    args::{HeartArgs, NodeArgs, SharedArgs},
    file::SettingsFile,
};
use crate::{
    exit::BadInput,
    settings::{Settings, Span, refuse_memory},
};

/// Where a heart listens when nothing else is said.
pub(crate) const HEART_LISTEN: &str = "127.0.0.1:7090";
/// Where a node listens when nothing else is said: a free port, which it tells its heart.
const NODE_LISTEN: &str = "127.0.0.1:0";

/// The longest names of an exchange, and of what the names of queues begin with: with a node's name and what stands behind it, they are those of
/// AMQP.
const EXCHANGE_BYTES_MAX: usize = 255;
const QUEUE_NAME_BYTES_MAX: usize = 140;

/// A heart's settings.
#[derive(Clone, Debug)]
pub(crate) struct HeartConfig {
    pub(crate) broker: String,
    pub(crate) names: Names,
    pub(crate) listen: String,
    pub(crate) write_log: String,
    pub(crate) directory: PathBuf,
    pub(crate) access: Access,
    pub(crate) log_bytes_max: Option<u64>,
    pub(crate) queue_messages_max: Option<u64>,
    pub(crate) log_age_max: Option<Span>,
}

impl HeartConfig {
    pub(crate) fn load(args: &HeartArgs, settings: &Settings) -> anyhow::Result<HeartConfig> {
        let mut file = SettingsFile::read(settings.config.as_deref())?;
        let broker = file.checked("broker", check_broker)?;
        let broker = settings.broker.clone().or(broker);
        let listen = file.checked("listen", check_listen)?;
        let listen = settings.listen.clone().or(listen);
        let write_log = file.checked("write_log", check_log)?;
        let write_log = args.write_log.clone().or(write_log);
        let data = settings
            .data
            .clone()
            .or(file.text("data")?.map(PathBuf::from));
        let names = names(&args.shared, &mut file)?;
        let access = Access::load(settings, &mut file)?;
        let log_bytes_max = file.parsed::<Bytes>("log_bytes_max")?;
        let queue_messages_max = file.parsed::<Count>("queue_messages_max")?;
        let log_age_max = file.parsed::<Span>("log_age_max")?;
        file.finish()?;
        let write_log = write_log.unwrap_or_else(|| "sqlite:heart.db".to_owned());
        check_log(&write_log)?;
        let broker = file.required("broker", "--broker amqp://localhost", broker)?;
        check_broker(&broker)?;
        Ok(HeartConfig {
            broker,
            names,
            listen: listen.unwrap_or_else(|| HEART_LISTEN.to_owned()),
            directory: data.unwrap_or_else(|| beside(&write_log)),
            write_log,
            access,
            log_bytes_max: log_bytes_max.map(|bytes| bytes.0),
            queue_messages_max: queue_messages_max.map(|count| count.0),
            log_age_max,
        })
    }
}

/// A node's settings.
#[derive(Clone, Debug)]
pub(crate) struct NodeConfig {
    pub(crate) node_id: String,
    pub(crate) database: String,
    pub(crate) hearts: Vec<String>,
    pub(crate) broker: String,
    pub(crate) names: Names,
    pub(crate) listen: String,
    pub(crate) advertise: Option<String>,
    pub(crate) directory: PathBuf,
    pub(crate) access: Access,
    pub(crate) seed: bool,
}

impl NodeConfig {
    pub(crate) fn load(args: &NodeArgs, settings: &Settings) -> anyhow::Result<NodeConfig> {
        let mut file = SettingsFile::read(settings.config.as_deref())?;
        let node_id = file.checked("node_id", check_node_id)?;
        let node_id = args.node_id.clone().or(node_id);
        let database = file.checked("database", check_node_database)?;
        let database = args.database.clone().or(database);
        let hearts = file.checked_texts("heart", check_url)?;
        let hearts = if args.heart.is_empty() {
            hearts
        } else {
            Some(args.heart.clone())
        };
        let broker = file.checked("broker", check_broker)?;
        let broker = settings.broker.clone().or(broker);
        let listen = file.checked("listen", check_listen)?;
        let listen = settings.listen.clone().or(listen);
        let advertise = file.checked("advertise", check_url)?;
        let advertise = args.advertise.clone().or(advertise);
        let data = settings
            .data
            .clone()
            .or(file.text("data")?.map(PathBuf::from));
        let names = names(&args.shared, &mut file)?;
        let access = Access::load(settings, &mut file)?;
        let seed = file.flag("seed")?;
        file.finish()?;
        let node_id = file.required("node_id", "--node-id 1", node_id)?;
        check_node_id(&node_id)?;
        let database = file.required("database", "--database sqlite:node.db", database)?;
        check_node_database(&database)?;
        let broker = file.required("broker", "--broker amqp://localhost", broker)?;
        check_broker(&broker)?;
        let hearts = file.required("heart", "--heart http://127.0.0.1:7090", hearts)?;
        for url in hearts.iter().chain(&advertise) {
            check_url(url)?;
        }
        Ok(NodeConfig {
            node_id,
            hearts,
            broker,
            names,
            listen: listen.unwrap_or_else(|| NODE_LISTEN.to_owned()),
            advertise,
            directory: data.unwrap_or_else(|| beside(&database)),
            database,
            access,
            seed: args.seed || seed.unwrap_or(false),
        })
    }
}

/// Who may ask this process, and with which token it asks the others of its cluster.
#[derive(Clone, Debug, Default)]
pub(crate) struct Access {
    pub(crate) guard: Guard,
    pub(crate) token: Option<Token>,
}

/// A token that is not shown.
#[derive(Clone)]
pub(crate) struct Token(pub(crate) Arc<str>);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Access {
    /// By flags, variables, and what of it a file has.
    pub(crate) fn load(settings: &Settings, file: &mut SettingsFile) -> anyhow::Result<Access> {
        let given = Settings {
            api_tokens: settings
                .api_tokens
                .clone()
                .or(file.checked("api_tokens", check_tokens)?),
            api_hosts: settings.api_hosts.clone().or(file.texts("api_hosts")?),
            ..Settings::default()
        };
        let token = file.checked("token", |token| {
            with_token(Guard::default(), token).map(drop)
        })?;
        let token = settings.token.clone().or(token);
        let mut guard = given.guard()?;
        if let Some(token) = &token {
            guard = with_token(guard, token)?;
        }
        // Without one that is meant for it, it asks as it lets itself be asked: a cluster has the same tokens everywhere.
        let token = token.as_deref().or(guard.tokens.admin());
        let token = token.map(|token| Token(token.into()));
        Ok(Access { guard, token })
    }

    /// What it sends as a bearer.
    pub(crate) fn bearer(&self) -> Option<Arc<str>> {
        self.token.as_ref().map(|token| token.0.clone())
    }
}

fn with_token(guard: Guard, token: &str) -> anyhow::Result<Guard> {
    let tokens = guard.tokens.and_admin("cluster", token);
    let tokens = tokens.map_err(|error| BadInput::new(format!("token: {error}")))?;
    Ok(Guard { tokens, ..guard })
}

fn names(args: &SharedArgs, file: &mut SettingsFile) -> anyhow::Result<Names> {
    let exchange = file.checked("exchange", check_exchange)?;
    let exchange = args.exchange.clone().or(exchange);
    let exchange = exchange.unwrap_or_else(|| EXCHANGE_DEFAULT.to_owned());
    check_exchange(&exchange)?;
    let queue_name = file.checked("queue_name", check_queue_name)?;
    let queue_name = args.queue_name.clone().or(queue_name);
    let queue_name = queue_name.unwrap_or_else(|| QUEUE_NAME_DEFAULT.to_owned());
    check_queue_name(&queue_name)?;
    Ok(Names {
        exchange: exchange.into(),
        queue_name: queue_name.into(),
    })
}

/// Whether the URL is of PostgreSQL.
pub(crate) fn is_postgres(url: &str) -> bool {
    let schemes = ["postgres://", "postgresql://"];
    schemes.iter().any(|scheme| url.starts_with(scheme))
}

/// Whether SQLite takes it for a file that stays, and not for a database in memory or a URI.
fn is_file(url: &str) -> bool {
    url.strip_prefix("sqlite:").is_some_and(|path| {
        !path.trim().is_empty() && path != ":memory:" && !path.starts_with("file:")
    })
}

fn check_node_id(node_id: &str) -> anyhow::Result<()> {
    if is_node_id(node_id) {
        return Ok(());
    }
    let message = format!("node_id '{node_id}': say 1 to 100 of A-Z a-z 0-9 . _ -");
    Err(BadInput::new(message).into())
}

fn check_broker(url: &str) -> anyhow::Result<()> {
    refuse_memory("broker", url, "amqp://localhost")?;
    let checked = broker::check_url(url);
    checked.map_err(|error| BadInput::new(error.to_string()).into())
}

/// What cannot be an address; whether it is one of this machine is seen when it listens.
fn check_listen(address: &str) -> anyhow::Result<()> {
    let parts = address.rsplit_once(':');
    if parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok()) {
        return Ok(());
    }
    let message = format!("listen '{address}': say a host and a port, such as {HEART_LISTEN}");
    Err(BadInput::new(message).into())
}

/// The URL of a heart or node.
fn check_url(url: &str) -> anyhow::Result<()> {
    let checked = HttpHeart::new(&[url.to_owned()], None);
    checked.map(drop).map_err(|error| match error {
        LinkError::Refused { detail } => BadInput::new(detail).into(),
        error => error.into(),
    })
}

fn check_tokens(text: &str) -> anyhow::Result<()> {
    let given = Settings {
        api_tokens: Some(text.to_owned()),
        ..Settings::default()
    };
    given.guard().map(drop)
}

fn check_exchange(name: &str) -> anyhow::Result<()> {
    check_name("exchange", name, EXCHANGE_BYTES_MAX)
}

fn check_queue_name(name: &str) -> anyhow::Result<()> {
    check_name("queue_name", name, QUEUE_NAME_BYTES_MAX)
}

fn check_name(key: &str, name: &str, bytes_max: usize) -> anyhow::Result<()> {
    let help = if name.len() > bytes_max {
        format!("it has {} bytes, more than {bytes_max}", name.len())
    } else if name.starts_with("amq.") {
        "names that begin with 'amq.' are the broker's own".to_owned()
    } else {
        return Ok(());
    };
    Err(BadInput::new(format!("{key}: {help}")).into())
}

fn check_log(url: &str) -> anyhow::Result<()> {
    check_database("write_log", url, "heart.db")
}

fn check_node_database(url: &str) -> anyhow::Result<()> {
    check_database("database", url, "node.db")
}

fn check_database(key: &str, url: &str, example: &str) -> anyhow::Result<()> {
    if is_file(url) || is_postgres(url) {
        return Ok(());
    }
    let url = redact_url(url);
    Err(BadInput::new(format!(
        "{key} '{url}': say sqlite:{example} or postgres://…"
    ))
    .into())
}

/// The file of a `sqlite:PATH`.
pub(crate) fn sqlite_path(url: &str) -> Option<&Path> {
    url.strip_prefix("sqlite:").map(Path::new)
}

/// The directory for snapshots on their way: beside the file, on the same disk.
fn beside(url: &str) -> PathBuf {
    match sqlite_path(url) {
        Some(path) => {
            let mut name = path.as_os_str().to_owned();
            name.push(".snapshots");
            PathBuf::from(name)
        }
        None => PathBuf::from(".leveret/snapshots"),
    }
}

/// A number that is not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Count(u64);

impl std::str::FromStr for Count {
    type Err = String;

    fn from_str(text: &str) -> Result<Count, String> {
        let count = text.parse().ok().filter(|count| *count > 0);
        count
            .map(Count)
            .ok_or_else(|| format!("'{text}' is no number of messages: say 100000"))
    }
}

/// A number of bytes: `1073741824`, `512MiB`, `1GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bytes(u64);

impl std::str::FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Bytes, String> {
        let digits = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let unit = match &text[digits..] {
            "" | "B" => Some(1_u64),
            "KiB" => Some(1 << 10),
            "MiB" => Some(1 << 20),
            "GiB" => Some(1 << 30),
            _ => None,
        };
        let count = text[..digits].parse::<u64>().ok();
        let bytes = count
            .zip(unit)
            .and_then(|(count, unit)| count.checked_mul(unit));
        let bytes = bytes.filter(|bytes| *bytes > 0).map(Bytes);
        bytes.ok_or_else(|| format!("'{text}' is no size: say 512MiB or 1GiB"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, expect) in [
            ("1", Some(1)),
            ("2KiB", Some(2048)),
            ("1GiB", Some(1 << 30)),
            ("0", None),
            ("1GB", None),
            ("x", None),
        ] {
            assert_eq!(
                text.parse::<Bytes>().ok().map(|bytes| bytes.0),
                expect,
                "{text}"
            );
        }
    }

    #[test]
    fn flags_are_enough() {
        let args = NodeArgs {
            node_id: Some("1".to_owned()),
            database: Some("sqlite:/d/n.db".to_owned()),
            heart: vec!["http://h:1".to_owned()],
            ..NodeArgs::default()
        };
        let settings = Settings {
            broker: Some("amqp://b".to_owned()),
            ..Settings::default()
        };
        let config = NodeConfig::load(&args, &settings).unwrap();
        assert_eq!(&*config.names.exchange, "write_requests_fanout");
        assert_eq!(config.directory, Path::new("/d/n.db.snapshots"));
        let error = NodeConfig::load(&NodeArgs::default(), &settings)
            .unwrap_err()
            .to_string();
        assert!(error.contains("'node_id' is missing"), "{error}");
        for database in [
            "mysql://u:hush@h",
            "sqlite:",
            "sqlite::memory:",
            "sqlite:file:n.db?mode=memory",
        ] {
            let args = NodeArgs {
                database: Some(database.to_owned()),
                ..args.clone()
            };
            let error = NodeConfig::load(&args, &settings).unwrap_err().to_string();
            assert!(
                error.contains("say sqlite:node.db") && !error.contains("hush"),
                "{error}"
            );
        }
    }
}
