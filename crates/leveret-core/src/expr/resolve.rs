//! Names to places: the tree becomes terms whose every name is known, and what they read is noted.

use std::sync::Arc;

use serde_json::Value;

use super::{
    ExpressionError, Names, References,
    functions::{self, Function},
    syntax::{Operator, Shape, Tree},
};
use crate::suggest;

/// The bytes of the source that a term was written as.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) end: u32,
}

/// A resolved part of an expression.
#[derive(Debug)]
pub(super) enum Term {
    Constant(Value),
    Int(i128),
    Input,
    RunInput,
    RunId,
    ResultOutput,
    ResultAction,
    NodeOutput(Arc<str>),
    NodeError(Arc<str>),
    Context(Arc<str>),
    Secret(Arc<str>),
    Item,
    ItemIndex,
    /// A variable of a macro, counted from the outermost.
    Local(usize),
    Select(Box<Term>, Arc<str>, Span),
    Index(Box<Term>, Box<Term>, Span),
    /// `has(term.field)`.
    HasField(Box<Term>, Arc<str>, Span),
    /// `has()` of a node's output, a node's error or a context key.
    HasNamed(Box<Term>),
    Not(Box<Term>, Span),
    Negate(Box<Term>, Span),
    Binary(Operator, Box<Term>, Box<Term>, Span),
    And(Vec<(Term, Span)>),
    Or(Vec<(Term, Span)>),
    Conditional(Box<[Term; 3]>, Span),
    List(Vec<Term>),
    Map(Vec<(Term, Term)>, Span),
    Call(Function, Vec<Term>, Span),
    Fold(Box<Fold>),
}

/// A macro over the elements of a list or the keys of a map.
#[derive(Debug)]
pub(super) struct Fold {
    pub(super) kind: FoldKind,
    pub(super) range: Term,
    /// Which elements count; for `map` only those that hold it.
    pub(super) filter: Option<Term>,
    /// What `map` makes of an element.
    pub(super) body: Option<Term>,
    pub(super) span: Span,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FoldKind {
    All,
    Exists,
    ExistsOne,
    Map,
    Filter,
}

impl FoldKind {
    fn named(name: &str, arguments: usize) -> Option<FoldKind> {
        match (name, arguments) {
            ("all", 2) => Some(FoldKind::All),
            ("exists", 2) => Some(FoldKind::Exists),
            ("exists_one" | "existsOne", 2) => Some(FoldKind::ExistsOne),
            ("map", 2 | 3) => Some(FoldKind::Map),
            ("filter", 2) => Some(FoldKind::Filter),
            _ => None,
        }
    }
}

/// The names that are not nodes.
const ROOTS: [&str; 6] = ["input", "run", "nodes", "result", "context", "secret"];

/// Names that have a meaning only for each item of a list, and are never short for a node's output.
const RESERVED: [&str; 2] = ["item", "index"];

/// Resolves a tree of `source`.
pub(super) fn resolve(
    source: &str,
    tree: Tree,
    names: &Names<'_>,
) -> Result<(Term, References), ExpressionError> {
    let mut resolver = Resolver {
        source,
        names,
        locals: Vec::new(),
        references: References::default(),
    };
    let term = resolver.term(tree)?;
    Ok((term, resolver.references))
}

struct Resolver<'a> {
    source: &'a str,
    names: &'a Names<'a>,
    locals: Vec<String>,
    references: References,
}

/// A term, or a name that is no value by itself.
enum Resolved {
    Term(Term),
    Run,
    Nodes,
    Node(Arc<str>),
    Result,
    Context,
}

type Outcome<T> = Result<T, ExpressionError>;

impl Resolver<'_> {
    fn term(&mut self, tree: Tree) -> Outcome<Term> {
        let (start, end) = (tree.start, tree.end);
        let needs = match self.resolve(tree)? {
            Resolved::Term(term) => return Ok(term),
            Resolved::Run => "`run` has `run.input` and `run.id`",
            Resolved::Nodes => "name a node, as in `nodes.ID.output`",
            Resolved::Node(_) => "a node has `output` and `error`, as in `nodes.ID.output`",
            Resolved::Result => "`result` has `result.output` and `result.action`",
            Resolved::Context => "name a key, as in `context.KEY`",
        };
        let text = &self.source[start..end];
        Err(ExpressionError::new(start, format!("`{text}` is not a value by itself")).help(needs))
    }

    fn boxed(&mut self, tree: Tree) -> Outcome<Box<Term>> {
        self.term(tree).map(Box::new)
    }

    fn terms(&mut self, trees: Vec<Tree>) -> Outcome<Vec<Term>> {
        trees.into_iter().map(|tree| self.term(tree)).collect()
    }

    fn spanned(&mut self, trees: Vec<Tree>) -> Outcome<Vec<(Term, Span)>> {
        let spanned = |tree: Tree| {
            let span = span(&tree);
            Ok((self.term(tree)?, span))
        };
        trees.into_iter().map(spanned).collect()
    }

    fn resolve(&mut self, tree: Tree) -> Outcome<Resolved> {
        let span = span(&tree);
        let term = match tree.shape {
            Shape::Null => Term::Constant(Value::Null),
            Shape::Bool(value) => Term::Constant(Value::Bool(value)),
            Shape::Int(value) => Term::Int(value),
            Shape::Double(value) => Term::Constant(Value::from(value)),
            Shape::Text(text) => Term::Constant(Value::String(text)),
            Shape::Name(name) => return self.name(&name, tree.start),
            Shape::Select(of, field) => return self.select(*of, &field, span),
            Shape::Index(of, index) => return self.index(*of, *index, span),
            Shape::Call(of, name, arguments) => self.call(of, &name, arguments, span)?,
            Shape::Not(of) => Term::Not(self.boxed(*of)?, span),
            Shape::Negate(of) => Term::Negate(self.boxed(*of)?, span),
            Shape::Binary(operator, left, right) => {
                Term::Binary(operator, self.boxed(*left)?, self.boxed(*right)?, span)
            }
            Shape::And(trees) => Term::And(self.spanned(trees)?),
            Shape::Or(trees) => Term::Or(self.spanned(trees)?),
            Shape::Conditional(trees) => {
                let [condition, yes, no] = *trees;
                let terms = [self.term(condition)?, self.term(yes)?, self.term(no)?];
                Term::Conditional(Box::new(terms), span)
            }
            Shape::List(trees) => Term::List(self.terms(trees)?),
            Shape::Map(trees) => {
                let entry = |(key, value)| Ok((self.term(key)?, self.term(value)?));
                Term::Map(trees.into_iter().map(entry).collect::<Outcome<_>>()?, span)
            }
        };
        Ok(Resolved::Term(term))
    }

    fn name(&mut self, name: &str, offset: usize) -> Outcome<Resolved> {
        if let Some(slot) = self.locals.iter().rposition(|local| local == name) {
            return Ok(Resolved::Term(Term::Local(slot)));
        }
        let term = match name {
            "run" => return Ok(Resolved::Run),
            "nodes" => return Ok(Resolved::Nodes),
            "context" => return Ok(Resolved::Context),
            "result" if self.names.on_edge => return Ok(Resolved::Result),
            "input" => {
                self.references.input = true;
                Term::Input
            }
            "item" | "index" if self.names.per_item => {
                self.references.item = true;
                if name == "item" {
                    Term::Item
                } else {
                    Term::ItemIndex
                }
            }
            _ if RESERVED.contains(&name) => return Err(self.unknown_name(name, offset)),
            _ => match self.names.node_ids.get(name) {
                Some(id) => self.node_output(&Arc::clone(id)),
                None => return Err(self.unknown_name(name, offset)),
            },
        };
        Ok(Resolved::Term(term))
    }

    fn node_output(&mut self, id: &Arc<str>) -> Term {
        self.references.nodes.insert(Arc::clone(id));
        Term::NodeOutput(Arc::clone(id))
    }

    fn unknown_name(&self, name: &str, offset: usize) -> ExpressionError {
        let error = ExpressionError::new(offset, format!("`{name}` is not known here"));
        if name == "result" {
            return error.help("`result` is in scope on edges only");
        }
        if name == "secret" {
            return error.help("a secret is read by `secret(\"NAME\")`");
        }
        if RESERVED.contains(&name) {
            let help = if self.names.node_ids.contains(name) {
                format!("write `nodes.{name}.output`")
            } else {
                format!("a macro gives its variable a name, as in `input.list.map({name}, {name})`")
            };
            return error.help(help);
        }
        let rest = &self.source[offset..];
        let dashed = self
            .names
            .node_ids
            .iter()
            .find(|id| id.contains('-') && rest.starts_with(&***id) && id.len() > name.len());
        if let Some(id) = dashed {
            return error.help(format!("write `nodes[\"{id}\"].output`"));
        }
        let ids = self.names.node_ids.iter().map(|id| &**id);
        let roots = ROOTS
            .into_iter()
            .filter(|root| *root != "result" || self.names.on_edge);
        match suggest::nearest(name, roots.chain(ids)) {
            Some(near) => error.help(format!("did you mean `{near}`?")),
            None => error.help(format!(
                "a context key is read by `context.{name}`; also in scope are input, run.input and nodes.ID.output"
            )),
        }
    }

    fn select(&mut self, of: Tree, field: &str, span: Span) -> Outcome<Resolved> {
        let (start, end) = (of.start, of.end);
        let of = self.resolve(of)?;
        self.member(of, field, (start, end), span)
    }

    fn index(&mut self, of: Tree, index: Tree, span: Span) -> Outcome<Resolved> {
        let (start, end) = (of.start, of.end);
        let of = self.resolve(of)?;
        if let Resolved::Term(of) = of {
            let index = self.boxed(index)?;
            return Ok(Resolved::Term(Term::Index(Box::new(of), index, span)));
        }
        match index.shape {
            Shape::Text(key) => self.member(of, &key, (start, end), span),
            _ => Err(ExpressionError::new(
                index.start,
                "the name between the brackets must be written out, in quotes",
            )
            .help("what an expression reads is loaded before it is evaluated")),
        }
    }

    /// `of.field`, or `of["field"]`.
    fn member(
        &mut self,
        of: Resolved,
        field: &str,
        (start, end): (usize, usize),
        span: Span,
    ) -> Outcome<Resolved> {
        let term = match (of, field) {
            (Resolved::Term(of), _) => Term::Select(Box::new(of), Arc::from(field), span),
            (Resolved::Run, "input") => {
                self.references.run_input = true;
                Term::RunInput
            }
            (Resolved::Run, "id") => Term::RunId,
            (Resolved::Result, "output") => {
                self.references.result = true;
                Term::ResultOutput
            }
            (Resolved::Result, "action") => {
                self.references.result = true;
                Term::ResultAction
            }
            (Resolved::Node(id), "output") => self.node_output(&id),
            (Resolved::Node(id), "error") => {
                self.references.node_errors.insert(Arc::clone(&id));
                Term::NodeError(id)
            }
            (Resolved::Context, key) => self.context(key),
            (Resolved::Nodes, id) => match self.names.node_ids.get(id) {
                Some(id) => return Ok(Resolved::Node(Arc::clone(id))),
                None => return Err(self.unknown_node(id, end)),
            },
            (of, _) => return Err(self.unknown_member(&of, field, (start, end))),
        };
        Ok(Resolved::Term(term))
    }

    /// A context key, or the node that the key names.
    fn context(&mut self, key: &str) -> Term {
        let node = key.strip_prefix("_outputs.").unwrap_or(key);
        if let Some(id) = self.names.node_ids.get(node) {
            return self.node_output(&Arc::clone(id));
        }
        let key: Arc<str> = Arc::from(key);
        self.references.context.insert(Arc::clone(&key));
        self.references.run_input = true;
        Term::Context(key)
    }

    fn unknown_node(&self, id: &str, after: usize) -> ExpressionError {
        let error =
            ExpressionError::new(self.name_after(after), format!("there is no node `{id}`"));
        match suggest::nearest(id, self.names.node_ids.iter().map(|id| &**id)) {
            Some(near) => error.help(format!("did you mean `{near}`?")),
            None => error,
        }
    }

    fn unknown_member(
        &self,
        of: &Resolved,
        field: &str,
        (start, end): (usize, usize),
    ) -> ExpressionError {
        let text = &self.source[start..end];
        let known = match of {
            Resolved::Run => "it has `input` and `id`",
            _ => "it has `output` and `error`",
        };
        let known = match of {
            Resolved::Result => "it has `output` and `action`",
            _ => known,
        };
        let at = self.name_after(end);
        ExpressionError::new(at, format!("`{text}` has no `{field}`")).help(known)
    }

    /// The offset of the name that follows the dot or bracket at `offset`.
    fn name_after(&self, offset: usize) -> usize {
        let rest = &self.source[offset..];
        let skip = rest
            .find(|c: char| c != '.' && c != '[' && !c.is_whitespace())
            .unwrap_or(0);
        offset + skip
    }

    fn call(
        &mut self,
        of: Option<Box<Tree>>,
        name: &str,
        mut arguments: Vec<Tree>,
        span: Span,
    ) -> Outcome<Term> {
        let offset = of
            .as_ref()
            .map_or(span.start as usize, |of| self.name_after(of.end));
        match of {
            None if name == "secret" => self.secret(arguments, offset),
            None if name == "has" => self.has(arguments, offset),
            Some(of) if FoldKind::named(name, arguments.len()).is_some() => {
                self.fold(name, *of, arguments, span)
            }
            of => {
                let is_method = of.is_some();
                arguments.splice(0..0, of.map(|of| *of));
                let function = functions::find(name, is_method, arguments.len())
                    .map_err(|problem| problem.at(offset))?;
                Ok(Term::Call(function, self.terms(arguments)?, span))
            }
        }
    }

    fn secret(&mut self, arguments: Vec<Tree>, offset: usize) -> Outcome<Term> {
        let mut arguments = arguments.into_iter().map(|tree| tree.shape);
        match (arguments.next(), arguments.next()) {
            (Some(Shape::Text(name)), None) => {
                let name: Arc<str> = Arc::from(name);
                if self
                    .names
                    .secrets
                    .is_some_and(|declared| !declared.contains(&name))
                {
                    let message = format!("the workflow does not declare the secret `{name}`");
                    let error = ExpressionError::new(offset, message);
                    return Err(
                        error.help(format!("declare it: `secrets: [{name}]` beside `nodes`"))
                    );
                }
                self.references.secrets.insert(Arc::clone(&name));
                Ok(Term::Secret(name))
            }
            _ => Err(ExpressionError::new(
                offset,
                "`secret` takes the name of a secret, in quotes",
            )),
        }
    }

    fn has(&mut self, mut arguments: Vec<Tree>, offset: usize) -> Outcome<Term> {
        let wrong = ExpressionError::new(offset, "`has` takes one field, as in `has(input.name)`");
        let Some(tree) = arguments.pop().filter(|_| arguments.is_empty()) else {
            return Err(wrong);
        };
        let is_field = match &tree.shape {
            Shape::Select(..) => true,
            Shape::Index(_, index) => matches!(index.shape, Shape::Text(_)),
            _ => false,
        };
        if !is_field {
            return Err(wrong);
        }
        match self.term(tree)? {
            Term::Select(of, field, span) => Ok(Term::HasField(of, field, span)),
            Term::Index(of, index, span) => match *index {
                Term::Constant(Value::String(field)) => {
                    Ok(Term::HasField(of, Arc::from(field), span))
                }
                _ => Err(wrong),
            },
            term => Ok(Term::HasNamed(Box::new(term))),
        }
    }

    fn fold(&mut self, name: &str, of: Tree, arguments: Vec<Tree>, span: Span) -> Outcome<Term> {
        let kind = FoldKind::named(name, arguments.len()).expect("checked by the caller");
        let range = self.term(of)?;
        let mut arguments = arguments.into_iter();
        let variable = arguments.next().expect("a fold has two arguments or more");
        let Shape::Name(variable) = variable.shape else {
            return Err(ExpressionError::new(
                variable.start,
                format!("the first argument of `{name}` is the name of a variable"),
            ));
        };
        self.locals.push(variable);
        let mut terms = arguments
            .map(|tree| self.term(tree))
            .collect::<Outcome<Vec<_>>>()?;
        self.locals.pop();
        let last = terms.pop();
        let (filter, body) = if kind == FoldKind::Map {
            (terms.pop(), last)
        } else {
            (last, None)
        };
        Ok(Term::Fold(Box::new(Fold {
            kind,
            range,
            filter,
            body,
            span,
        })))
    }
}

fn span(tree: &Tree) -> Span {
    // An expression is far shorter than 4 GiB.
    Span {
        start: tree.start as u32,
        end: tree.end as u32,
    }
}
