//! The portable subset of SQL, which PostgreSQL replicas take: what it refuses by name, and what it says instead of what differs from node to
//! node.
//!
//! PostgreSQL cannot be told to answer `now()` or `random()` from a write, nor does it say what a statement will do before it does it. So the
//! text is read, by a tokenizer that knows texts, quoted names and comments, and functions are allowed by a list: what is not known to be equal
//! on every node is refused.

mod tokens;
mod words;

use self::{
    tokens::{Token, tokens},
    words::{
        FUNCTIONS, KEYWORDS, NOW, ORDERED, REFUSED, REFUSED_IN_WRITES, SUMS, TIMES, TYPES, WIDENED,
        WORDS_OF_TIME,
    },
};

/// What a statement of the portable subset does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// It changes rows.
    Change,
    /// It changes the schema.
    Schema,
    /// It changes nothing.
    Question,
}

/// A statement as PostgreSQL takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Portable {
    /// With `$1` for the first `?`, without comments, with [`NOW_FUNCTION`] or [`SECOND_FUNCTION`] where it asks for the time, and with types
    /// as wide as SQLite's.
    pub sql: String,
    /// What it does.
    pub verb: Verb,
    /// How many parameters it has.
    pub parameters: usize,
    /// A sum or an average whose order is not given: with numbers that are rounded it depends on the order of rows.
    pub unordered: Option<String>,
}

/// The function of a replica that gives the write's time.
pub const NOW_FUNCTION: &str = "_leveret_now()";

/// The function of a replica that gives the second of the write's time.
pub const SECOND_FUNCTION: &str = "_leveret_second()";

/// The statement of a write, or why it is refused.
pub fn portable(sql: &str) -> Result<Portable, String> {
    let tokens = tokens(sql)?;
    let text = Text(&tokens);
    let verb = text.verb()?;
    for at in 0..tokens.len() {
        text.check_word(at)?;
        text.check_written(at, verb)?;
    }
    if verb == Verb::Change {
        text.check_change()?;
    } else {
        text.check_schema()?;
    }
    text.rewritten(verb, true)
}

/// A question, or why it is refused.
pub fn portable_question(sql: &str) -> Result<Portable, String> {
    let tokens = tokens(sql)?;
    let text = Text(&tokens);
    let asks = ["select", "values", "with", "explain"];
    if !asks.iter().any(|word| text.is_word(0, word)) {
        return Err("only SELECT, VALUES, WITH and EXPLAIN are questions".to_owned());
    }
    for at in 0..tokens.len() {
        text.check_word(at)?;
    }
    text.rewritten(Verb::Question, false)
}

struct Text<'a>(&'a [Token]);

impl Text<'_> {
    fn is_word(&self, at: usize, word: &str) -> bool {
        matches!(self.0.get(at), Some(Token::Word(found)) if found == word)
    }

    /// The name at this place, quoted or not.
    fn name(&self, at: usize) -> Option<&str> {
        match self.0.get(at) {
            Some(Token::Word(name) | Token::Quoted(name)) => Some(name),
            _ => None,
        }
    }

    fn is_symbol(&self, at: usize, symbol: char) -> bool {
        matches!(self.0.get(at), Some(Token::Symbol(found)) if *found == symbol)
    }

    fn is_before(&self, at: usize, words: &[&str]) -> bool {
        let before = at.checked_sub(1);
        before.is_some_and(|before| words.iter().any(|word| self.is_word(before, word)))
    }

    /// The words outside of all parentheses, with their places.
    fn outer_words(&self) -> impl Iterator<Item = (usize, &str)> {
        let mut depth = 0_usize;
        self.0.iter().enumerate().filter_map(move |(at, token)| {
            match token {
                Token::Symbol('(') => depth += 1,
                Token::Symbol(')') => depth = depth.saturating_sub(1),
                Token::Word(word) if depth == 0 => return Some((at, word.as_str())),
                _ => {}
            }
            None
        })
    }

    fn verb(&self) -> Result<Verb, String> {
        let first = match self.0.first() {
            Some(Token::Word(first)) => first.as_str(),
            Some(_) => return Err("the statement begins with no word".to_owned()),
            None => return Err("there is no statement in the text".to_owned()),
        };
        match first {
            "insert" | "update" | "delete" => Ok(Verb::Change),
            "with" => {
                let verbs = ["insert", "update", "delete", "select", "values", "merge"];
                let main = self.outer_words().find(|(_, word)| verbs.contains(word));
                match main {
                    Some((_, "insert" | "update" | "delete")) => Ok(Verb::Change),
                    _ => Err("SELECT is no write to PostgreSQL nodes: read it".to_owned()),
                }
            }
            "create" | "drop" | "alter" => {
                let mut second = 1;
                if first == "create" && self.is_word(1, "unique") {
                    second = 2;
                }
                let known = ["table", "index", "view"];
                let of = self.name(second).unwrap_or_default();
                let is_known = known.contains(&of) && (first != "alter" || of == "table");
                is_known.then_some(Verb::Schema).ok_or_else(|| {
                    format!(
                        "{} {} is not portable",
                        first.to_uppercase(),
                        of.to_uppercase()
                    )
                })
            }
            other => Err(format!(
                "{} is not possible in a write to PostgreSQL nodes",
                other.to_uppercase()
            )),
        }
    }

    /// What neither a write nor a question may have.
    fn check_word(&self, at: usize) -> Result<(), String> {
        let Some(name) = self.name(at) else {
            return Ok(());
        };
        if name
            .get(..9)
            .is_some_and(|start| start.eq_ignore_ascii_case("_leveret_"))
        {
            return Err(format!("{name} belongs to leveret"));
        }
        let is_system = ["pg_", "lo_", "dblink"]
            .iter()
            .any(|start| name.starts_with(start))
            || ["set_config", "information_schema", "query_to_xml"].contains(&name);
        if is_system {
            return Err(format!(
                "{name} is of the server, and differs from node to node"
            ));
        }
        if matches!(&self.0[at], Token::Word(word) if REFUSED.contains(&word.as_str())) {
            return Err(format!("{} is not allowed", name.to_uppercase()));
        }
        Ok(())
    }

    /// What a write may not have.
    fn check_written(&self, at: usize, verb: Verb) -> Result<(), String> {
        match &self.0[at] {
            Token::Word(word) if REFUSED_IN_WRITES.contains(&word.as_str()) => {
                return Err(format!(
                    "{} differs from node to node, or is not portable",
                    word.to_uppercase()
                ));
            }
            Token::Word(word) if word == "identity" && self.is_before(at, &["as"]) => {
                return Err("AS IDENTITY is not portable: keys are given".to_owned());
            }
            Token::Word(word) if word == "distinct" && self.is_word(at + 1, "on") => {
                return Err("DISTINCT ON depends on the order of rows".to_owned());
            }
            Token::Text(text) if asks_for_time(text) => {
                return Err(format!(
                    "'{text}' may be the time of the node: CURRENT_TIMESTAMP is that of the write"
                ));
            }
            Token::Word(_) | Token::Quoted(_) if self.is_symbol(at + 1, '(') => {
                self.check_call(at, verb)?;
            }
            Token::Quoted(_) | Token::Word(_)
                if self.is_symbol(at + 1, '.') && self.name(at) == Some("public") =>
            {
                return Err("names are without a schema".to_owned());
            }
            _ => {}
        }
        Ok(())
    }

    /// A name before a parenthesis is a function that is known, unless it stands where tables and types do.
    fn check_call(&self, at: usize, verb: Verb) -> Result<(), String> {
        let name = self.name(at).unwrap_or_default();
        let is_keyword = matches!(self.0[at], Token::Word(_))
            && (KEYWORDS.contains(&name) || TYPES.contains(&name));
        if is_keyword || TIMES.iter().any(|(time, _)| *time == name) || NOW.contains(&name) {
            return Ok(());
        }
        let is_index =
            verb == Verb::Schema && (self.is_word(1, "index") || self.is_word(2, "index"));
        let before: &[&str] = match verb {
            Verb::Schema if is_index => &["on", "using"],
            Verb::Schema => &["table", "references", "exists", "view", "with", "as"],
            _ => &["into", "with", "as", "only"],
        };
        if self.is_before(at, before) || self.is_common_table(at) {
            return Ok(());
        }
        if FUNCTIONS.contains(&name) {
            return Ok(());
        }
        if ORDERED.contains(&name) {
            return if self.is_ordered(at + 1) {
                Ok(())
            } else {
                Err(format!(
                    "{name}() depends on the order of rows: give it an ORDER BY of its own"
                ))
            };
        }
        if SUMS.contains(&name) {
            return Ok(());
        }
        Err(format!("{name}() is not known to be equal on every node"))
    }

    /// `, name (columns) AS (`: a further table of a WITH.
    fn is_common_table(&self, at: usize) -> bool {
        if !self.is_word(0, "with")
            || !at
                .checked_sub(1)
                .is_some_and(|before| self.is_symbol(before, ','))
        {
            return false;
        }
        self.is_word(self.closing(at + 1) + 1, "as")
    }

    /// The place of the parenthesis that closes this one, or the end.
    fn closing(&self, open: usize) -> usize {
        let mut depth = 0_usize;
        for at in open..self.0.len() {
            if self.is_symbol(at, '(') {
                depth += 1;
            } else if self.is_symbol(at, ')') {
                depth -= 1;
                if depth == 0 {
                    return at;
                }
            }
        }
        self.0.len()
    }

    /// Whether there is an ORDER BY within these parentheses, and not only within others in them.
    fn is_ordered(&self, open: usize) -> bool {
        let mut depth = 0_usize;
        (open..self.closing(open)).any(|at| {
            if self.is_symbol(at, '(') {
                depth += 1;
            } else if self.is_symbol(at, ')') {
                depth -= 1;
            }
            depth == 1 && self.is_word(at, "order")
        })
    }

    /// Which row wins must not depend on the order in which rows are found.
    fn check_change(&self) -> Result<(), String> {
        let has = |word: &str| self.outer_words().any(|(_, found)| found == word);
        let main = self
            .outer_words()
            .find(|(_, word)| ["insert", "update", "delete"].contains(word));
        let Some((main, verb)) = main else {
            return Ok(());
        };
        if verb == "insert"
            && has("conflict")
            && (has("select") || self.selects_in_parentheses(main))
            && !has("order")
        {
            return Err(
                "INSERT … SELECT … ON CONFLICT depends on the order of rows: give it an ORDER BY"
                    .to_owned(),
            );
        }
        let joins = self
            .outer_words()
            .any(|(at, word)| word == "from" && at > main && !self.is_before(at, &["distinct"]));
        if verb == "update" && joins {
            return Err("UPDATE … FROM may find several rows for one: take a subselect".to_owned());
        }
        let mut depth = 0_usize;
        for at in 0..self.0.len() {
            match &self.0[at] {
                Token::Symbol('(') => depth += 1,
                Token::Symbol(')') => depth = depth.saturating_sub(1),
                Token::Word(word)
                    if depth > 0 && ["insert", "update", "delete"].contains(&word.as_str()) =>
                {
                    return Err("one statement changes rows at one place".to_owned());
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn selects_in_parentheses(&self, main: usize) -> bool {
        (main..self.0.len()).any(|at| {
            self.is_symbol(at, '(')
                && self.is_word(at + 1, "select")
                && !self.is_before(at, &["values", "in", "exists"])
        }) && !self.outer_words().any(|(_, word)| word == "values")
    }

    /// The actions of an ALTER TABLE are those of columns, constraints and names.
    fn check_schema(&self) -> Result<(), String> {
        if !self.is_word(0, "alter") {
            return Ok(());
        }
        let mut table = 2;
        while ["if", "exists", "only"]
            .iter()
            .any(|word| self.is_word(table, word))
        {
            table += 1;
        }
        let mut depth = 0_usize;
        for at in table..self.0.len() {
            match &self.0[at] {
                Token::Symbol('(') => depth += 1,
                Token::Symbol(')') => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 && (at == table || self.is_symbol(at, ',')) {
                let action = self.name(at + 1).unwrap_or_default();
                if !["add", "drop", "alter", "rename"].contains(&action) {
                    return Err(format!(
                        "ALTER TABLE … {} is not portable",
                        action.to_uppercase()
                    ));
                }
            }
        }
        Ok(())
    }

    fn rewritten(&self, verb: Verb, is_write: bool) -> Result<Portable, String> {
        let (mut sql, mut parameters, mut unordered) = (String::new(), 0, None);
        let mut at = 0;
        while at < self.0.len() {
            if !sql.is_empty() {
                sql.push(' ');
            }
            let instead = match &self.0[at] {
                Token::Word(word) if is_write => match self.asked_time(at, word)? {
                    None => self.widened(at, word, verb).map(|wider| (wider, 1)),
                    asked => asked,
                },
                _ => None,
            };
            if let Some((instead, taken)) = instead {
                sql.push_str(instead);
                at += taken;
                continue;
            }
            match &self.0[at] {
                Token::Parameter(number) => {
                    let number = number.unwrap_or(parameters + 1);
                    parameters = parameters.max(number);
                    sql.push('$');
                    sql.push_str(&number.to_string());
                }
                token => {
                    if self.is_symbol(at + 1, '(')
                        && let Some(name) = self.name(at).filter(|name| SUMS.contains(name))
                        && !self.is_ordered(at + 1)
                    {
                        unordered.get_or_insert_with(|| name.to_owned());
                    }
                    token.write(&mut sql);
                }
            }
            at += 1;
        }
        Ok(Portable {
            sql,
            verb,
            parameters,
            unordered,
        })
    }

    /// The type of a new column, as wide as SQLite's of that name: a type stands behind a name.
    fn widened(&self, at: usize, word: &str, verb: Verb) -> Option<&'static str> {
        let (_, wider) = WIDENED.iter().find(|(narrow, _)| *narrow == word)?;
        let is_behind_name = match at.checked_sub(1).map(|before| &self.0[before]) {
            Some(Token::Quoted(_)) => true,
            Some(Token::Word(before)) => {
                !["column", "drop", "exists", "rename", "table"].contains(&before.as_str())
                    && !KEYWORDS.contains(&before.as_str())
            }
            _ => false,
        };
        (verb == Verb::Schema && is_behind_name).then_some(wider)
    }

    /// What is said instead of a word that asks for the time, and how many tokens that takes.
    fn asked_time(&self, at: usize, word: &str) -> Result<Option<(&'static str, usize)>, String> {
        if at
            .checked_sub(1)
            .is_some_and(|before| self.is_symbol(before, '.'))
        {
            return Ok(None);
        }
        if let Some((_, time)) = TIMES.iter().find(|(time, _)| *time == word) {
            if self.is_symbol(at + 1, '(') {
                return Err(format!("{} is without a precision", word.to_uppercase()));
            }
            return Ok(Some((time, 1)));
        }
        let is_call =
            NOW.contains(&word) && self.is_symbol(at + 1, '(') && self.is_symbol(at + 2, ')');
        Ok(is_call.then_some((NOW_FUNCTION, 3)))
    }
}

/// Whether PostgreSQL may take the text for a time that depends on when it is read.
pub fn asks_for_time(text: &str) -> bool {
    /// A longer text is none.
    const TIME_CHARS_MAX: usize = 64;
    if text.len() > TIME_CHARS_MAX {
        return false;
    }
    let lower = text.to_ascii_lowercase();
    let mut words = lower
        .split(|c: char| !c.is_ascii_alphabetic())
        .filter(|word| !word.is_empty());
    words.clone().any(|word| WORDS_OF_TIME.contains(&word))
        // A sentence has more words than a time and its zone.
        && words.nth(2).is_none()
}

#[cfg(test)]
mod tests;
