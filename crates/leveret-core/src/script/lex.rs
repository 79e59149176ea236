//! Text to tokens.

use crate::expr::{ExpressionError, NodeIds};

/// A token and where it begins.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) at: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Number(f64),
    Text(String),
    /// A template: its texts, and between each two the tokens of an expression.
    Template(Vec<String>, Vec<Vec<Token>>),
    Name(String),
    Sign(&'static str),
    End,
}

/// Signs, longest first where one begins another.
const SIGNS: [&str; 33] = [
    "===", "!==", "...", "**", "&&", "||", "??", "?.", "==", "!=", "<=", ">=", "=>", "++", "--",
    "<", ">", "+", "-", "*", "/", "%", "!", "?", ":", ".", ",", "(", ")", "[", "]", "{", "}",
];

/// Templates in templates, at most.
const TEMPLATES_MAX: usize = 8;

/// Splits a text into tokens; the last one is [`Kind::End`].
pub(super) fn tokens(source: &str, ids: &NodeIds) -> Result<Vec<Token>, ExpressionError> {
    let lexer = Lexer {
        source,
        hyphenated: ids
            .iter()
            .map(|id| &**id)
            .filter(|id| id.contains('-'))
            .collect(),
    };
    let (tokens, _) = lexer.until(0, None, 0)?;
    Ok(tokens)
}

struct Lexer<'a> {
    source: &'a str,
    hyphenated: Vec<&'a str>,
}

impl Lexer<'_> {
    /// Tokens up to the end, or to the brace that closes what is in a template; and where that is.
    fn until(
        &self,
        mut at: usize,
        close: Option<usize>,
        depth: usize,
    ) -> Result<(Vec<Token>, usize), ExpressionError> {
        let mut tokens = Vec::new();
        let mut braces = 0_usize;
        loop {
            at = self.skip_blank(at);
            let Some(first) = self.source[at..].chars().next() else {
                if let Some(opened) = close {
                    return Err(error(opened, "this `${` is not closed"));
                }
                tokens.push(Token {
                    kind: Kind::End,
                    at,
                });
                return Ok((tokens, at));
            };
            if first == '}' && close.is_some() && braces == 0 {
                tokens.push(Token {
                    kind: Kind::End,
                    at,
                });
                return Ok((tokens, at + 1));
            }
            let (kind, end) = self.token(at, first, depth)?;
            match kind {
                Kind::Sign("{") => braces += 1,
                Kind::Sign("}") => braces = braces.saturating_sub(1),
                _ => {}
            }
            tokens.push(Token { kind, at });
            at = end;
        }
    }

    fn skip_blank(&self, at: usize) -> usize {
        self.source.len() - self.source[at..].trim_start().len()
    }

    fn token(
        &self,
        at: usize,
        first: char,
        depth: usize,
    ) -> Result<(Kind, usize), ExpressionError> {
        let rest = &self.source[at..];
        let digit_behind = rest[1.min(rest.len())..].starts_with(|c: char| c.is_ascii_digit());
        if first.is_ascii_digit() || (first == '.' && digit_behind) {
            return self.number(at);
        }
        match first {
            '"' | '\'' => {
                let (text, end) = self.text(at, first)?;
                return Ok((Kind::Text(text), end));
            }
            '`' => return self.template(at, depth),
            _ if is_name_start(first) => {
                let end = at + self.name_len(rest);
                return Ok((Kind::Name(self.source[at..end].to_owned()), end));
            }
            _ => {}
        }
        match SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            // `a ?.5 : b` is a condition.
            Some(&"?.") if rest[2..].starts_with(|c: char| c.is_ascii_digit()) => {
                Ok((Kind::Sign("?"), at + 1))
            }
            Some(sign) => Ok((Kind::Sign(sign), at + sign.len())),
            None => Err(error(
                at,
                format!("`{}` has no meaning here", first.escape_debug()),
            )),
        }
    }

    /// How long the name is that a text begins with: that of a node with hyphens, or a plain one.
    fn name_len(&self, rest: &str) -> usize {
        let ends = |len: usize| !rest[len..].starts_with(|c| is_name_part(c) || c == '-');
        let ids = self.hyphenated.iter().filter(|id| rest.starts_with(**id));
        let longest = ids.map(|id| id.len()).filter(|len| ends(*len)).max();
        let plain = rest.find(|c: char| !is_name_part(c)).unwrap_or(rest.len());
        longest.unwrap_or(plain)
    }

    fn number(&self, at: usize) -> Result<(Kind, usize), ExpressionError> {
        let rest = &self.source[at..];
        let no_number = || error(at, "this is no number");
        if let Some(hex) = rest.strip_prefix("0x").or_else(|| rest.strip_prefix("0X")) {
            let len = hex.bytes().take_while(u8::is_ascii_hexdigit).count();
            let value = u64::from_str_radix(&hex[..len], 16).map_err(|_| no_number())?;
            return self.number_ends(at, 2 + len, value as f64);
        }
        let digits = |from: usize| rest[from..].bytes().take_while(u8::is_ascii_digit).count();
        let mut len = digits(0);
        if rest[len..].starts_with('.') {
            len += 1 + digits(len + 1);
        }
        if rest[len..].starts_with(['e', 'E']) {
            let sign = usize::from(rest[len + 1..].starts_with(['+', '-']));
            let exponent = digits(len + 1 + sign);
            if exponent == 0 {
                return Err(no_number());
            }
            len += 1 + sign + exponent;
        }
        let value = rest[..len].parse().map_err(|_| no_number())?;
        self.number_ends(at, len, value)
    }

    fn number_ends(
        &self,
        at: usize,
        len: usize,
        value: f64,
    ) -> Result<(Kind, usize), ExpressionError> {
        let end = at + len;
        if self.source[end..].starts_with(is_name_part) {
            return Err(error(end, "a number ends in letters"));
        }
        Ok((Kind::Number(value), end))
    }

    fn text(&self, at: usize, quote: char) -> Result<(String, usize), ExpressionError> {
        let mut text = String::new();
        let mut pos = at + 1;
        loop {
            match self.source[pos..].chars().next() {
                None | Some('\n' | '\r') => {
                    return Err(error(at, "this text has no closing quote"));
                }
                Some(c) if c == quote => return Ok((text, pos + 1)),
                Some('\\') => pos = self.escape(pos, &mut text)?,
                Some(c) => {
                    text.push(c);
                    pos += c.len_utf8();
                }
            }
        }
    }

    fn template(&self, at: usize, depth: usize) -> Result<(Kind, usize), ExpressionError> {
        if depth == TEMPLATES_MAX {
            return Err(error(at, "templates are nested too deep"));
        }
        let (mut texts, mut parts) = (Vec::new(), Vec::new());
        let mut text = String::new();
        let mut pos = at + 1;
        loop {
            let rest = &self.source[pos..];
            if rest.starts_with("${") {
                texts.push(std::mem::take(&mut text));
                let (tokens, end) = self.until(pos + 2, Some(pos), depth + 1)?;
                parts.push(tokens);
                pos = end;
                continue;
            }
            match rest.chars().next() {
                None => return Err(error(at, "this template has no closing backtick")),
                Some('`') => {
                    texts.push(text);
                    return Ok((Kind::Template(texts, parts), pos + 1));
                }
                Some('\\') => pos = self.escape(pos, &mut text)?,
                Some(c) => {
                    text.push(c);
                    pos += c.len_utf8();
                }
            }
        }
    }

    /// Adds the character that the escape at `at` stands for; where it ends.
    fn escape(&self, at: usize, text: &mut String) -> Result<usize, ExpressionError> {
        let unknown = || error(at, "this escape is not known");
        let rest = &self.source[at + 1..];
        let first = rest.chars().next().ok_or_else(unknown)?;
        let simple = match first {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'v' => '\u{b}',
            '0' if !rest[1..].starts_with(|c: char| c.is_ascii_digit()) => '\0',
            'x' | 'u' => return self.code(at, text).ok_or_else(unknown),
            '0'..='9' => return Err(unknown()),
            other => other,
        };
        text.push(simple);
        Ok(at + 1 + first.len_utf8())
    }

    /// `\x41`, `\u0041`, `\u{41}`; two halves of a pair are one character.
    fn code(&self, at: usize, text: &mut String) -> Option<usize> {
        let (code, end) = self.unit(at)?;
        if let Some(c) = char::from_u32(code) {
            text.push(c);
            return Some(end);
        }
        let (low, end) = self.unit(end)?;
        let (high, low) = (u16::try_from(code).ok()?, u16::try_from(low).ok()?);
        text.push(char::decode_utf16([high, low]).next()?.ok()?);
        Some(end)
    }

    fn unit(&self, at: usize) -> Option<(u32, usize)> {
        let rest = self.source.get(at..)?.strip_prefix('\\')?;
        let (digits, skipped, behind) = if let Some(braced) = rest.strip_prefix("u{") {
            (&braced[..braced.find('}')?], 3, 1)
        } else if rest.starts_with('u') {
            (rest.get(1..5)?, 2, 0)
        } else {
            (rest.strip_prefix('x')?.get(..2)?, 2, 0)
        };
        let hex = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
        let code = u32::from_str_radix(digits, 16).ok().filter(|_| hex)?;
        Some((code, at + skipped + digits.len() + behind))
    }
}

fn error(at: usize, message: impl Into<String>) -> ExpressionError {
    ExpressionError::new(at, message)
}

fn is_name_start(c: char) -> bool {
    c.is_alphabetic() || c == '_' || c == '$'
}

fn is_name_part(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}
