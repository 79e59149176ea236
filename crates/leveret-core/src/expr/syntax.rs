//! Tokens to a tree: CEL's grammar, by precedence climbing.

use super::{
    EXPRESSION_BYTES_MAX, EXPRESSION_DEPTH_MAX, ExpressionError,
    lex::{self, Kind, Token},
};

/// A part of an expression, the bytes it covers and its height above the leaves.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) shape: Shape,
    pub(super) start: usize,
    pub(super) end: usize,
    height: usize,
}

#[derive(Debug)]
pub(super) enum Shape {
    Null,
    Bool(bool),
    Int(i128),
    Double(f64),
    Text(String),
    Name(String),
    Select(Box<Tree>, String),
    Index(Box<Tree>, Box<Tree>),
    /// A function and, for `a.f(b)`, what it is called on.
    Call(Option<Box<Tree>>, String, Vec<Tree>),
    Not(Box<Tree>),
    Negate(Box<Tree>),
    Binary(Operator, Box<Tree>, Box<Tree>),
    /// `a && b && c`.
    And(Vec<Tree>),
    /// `a || b || c`.
    Or(Vec<Tree>),
    Conditional(Box<[Tree; 3]>),
    List(Vec<Tree>),
    Map(Vec<(Tree, Tree)>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
}

impl Operator {
    pub(super) fn sign(self) -> &'static str {
        match self {
            Operator::Add => "+",
            Operator::Subtract => "-",
            Operator::Multiply => "*",
            Operator::Divide => "/",
            Operator::Remainder => "%",
            Operator::Equal => "==",
            Operator::NotEqual => "!=",
            Operator::Less => "<",
            Operator::LessOrEqual => "<=",
            Operator::Greater => ">",
            Operator::GreaterOrEqual => ">=",
            Operator::In => "in",
        }
    }
}

const PRECEDENCE_OR: u8 = 1;
const PRECEDENCE_AND: u8 = 2;
const PRECEDENCE_RELATION: u8 = 3;
const PRECEDENCE_SUM: u8 = 4;
const PRECEDENCE_PRODUCT: u8 = 5;

/// Words that CEL keeps for itself.
const RESERVED: [&str; 18] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
    "in",
];

/// Parses a whole text as one expression.
pub(super) fn parse(source: &str) -> Result<Tree, ExpressionError> {
    if source.len() > EXPRESSION_BYTES_MAX {
        return Err(ExpressionError::new(
            0,
            format!("an expression has at most {EXPRESSION_BYTES_MAX} bytes"),
        ));
    }
    let mut parser = Parser {
        tokens: lex::tokens(source)?,
        at: 0,
        depth: 0,
    };
    if parser.peek() == &Kind::End {
        return Err(ExpressionError::new(0, "the expression is empty"));
    }
    let tree = parser.expression()?;
    match parser.peek() {
        Kind::End => Ok(tree),
        _ => Err(parser.unexpected("an operator")),
    }
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
}

impl Parser {
    fn peek(&self) -> &Kind {
        &self.tokens[self.at].kind
    }

    fn start(&self) -> usize {
        self.tokens[self.at].start
    }

    /// The end of the token before.
    fn end(&self) -> usize {
        self.tokens[self.at.saturating_sub(1)].end
    }

    fn next(&mut self) -> Kind {
        let last = self.tokens.len() - 1;
        let kind = self.tokens[self.at].kind.clone();
        self.at = (self.at + 1).min(last);
        kind
    }

    fn at_sign(&self, sign: &str) -> bool {
        matches!(self.peek(), Kind::Sign(found) if *found == sign)
    }

    fn take(&mut self, sign: &str) -> bool {
        let found = self.at_sign(sign);
        if found {
            self.next();
        }
        found
    }

    fn expect(&mut self, sign: &str) -> Result<(), ExpressionError> {
        if self.take(sign) {
            return Ok(());
        }
        Err(self.unexpected(&format!("`{sign}`")))
    }

    fn unexpected(&self, wanted: &str) -> ExpressionError {
        let found = match self.peek() {
            Kind::End => "the expression ends".to_owned(),
            Kind::Sign(sign) => format!("found `{sign}`"),
            Kind::Name(name) => format!("found `{name}`"),
            Kind::Text(_) => "found a text".to_owned(),
            Kind::Int(_) | Kind::Double(_) => "found a number".to_owned(),
        };
        let error = ExpressionError::new(self.start(), format!("expected {wanted}, but {found}"));
        match self.peek() {
            Kind::Sign("=") => error.help("equality is written `==`"),
            Kind::Sign("&") => error.help("`and` is written `&&`"),
            _ => error,
        }
    }

    fn tree(
        &self,
        start: usize,
        shape: Shape,
        heights: impl IntoIterator<Item = usize>,
    ) -> Result<Tree, ExpressionError> {
        let height = 1 + heights.into_iter().max().unwrap_or(0);
        if height > EXPRESSION_DEPTH_MAX {
            return Err(too_deep(start));
        }
        Ok(Tree {
            shape,
            start,
            end: self.end(),
            height,
        })
    }

    /// `a ? b : c`, or anything that binds tighter.
    fn expression(&mut self) -> Result<Tree, ExpressionError> {
        self.depth += 1;
        if self.depth > EXPRESSION_DEPTH_MAX / 2 {
            return Err(too_deep(self.start()));
        }
        let start = self.start();
        let condition = self.binary(PRECEDENCE_OR)?;
        let tree = if self.take("?") {
            let yes = self.expression()?;
            self.expect(":")?;
            let no = self.expression()?;
            let heights = [condition.height, yes.height, no.height];
            self.tree(
                start,
                Shape::Conditional(Box::new([condition, yes, no])),
                heights,
            )
        } else {
            Ok(condition)
        };
        self.depth -= 1;
        tree
    }

    fn operator(&self) -> Option<(u8, Option<Operator>)> {
        let (precedence, operator) = match self.peek() {
            Kind::Name(name) if name == "in" => (PRECEDENCE_RELATION, Operator::In),
            Kind::Sign("||") => return Some((PRECEDENCE_OR, None)),
            Kind::Sign("&&") => return Some((PRECEDENCE_AND, None)),
            Kind::Sign("==" | "===") => (PRECEDENCE_RELATION, Operator::Equal),
            Kind::Sign("!=" | "!==") => (PRECEDENCE_RELATION, Operator::NotEqual),
            Kind::Sign("<") => (PRECEDENCE_RELATION, Operator::Less),
            Kind::Sign("<=") => (PRECEDENCE_RELATION, Operator::LessOrEqual),
            Kind::Sign(">") => (PRECEDENCE_RELATION, Operator::Greater),
            Kind::Sign(">=") => (PRECEDENCE_RELATION, Operator::GreaterOrEqual),
            Kind::Sign("+") => (PRECEDENCE_SUM, Operator::Add),
            Kind::Sign("-") => (PRECEDENCE_SUM, Operator::Subtract),
            Kind::Sign("*") => (PRECEDENCE_PRODUCT, Operator::Multiply),
            Kind::Sign("/") => (PRECEDENCE_PRODUCT, Operator::Divide),
            Kind::Sign("%") => (PRECEDENCE_PRODUCT, Operator::Remainder),
            _ => return None,
        };
        Some((precedence, Some(operator)))
    }

    fn binary(&mut self, least: u8) -> Result<Tree, ExpressionError> {
        let start = self.start();
        let mut left = self.unary()?;
        while let Some((precedence, operator)) = self.operator() {
            if precedence < least {
                break;
            }
            self.next();
            let right = self.binary(precedence + 1)?;
            let heights = [left.height, right.height];
            let shape = match operator {
                Some(operator) => Shape::Binary(operator, Box::new(left), Box::new(right)),
                None => chain(precedence, left, right),
            };
            // A chain of `&&` or `||` is one level, however long.
            let heights = match &shape {
                Shape::And(terms) | Shape::Or(terms) if terms.len() > 2 => {
                    [heights[0] - 1, heights[1]]
                }
                _ => heights,
            };
            left = self.tree(start, shape, heights)?;
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<Tree, ExpressionError> {
        let start = self.start();
        let mut signs = Vec::new();
        while self.at_sign("!") || self.at_sign("-") {
            signs.push(self.next());
        }
        let mut tree = self.postfix()?;
        for sign in signs.into_iter().rev() {
            let height = tree.height;
            let shape = match (sign, tree.shape) {
                (Kind::Sign("-"), Shape::Int(value)) if value >= 0 => Shape::Int(-value),
                (Kind::Sign("-"), Shape::Double(value)) => Shape::Double(-value),
                (Kind::Sign("-"), shape) => Shape::Negate(Box::new(Tree { shape, ..tree })),
                (_, shape) => Shape::Not(Box::new(Tree { shape, ..tree })),
            };
            tree = self.tree(start, shape, [height])?;
        }
        Ok(tree)
    }

    fn postfix(&mut self) -> Result<Tree, ExpressionError> {
        let start = self.start();
        let mut tree = self.primary()?;
        loop {
            let height = tree.height;
            if self.take(".") {
                let name = self.field()?;
                if self.take("(") {
                    let arguments = self.list(")")?;
                    let heights = highest(&arguments).max(height);
                    let shape = Shape::Call(Some(Box::new(tree)), name, arguments);
                    tree = self.tree(start, shape, [heights])?;
                } else {
                    tree = self.tree(start, Shape::Select(Box::new(tree), name), [height])?;
                }
            } else if self.take("[") {
                let index = self.expression()?;
                self.expect("]")?;
                let heights = [height, index.height];
                let shape = Shape::Index(Box::new(tree), Box::new(index));
                tree = self.tree(start, shape, heights)?;
            } else {
                return Ok(tree);
            }
        }
    }

    fn field(&mut self) -> Result<String, ExpressionError> {
        match self.peek() {
            Kind::Name(_) => match self.next() {
                Kind::Name(name) => Ok(name),
                _ => unreachable!("the token was a name"),
            },
            Kind::Sign("?") => Err(self
                .unexpected("the name of a field")
                .help("test for a field with `has(a.b)`")),
            _ => Err(self.unexpected("the name of a field")),
        }
    }

    fn primary(&mut self) -> Result<Tree, ExpressionError> {
        let start = self.start();
        let shape = match self.peek().clone() {
            Kind::Int(value) => Shape::Int(i128::from(value)),
            Kind::Double(value) => Shape::Double(value),
            Kind::Text(text) => Shape::Text(text),
            Kind::Name(name) => return self.name(start, name),
            Kind::Sign("(") => {
                self.next();
                let tree = self.expression()?;
                self.expect(")")?;
                return Ok(tree);
            }
            Kind::Sign("[") => {
                self.next();
                let elements = self.list("]")?;
                let height = highest(&elements);
                return self.tree(start, Shape::List(elements), [height]);
            }
            Kind::Sign("{") => {
                self.next();
                return self.map(start);
            }
            _ => return Err(self.unexpected("a value")),
        };
        self.next();
        self.tree(start, shape, [])
    }

    fn name(&mut self, start: usize, name: String) -> Result<Tree, ExpressionError> {
        let shape = match name.as_str() {
            "true" => Shape::Bool(true),
            "false" => Shape::Bool(false),
            "null" | "undefined" => Shape::Null,
            reserved if RESERVED.contains(&reserved) => {
                return Err(self.unexpected("a value"));
            }
            _ => Shape::Name(name),
        };
        self.next();
        match shape {
            Shape::Name(name) if self.take("(") => {
                let arguments = self.list(")")?;
                let height = highest(&arguments);
                self.tree(start, Shape::Call(None, name, arguments), [height])
            }
            shape => self.tree(start, shape, []),
        }
    }

    /// Expressions with commas between them, up to the closing sign. A comma may follow the last one.
    fn list(&mut self, close: &str) -> Result<Vec<Tree>, ExpressionError> {
        let mut elements = Vec::new();
        while !self.take(close) {
            elements.push(self.expression()?);
            if !self.take(",") {
                self.expect(close)?;
                break;
            }
        }
        Ok(elements)
    }

    fn map(&mut self, start: usize) -> Result<Tree, ExpressionError> {
        let mut entries = Vec::new();
        let mut height = 0;
        while !self.take("}") {
            let key = self.expression()?;
            self.expect(":")?;
            let value = self.expression()?;
            height = height.max(key.height).max(value.height);
            entries.push((key, value));
            if !self.take(",") {
                self.expect("}")?;
                break;
            }
        }
        self.tree(start, Shape::Map(entries), [height])
    }
}

fn too_deep(offset: usize) -> ExpressionError {
    ExpressionError::new(
        offset,
        format!("the expression is nested deeper than {EXPRESSION_DEPTH_MAX} levels"),
    )
}

fn highest(trees: &[Tree]) -> usize {
    trees.iter().map(|tree| tree.height).max().unwrap_or(0)
}

/// `left && right` or `left || right`, in one list with the terms before.
fn chain(precedence: u8, left: Tree, right: Tree) -> Shape {
    match (precedence, left.shape) {
        (PRECEDENCE_AND, Shape::And(mut terms)) => {
            terms.push(right);
            Shape::And(terms)
        }
        (PRECEDENCE_OR, Shape::Or(mut terms)) => {
            terms.push(right);
            Shape::Or(terms)
        }
        (PRECEDENCE_AND, shape) => Shape::And(vec![Tree { shape, ..left }, right]),
        (_, shape) => Shape::Or(vec![Tree { shape, ..left }, right]),
    }
}
