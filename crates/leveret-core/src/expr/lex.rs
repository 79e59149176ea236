//! Text to tokens.

use super::ExpressionError;

/// A token and the bytes it covers.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) start: usize,
    pub(super) end: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    /// A whole number, without sign.
    Int(u64),
    Double(f64),
    Text(String),
    Name(String),
    /// An operator or a bracket.
    Sign(&'static str),
    End,
}

/// Signs, longest first where one begins another.
const SIGNS: [&str; 28] = [
    "===", "!==", "&&", "||", "==", "!=", "<=", ">=", "<", ">", "+", "-", "*", "/", "%", "!", "?",
    ":", ".", ",", "(", ")", "[", "]", "{", "}", "=", "&",
];

/// Splits a text into tokens; the last one is [`Kind::End`].
pub(super) fn tokens(source: &str) -> Result<Vec<Token>, ExpressionError> {
    let mut tokens = Vec::new();
    let mut at = 0;
    loop {
        at = skip_blank(source, at);
        let (kind, end) = match source[at..].chars().next() {
            None => (Kind::End, at),
            Some(first) => token(source, at, first)?,
        };
        let is_last = kind == Kind::End;
        tokens.push(Token {
            kind,
            start: at,
            end,
        });
        if is_last {
            return Ok(tokens);
        }
        at = end;
    }
}

/// Blanks, and comments from `//` to the end of the line.
fn skip_blank(source: &str, mut at: usize) -> usize {
    loop {
        let rest = &source[at..];
        let trimmed = rest.trim_start();
        at += rest.len() - trimmed.len();
        if !trimmed.starts_with("//") {
            return at;
        }
        at += trimmed.find('\n').unwrap_or(trimmed.len());
    }
}

fn token(source: &str, at: usize, first: char) -> Result<(Kind, usize), ExpressionError> {
    let rest = &source[at..];
    let raw_string = matches!(first, 'r' | 'R') && rest[1..].starts_with(['"', '\'']);
    if raw_string {
        return raw_text(source, at + 1);
    }
    if first.is_ascii_digit()
        || (first == '.' && rest[1..].starts_with(|c: char| c.is_ascii_digit()))
    {
        return number(source, at);
    }
    if first == '"' || first == '\'' {
        return text(source, at);
    }
    if is_name_start(first) {
        let len = rest.find(|c: char| !is_name_part(c)).unwrap_or(rest.len());
        return Ok((Kind::Name(rest[..len].to_owned()), at + len));
    }
    match SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
        Some(sign) => Ok((Kind::Sign(sign), at + sign.len())),
        None => Err(ExpressionError::new(
            at,
            format!("`{}` has no meaning here", first.escape_debug()),
        )),
    }
}

pub(super) fn is_name_start(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_' || c == '$'
}

pub(super) fn is_name_part(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '$'
}

fn number(source: &str, at: usize) -> Result<(Kind, usize), ExpressionError> {
    let rest = &source[at..];
    if let Some(hex) = rest.strip_prefix("0x").or_else(|| rest.strip_prefix("0X")) {
        let len = run(hex, |b| b.is_ascii_hexdigit());
        let value = u64::from_str_radix(&hex[..len], 16)
            .map_err(|_| ExpressionError::new(at, "this is not a hexadecimal number"))?;
        return whole(source, at, 2 + len, value);
    }
    let mut len = run(rest, |b| b.is_ascii_digit());
    let mut is_double = false;
    let tail = &rest[len..];
    if tail.starts_with('.') && tail[1..].starts_with(|c: char| c.is_ascii_digit()) {
        is_double = true;
        len += 1 + run(&tail[1..], |b| b.is_ascii_digit());
    }
    let tail = &rest[len..];
    if tail.starts_with(['e', 'E']) {
        let sign = usize::from(tail[1..].starts_with(['+', '-']));
        let digits = run(&tail[1 + sign..], |b| b.is_ascii_digit());
        if digits > 0 {
            is_double = true;
            len += 1 + sign + digits;
        }
    }
    if !is_double {
        let value = rest[..len]
            .parse()
            .map_err(|_| ExpressionError::new(at, "this whole number is too large"))?;
        return whole(source, at, len, value);
    }
    let value: f64 = rest[..len]
        .parse()
        .ok()
        .filter(|value: &f64| value.is_finite())
        .ok_or_else(|| ExpressionError::new(at, "this number is too large"))?;
    end_of_number(source, at + len)?;
    Ok((Kind::Double(value), at + len))
}

/// A whole number, with CEL's optional `u` behind it.
fn whole(
    source: &str,
    at: usize,
    len: usize,
    value: u64,
) -> Result<(Kind, usize), ExpressionError> {
    let mut end = at + len;
    if source[end..].starts_with(['u', 'U']) {
        end += 1;
    }
    end_of_number(source, end)?;
    Ok((Kind::Int(value), end))
}

fn end_of_number(source: &str, end: usize) -> Result<(), ExpressionError> {
    if source[end..].starts_with(is_name_part) {
        return Err(ExpressionError::new(end, "a number ends in letters"));
    }
    Ok(())
}

fn run(text: &str, accept: impl Fn(u8) -> bool) -> usize {
    text.bytes().take_while(|b| accept(*b)).count()
}

/// The quote that opens at `at`: one, or three of the same.
fn quote(source: &str, at: usize) -> &str {
    let rest = &source[at..];
    if rest.starts_with("\"\"\"") || rest.starts_with("'''") {
        &rest[..3]
    } else {
        &rest[..1]
    }
}

fn raw_text(source: &str, at: usize) -> Result<(Kind, usize), ExpressionError> {
    let quote = quote(source, at);
    let body = &source[at + quote.len()..];
    let len = body.find(quote).ok_or_else(|| open_text(at))?;
    let end = at + quote.len() + len + quote.len();
    Ok((Kind::Text(body[..len].to_owned()), end))
}

fn open_text(at: usize) -> ExpressionError {
    ExpressionError::new(at, "this text has no closing quote")
}

fn text(source: &str, at: usize) -> Result<(Kind, usize), ExpressionError> {
    let quote = quote(source, at);
    let mut value = String::new();
    let mut pos = at + quote.len();
    loop {
        let rest = &source[pos..];
        if rest.starts_with(quote) {
            return Ok((Kind::Text(value), pos + quote.len()));
        }
        match rest.chars().next() {
            None => return Err(open_text(at)),
            Some('\n') if quote.len() == 1 => return Err(open_text(at)),
            Some('\\') => {
                let (c, len) = escape(source, pos)?;
                value.push(c);
                pos += len;
            }
            Some(c) => {
                value.push(c);
                pos += c.len_utf8();
            }
        }
    }
}

/// The character that the escape at `at` stands for, and the escape's length.
fn escape(source: &str, at: usize) -> Result<(char, usize), ExpressionError> {
    let unknown = || ExpressionError::new(at, "this escape is not known");
    let rest = &source[at + 1..];
    let first = rest.chars().next().ok_or_else(unknown)?;
    let simple = match first {
        'n' => Some('\n'),
        't' => Some('\t'),
        'r' => Some('\r'),
        'a' => Some('\u{7}'),
        'b' => Some('\u{8}'),
        'f' => Some('\u{c}'),
        'v' => Some('\u{b}'),
        '\\' | '\'' | '"' | '`' | '?' | '/' => Some(first),
        _ => None,
    };
    if let Some(c) = simple {
        return Ok((c, 2));
    }
    let (skip, digits, radix) = match first {
        'x' | 'X' => (1, 2, 16),
        'u' => (1, 4, 16),
        'U' => (1, 8, 16),
        '0'..='3' => (0, 3, 8),
        _ => return Err(unknown()),
    };
    let code = rest.get(skip..skip + digits).ok_or_else(unknown)?;
    if !code.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(unknown());
    }
    let code = u32::from_str_radix(code, radix).map_err(|_| unknown())?;
    let c = char::from_u32(code).ok_or_else(unknown)?;
    Ok((c, 1 + skip + digits))
}
