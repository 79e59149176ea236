//! A tree and a scope to a value.

use std::{borrow::Cow, cell::Cell};

use serde_json::{Map, Number, Value};

use super::{
    Scope, TEXT_BYTES_MAX,
    parse::{Binary, Logic, Term, Unary},
    value::{Js, number_text},
};

/// It cannot be evaluated.
#[derive(Debug)]
pub(super) struct Fault;

pub(super) type Outcome<T> = Result<T, Fault>;

/// One evaluation, and what it may still make.
pub(super) struct Evaluation<'a> {
    scope: &'a dyn Scope,
    left: Cell<usize>,
}

/// What a chain comes to that met null or undefined behind `?.`.
enum Link<'a> {
    Value(Js<'a>),
    Broken,
}

impl<'a> Evaluation<'a> {
    pub(super) fn new(scope: &'a dyn Scope) -> Evaluation<'a> {
        Evaluation {
            scope,
            left: Cell::new(TEXT_BYTES_MAX),
        }
    }

    /// Charges for what is made, in bytes.
    pub(super) fn charge(&self, bytes: usize) -> Outcome<()> {
        let left = self.left.get().checked_sub(bytes).ok_or(Fault)?;
        self.left.set(left);
        Ok(())
    }

    /// A value as text. What a list comes to is charged before it is made.
    pub(super) fn text(&self, value: &Js<'a>) -> Outcome<Cow<'a, str>> {
        self.charge_text(value)?;
        Ok(value.text())
    }

    fn charge_text(&self, value: &Js<'_>) -> Outcome<()> {
        match value {
            Js::Text(text) => self.charge(text.len()),
            Js::Json(Value::Array(elements)) => elements.iter().try_for_each(|element| {
                self.charge(1)?;
                self.charge_text(&Js::from(element))
            }),
            Js::List(elements) => elements.iter().try_for_each(|element| {
                self.charge(1)?;
                self.charge_text(element)
            }),
            _ => self.charge(24),
        }
    }

    pub(super) fn eval(&self, term: &'a Term) -> Outcome<Js<'a>> {
        Ok(match term {
            Term::Undefined => Js::Undefined,
            Term::Null => Js::Null,
            Term::Bool(truth) => Js::Bool(*truth),
            Term::Number(number) => Js::Number(*number),
            Term::Text(text) => Js::Text(text.into()),
            Term::Template(texts, parts) => {
                let mut whole = String::new();
                for (at, text) in texts.iter().enumerate() {
                    whole.push_str(text);
                    if let Some(part) = parts.get(at) {
                        whole.push_str(&self.text(&self.eval(part)?)?);
                    }
                }
                self.charge(whole.len())?;
                Js::Text(whole.into())
            }
            Term::List(elements) => {
                self.charge(elements.len())?;
                let elements = elements.iter().map(|element| self.eval(element));
                Js::List(elements.collect::<Outcome<_>>()?)
            }
            Term::Object(members) => Js::Object(self.members(members)?),
            Term::Name(name) if name == "context" => self.scope.context().into(),
            Term::Name(name) => self.scope.name(name).into(),
            Term::Context(key) => self.scope.context_key(key).into(),
            Term::Chain(_) | Term::Member { .. } | Term::Method { .. } => match self.link(term)? {
                Link::Value(value) => value,
                Link::Broken => Js::Undefined,
            },
            Term::Call(function, args) => self.call(*function, &self.args(args)?)?,
            Term::Unary(operator, operand) => {
                let operand = self.eval(operand)?;
                match operator {
                    Unary::Not => Js::Bool(!operand.is_true()),
                    Unary::Minus => Js::Number(-operand.number()),
                    Unary::Plus => Js::Number(operand.number()),
                    Unary::TypeOf => Js::Text(operand.type_of().into()),
                }
            }
            Term::Binary(operator, left, right) => {
                self.binary(*operator, self.eval(left)?, self.eval(right)?)?
            }
            Term::Either(logic, left, right) => {
                let left = self.eval(left)?;
                let decided = match logic {
                    Logic::And => !left.is_true(),
                    Logic::Or => left.is_true(),
                    Logic::Otherwise => !left.is_nullish(),
                };
                if decided { left } else { self.eval(right)? }
            }
            Term::If(parts) => {
                let (condition, then, or_else) = &**parts;
                let holds = self.eval(condition)?.is_true();
                self.eval(if holds { then } else { or_else })?
            }
        })
    }

    fn args(&self, args: &'a [Term]) -> Outcome<Vec<Js<'a>>> {
        args.iter().map(|arg| self.eval(arg)).collect()
    }

    /// The last of two members with one name is the one, at the place of the first.
    fn members(&self, members: &'a [(String, Term)]) -> Outcome<Vec<(Cow<'a, str>, Js<'a>)>> {
        let mut made: Vec<(Cow<'a, str>, Js<'a>)> = Vec::with_capacity(members.len());
        for (name, term) in members {
            self.charge(name.len())?;
            let value = self.eval(term)?;
            match made.iter_mut().find(|(known, _)| known == name) {
                Some(known) => known.1 = value,
                None => made.push((name.into(), value)),
            }
        }
        Ok(made)
    }

    fn link(&self, term: &'a Term) -> Outcome<Link<'a>> {
        let (of, optional) = match term {
            Term::Member { of, optional, .. } | Term::Method { of, optional, .. } => {
                (of, *optional)
            }
            Term::Chain(inner) => {
                return Ok(Link::Value(match self.link(inner)? {
                    Link::Value(value) => value,
                    Link::Broken => Js::Undefined,
                }));
            }
            other => return self.eval(other).map(Link::Value),
        };
        let of = match self.link(of)? {
            Link::Value(value) => value,
            Link::Broken => return Ok(Link::Broken),
        };
        if of.is_nullish() {
            return if optional {
                Ok(Link::Broken)
            } else {
                Err(Fault)
            };
        }
        Ok(Link::Value(match term {
            Term::Method { method, args, .. } => self.method(&of, *method, &self.args(args)?)?,
            Term::Member { name, .. } => {
                let name = self.eval(name)?;
                member(&of, &self.text(&name)?)
            }
            _ => return Err(Fault),
        }))
    }

    /// The names of the members of an object, or the places of a list.
    pub(super) fn keys(&self, of: &Js<'a>) -> Outcome<Vec<Js<'a>>> {
        let keys: Vec<Js<'a>> = match of {
            Js::Undefined | Js::Null => return Err(Fault),
            Js::Json(Value::Object(members)) => {
                members.keys().map(|key| Js::Text(key.into())).collect()
            }
            Js::Object(members) => {
                let keys = members.iter().map(|(key, _)| Js::Text(key.clone()));
                keys.collect()
            }
            other => {
                let len = other.elements().map_or(0, |elements| elements.len());
                (0..len).map(|at| Js::Text(at.to_string().into())).collect()
            }
        };
        self.charge(keys.len() * 8)?;
        Ok(keys)
    }

    fn binary(&self, operator: Binary, left: Js<'a>, right: Js<'a>) -> Outcome<Js<'a>> {
        let number = |of: fn(f64, f64) -> f64| Js::Number(of(left.number(), right.number()));
        Ok(match operator {
            Binary::Same => Js::Bool(left.same(&right)),
            Binary::NotSame => Js::Bool(!left.same(&right)),
            Binary::Equal => Js::Bool(self.loosely(&left, &right)?),
            Binary::NotEqual => Js::Bool(!self.loosely(&left, &right)?),
            Binary::Less | Binary::LessOrEqual | Binary::Greater | Binary::GreaterOrEqual => {
                self.charge_text(&left)?;
                self.charge_text(&right)?;
                let order = left.compare(right);
                Js::Bool(order.is_some_and(|order| match operator {
                    Binary::Less => order.is_lt(),
                    Binary::LessOrEqual => order.is_le(),
                    Binary::Greater => order.is_gt(),
                    _ => order.is_ge(),
                }))
            }
            Binary::Plus => {
                self.charge_text(&left)?;
                self.charge_text(&right)?;
                match (left.primitive(), right.primitive()) {
                    (a @ Js::Text(_), b) | (a, b @ Js::Text(_)) => {
                        let text = format!("{}{}", a.text(), b.text());
                        self.charge(text.len())?;
                        Js::Text(text.into())
                    }
                    (a, b) => Js::Number(a.number() + b.number()),
                }
            }
            Binary::Minus => number(|a, b| a - b),
            Binary::Times => number(|a, b| a * b),
            Binary::Over => number(|a, b| a / b),
            Binary::Modulo => number(|a, b| a % b),
            // Unlike Rust's, 1 to an unknown power is unknown.
            Binary::Power => number(|a, b| {
                #[expect(clippy::float_cmp)] // Exactly 1 is meant.
                let unknown = b.is_nan() || (a.abs() == 1.0 && b.is_infinite());
                if unknown { f64::NAN } else { a.powf(b) }
            }),
            Binary::In => {
                if !right.is_object() {
                    return Err(Fault);
                }
                let name = self.text(&left)?;
                let member = member(&right, &name);
                let there = !matches!(member, Js::Undefined)
                    || matches!(&right, Js::Object(members) if members.iter().any(|(known, _)| *known == name));
                Js::Bool(there)
            }
        })
    }

    fn loosely(&self, left: &Js<'a>, right: &Js<'a>) -> Outcome<bool> {
        if left.is_object() != right.is_object() {
            self.charge_text(left)?;
            self.charge_text(right)?;
        }
        Ok(left.equal(right))
    }

    /// As `JSON.stringify` has it; none is undefined.
    pub(super) fn json(&self, value: Js<'a>) -> Outcome<Option<Value>> {
        Ok(Some(match value {
            Js::Undefined => return Ok(None),
            Js::Null => Value::Null,
            Js::Bool(truth) => Value::Bool(truth),
            Js::Number(number) => json_number(number),
            Js::Text(text) => {
                self.charge(text.len())?;
                Value::String(text.into_owned())
            }
            Js::Json(value) => {
                self.charge_json(value)?;
                value.clone()
            }
            Js::List(elements) => {
                self.charge(elements.len())?;
                let elements = elements.into_iter().map(|element| {
                    let json = self.json(element)?;
                    Ok(json.unwrap_or(Value::Null))
                });
                Value::Array(elements.collect::<Outcome<_>>()?)
            }
            Js::Object(members) => {
                let mut object = Map::new();
                for (name, value) in members {
                    self.charge(name.len())?;
                    if let Some(json) = self.json(value)? {
                        object.insert(name.into_owned(), json);
                    }
                }
                Value::Object(object)
            }
        }))
    }

    fn charge_json(&self, value: &Value) -> Outcome<()> {
        match value {
            Value::String(text) => self.charge(text.len() + 2),
            Value::Array(elements) => {
                self.charge(2)?;
                elements
                    .iter()
                    .try_for_each(|element| self.charge_json(element))
            }
            Value::Object(members) => members.iter().try_for_each(|(name, value)| {
                self.charge(name.len() + 4)?;
                self.charge_json(value)
            }),
            _ => self.charge(8),
        }
    }
}

/// A member, an element or a unit of text; undefined if there is none.
fn member<'a>(of: &Js<'a>, name: &str) -> Js<'a> {
    match of {
        Js::Json(Value::Object(members)) => members.get(name).into(),
        Js::Json(Value::Array(elements)) if name == "length" => Js::Number(elements.len() as f64),
        Js::Json(Value::Array(elements)) => Js::index(name).and_then(|at| elements.get(at)).into(),
        Js::List(elements) if name == "length" => Js::Number(elements.len() as f64),
        Js::List(elements) => {
            let found = Js::index(name).and_then(|at| elements.get(at));
            found.cloned().unwrap_or(Js::Undefined)
        }
        Js::Object(members) => {
            let found = members.iter().find(|(known, _)| known == name);
            found.map_or(Js::Undefined, |(_, value)| value.clone())
        }
        Js::Text(text) if name == "length" => Js::Number(text.encode_utf16().count() as f64),
        Js::Text(text) => {
            let unit = Js::index(name).and_then(|at| text.encode_utf16().nth(at));
            unit.map_or(Js::Undefined, |unit| {
                Js::Text(String::from_utf16_lossy(&[unit]).into())
            })
        }
        _ => Js::Undefined,
    }
}

/// Whole numbers stay whole; what JSON has no number for is null.
fn json_number(number: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if number.fract() == 0.0 && number.abs() <= EXACT {
        return Value::from(number as i64);
    }
    let printed = Number::from_f64(number);
    debug_assert!(
        printed.is_some() || !number.is_finite(),
        "{}",
        number_text(number)
    );
    printed.map_or(Value::Null, Value::Number)
}
