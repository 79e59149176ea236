//! Expressions of blueprints: the safe subset of JavaScript that they use. Nothing can be called but what is listed here, nothing can be assigned,
//! nothing can run for long.
//!
//! ```
//! use leveret_core::script::{Script, Scope};
//! use serde_json::{Value, json};
//! use std::collections::HashSet;
//!
//! struct Context(Value);
//! impl Scope for Context {
//!     fn name(&self, name: &str) -> Option<&Value> { self.0.get(name) }
//!     fn context(&self) -> Option<&Value> { Some(&self.0) }
//! }
//!
//! let script = Script::compile("order.total > 100 && !order.vip", &HashSet::new()).unwrap();
//! assert!(script.is_true(&Context(json!({ "order": { "total": 120 } }))));
//! ```
//!
//! # What is in it
//!
//! - Literals: numbers, texts in single and double quotes, templates `` `a ${b}` ``, `true`, `false`, `null`, `undefined`, `NaN`, `Infinity`; lists
//!   `[a, b]` and objects `{ a: 1, "b": 2, c }`.
//! - Names: whatever the [`Scope`] knows. An id with hyphens is one name where the blueprint has such a node, else a subtraction.
//! - Access: `a.b`, `a["b"]`, `a[0]`, `a?.b`, `a?.["b"]`; `.length` of texts and lists.
//! - Operators: `?:`, `??`, `||`, `&&`, `===`, `!==`, `==`, `!=`, `<`, `<=`, `>`, `>=`, `+`, `-`, `*`, `/`, `%`, `**`, `!`, `-`, `+`, `typeof`, `in`.
//! - Methods: of texts and lists `includes`, `indexOf`, `slice`, `concat`; of texts `startsWith`, `endsWith`, `toLowerCase`, `toUpperCase`, `trim`,
//!   `split`; of lists `join`; functions `String`, `Number`, `Boolean`, `Array.isArray`, `Object.keys`, `Math.min`, `max`, `abs`, `floor`, `ceil`,
//!   `round`.
//!
//! They mean what ECMA-262 says they mean, with two exceptions: a name that is not known is undefined, and objects have no properties but their own.
//! Anything else is an [`ExpressionError`] with its place when the blueprint is loaded.
//!
//! # What comes of it
//!
//! A condition holds by JavaScript's truth. An evaluation that fails, because a member of undefined is read or more text is made than
//! [`TEXT_BYTES_MAX`], is false as a condition and undefined as a value.

mod call;
mod eval;
mod lex;
mod parse;
mod value;

use std::{fmt, sync::Arc};

use serde_json::Value;

use self::parse::Term;
use crate::expr::{EXPRESSION_BYTES_MAX, ExpressionError, NodeIds};

/// The most text that one evaluation makes, in bytes.
pub const TEXT_BYTES_MAX: usize = 16 << 20;

/// A compiled expression. A clone shares it.
#[derive(Clone)]
pub struct Script(Arc<Compiled>);

struct Compiled {
    source: Arc<str>,
    root: Term,
}

/// Where names are looked up.
pub trait Scope {
    /// The value of a name; none is undefined. `context` is not asked for here.
    fn name(&self, name: &str) -> Option<&Value>;

    /// The value of the name `context`, all keys in one object.
    fn context(&self) -> Option<&Value>;

    /// A key of the context by its name: what `context["KEY"]` and `context.KEY` read.
    fn context_key(&self, key: &str) -> Option<&Value> {
        self.context()?.get(key)
    }
}

impl Script {
    /// Compiles an expression. Of `ids`, those with hyphens are names.
    pub fn compile(source: &str, ids: &NodeIds) -> Result<Script, ExpressionError> {
        if source.len() > EXPRESSION_BYTES_MAX {
            return Err(ExpressionError::at_start(format!(
                "the expression has {} bytes, more than {EXPRESSION_BYTES_MAX}",
                source.len()
            )));
        }
        let root = parse::parse(&lex::tokens(source, ids)?)?;
        Ok(Script(Arc::new(Compiled {
            source: source.into(),
            root,
        })))
    }

    /// The text it was compiled from.
    pub fn source(&self) -> &str {
        &self.0.source
    }

    /// Whether it holds, by JavaScript's truth.
    pub fn is_true(&self, scope: &dyn Scope) -> bool {
        let value = eval::Evaluation::new(scope).eval(&self.0.root);
        value.is_ok_and(|value| value.is_true())
    }

    /// Its value as JSON, as `JSON.stringify` has it: none is undefined, and so is what cannot be evaluated.
    pub fn value(&self, scope: &dyn Scope) -> Option<Value> {
        let evaluation = eval::Evaluation::new(scope);
        let value = evaluation.eval(&self.0.root).ok()?;
        evaluation.json(value).ok().flatten()
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.source())
    }
}

#[cfg(test)]
mod tests;
