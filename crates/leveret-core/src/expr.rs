//! Expressions: conditions, transforms and the `{{ … }}` of parameters.
//!
//! The language is CEL (the Common Expression Language) over JSON, compiled at load: a syntax mistake, an unknown
//! name or an unknown function is an [`ExpressionError`] with its place, never a silent false. Evaluation is pure,
//! borrows the values it reads (a field of a large input costs what a field of a small one costs), does a bounded
//! amount of work and makes a bounded amount of text ([`Budget`]), and fails with an [`EvalError`] that names the expression and, of all values,
//! at most the name of a field that was looked for. Whoever stores an error leaves out the secrets that were read.
//!
//! # What is in scope
//!
//! | name | value |
//! |---|---|
//! | `input` | the step's input; on an edge, the output of its source |
//! | `run.input`, `run.id` | the run's input and id |
//! | `nodes.ID.output`, `nodes["ID"].output` | the output of a node |
//! | `nodes.ID.error` | the error of a failed node |
//! | `ID` | short for `nodes.ID.output`, when no other name here is meant |
//! | `result.output`, `result.action` | on edges: what the source returned |
//! | `context.KEY`, `context["KEY"]` | a context key, else a key of the run's input; the name of a node, or `_outputs.ID`, means that node's output |
//! | `secret("NAME")` | a secret, resolved when evaluated |
//! | `item`, `index` | where something is evaluated for each item of a list: the item, and its position from 0 |
//!
//! # Numbers
//!
//! A whole JSON number is an int, any other a double. Unlike strict CEL, arithmetic mixes them: an int beside a
//! double becomes a double (`5 * 1.5` is `7.5`). Ints stay ints (`7 / 2` is `3`) and overflow is an error.
//! Comparison and equality are by value: `5 == 5.0`. `===` and `!==` are taken as `==` and `!=`.
//!
//! # Functions
//!
//! Macros `has all exists exists_one map filter`; functions `size type string int double bool min max sum abs floor
//! ceil round`; on strings `contains startsWith endsWith indexOf lowerAscii upperAscii trim replace split substring`; on
//! lists `contains join`. A presence test `has(a.b)` is false when `a` is null or lacks `b`.

mod budget;
mod eval;
mod functions;
mod lex;
mod resolve;
mod syntax;
mod text;
mod value;

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashSet},
    fmt,
    sync::Arc,
};

use serde_json::Value;

pub use self::budget::{Budget, RENDERED_BYTES_MAX, WORK_MAX};

/// The longest expression accepted, in bytes.
pub const EXPRESSION_BYTES_MAX: usize = 16 * 1024;

/// The deepest nesting of an expression.
pub const EXPRESSION_DEPTH_MAX: usize = 200;

/// A compiled expression. A clone shares it.
#[derive(Clone)]
pub struct Expression(Arc<Compiled>);

struct Compiled {
    source: Arc<str>,
    root: resolve::Term,
    references: References,
}

/// The ids of the nodes of a workflow.
pub type NodeIds = HashSet<Arc<str>>;

/// What an expression may name.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    /// The workflow's nodes.
    pub node_ids: &'a NodeIds,
    /// Whether the expression stands on an edge, where `result` is in scope.
    pub on_edge: bool,
    /// Whether the expression is evaluated for each item of a list, so that `item` and `index` are in scope.
    pub per_item: bool,
    /// The secrets that may be read; `None`: any.
    pub secrets: Option<&'a BTreeSet<Arc<str>>>,
}

/// What an expression reads: what must be loaded before it is evaluated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// Reads `input`.
    pub input: bool,
    /// Reads `run.input`, directly or as the second place of a context key.
    pub run_input: bool,
    /// Reads `result.output` or `result.action`.
    pub result: bool,
    /// `item` or `index`.
    pub item: bool,
    /// Nodes whose outputs are read.
    pub nodes: BTreeSet<Arc<str>>,
    /// Nodes whose errors are read.
    pub node_errors: BTreeSet<Arc<str>>,
    /// Context keys that are read.
    pub context: BTreeSet<Arc<str>>,
    /// Names of secrets that are read.
    pub secrets: BTreeSet<Arc<str>>,
}

impl References {
    /// Adds what `other` reads.
    pub fn extend(&mut self, other: &References) {
        self.input |= other.input;
        self.run_input |= other.run_input;
        self.result |= other.result;
        self.item |= other.item;
        self.nodes.extend(other.nodes.iter().cloned());
        self.node_errors.extend(other.node_errors.iter().cloned());
        self.context.extend(other.context.iter().cloned());
        self.secrets.extend(other.secrets.iter().cloned());
    }
}

/// The values an expression is evaluated with.
#[derive(Clone, Copy)]
pub struct EvalScope<'a> {
    /// `input`.
    pub input: &'a Value,
    /// `run.id`.
    pub run_id: &'a str,
    /// `run.input`.
    pub run_input: &'a Value,
    /// Outputs, errors, context keys and secrets, asked for by name as they are needed.
    pub values: &'a dyn Values,
    /// `result`, on an edge.
    pub result: Option<ResultView<'a>>,
    /// `item` and `index`, where something is evaluated for each item of a list.
    pub item: Option<ItemView<'a>>,
}

/// Shows which values there are, not what they are.
impl fmt::Debug for EvalScope<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EvalScope")
            .field("run_id", &self.run_id)
            .field("has_result", &self.result.is_some())
            .finish_non_exhaustive()
    }
}

/// What the source of an edge returned.
#[derive(Clone, Copy, Debug)]
pub struct ResultView<'a> {
    /// `result.output`.
    pub output: &'a Value,
    /// `result.action`; null when there is none.
    pub action: Option<&'a str>,
}

/// An item of a list.
#[derive(Clone, Copy, Debug)]
pub struct ItemView<'a> {
    /// `item`.
    pub item: &'a Value,
    /// `index`: its position in the list, from 0.
    pub index: usize,
}

/// Where an expression finds values by name. Only names among its [`References`] are asked for.
pub trait Values: Sync {
    /// The output of a node; `None` when it has none (it did not run, or failed).
    fn node_output(&self, id: &str) -> Option<&Value>;
    /// The error of a node; `None` when it did not fail.
    fn node_error(&self, id: &str) -> Option<&Value>;
    /// A context key.
    fn context(&self, key: &str) -> Option<&Value>;
    /// A secret.
    fn secret(&self, name: &str) -> Option<String>;
}

/// No values at all.
#[derive(Clone, Copy, Debug)]
pub struct NoValues;

impl Values for NoValues {
    fn node_output(&self, _: &str) -> Option<&Value> {
        None
    }
    fn node_error(&self, _: &str) -> Option<&Value> {
        None
    }
    fn context(&self, _: &str) -> Option<&Value> {
        None
    }
    fn secret(&self, _: &str) -> Option<String> {
        None
    }
}

/// Why a text is not an expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
#[non_exhaustive]
pub struct ExpressionError {
    /// What is wrong.
    pub message: String,
    /// Where, in bytes from the start of the source; on a character boundary, at most its length.
    pub offset: usize,
    /// What to do about it, where that can be guessed.
    pub help: Option<String>,
}

impl ExpressionError {
    pub(crate) fn new(offset: usize, message: impl Into<String>) -> ExpressionError {
        ExpressionError {
            message: message.into(),
            offset,
            help: None,
        }
    }

    pub(crate) fn at_start(message: impl Into<String>) -> ExpressionError {
        ExpressionError::new(0, message)
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> ExpressionError {
        self.help = Some(help.into());
        self
    }
}

/// Why an evaluation failed. Names the expression; of values it holds at most the name of a field that was looked for, which may be a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expression `{}`: {message}", shortened(expression))]
#[non_exhaustive]
pub struct EvalError {
    /// The source of the expression.
    pub expression: Arc<str>,
    /// What kind of failure it is.
    pub kind: EvalErrorKind,
    /// What went wrong.
    pub message: String,
}

/// The longest part of an expression that a message repeats, in characters.
const SHOWN_CHARS_MAX: usize = 120;

/// A text as a message shows it.
fn shortened(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        None => Cow::Borrowed(text),
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
    }
}

/// The kinds of failure of an evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EvalErrorKind {
    /// A field, element, node output or context key is not there.
    Missing,
    /// A value has a type that the operation does not take.
    Type,
    /// Overflow, division by zero, or a number that JSON cannot hold.
    Arithmetic,
    /// A secret is not known.
    Secret,
    /// More work than [`WORK_MAX`].
    Work,
    /// More text in the result than [`RENDERED_BYTES_MAX`].
    Size,
}

impl Expression {
    /// Compiles an expression: syntax, names and functions are all checked here.
    pub fn compile(source: &str, names: &Names<'_>) -> Result<Expression, ExpressionError> {
        let tree = syntax::parse(source)?;
        let (root, references) = resolve::resolve(source, tree, names)?;
        Ok(Expression(Arc::new(Compiled {
            source: Arc::from(source),
            root,
            references,
        })))
    }

    /// The text it was compiled from.
    pub fn source(&self) -> &str {
        &self.0.source
    }

    /// What it reads.
    pub fn references(&self) -> &References {
        &self.0.references
    }

    /// Evaluates to JSON: ints stay ints, and what is only handed on is as it was.
    pub fn eval(&self, scope: &EvalScope<'_>, budget: &Budget) -> Result<Value, EvalError> {
        self.data(scope, budget)
            .and_then(|data| data.into_json(budget))
            .map_err(|failure| failure.of(&self.0.source))
    }

    /// Evaluates a condition. Anything but `true` and `false` is an error, not a guess.
    pub fn eval_bool(&self, scope: &EvalScope<'_>, budget: &Budget) -> Result<bool, EvalError> {
        self.data(scope, budget)
            .and_then(|data| data.as_condition())
            .map_err(|failure| failure.of(&self.0.source))
    }

    /// Appends what it evaluates to: strings as they are, null as nothing, others as compact JSON.
    pub(crate) fn eval_into(
        &self,
        text: &mut String,
        scope: &EvalScope<'_>,
        budget: &Budget,
    ) -> Result<(), EvalError> {
        self.data(scope, budget)
            .and_then(|data| data.render(text, budget))
            .map_err(|failure| failure.of(&self.0.source))
    }

    fn data<'v>(
        &'v self,
        scope: &'v EvalScope<'v>,
        budget: &'v Budget,
    ) -> eval::Outcome<value::Data<'v>> {
        eval::eval(&self.0.root, scope, &self.0.source, budget)
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.source())
    }
}

/// Two expressions are equal when they were written the same.
impl PartialEq for Expression {
    fn eq(&self, other: &Expression) -> bool {
        self.source() == other.source()
    }
}

#[cfg(test)]
mod tests;
