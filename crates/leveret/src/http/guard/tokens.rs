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

#[derive(Clone)]
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

    /// The same and one more, that lets do everything: with which a process's like asks it.
    pub fn and_admin(&self, name: &str, text: &str) -> Result<Tokens, TokensError> {
        let at = self.0.len() + 1;
        if let Some(fault) = fault_of(text) {
            return Err(TokensError { at, fault });
        }
        let more = Token {
            name: name.to_owned(),
            text: text.to_owned(),
            scope: Scope::Admin,
        };
        Ok(Tokens(self.0.iter().cloned().chain([more]).collect()))
    }

    /// The first token that lets do everything, for a process that asks its like.
    pub fn admin(&self) -> Option<&str> {
        let admin = self.0.iter().find(|token| token.scope == Scope::Admin);
        admin.map(|token| &*token.text)
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
    let text = parts.next().unwrap_or_default();
    let scope = match parts.next() {
        None => Scope::Admin,
        Some(scope) => Scope::named(scope).ok_or("there is no such scope")?,
    };
    if parts.next().is_some() {
        return Err("a token has no ':'");
    }
    if let Some(fault) = fault_of(text) {
        return Err(fault);
    }
    Ok(Token {
        name: name.to_owned(),
        text: text.to_owned(),
        scope,
    })
}

/// Why a text is no token.
fn fault_of(text: &str) -> Option<&'static str> {
    if text.is_empty() {
        Some("there is no token")
    } else if text.bytes().all(|byte| byte.is_ascii_graphic()) {
        None
    } else {
        Some("a token has visible ASCII characters only")
    }
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
    fn one_more_lets_do_everything() {
        let some: Tokens = "a:x:read,b:y".parse().unwrap();
        assert_eq!(some.admin(), Some("y"));
        let all = some.and_admin("cluster", "z:z").unwrap();
        assert_eq!(all.scope("z:z"), Some(Scope::Admin));
        assert_eq!(all.scope("x"), Some(Scope::Read));
        let refused = some.and_admin("cluster", "hush hush").unwrap_err();
        assert!(refused.to_string().starts_with("token 3: a token has"));
        assert_eq!(Tokens::default().admin(), None);
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
