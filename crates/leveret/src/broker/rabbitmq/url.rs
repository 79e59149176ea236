//! Reading broker URLs.

use std::{path::PathBuf, time::Duration};

use lapin::uri::AMQPUri;
use leveret_core::suggest::nearest;
use reqwest::Url;

use super::QueueType;
use crate::{broker::BrokerError, redact::redact_url};

/// The file that a URL names as `cacertfile`, as in RabbitMQ's own clients.
/// Source: <https://www.rabbitmq.com/docs/uri-query-parameters>.
pub(super) fn ca_file(url: &str) -> Option<PathBuf> {
    parameter(url, "cacertfile").map(PathBuf::from)
}

/// The kind of queues that a URL names as `queue_type`.
pub(super) fn queue_type(url: &str) -> Result<Option<QueueType>, BrokerError> {
    match parameter(url, "queue_type").as_deref() {
        None => Ok(None),
        Some("classic") => Ok(Some(QueueType::Classic)),
        Some("quorum") => Ok(Some(QueueType::Quorum)),
        Some(other) => Err(BrokerError::Url {
            detail: format!("queue_type is classic or quorum, not '{other}'"),
        }),
    }
}

/// The heartbeat that a URL names, or this one; whole seconds. Never none at all: a connection that is lost in silence must be noticed.
pub(super) fn heartbeat(uri: &AMQPUri, otherwise: Duration) -> u16 {
    let seconds = match uri.query.heartbeat {
        Some(seconds) => seconds,
        None => u16::try_from(otherwise.as_secs()).unwrap_or(u16::MAX),
    };
    seconds.max(1)
}

fn parameter(url: &str, name: &str) -> Option<String> {
    let (_, query) = url.split_once('?')?;
    let pairs = Url::parse(&format!("q:?{query}")).ok()?;
    let pair = pairs.query_pairs().find(|(key, _)| key == name)?;
    Some(pair.1.into_owned())
}

/// Reads `amqp://` and `amqps://` URLs. No path and the path `/` both mean the virtual host `/`.
pub(super) fn parse(url: &str) -> Result<AMQPUri, BrokerError> {
    // The parser's own message may quote parts of the URL, so it is not passed on.
    let mut uri: AMQPUri = url.parse().map_err(|_| BrokerError::Url {
        detail: format!(
            "'{}' is not amqp://user:password@host:port/vhost or amqps://…",
            redact_url(url)
        ),
    })?;
    if uri.vhost.is_empty() {
        "/".clone_into(&mut uri.vhost);
    }
    if let Some(host) = ipv6_host(url) {
        host.clone_into(&mut uri.authority.host);
    }
    known_parameters(url)?;
    Ok(uri)
}

/// What a URL may say behind its `?`.
const PARAMETERS: [&str; 7] = [
    "auth_mechanism",
    "cacertfile",
    "channel_max",
    "connection_timeout",
    "frame_max",
    "heartbeat",
    "queue_type",
];

/// Refuses the parameters that nothing heeds. What is no word may be a part of a password, and is not told.
fn known_parameters(url: &str) -> Result<(), BrokerError> {
    let Some((_, query)) = url.split_once('?') else {
        return Ok(());
    };
    let names = query.split('&').filter(|pair| !pair.is_empty());
    let mut names = names.map(|pair| pair.split_once('=').map_or(pair, |(name, _)| name));
    let Some(unknown) = names.find(|name| !PARAMETERS.contains(name)) else {
        return Ok(());
    };
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
    let shown = if !query.contains('@') && unknown.bytes().all(is_word) {
        format!("the parameter '{unknown}' is not known")
    } else {
        "it has a parameter that is not known".to_owned()
    };
    let help = match nearest(unknown, PARAMETERS) {
        Some(near) => format!("did you mean '{near}'?"),
        None => format!("there are {}", PARAMETERS.join(", ")),
    };
    Err(BrokerError::Url {
        detail: format!("{shown}: {help}"),
    })
}

/// The parser takes an IPv6 address for no host at all.
fn ipv6_host(url: &str) -> Option<&str> {
    let rest = url.split_once("://")?.1;
    let authority = rest.split(['/', '?']).next()?;
    let host = authority.rsplit('@').next()?;
    Some(host.strip_prefix('[')?.split_once(']')?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read() {
        let check = |url, expect: (&str, u16, &str)| {
            let uri = parse(url).unwrap();
            let host = (&*uri.authority.host, uri.authority.port, &*uri.vhost);
            assert_eq!(host, expect, "{url}");
        };
        check("amqp://localhost", ("localhost", 5672, "/"));
        check("amqp://127.0.0.1:99/", ("127.0.0.1", 99, "/"));
        check("amqps://a.b/%2f", ("a.b", 5671, "/"));
        check("amqp://u:p@[::1]:7/jobs", ("::1", 7, "jobs"));
    }

    #[test]
    fn certificates_are_named() {
        let check = |url, expect: Option<&str>| {
            assert!(parse(url).is_ok(), "{url}");
            assert_eq!(ca_file(url), expect.map(PathBuf::from), "{url}");
        };
        check("amqps://a.b/%2f", None);
        check(
            "amqps://a.b/%2f?heartbeat=5&cacertfile=/c/a%20b.pem",
            Some("/c/a b.pem"),
        );
    }

    #[test]
    fn heartbeats_are_named() {
        let check = |url, otherwise, expect| {
            let otherwise = Duration::from_secs(otherwise);
            assert_eq!(heartbeat(&parse(url).unwrap(), otherwise), expect, "{url}");
        };
        check("amqp://h", 10, 10);
        check("amqp://h?heartbeat=5", 10, 5);
        check("amqp://h?heartbeat=0", 10, 1);
        check("amqp://h", 0, 1);
        check("amqp://h", 1 << 20, u16::MAX);
    }

    #[test]
    fn queue_types_are_named() {
        let check = |url, expect| {
            assert!(parse(url).is_ok(), "{url}");
            let named = queue_type(url).map_err(|error| error.to_string());
            assert_eq!(named, expect, "{url}");
        };
        check("amqp://h", Ok(None));
        check("amqp://h?queue_type=quorum", Ok(Some(QueueType::Quorum)));
        check(
            "amqp://h/v?queue_type=classic",
            Ok(Some(QueueType::Classic)),
        );
        let error = "broker URL: queue_type is classic or quorum, not 'stream'";
        check("amqp://h?queue_type=stream", Err(error.to_owned()));
    }

    #[test]
    fn unknown_parameters_are_told() {
        let check = |query: &str, expect: &str| {
            let error = parse(&format!("amqp://u:p@h/v?{query}"))
                .unwrap_err()
                .to_string();
            assert!(error.contains(expect), "{error}");
        };
        check(
            "heartbeet=5",
            "the parameter 'heartbeet' is not known: did you mean 'heartbeat'?",
        );
        check(
            "heartbeat=5&verify=verify_peer",
            "'verify' is not known: there are auth_mechanism",
        );
        assert!(parse("amqp://h/v?connection_timeout=5&frame_max=131072").is_ok());
    }

    #[test]
    fn a_bad_url_does_not_tell_its_password() {
        for url in ["http://u:hunter2@h", "amqp://u:hunter2@h:port", "hunter2"] {
            let error = parse(url).unwrap_err();
            assert!(
                url == "hunter2" || !error.to_string().contains("hunter2"),
                "{error}"
            );
        }
    }
}
