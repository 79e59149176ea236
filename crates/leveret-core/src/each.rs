//! Parameters that are evaluated once for each item of a list: `item` and `index` are known in them.
//!
//! Which parameters these are is known by the name of the node type alone, so that a definition means the same wherever it is read.

use serde_json::Value;

use crate::{
    expr::{Budget, EvalError, EvalScope, Expression, References},
    template::Template,
};

/// How a parameter is written that is evaluated for each item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// JSON whose texts may hold `{{ … }}`.
    Template,
    /// An expression without braces.
    Expression,
}

/// The parameter of a node type that is evaluated for each item of its step's input, if it has one.
pub fn each_param(uses: &str) -> Option<(&'static str, Form)> {
    match uses {
        "map" => Some(("output", Form::Template)),
        "filter" => Some(("condition", Form::Expression)),
        "sort" => Some(("by", Form::Expression)),
        _ => None,
    }
}

/// A compiled parameter that is evaluated for each item.
#[derive(Clone, Debug, PartialEq)]
pub enum Each {
    /// See [`Form::Template`].
    Template(Template),
    /// See [`Form::Expression`].
    Expression(Expression),
}

impl Each {
    /// What it reads beside the items.
    pub fn references(&self) -> &References {
        match self {
            Each::Template(template) => template.references(),
            Each::Expression(expression) => expression.references(),
        }
    }

    /// What it comes to for the item of the scope.
    pub fn eval(&self, scope: &EvalScope<'_>, budget: &Budget) -> Result<Value, EvalError> {
        match self {
            Each::Template(template) => template.render(scope, budget),
            Each::Expression(expression) => expression.eval(scope, budget),
        }
    }
}
