//! Templates: JSON whose strings may hold `{{ expression }}`.
//!
//! A string that is one `{{ … }}` and nothing else becomes the value of the expression, of whatever type. In any
//! other string the values are put into the text: strings as they are, null as nothing, others as compact JSON.
//! A literal `{{` is written `{{{{`; a `}}` outside of an expression is just text. Keys of objects are not templates.
//! What holds no expression is never rendered again: see [`Template::constant`].

use std::{borrow::Cow, fmt, sync::Arc};

use serde_json::{Map, Value};

use self::url::{LeadsElsewhere, UrlText};
use crate::expr::{
    Budget, EvalError, EvalErrorKind, EvalScope, Expression, ExpressionError, Names, References,
};

mod url;

/// The deepest nesting of a template.
pub const TEMPLATE_DEPTH_MAX: usize = 128;

/// The most mistakes told of one template.
pub const TEMPLATE_ERRORS_MAX: usize = 100;

/// A compiled template. A clone shares it.
#[derive(Clone)]
pub struct Template(Arc<Compiled>);

struct Compiled {
    raw: Value,
    root: Part,
    constant: Option<Arc<Value>>,
    references: References,
}

/// A part of a template; one without expressions is a [`Part::Constant`] as a whole.
#[derive(Clone)]
enum Part {
    Constant(Value),
    Whole(Expression),
    Text(Vec<Piece>),
    Array(Vec<Part>),
    Object(Vec<(String, Part)>),
}

#[derive(Clone)]
enum Piece {
    Text(String),
    Value(Expression),
}

/// Why a value is not a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
#[non_exhaustive]
pub struct TemplateError {
    /// Where in the value: keys and positions from the root to the string.
    pub path: Vec<String>,
    /// What is wrong. Its offset counts from the start of the string.
    pub error: ExpressionError,
}

impl Template {
    /// Compiles a value: every expression in it is checked. Fails with the first mistake.
    pub fn compile(value: &Value, names: &Names<'_>) -> Result<Template, TemplateError> {
        Template::compile_all(value, names).map_err(|mut errors| errors.swap_remove(0))
    }

    /// Compiles a value like [`Template::compile`], and fails with all mistakes: one for each expression at most, and
    /// not more than [`TEMPLATE_ERRORS_MAX`]. There is at least one.
    pub fn compile_all(value: &Value, names: &Names<'_>) -> Result<Template, Vec<TemplateError>> {
        let mut compiler = Compiler {
            names,
            path: Vec::new(),
            references: References::default(),
            errors: Vec::new(),
        };
        let root = compiler.part(value);
        if !compiler.errors.is_empty() {
            return Err(compiler.errors);
        }
        let root = root.unwrap_or_else(|| Part::Constant(value.clone()));
        let constant = match &root {
            Part::Constant(value) => Some(Arc::new(value.clone())),
            _ => None,
        };
        Ok(Template(Arc::new(Compiled {
            raw: value.clone(),
            root,
            constant,
            references: compiler.references,
        })))
    }

    /// The value it stands for, when it holds no expression: there is nothing to render.
    pub fn constant(&self) -> Option<&Arc<Value>> {
        self.0.constant.as_ref()
    }

    /// The same object, with what the expression comes to under a key.
    pub(crate) fn with_expression(&self, key: &str, expression: Expression) -> Template {
        let Compiled {
            raw, references, ..
        } = &*self.0;
        let mut references = references.clone();
        references.extend(expression.references());
        let mut parts = copy_of_entries(&self.0.root, raw);
        parts.retain(|(known, _)| known != key);
        parts.push((key.to_owned(), Part::Whole(expression)));
        Template(Arc::new(Compiled {
            raw: raw.clone(),
            root: Part::Object(parts),
            constant: None,
            references,
        }))
    }

    /// The value as it was written.
    pub fn raw(&self) -> &Value {
        &self.0.raw
    }

    /// What its expressions read.
    pub fn references(&self) -> &References {
        &self.0.references
    }

    /// The value with every expression evaluated. What it costs is taken from the budget, and what the template itself says costs nothing.
    pub fn render(&self, scope: &EvalScope<'_>, budget: &Budget) -> Result<Value, EvalError> {
        render(&self.0.root, scope, budget)
    }
}

/// How parameters are rendered that choose one of a list of cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The parameter that lists the cases: objects.
    pub cases: &'static str,
    /// The key of a case's condition.
    pub when: &'static str,
    /// The parameter that is for no case.
    pub otherwise: &'static str,
}

impl Template {
    /// Renders like [`render`](Template::render) as far as a choice needs it: the conditions of the cases in their order, and no further than the first
    /// that is not false. Of the cases there is this one in the result, or none; the parameter for no case is there if there is none.
    pub fn render_choice(
        &self,
        scope: &EvalScope<'_>,
        budget: &Budget,
        choice: Choice,
    ) -> Result<Value, EvalError> {
        let Part::Object(parts) = &self.0.root else {
            return self.render(scope, budget);
        };
        let cases = parts.iter().find(|(key, _)| key == choice.cases);
        let Some(cases) = cases.and_then(|(_, part)| elements_of(part)) else {
            return self.render(scope, budget);
        };
        let mut chosen = None;
        for case in cases.iter() {
            chosen = chosen_of(case, choice.when, scope, budget)?;
            if chosen.is_some() {
                break;
            }
        }
        let is_needed =
            |key: &str| key != choice.cases && (key != choice.otherwise || chosen.is_none());
        let mut rendered = Map::new();
        for (key, part) in parts.iter().filter(|(key, _)| is_needed(key)) {
            rendered.insert(key.clone(), render(part, scope, budget)?);
        }
        rendered.insert(choice.cases.to_owned(), chosen.into_iter().collect());
        Ok(Value::Object(rendered))
    }

    /// Renders like [`render`](Template::render); a text under one of these keys of the object that it is, is a URL: what expressions come to is
    /// percent-encoded there, unless it is the start of the text, or all of it.
    pub fn render_with_urls(
        &self,
        scope: &EvalScope<'_>,
        budget: &Budget,
        urls: &[&str],
    ) -> Result<Value, EvalError> {
        let Part::Object(parts) = &self.0.root else {
            return self.render(scope, budget);
        };
        let entries = parts.iter().map(|(key, part)| {
            let value = match part {
                Part::Text(pieces) if urls.contains(&&**key) => url_of(pieces, scope, budget)?,
                part => render(part, scope, budget)?,
            };
            Ok((key.clone(), value))
        });
        Ok(Value::Object(entries.collect::<Result<Map<_, _>, _>>()?))
    }
}

fn elements_of(part: &Part) -> Option<Cow<'_, [Part]>> {
    match part {
        Part::Array(parts) => Some(Cow::Borrowed(parts)),
        Part::Constant(Value::Array(values)) => {
            Some(values.iter().cloned().map(Part::Constant).collect())
        }
        _ => None,
    }
}

/// A case, unless its condition is false.
fn chosen_of(
    case: &Part,
    when: &str,
    scope: &EvalScope<'_>,
    budget: &Budget,
) -> Result<Option<Value>, EvalError> {
    let Part::Object(parts) = case else {
        let value = render(case, scope, budget)?;
        return Ok((value.get(when) != Some(&Value::Bool(false))).then_some(value));
    };
    let (conditions, others): (Vec<_>, Vec<_>) = parts.iter().partition(|(key, _)| key == when);
    let mut rendered = Map::new();
    for (key, part) in conditions {
        let condition = render(part, scope, budget)?;
        if condition == Value::Bool(false) {
            return Ok(None);
        }
        rendered.insert(key.clone(), condition);
    }
    for (key, part) in others {
        rendered.insert(key.clone(), render(part, scope, budget)?);
    }
    Ok(Some(Value::Object(rendered)))
}

fn copy_of_entries(root: &Part, raw: &Value) -> Vec<(String, Part)> {
    match (root, raw) {
        (Part::Object(parts), _) => parts
            .iter()
            .map(|(key, part)| (key.clone(), part.clone()))
            .collect(),
        (_, Value::Object(entries)) => entries
            .iter()
            .map(|(key, value)| (key.clone(), Part::Constant(value.clone())))
            .collect(),
        _ => Vec::new(),
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.raw())
    }
}

/// Two templates are equal when they were written the same.
impl PartialEq for Template {
    fn eq(&self, other: &Template) -> bool {
        self.raw() == other.raw()
    }
}

struct Compiler<'a> {
    names: &'a Names<'a>,
    /// Where it is.
    path: Vec<String>,
    references: References,
    errors: Vec<TemplateError>,
}

impl Compiler<'_> {
    /// The part that a value is; `None` when it holds no expression and no escape, or a mistake, which is noted.
    fn part(&mut self, value: &Value) -> Option<Part> {
        if self.errors.len() >= TEMPLATE_ERRORS_MAX {
            return None;
        }
        if self.path.len() > TEMPLATE_DEPTH_MAX {
            let message = format!("this is nested deeper than {TEMPLATE_DEPTH_MAX} levels");
            self.note(ExpressionError::at_start(message));
            return None;
        }
        match value {
            Value::String(text) if text.contains("{{") => self.text(text),
            Value::Array(elements) => {
                let keyed = elements.iter().enumerate();
                let parts = self.parts(keyed.map(|(at, element)| (at.to_string(), element)))?;
                Some(Part::Array(
                    parts.into_iter().map(|(_, part)| part).collect(),
                ))
            }
            Value::Object(entries) => {
                let keyed = entries.iter().map(|(key, value)| (key.clone(), value));
                self.parts(keyed).map(Part::Object)
            }
            _ => None,
        }
    }

    fn note(&mut self, error: ExpressionError) {
        self.errors.push(TemplateError {
            path: self.path.clone(),
            error,
        });
    }

    /// The parts of an array or object, unless all of it is constant.
    fn parts<'v>(
        &mut self,
        values: impl Iterator<Item = (String, &'v Value)>,
    ) -> Option<Vec<(String, Part)>> {
        let mut parts = Vec::new();
        for (key, value) in values {
            self.path.push(key);
            let part = self.part(value);
            let key = self.path.pop().expect("the key was pushed");
            parts.push((key, value, part));
        }
        // Constants are copied only when something beside them is not one.
        let is_constant = parts.iter().all(|(.., part)| part.is_none());
        let made = |(key, value, part): (String, &Value, Option<Part>)| {
            (key, part.unwrap_or_else(|| Part::Constant(value.clone())))
        };
        (!is_constant).then(|| parts.into_iter().map(made).collect())
    }

    fn text(&mut self, text: &str) -> Option<Part> {
        let noted = self.errors.len();
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut at = 0;
        while let Some(found) = text[at..].find("{{") {
            if self.errors.len() >= TEMPLATE_ERRORS_MAX {
                break;
            }
            literal.push_str(&text[at..at + found]);
            let open = at + found;
            if text[open..].starts_with("{{{{") {
                literal.push_str("{{");
                at = open + 4;
                continue;
            }
            let start = open + 2;
            let Some(len) = expression_len(&text[start..]) else {
                self.note(unclosed(open));
                break;
            };
            if !literal.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut literal)));
            }
            match self.expression(text, start, start + len) {
                Ok(expression) => pieces.push(Piece::Value(expression)),
                Err(error) => self.note(error),
            }
            at = start + len + 2;
        }
        if self.errors.len() > noted {
            return None;
        }
        literal.push_str(&text[at..]);
        if !literal.is_empty() {
            pieces.push(Piece::Text(literal));
        }
        Some(match pieces.as_slice() {
            [] => Part::Constant(Value::String(String::new())),
            [Piece::Text(text)] => Part::Constant(Value::String(text.clone())),
            [Piece::Value(expression)] => Part::Whole(expression.clone()),
            _ => Part::Text(pieces),
        })
    }

    fn expression(
        &mut self,
        text: &str,
        start: usize,
        end: usize,
    ) -> Result<Expression, ExpressionError> {
        let inner = &text[start..end];
        let trimmed = inner.trim_start();
        let start = start + (inner.len() - trimmed.len());
        let expression =
            Expression::compile(trimmed.trim_end(), self.names).map_err(|mut error| {
                error.offset += start;
                error
            })?;
        self.references.extend(expression.references());
        Ok(expression)
    }
}

fn unclosed(offset: usize) -> ExpressionError {
    let mut error = ExpressionError::at_start("this `{{` has no `}}`");
    error.offset = offset;
    error.help = Some("a literal `{{` is written `{{{{`".to_owned());
    error
}

/// The bytes before the `}}` that closes an expression: inside of no text, comment or braces, as the expression has them.
fn expression_len(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut braces = 0_usize;
    let mut at = 0;
    while at < bytes.len() {
        at += match bytes[at] {
            b'"' | b'\'' => text_len(&bytes[at..], is_raw(&bytes[..at]))?,
            b'/' if bytes[at..].starts_with(b"//") => comment_len(&text[at..], braces),
            b'{' => {
                braces += 1;
                1
            }
            b'}' if braces > 0 => {
                braces -= 1;
                1
            }
            b'}' if bytes[at..].starts_with(b"}}") => return Some(at),
            _ => 1,
        };
    }
    None
}

/// Whether a text is raw by what stands before it: an `r` that is no end of a name.
fn is_raw(before: &[u8]) -> bool {
    let is_name_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$');
    match before {
        [rest @ .., b'r' | b'R'] => !rest.last().is_some_and(is_name_part),
        _ => false,
    }
}

/// The bytes of the text that begins here, quotes included; `None` when it does not end.
fn text_len(bytes: &[u8], is_raw: bool) -> Option<usize> {
    let quote = match bytes {
        [a, b, c, ..] if a == b && b == c => &bytes[..3],
        _ => &bytes[..1],
    };
    let mut at = quote.len();
    while !bytes.get(at..)?.starts_with(quote) {
        let is_escape = *bytes.get(at)? == b'\\' && !is_raw;
        at += 1 + usize::from(is_escape);
    }
    Some(at + quote.len())
}

/// The bytes of the comment that begins here. On an expression's last line it goes as far as the expression.
fn comment_len(text: &str, braces: usize) -> usize {
    let line = text.find('\n').unwrap_or(text.len());
    match text[..line].find("}}") {
        Some(end) if braces == 0 => end,
        _ => line,
    }
}

fn render(part: &Part, scope: &EvalScope<'_>, budget: &Budget) -> Result<Value, EvalError> {
    match part {
        Part::Constant(value) => Ok(value.clone()),
        Part::Whole(expression) => expression.eval(scope, budget),
        Part::Text(pieces) => {
            let mut text = String::new();
            for piece in pieces {
                match piece {
                    Piece::Text(literal) => text.push_str(literal),
                    Piece::Value(expression) => expression.eval_into(&mut text, scope, budget)?,
                }
            }
            Ok(Value::String(text))
        }
        Part::Array(parts) => {
            let elements = parts.iter().map(|part| render(part, scope, budget));
            Ok(Value::Array(elements.collect::<Result<_, _>>()?))
        }
        Part::Object(parts) => {
            let entries = parts
                .iter()
                .map(|(key, part)| Ok((key.clone(), render(part, scope, budget)?)));
            Ok(Value::Object(entries.collect::<Result<Map<_, _>, _>>()?))
        }
    }
}

/// A URL, in which a value stays within its part.
fn url_of(pieces: &[Piece], scope: &EvalScope<'_>, budget: &Budget) -> Result<Value, EvalError> {
    let mut url = UrlText::new();
    let mut last = None;
    for (at, piece) in pieces.iter().enumerate() {
        match piece {
            Piece::Text(literal) => url
                .push_literal(literal)
                .map_err(|error| elsewhere(&error, last))?,
            Piece::Value(expression) => {
                let mut value = String::new();
                expression.eval_into(&mut value, scope, budget)?;
                last = Some(expression);
                let literals = pieces[at + 1..].iter().filter_map(|piece| match piece {
                    Piece::Text(literal) => Some(literal.as_str()),
                    Piece::Value(_) => None,
                });
                let rest: String = literals.collect();
                url.push_value(&value, &rest)
                    .map_err(|error| elsewhere(&error, last))?;
            }
        }
    }
    let url = url.end().map_err(|error| elsewhere(&error, last))?;
    Ok(Value::String(url))
}

/// `last`: the expression whose value came last.
fn elsewhere(error: &LeadsElsewhere, last: Option<&Expression>) -> EvalError {
    EvalError {
        expression: Arc::from(last.map_or("", Expression::source)),
        kind: EvalErrorKind::Type,
        message: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use serde_json::json;

    use super::*;
    use crate::expr::{NoValues, NodeIds};

    fn compile(value: &Value) -> Result<Template, TemplateError> {
        let names = Names {
            per_item: false,
            node_ids: &NodeIds::new(),
            on_edge: false,
            secrets: None,
        };
        Template::compile(value, &names)
    }

    fn render(value: &Value) -> String {
        let template = match compile(value) {
            Ok(template) => template,
            Err(TemplateError { path, error }) => {
                return format!("{} at {}: {error}", path.join("."), error.offset);
            }
        };
        let input = json!({ "n": 5, "name": "Ada", "no": null, "list": [1, { "a": 2.5 }] });
        let scope = EvalScope {
            item: None,
            input: &input,
            run_id: "r1",
            run_input: &Value::Null,
            values: &NoValues,
            result: None,
        };
        match template.render(&scope, &Budget::new()) {
            Ok(value) => value.to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn keeps_types_and_fills_texts() {
        let check = |text: &str| render(&json!(text));
        assert_snapshot!(check("{{ input.n }}"), @"5");
        assert_snapshot!(check("{{input.list}}"), @r#"[1,{"a":2.5}]"#);
        assert_snapshot!(check("{{ input.no }}"), @"null");
        assert_snapshot!(check("Hi {{ input.name }}, {{input.n}} of {{ input.list }}{{ input.no }}."), @r#""Hi Ada, 5 of [1,{\"a\":2.5}].""#);
        assert_snapshot!(check(" {{ input.n }}"), @r#"" 5""#);
        assert_snapshot!(check(r#"{{ {"a": {"b": "}}"}} }}"#), @r#"{"a":{"b":"}}"}}"#);
        assert_snapshot!(check("no template"), @r#""no template""#);
        assert_snapshot!(render(&json!({ "a": [1, "{{ run.id }}"], "b": { "c": true } })), @r#"{"a":[1,"r1"],"b":{"c":true}}"#);
    }

    /// What closes a template inside of an expression's text or comment closes nothing, and a quote in a comment opens nothing.
    #[test]
    fn ends_where_the_expression_ends() {
        let check = |text: &str| render(&json!(text));
        assert_snapshot!(check(r"{{ r'a\' }}!"), @r#""a\\!""#);
        assert_snapshot!(check(r#"{{ R"}}\" + "\"}}" }}!"#), @r#""}}\\\"}}!""#);
        assert_snapshot!(check(r#"{{ '''it's }}''' + """"}}""" }}!"#), @r#""it's }}\"}}!""#);
        assert_snapshot!(check("{{ input.n // it's\n + 1 }}!"), @r#""6!""#);
        assert_snapshot!(check("{{ {'a': // it's }}\n 1 } }}!"), @r#""{\"a\":1}!""#);
        assert_snapshot!(check("{{ input.n // five }}! it's"), @r#""5! it's""#);
        assert_snapshot!(check("{{ input.n / 2 }}/{{ 'a//b' + '' }}"), @r#""2/a//b""#);
        assert_snapshot!(check(r"{{ bar'\'}}' }}"), @" at 6: expected an operator, but found a text");
        assert_snapshot!(check("{{ 'a }}"), @" at 0: this `{{` has no `}}`");
        assert_snapshot!(check("{{ '''a'' }}"), @" at 0: this `{{` has no `}}`");
        assert_snapshot!(check(r"{{ 'a\"), @" at 0: this `{{` has no `}}`");
        assert_snapshot!(check("{{ 1 // one"), @" at 0: this `{{` has no `}}`");
    }

    /// Only where the key says that it is one, and not where one expression is all of it.
    #[test]
    fn encodes_what_stands_in_a_url() {
        let template = compile(&json!({
            "url": "https://h/{{ input.id }}?q={{ input.id }}&n={{ input.no }}",
            "whole": "{{ input.whole }}",
            "text": "https://h/{{ input.id }}",
        }));
        let template = template.unwrap();
        let check = |id: &str| {
            let input = json!({ "id": id, "whole": "https://h/a/../b?c", "no": null });
            let scope = EvalScope {
                item: None,
                input: &input,
                run_id: "r1",
                run_input: &Value::Null,
                values: &NoValues,
                result: None,
            };
            let made = template.render_with_urls(&scope, &Budget::new(), &["url", "whole"]);
            made.map_or_else(|error| error.to_string(), |value| value.to_string())
        };
        assert_snapshot!(check("../a b"), @r#"{"text":"https://h/../a b","url":"https://h/..%2Fa%20b?q=..%2Fa%20b&n=","whole":"https://h/a/../b?c"}"#);
        assert_snapshot!(check(".."), @"expression `input.id`: with it a segment of the URL's path is `.` or `..`, which leads elsewhere");
    }

    #[test]
    fn writes_literal_braces() {
        let check = |text: &str| render(&json!(text));
        assert_snapshot!(check("{{{{"), @r#""{{""#);
        assert_snapshot!(check("{{{{ name }} is {{ input.name }}"), @r#""{{ name }} is Ada""#);
        assert_snapshot!(check("a }} b"), @r#""a }} b""#);
        assert_eq!(
            compile(&json!("{{{{x"))
                .unwrap()
                .constant()
                .map(|value| &**value),
            Some(&json!("{{x"))
        );
    }

    #[test]
    fn tells_mistakes_with_their_place() {
        assert_snapshot!(render(&json!({ "a": ["x", "y {{ inptu }}"] })), @"a.1 at 5: `inptu` is not known here");
        assert_snapshot!(render(&json!({ "a": "x {{ input" })), @"a at 2: this `{{` has no `}}`");
        assert_snapshot!(render(&json!("{{ }}")), @" at 3: the expression is empty");
        assert_snapshot!(render(&json!({ "a": "{{ input.missing }}" })), @"expression `input.missing`: there is no field `missing`");
        let deep = (0..200).fold(json!(1), |inner, _| json!([inner]));
        assert!(render(&deep).contains("nested deeper"));
    }

    #[test]
    fn knows_what_needs_no_rendering() {
        let template = compile(&json!({ "a": [1, "x"] })).unwrap();
        assert_eq!(
            template.constant().map(|value| &**value),
            Some(template.raw())
        );
        let template = compile(&json!({ "a": "{{ input.x }}", "b": "{{ run.input }}" })).unwrap();
        assert!(template.constant().is_none());
        assert!(template.references().input && template.references().run_input);
    }

    /// A megabyte again and again, in one text or in many: together they come to the bound, and below it nothing is in the way.
    #[test]
    fn renders_a_bounded_amount() {
        let input = json!({ "s": "x".repeat(1 << 20), "list": ["x".repeat(1 << 20)] });
        let scope = EvalScope {
            item: None,
            input: &input,
            run_id: "r1",
            run_input: &Value::Null,
            values: &NoValues,
            result: None,
        };
        let check = |value: &Value| {
            let rendered = compile(value).unwrap().render(&scope, &Budget::new());
            match rendered {
                Ok(value) => format!("{} bytes", value.to_string().len()),
                Err(error) => error.to_string(),
            }
        };
        let fields = |text: &str, count: usize| json!(vec![text; count]);
        let repeated = |text: &str, count: usize| json!(text.repeat(count));
        assert_snapshot!(check(&repeated("{{input.s}}", 16)), @"16777218 bytes");
        assert_snapshot!(check(&repeated("{{input.s}}", 3000)), @"expression `input.s`: it makes more text than the 16777216 bytes allowed");
        assert_snapshot!(check(&fields("{{input.s}}", 16)), @"16777265 bytes");
        assert_snapshot!(check(&fields("{{input.s}}", 3000)), @"expression `input.s`: it makes more text than the 16777216 bytes allowed");
        assert_snapshot!(check(&repeated("{{input.list}}", 3000)), @"expression `input.list`: it takes more work than the 2000000 units allowed");
        assert_snapshot!(check(&fields("{{input}}", 3000)), @"expression `input`: it makes more text than the 16777216 bytes allowed");
        assert_snapshot!(check(&fields("{{input.s == input.list[0]}}", 3000)), @"expression `input.s == input.list[0]`: it takes more work than the 2000000 units allowed");
    }

    #[test]
    #[ignore = "measures; run it with --release and --nocapture"]
    fn takes_little_time() {
        let input = json!({ "n": 5, "name": "Ada", "email": "ada@example.org", "lines": [{ "n": 2 }, { "n": 3 }], "note": "x".repeat(200) });
        let scope = EvalScope {
            item: None,
            input: &input,
            run_id: "r1",
            run_input: &input,
            values: &NoValues,
            result: None,
        };
        let check = |what: &str, value: Value| {
            let template = compile(&value).unwrap();
            let count = 200_000;
            let start = std::time::Instant::now();
            for _ in 0..count {
                template.render(&scope, &Budget::new()).unwrap();
            }
            println!("{:?} {what}", start.elapsed() / count);
        };
        check("one field", json!("{{ input.name }}"));
        check("all of the input", json!("{{ input }}"));
        check(
            "a request",
            json!({
                "url": "https://example.org/users/{{ input.name }}/orders/{{ input.n }}",
                "method": "POST",
                "body": { "email": "{{ input.email }}", "total": "{{ sum(input.lines.map(l, l.n * 2)) }}", "note": "{{ input.note }}" },
            }),
        );
        check(
            "text of a list",
            json!("Lines: {{ input.lines }}, {{ input.note }}"),
        );
    }
}
