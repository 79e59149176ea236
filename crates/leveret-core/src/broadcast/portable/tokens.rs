//! The tokens of a statement, as PostgreSQL reads it.

/// A piece of a statement. Blanks and comments are none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// A name or keyword without quotes, in lower case, as PostgreSQL takes it.
    Word(String),
    /// A name in quotes, without them.
    Quoted(String),
    /// A text, without its quotes.
    Text(String),
    Number(String),
    /// `?`, or `?2`.
    Parameter(Option<usize>),
    /// Operators are several of them side by side.
    Symbol(char),
    /// Several symbols that belong together.
    Operator(String),
}

/// The highest number of a parameter: PostgreSQL's.
const PARAMETERS_MAX: usize = 65_535;

impl Token {
    /// Writes it as PostgreSQL reads it.
    pub(super) fn write(&self, sql: &mut String) {
        let quoted = |sql: &mut String, text: &str, quote: char| {
            sql.push(quote);
            for c in text.chars() {
                sql.push(c);
                if c == quote {
                    sql.push(c);
                }
            }
            sql.push(quote);
        };
        match self {
            Token::Word(text) | Token::Number(text) | Token::Operator(text) => sql.push_str(text),
            Token::Quoted(name) => quoted(sql, name, '"'),
            Token::Text(text) => quoted(sql, text, '\''),
            Token::Symbol(symbol) => sql.push(*symbol),
            Token::Parameter(_) => {}
        }
    }
}

/// Reads one statement; a `;` behind it is left out.
pub(super) fn tokens(sql: &str) -> Result<Vec<Token>, String> {
    if sql.contains('\0') {
        return Err("there is a NUL character in the statement".to_owned());
    }
    let mut reader = Reader { rest: sql };
    let mut tokens = Vec::new();
    let mut ended = false;
    while let Some(token) = reader.next(tokens.last())? {
        match token {
            Token::Symbol(';') => ended = true,
            _ if ended && !tokens.is_empty() => {
                return Err("there are several statements in one text".to_owned());
            }
            token => {
                ended = false;
                tokens.push(token);
            }
        }
    }
    Ok(tokens)
}

struct Reader<'a> {
    rest: &'a str,
}

fn starts_name(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_' || !c.is_ascii()
}

fn is_operator(c: char) -> bool {
    "+-*/<>=~!@#%^&|".contains(c)
}

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.rest = rest;
        taken
    }

    fn take_while(&mut self, is_in: impl Fn(char) -> bool) -> &'a str {
        let bytes = self.rest.find(|c| !is_in(c)).unwrap_or(self.rest.len());
        self.take(bytes)
    }

    fn next(&mut self, before: Option<&Token>) -> Result<Option<Token>, String> {
        let skipped = self.skip_blanks()?;
        let Some(first) = self.rest.chars().next() else {
            return Ok(None);
        };
        Ok(Some(match first {
            '\'' => {
                let prefix = matches!(before, Some(Token::Word(word)) if ["e", "b", "x", "n"].contains(&word.as_str()));
                if prefix && !skipped {
                    return Err("texts with a prefix (E'', B'', X'', N'') are not portable: take an argument".to_owned());
                }
                Token::Text(self.quoted('\'')?)
            }
            '"' => Token::Quoted(self.quoted('"')?),
            '?' => self.parameter()?,
            '$' => return Err("$ is not portable: parameters are ?".to_owned()),
            '`' | '[' | ']' if first == '`' => {
                return Err("names are quoted by \"\"".to_owned());
            }
            ':' => self.colon()?,
            c if starts_name(c) => {
                let word = self.take_while(|c| starts_name(c) || c.is_ascii_digit());
                let prefix = word.eq_ignore_ascii_case("u") && self.rest.starts_with('&');
                if prefix && self.rest[1..].starts_with(['\'', '"']) {
                    return Err("U& is not portable".to_owned());
                }
                if self.rest.starts_with('$') {
                    return Err("$ is not portable".to_owned());
                }
                Token::Word(word.to_ascii_lowercase())
            }
            c if c.is_ascii_digit() => self.number(),
            '.' if self.rest[1..].starts_with(|c: char| c.is_ascii_digit()) => self.number(),
            c if is_operator(c) => self.operator(),
            c => {
                self.take(c.len_utf8());
                Token::Symbol(c)
            }
        }))
    }

    /// Whether there was anything. PostgreSQL's comments have others in them.
    fn skip_blanks(&mut self) -> Result<bool, String> {
        let before = self.rest.len();
        loop {
            self.take_while(|c| c.is_ascii_whitespace() || c == '\x0b');
            if self.rest.starts_with("--") {
                self.take_while(|c| c != '\n' && c != '\r');
            } else if self.rest.starts_with("/*") {
                self.skip_comment()?;
            } else {
                return Ok(self.rest.len() < before);
            }
        }
    }

    fn skip_comment(&mut self) -> Result<(), String> {
        let mut depth = 0_usize;
        loop {
            if self.rest.starts_with("/*") {
                depth += 1;
                self.take(2);
            } else if self.rest.starts_with("*/") {
                depth -= 1;
                self.take(2);
                if depth == 0 {
                    return Ok(());
                }
            } else {
                let Some(c) = self.rest.chars().next() else {
                    return Err("a comment is not closed".to_owned());
                };
                self.take(c.len_utf8());
            }
        }
    }

    fn quoted(&mut self, quote: char) -> Result<String, String> {
        self.take(1);
        let mut text = String::new();
        loop {
            let Some(end) = self.rest.find(quote) else {
                return Err(format!("{quote} is not closed"));
            };
            text.push_str(self.take(end));
            self.take(1);
            if !self.rest.starts_with(quote) {
                return Ok(text);
            }
            text.push(quote);
            self.take(1);
        }
    }

    fn parameter(&mut self) -> Result<Token, String> {
        self.take(1);
        let digits = self.take_while(|c| c.is_ascii_digit());
        if digits.is_empty() {
            return Ok(Token::Parameter(None));
        }
        match digits.parse() {
            Ok(number) if (1..=PARAMETERS_MAX).contains(&number) => {
                Ok(Token::Parameter(Some(number)))
            }
            _ => Err(format!("?{digits} is no parameter")),
        }
    }

    fn colon(&mut self) -> Result<Token, String> {
        if self.rest.starts_with("::") {
            return Ok(Token::Operator(self.take(2).to_owned()));
        }
        Err("parameters are ?: names are not portable".to_owned())
    }

    fn number(&mut self) -> Token {
        let mut text = self
            .take_while(|c| c.is_ascii_digit() || c == '.')
            .to_owned();
        let mut behind = self.rest.chars();
        if matches!(behind.next(), Some('e' | 'E')) {
            let next = behind.next();
            let signed = matches!(next, Some('+' | '-'));
            let digit = if signed { behind.next() } else { next };
            if digit.is_some_and(|c| c.is_ascii_digit()) {
                text.push_str(self.take(1 + usize::from(signed)));
                text.push_str(self.take_while(|c| c.is_ascii_digit()));
            }
        }
        Token::Number(text)
    }

    /// All that stand side by side, up to a comment.
    fn operator(&mut self) -> Token {
        let run = self
            .rest
            .find(|c| !is_operator(c))
            .unwrap_or(self.rest.len());
        let run = &self.rest[..run];
        let end = ["--", "/*"]
            .iter()
            .filter_map(|comment| run.find(comment))
            .min();
        Token::Operator(self.take(end.unwrap_or(run.len()).max(1)).to_owned())
    }
}
