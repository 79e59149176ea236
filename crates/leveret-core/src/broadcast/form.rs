//! What can be said of a statement from its form alone, before it has a place in the log.
//!
//! Only what is certain is said here: one that is nothing but comments, a second statement behind the first, and statements whose first word
//! tells that they are no writes. All else is for the replicas, which have the schema, and whose SQLite knows what a statement does.

/// Statements that are no writes: by their first word, which no other statement begins with.
const REFUSED: [&str; 10] = [
    "ATTACH",
    "DETACH",
    "PRAGMA",
    "BEGIN",
    "COMMIT",
    "END",
    "ROLLBACK",
    "SAVEPOINT",
    "RELEASE",
    "VACUUM",
];

/// Why the text can be no statement of a write, if its form tells.
pub fn misformed(sql: &str) -> Option<String> {
    if sql.contains('\0') {
        return Some("the statement has a NUL character".to_owned());
    }
    let mut tokens = Tokens(sql).peekable();
    while tokens.peek() == Some(&Token::Semicolon) {
        tokens.next();
    }
    let Some(first) = tokens.next() else {
        return Some("there is no statement in the text".to_owned());
    };
    if let Some(refused) = REFUSED.iter().find(|word| first.is(word)) {
        return Some(format!("{refused} is not possible in a write"));
    }
    let mut is_trigger = false;
    if first.is("CREATE") {
        match tokens.peek() {
            Some(second) if second.is("TEMP") || second.is("TEMPORARY") => {
                return Some("temporary objects are not possible in a write".to_owned());
            }
            Some(second) => is_trigger = second.is("TRIGGER"),
            None => {}
        }
    }
    // The body of a trigger has semicolons of its own.
    let mut behind = tokens.skip_while(|token| *token != Token::Semicolon);
    let more = !is_trigger && behind.any(|token| token != Token::Semicolon);
    more.then(|| "there is one statement in a text; several go as a list of statements".to_owned())
}

#[derive(Debug, PartialEq)]
enum Token<'a> {
    Word(&'a str),
    Semicolon,
    Other,
}

impl Token<'_> {
    fn is(&self, word: &str) -> bool {
        matches!(self, Token::Word(text) if text.eq_ignore_ascii_case(word))
    }
}

struct Tokens<'a>(&'a str);

impl<'a> Tokens<'a> {
    /// Takes so many bytes, which end at a character's end.
    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.0.split_at(bytes);
        self.0 = rest;
        taken
    }

    /// Takes up to and with the first `end` at or behind `from`, or all that is left.
    fn take_through(&mut self, from: usize, end: &str) {
        let behind = &self.0[from..];
        let bytes = behind.find(end).map_or(behind.len(), |at| at + end.len());
        self.take(from + bytes);
    }

    fn skip_blanks(&mut self) {
        loop {
            let blanks = |c: char| c.is_ascii_whitespace() || c == '\u{feff}';
            self.0 = self.0.trim_start_matches(blanks);
            if self.0.starts_with("--") {
                self.take_through(2, "\n");
            } else if self.0.starts_with("/*") {
                self.take_through(2, "*/");
            } else {
                return;
            }
        }
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    /// A quote within a quoted text is two: they come as two texts side by side, which is all the same here.
    fn next(&mut self) -> Option<Token<'a>> {
        self.skip_blanks();
        let first = self.0.chars().next()?;
        Some(match first {
            ';' => {
                self.take(1);
                Token::Semicolon
            }
            '\'' | '"' | '`' => {
                self.take_through(1, &first.to_string());
                Token::Other
            }
            '[' => {
                self.take_through(1, "]");
                Token::Other
            }
            c if is_word(c) => {
                let bytes = self.0.find(|c| !is_word(c)).unwrap_or(self.0.len());
                Token::Word(self.take(bytes))
            }
            c => {
                self.take(c.len_utf8());
                Token::Other
            }
        })
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || !c.is_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_certain() {
        let check = |sql: &str, expect: Option<&str>| {
            let found = misformed(sql);
            match expect {
                None => assert_eq!(found, None, "{sql}"),
                Some(expect) => assert!(found.unwrap().contains(expect), "{sql}"),
            }
        };
        check("INSERT INTO t VALUES (1)", None);
        check("INSERT INTO t VALUES (1); ", None);
        check(
            "INSERT INTO t VALUES (';'';'); -- end; of it\n/* ; x */;",
            None,
        );
        check("INSERT INTO \"a;b\" VALUES ([c;d], `e;f`)", None);
        check("INSERT INTO t VALUES ('ATTACH; PRAGMA')", None);
        check("-- PRAGMA\nUPDATE t SET a = 1", None);
        check("/* unclosed INSERT", Some("no statement"));
        check("CREATE TABLE attach (x)", None);
        check(
            "CREATE TRIGGER r AFTER INSERT ON t BEGIN DELETE FROM u; SELECT 1; END;",
            None,
        );
        check("INSERT INTO t VALUES ('unclosed; x", None);
        check("UPDATE ärger SET x = 1", None);
        check("", Some("no statement"));
        check(" ; -- x", Some("no statement"));
        check("a\0b", Some("NUL"));
        check("SELECT 1; SELECT 2", Some("one statement"));
        check("ATTACH 'x' AS y", Some("ATTACH"));
        check(" /* x */ pragma user_version = 1", Some("PRAGMA"));
        check("begin", Some("BEGIN"));
        check(";COMMIT", Some("COMMIT"));
        check("End;", Some("END"));
        check("VACUUM", Some("VACUUM"));
        check("CREATE TEMP TABLE t (x)", Some("temporary"));
        check("create temporary trigger t", Some("temporary"));
        check("PRAGMATIC", None);
    }
}
