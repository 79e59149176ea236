//! Tokens to a tree.

use std::cell::Cell;

use super::{
    call::{Function, Method},
    lex::{Kind, Token},
};
use crate::expr::ExpressionError;

/// The deepest nesting of brackets, signs and conditions.
const DEPTH_MAX: usize = 64;

/// The most operators and links of chains: each may make the tree one deeper.
const LINKS_MAX: usize = 400;

/// A part of an expression.
#[derive(Clone, Debug)]
pub(super) enum Term {
    Undefined,
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    Template(Vec<String>, Vec<Term>),
    List(Vec<Term>),
    Object(Vec<(String, Term)>),
    Name(String),
    /// A key of the context.
    Context(String),
    Member {
        of: Box<Term>,
        name: Box<Term>,
        /// `?.`: of null and undefined, the rest of the chain is undefined.
        optional: bool,
    },
    Method {
        of: Box<Term>,
        method: Method,
        args: Vec<Term>,
        optional: bool,
    },
    /// Where an optional chain ends.
    Chain(Box<Term>),
    Call(Function, Vec<Term>),
    Unary(Unary, Box<Term>),
    Binary(Binary, Box<Term>, Box<Term>),
    Either(Logic, Box<Term>, Box<Term>),
    If(Box<(Term, Term, Term)>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Unary {
    Not,
    Minus,
    Plus,
    TypeOf,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Binary {
    Same,
    NotSame,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Plus,
    Minus,
    Times,
    Over,
    Modulo,
    Power,
    In,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Logic {
    And,
    Or,
    Otherwise,
}

/// Words of JavaScript that mean something else than a name.
const RESERVED: [&str; 22] = [
    "new",
    "function",
    "class",
    "this",
    "await",
    "async",
    "delete",
    "void",
    "instanceof",
    "let",
    "const",
    "var",
    "return",
    "throw",
    "if",
    "for",
    "while",
    "import",
    "super",
    "yield",
    "eval",
    "globalThis",
];

pub(super) fn parse(tokens: &[Token]) -> Result<Term, ExpressionError> {
    parse_within(tokens, 0, &Cell::new(0))
}

fn parse_within(tokens: &[Token], depth: usize, links: &Cell<usize>) -> Parsed {
    let mut parser = Parser {
        tokens,
        at: 0,
        depth,
        links,
    };
    let term = parser.conditional()?;
    match &parser.peek().kind {
        Kind::End => Ok(term),
        other => Err(parser.error(format!("{} is not expected here", shown(other)))),
    }
}

struct Parser<'a> {
    tokens: &'a [Token],
    at: usize,
    depth: usize,
    links: &'a Cell<usize>,
}

type Parsed = Result<Term, ExpressionError>;

/// Operators of one strength.
type Level = &'static [(&'static str, Binary)];

const LEVELS: [Level; 4] = [
    &[
        ("===", Binary::Same),
        ("!==", Binary::NotSame),
        ("==", Binary::Equal),
        ("!=", Binary::NotEqual),
    ],
    &[
        ("<=", Binary::LessOrEqual),
        (">=", Binary::GreaterOrEqual),
        ("<", Binary::Less),
        (">", Binary::Greater),
        ("in", Binary::In),
    ],
    &[("+", Binary::Plus), ("-", Binary::Minus)],
    &[
        ("*", Binary::Times),
        ("/", Binary::Over),
        ("%", Binary::Modulo),
    ],
];

impl<'a> Parser<'a> {
    fn peek(&self) -> &'a Token {
        &self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    fn next(&mut self) -> &'a Token {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn is(&self, sign: &str) -> bool {
        matches!(self.peek().kind, Kind::Sign(found) if found == sign)
    }

    fn take(&mut self, sign: &str) -> bool {
        let taken = self.is(sign);
        self.at += usize::from(taken);
        taken
    }

    fn expect(&mut self, sign: &str) -> Result<(), ExpressionError> {
        if self.take(sign) {
            return Ok(());
        }
        let found = shown(&self.peek().kind);
        Err(self.error(format!("`{sign}` is expected here, not {found}")))
    }

    fn error(&self, message: impl Into<String>) -> ExpressionError {
        ExpressionError::new(self.peek().at, message)
    }

    fn deeper<T>(
        &mut self,
        parse: impl FnOnce(&mut Self) -> Result<T, ExpressionError>,
    ) -> Result<T, ExpressionError> {
        if self.depth >= DEPTH_MAX {
            return Err(self.error("the expression is nested too deep"));
        }
        self.depth += 1;
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    /// One operator or link more.
    fn link(&self) -> Result<(), ExpressionError> {
        let links = self.links.get() + 1;
        self.links.set(links);
        if links > LINKS_MAX {
            return Err(self.error("the expression is too long"));
        }
        Ok(())
    }

    fn conditional(&mut self) -> Parsed {
        self.deeper(|parser| {
            let condition = parser.otherwise()?;
            if !parser.take("?") {
                return Ok(condition);
            }
            let then = parser.conditional()?;
            parser.expect(":")?;
            let or_else = parser.conditional()?;
            Ok(Term::If(Box::new((condition, then, or_else))))
        })
    }

    /// `??` beside `||` or `&&` needs parentheses, as in JavaScript.
    fn otherwise(&mut self) -> Parsed {
        let start = self.at;
        let mut left = self.or()?;
        let is_logic = matches!(left, Term::Either(Logic::And | Logic::Or, ..));
        if self.is("??") && is_logic && !self.is_parenthesised(start) {
            return Err(self.error("`??` beside `||` or `&&` needs parentheses"));
        }
        while self.is("??") {
            self.at += 1;
            self.link()?;
            let right = self.equality(0)?;
            if self.is("||") || self.is("&&") {
                return Err(self.error("`??` beside `||` or `&&` needs parentheses"));
            }
            left = Term::Either(Logic::Otherwise, left.into(), right.into());
        }
        Ok(left)
    }

    /// Whether all that was read since is in one pair of parentheses.
    fn is_parenthesised(&self, start: usize) -> bool {
        let mut open = 0_usize;
        for (at, token) in self.tokens[start..self.at].iter().enumerate() {
            match token.kind {
                Kind::Sign("(") => open += 1,
                Kind::Sign(")") => open = open.saturating_sub(1),
                _ => {}
            }
            if open == 0 && start + at + 1 < self.at {
                return false;
            }
        }
        open == 0 && matches!(self.tokens[start].kind, Kind::Sign("("))
    }

    fn or(&mut self) -> Parsed {
        let mut left = self.and()?;
        while self.take("||") {
            self.link()?;
            left = Term::Either(Logic::Or, left.into(), self.and()?.into());
        }
        Ok(left)
    }

    fn and(&mut self) -> Parsed {
        let mut left = self.equality(0)?;
        while self.take("&&") {
            self.link()?;
            left = Term::Either(Logic::And, left.into(), self.equality(0)?.into());
        }
        Ok(left)
    }

    fn equality(&mut self, level: usize) -> Parsed {
        let Some(operators) = LEVELS.get(level) else {
            return self.power();
        };
        let mut left = self.equality(level + 1)?;
        while let Some(operator) = self.operator(operators) {
            self.at += 1;
            self.link()?;
            let right = self.equality(level + 1)?;
            left = Term::Binary(operator, left.into(), right.into());
        }
        Ok(left)
    }

    fn operator(&self, operators: Level) -> Option<Binary> {
        let found: &str = match &self.peek().kind {
            Kind::Sign(sign) => sign,
            Kind::Name(name) => name,
            _ => return None,
        };
        let known = operators.iter().find(|(sign, _)| *sign == found);
        known.map(|(_, operator)| *operator)
    }

    fn power(&mut self) -> Parsed {
        let is_unary = ["!", "-", "+"].iter().any(|sign| self.is(sign))
            || matches!(&self.peek().kind, Kind::Name(name) if name == "typeof");
        let base = self.unary()?;
        if !self.is("**") {
            return Ok(base);
        }
        if is_unary {
            return Err(self.error("a sign before `**` needs parentheses"));
        }
        self.at += 1;
        let exponent = self.deeper(Self::power)?;
        Ok(Term::Binary(Binary::Power, base.into(), exponent.into()))
    }

    fn unary(&mut self) -> Parsed {
        let operator = match &self.peek().kind {
            Kind::Sign("!") => Unary::Not,
            Kind::Sign("-") => Unary::Minus,
            Kind::Sign("+") => Unary::Plus,
            Kind::Name(name) if name == "typeof" => Unary::TypeOf,
            _ => return self.access(),
        };
        self.at += 1;
        let operand = self.deeper(Self::unary)?;
        Ok(Term::Unary(operator, operand.into()))
    }

    fn access(&mut self) -> Parsed {
        let mut term = self.primary()?;
        let mut has_optional = false;
        loop {
            let optional = self.take("?.");
            has_optional |= optional;
            let dotted = optional && !self.is("[") && !self.is("(");
            let name = if dotted || self.take(".") {
                let token = self.next();
                match &token.kind {
                    Kind::Name(name) => Term::Text(name.clone()),
                    other => {
                        let message = format!("a name is expected here, not {}", shown(other));
                        return Err(ExpressionError::new(token.at, message));
                    }
                }
            } else if self.take("[") {
                let name = self.conditional()?;
                self.expect("]")?;
                name
            } else if self.is("(") {
                return Err(
                    self.error("only the methods and functions that are listed can be called")
                );
            } else {
                break;
            };
            self.link()?;
            term = self.member(term, name, optional)?;
        }
        if has_optional {
            term = Term::Chain(term.into());
        }
        Ok(term)
    }

    fn member(&mut self, of: Term, name: Term, optional: bool) -> Parsed {
        if self.is("(") {
            let Term::Text(text) = &name else {
                return Err(self.error("what is called has to be named"));
            };
            let method = Method::named(text).ok_or_else(|| {
                self.error(format!("`.{text}()` is not among the methods there are"))
            })?;
            let args = self.arguments()?;
            return Ok(Term::Method {
                of: of.into(),
                method,
                args,
                optional,
            });
        }
        Ok(match (of, name) {
            (Term::Name(context), Term::Text(key)) if context == "context" && !optional => {
                Term::Context(key)
            }
            (of, name) => Term::Member {
                of: of.into(),
                name: name.into(),
                optional,
            },
        })
    }

    fn arguments(&mut self) -> Result<Vec<Term>, ExpressionError> {
        self.expect("(")?;
        self.list(")")
    }

    /// Terms with commas between them, up to a sign; a comma may be last.
    fn list(&mut self, close: &str) -> Result<Vec<Term>, ExpressionError> {
        let mut terms = Vec::new();
        while !self.take(close) {
            terms.push(self.conditional()?);
            if !self.take(",") {
                self.expect(close)?;
                break;
            }
        }
        Ok(terms)
    }

    fn primary(&mut self) -> Parsed {
        let token = self.next();
        Ok(match &token.kind {
            Kind::Number(number) => Term::Number(*number),
            Kind::Text(text) => Term::Text(text.clone()),
            Kind::Template(texts, parts) => {
                let (depth, links) = (self.depth + 1, self.links);
                let parts = parts.iter();
                let parts = parts.map(|tokens| parse_within(tokens, depth, links));
                Term::Template(texts.clone(), parts.collect::<Result<_, _>>()?)
            }
            Kind::Name(name) => return self.named(name, token.at),
            Kind::Sign("(") => {
                let inner = self.conditional()?;
                self.expect(")")?;
                inner
            }
            Kind::Sign("[") => Term::List(self.list("]")?),
            Kind::Sign("{") => self.object()?,
            Kind::End => {
                return Err(ExpressionError::new(
                    token.at,
                    "the expression ends too early",
                ));
            }
            other @ Kind::Sign(_) => {
                let message = format!("{} is not expected here", shown(other));
                return Err(ExpressionError::new(token.at, message));
            }
        })
    }

    fn named(&mut self, name: &str, at: usize) -> Parsed {
        if RESERVED.contains(&name) {
            let message = format!("`{name}` is outside of the subset of JavaScript that is read");
            return Err(ExpressionError::new(at, message));
        }
        let namespace = matches!(name, "Array" | "Object" | "Math") && self.is(".");
        let mut called = name.to_owned();
        if namespace {
            self.at += 1;
            if let Kind::Name(member) = &self.next().kind {
                called = format!("{name}.{member}");
            }
        }
        if namespace || self.is("(") {
            let unknown = || {
                let message = format!("`{called}()` is not among the functions there are");
                ExpressionError::new(at, message)
            };
            let function = Function::named(&called).ok_or_else(unknown)?;
            return Ok(Term::Call(function, self.arguments()?));
        }
        Ok(match name {
            "true" => Term::Bool(true),
            "false" => Term::Bool(false),
            "null" => Term::Null,
            "undefined" => Term::Undefined,
            "NaN" => Term::Number(f64::NAN),
            "Infinity" => Term::Number(f64::INFINITY),
            name => Term::Name(name.to_owned()),
        })
    }

    fn object(&mut self) -> Parsed {
        let mut members = Vec::new();
        while !self.take("}") {
            let token = self.next();
            let (name, short) = match &token.kind {
                Kind::Name(name) => (name.clone(), true),
                Kind::Text(text) => (text.clone(), false),
                Kind::Number(number) => (super::value::number_text(*number), false),
                other => {
                    let message = format!("a name is expected here, not {}", shown(other));
                    return Err(ExpressionError::new(token.at, message));
                }
            };
            let value = if self.take(":") {
                self.conditional()?
            } else if short {
                self.named(&name, token.at)?
            } else {
                self.expect(":")?;
                Term::Undefined
            };
            members.push((name, value));
            if !self.take(",") {
                self.expect("}")?;
                break;
            }
        }
        Ok(Term::Object(members))
    }
}

fn shown(kind: &Kind) -> String {
    match kind {
        Kind::Number(number) => format!("`{number}`"),
        Kind::Text(_) => "a text".to_owned(),
        Kind::Template(..) => "a template".to_owned(),
        Kind::Name(name) => format!("`{name}`"),
        Kind::Sign(sign) => format!("`{sign}`"),
        Kind::End => "the end".to_owned(),
    }
}
