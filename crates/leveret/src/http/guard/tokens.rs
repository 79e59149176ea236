//! Tokens: who they are, what they let do, and whether a text is one of them.

use std::{fmt, str::FromStr, sync::Arc};

/// What a token lets do. Each lets do what those before it do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Look.
    Read,
    /// Start and cancel runs.
    Run,
    /// Everything.
    Admin,
}

impl Scope {
    /// As settings and problems say it.
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::Read => "read",
            Scope::Run => "run",
            Scope::Admin => "admin",
        }
    }

    fn named(name: &str) -> Option<Scope> {
        let scopes = [Scope::Read, Scope::Run, Scope::Admin];
        scopes.into_iter().find(|scope| scope.as_str() == name)
    }
}

/// The tokens of an API: `NAME:TOKEN` or `NAME:TOKEN:SCOPE`, with commas between; without a scope it is `admin`.
#[derive(Clone, Default)]
pub struct Tokens(Arc<[Token]>);

struct Token {
    name: String,
    text: String,
    scope: Scope,
}

/// Why a text names no tokens. Quotes none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "token {at}: {fault}; say NAME:TOKEN or NAME:TOKEN:SCOPE, with the scope read, run or admin"
)]
pub struct TokensError {
    /// From 1.
    at: usize,
    fault: &'static str,
}

impl Tokens {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What the token lets do that this text is. All tokens are compared, and to their ends, however early they differ.
    pub(super) fn scope(&self, given: &str) -> Option<Scope> {
        let mut scope = None;
        for token in &*self.0 {
            if is_same(token.text.as_bytes(), given.as_bytes()) {
                scope = scope.max(Some(token.scope));
            }
        }
        scope
    }
}

/// Takes as long for all texts of one length.
fn is_same(ours: &[u8], given: &[u8]) -> bool {
    let mut differing = u8::from(ours.len() != given.len());
    for (at, byte) in given.iter().enumerate() {
        // Beyond the end of ours any byte will do: the lengths differ.
        let our = ours.get(at).copied().unwrap_or_default();
        differing = std::hint::black_box(differing | (our ^ byte));
    }
    differing == 0
}

impl FromStr for Tokens {
    type Err = TokensError;

    fn from_str(text: &str) -> Result<Tokens, TokensError> {
        let entries = text
            .split(',')
            .map(str::trim)
            .filter(|entry| !entry.is_empty());
        let tokens = entries
            .enumerate()
            .map(|(at, entry)| token(entry).map_err(|fault| TokensError { at: at + 1, fault }));
        Ok(Tokens(tokens.collect::<Result<_, _>>()?))
    }
}

fn token(entry: &str) -> Result<Token, &'static str> {
    let mut parts = entry.split(':');
    let name = parts
        .next()
        .filter(|name| !name.is_empty())
        .ok_or("there is no name")?;
    let text = parts
        .next()
        .filter(|text| !text.is_empty())
        .ok_or("there is no token")?;
    let scope = match parts.next() {
        None => Scope::Admin,
        Some(scope) => Scope::named(scope).ok_or("there is no such scope")?,
    };
    if parts.next().is_some() {
        return Err("a token has no ':'");
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("a token has visible ASCII characters only");
    }
    Ok(Token {
        name: name.to_owned(),
        text: text.to_owned(),
        scope,
    })
}

/// Names and scopes, without the tokens; as they can be shown.
impl fmt::Display for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, token) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma}{}:***:{}", token.name, token.scope.as_str())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokens({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_and_not_shown() {
        let check = |text: &str, expect: &str| {
            let read = text.parse::<Tokens>();
            let seen = read.map_or_else(|error| error.to_string(), |tokens| format!("{tokens:?}"));
            assert!(seen.starts_with(expect), "{seen}");
            assert!(!seen.contains("hush"), "{seen}");
        };
        check("", "Tokens()");
        check("ops:hush", "Tokens(ops:***:admin)");
        check("a:hush:read, b:hush2:run,", "Tokens(a:***:read,b:***:run)");
        check("hush", "token 1: there is no token");
        check("a:x,:hush", "token 2: there is no name");
        check("a:", "token 1: there is no token");
        check("a:hush:all", "token 1: there is no such scope");
        check("a:hush:run:x", "token 1: a token has no ':'");
        check("a:hush hush", "token 1: a token has visible ASCII");
    }

    #[test]
    fn the_widest_scope_counts() {
        let tokens: Tokens = "a:x:read,b:x:run,c:xy:admin".parse().unwrap();
        assert_eq!(tokens.scope("x"), Some(Scope::Run));
        assert_eq!(tokens.scope("xy"), Some(Scope::Admin));
        assert_eq!(tokens.scope("xyz"), None);
        assert_eq!(tokens.scope(""), None);
    }
}
