//! URLs without their secrets.

/// A URL without its secrets, for logs and errors: the password, and query values whose name speaks of a password, secret, token or key,
/// become `***`. Works on any text, also on what is no valid URL. The path of a `sqlite:` or `embedded:` file stays.
pub fn redact_url(url: &str) -> String {
    if url.starts_with("sqlite:") || url.starts_with("embedded:") {
        return url.to_owned();
    }
    let (start, rest) = match url.find("://") {
        Some(at) => url.split_at(at + 3),
        None => ("", url),
    };
    // A password may hold a raw slash or question mark although it should not: the last `@` ends it.
    let (user, rest) = match rest.rfind('@') {
        Some(at) => rest.split_at(at),
        None => ("", rest),
    };
    let user = match user.split_once(':') {
        Some((name, _)) => format!("{name}:***"),
        None => user.to_owned(),
    };
    let (path, query) = match rest.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (rest, None),
    };
    let query = query.map_or_else(String::new, |query| format!("?{}", redact_query(query)));
    format!("{start}{user}{path}{query}")
}

fn redact_query(query: &str) -> String {
    let pairs = query.split('&').map(|pair| match pair.split_once('=') {
        Some((name, _)) if names_a_secret(name) => format!("{name}=***"),
        _ => pair.to_owned(),
    });
    pairs.collect::<Vec<_>>().join("&")
}

fn names_a_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["password", "secret", "token", "key"]
        .iter()
        .any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let check = |url, expect: &str| assert_eq!(redact_url(url), expect);
        check("amqp://localhost", "amqp://localhost");
        check("amqp://user@host/v", "amqp://user@host/v");
        check("amqp://user:pa:ss@host:1/%2f", "amqp://user:***@host:1/%2f");
        check("amqp://user:p/a?s@s@host/v", "amqp://user:***@host/v");
        check(
            "amqps://h/v?heartbeat=5&password=x",
            "amqps://h/v?heartbeat=5&password=***",
        );
        check(
            "postgres://h/d?user=u&sslpassword=hush&auth_token=hush",
            "postgres://h/d?user=u&sslpassword=***&auth_token=***",
        );
        check("user:pass@host", "user:***@host");
        check("amqp:user:hush@host", "amqp:***@host");
        check("sqlite:a:b@c.db", "sqlite:a:b@c.db");
        check("", "");
    }
}
