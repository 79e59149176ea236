//! Who may ask: a layer for any router.
//!
//! - **With tokens** each request carries one that lets do what it asks: `authorization: Bearer TOKEN`. Pages of others cannot know one.
//! - **Without tokens** whoever reaches the address may ask, except for web pages of others: a browser tells where a page is from (`origin`), and by
//!   which name it asks (`host`), which is neither an address nor this machine's own when a foreign name was made to lead here.
//!
//! What is open to all is asked by neither rule.

use std::{net::IpAddr, sync::Arc};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, Method, header},
    middleware::{self, Next},
    response::Response,
};

use super::problem::Problem;

mod tokens;

pub use self::tokens::{Scope, Tokens, TokensError};

/// Which scope a request needs, by method and path; `None`: it is open to all.
pub type ScopeOf = fn(&Method, &str) -> Option<Scope>;

/// Who may ask. By default there are no tokens.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    /// The tokens; if there are none, none is asked for.
    pub tokens: Tokens,
    /// Names by which the server may be asked without tokens, beside addresses and `localhost`.
    pub hosts: Vec<String>,
}

/// Puts the guard in front of all routes of a router, also those that are not there.
pub fn guarded(router: Router, guard: Guard, scope_of: ScopeOf) -> Router {
    let state = Arc::new((guard, scope_of));
    router.layer(middleware::from_fn_with_state(state, check))
}

async fn check(
    State(state): State<Arc<(Guard, ScopeOf)>>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let (guard, scope_of) = &*state;
    if let Some(scope) = scope_of(request.method(), request.uri().path()) {
        guard.admit(scope, request.headers())?;
    }
    Ok(next.run(request).await)
}

impl Guard {
    /// Whether a request with these headers may do what needs this scope.
    fn admit(&self, scope: Scope, headers: &HeaderMap) -> Result<(), Problem> {
        if self.tokens.is_empty() {
            return self.admit_local(headers);
        }
        let given = bearer(headers).ok_or_else(Problem::no_token)?;
        match self.tokens.scope(given) {
            None => Err(Problem::no_token()),
            Some(has) if has < scope => Err(Problem::scope(scope)),
            Some(_) => Ok(()),
        }
    }

    /// Nobody but a web page of somebody else is refused.
    fn admit_local(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let texts = |name| {
            headers
                .get_all(name)
                .iter()
                .map(|value| value.to_str().ok())
        };
        let mut asked_as = None;
        for host in texts(header::HOST) {
            let host = host.filter(|host| self.is_ours(host));
            asked_as = Some(host.ok_or_else(Problem::foreign_host)?);
        }
        for origin in texts(header::ORIGIN) {
            let authority = origin.and_then(|origin| Some(origin.split_once("://")?.1));
            let is_same = |authority: &str| {
                asked_as.is_some_and(|host| host.eq_ignore_ascii_case(authority))
                    || self.hosts.iter().any(|name| is_name(authority, name))
            };
            if !authority.is_some_and(is_same) {
                return Err(Problem::foreign_origin());
            }
        }
        Ok(())
    }

    /// Whether a host is an address, this machine's own name for itself, or one that was told.
    fn is_ours(&self, host: &str) -> bool {
        let name = without_port(host);
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        let lower = name.trim_end_matches('.').to_ascii_lowercase();
        bare.parse::<IpAddr>().is_ok()
            || lower == "localhost"
            || lower.ends_with(".localhost")
            || self.hosts.iter().any(|ours| is_name(host, ours))
    }
}

/// Whether a host, with a port or without, has this name.
fn is_name(host: &str, name: &str) -> bool {
    let bare = |host: &str| {
        without_port(host)
            .trim_end_matches('.')
            .to_ascii_lowercase()
    };
    bare(host) == bare(name)
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|byte| byte.is_ascii_digit()) && !host.ends_with(']') =>
        {
            name
        }
        _ => host,
    }
}

/// The token that a request carries: one.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next().filter(|_| values.next().is_none())?;
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use axum::{http::HeaderValue, response::IntoResponse};

    use super::*;

    /// The status with which a request is refused.
    fn check(
        guard: &Guard,
        scope: Scope,
        headers: &[(&'static str, &'static str)],
        expect: Option<u16>,
    ) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_static(value));
        }
        let seen = guard.admit(scope, &map).err();
        let seen = seen.map(|problem| problem.into_response().status().as_u16());
        assert_eq!(seen, expect, "{headers:?}");
    }

    #[test]
    fn without_tokens_pages_of_others_are_refused() {
        let guard = Guard {
            hosts: vec!["leveret.corp".to_owned()],
            ..Guard::default()
        };
        for host in [
            "localhost:7070",
            "LOCALHOST",
            "localhost.",
            "a.localhost:1",
            "127.0.0.1:7070",
            "[::1]:7070",
            "[::1]",
            "10.1.2.3:80",
            "leveret.corp",
            "Leveret.Corp:8080",
        ] {
            check(&guard, Scope::Admin, &[("host", host)], None);
        }
        for host in [
            "evil.example",
            "evil.example:7070",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "x.leveret.corp",
            "",
        ] {
            check(&guard, Scope::Read, &[("host", host)], Some(403));
        }
        check(&guard, Scope::Run, &[], None);
        check(
            &guard,
            Scope::Run,
            &[("host", "localhost"), ("host", "evil.example")],
            Some(403),
        );
        for (origin, expect) in [
            ("http://localhost:7070", None),
            ("http://LocalHost:7070", None),
            ("https://leveret.corp", None),
            ("http://localhost:8080", Some(403)),
            ("http://127.0.0.1:7070", Some(403)),
            ("https://evil.example", Some(403)),
            ("null", Some(403)),
            ("", Some(403)),
        ] {
            check(
                &guard,
                Scope::Run,
                &[("host", "localhost:7070"), ("origin", origin)],
                expect,
            );
        }
    }

    #[test]
    fn with_tokens_one_is_needed_that_lets_do_it() {
        let guard = Guard {
            tokens: "look:t-1:read, ci:t-2:run,ops:t-3".parse().unwrap(),
            ..Guard::default()
        };
        let with = |scope, authorization, expect| {
            check(
                &guard,
                scope,
                &[("host", "any.example"), ("authorization", authorization)],
                expect,
            );
        };
        with(Scope::Read, "Bearer t-1", None);
        with(Scope::Run, "Bearer t-1", Some(403));
        with(Scope::Run, "bearer  t-2 ", None);
        with(Scope::Read, "Bearer t-2", None);
        with(Scope::Admin, "Bearer t-2", Some(403));
        with(Scope::Admin, "Bearer t-3", None);
        for wrong in [
            "Bearer t-",
            "Bearer t-11",
            "Bearer ",
            "Basic t-3",
            "t-3",
            "Bearer ops:t-3",
        ] {
            with(Scope::Read, wrong, Some(401));
        }
        check(&guard, Scope::Read, &[("host", "localhost")], Some(401));
        check(
            &guard,
            Scope::Read,
            &[
                ("authorization", "Bearer t-3"),
                ("authorization", "Bearer t-3"),
            ],
            Some(401),
        );
    }
}
