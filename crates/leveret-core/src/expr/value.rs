//! Values while an expression is evaluated: what is read stays borrowed, what is computed is owned.

use std::{
    cmp::Ordering,
    collections::BTreeMap,
    fmt::{self, Write},
    rc::Rc,
};

use serde_json::{Map, Number, Value};

use super::{
    Budget, EvalErrorKind,
    eval::{Failure, Outcome},
    text::Text,
};

/// What a list that is made costs beside its elements.
pub(super) const LIST_UNITS: usize = 4;

/// What a map costs beside its entries: its memory is that of eleven.
pub(super) const MAP_UNITS: usize = 8;

/// A value of an evaluation. Arrays and objects of the scope are [`Data::Json`] and never copied before the end; a clone is cheap, whatever
/// the value.
#[derive(Clone, Debug)]
pub(super) enum Data<'v> {
    Null,
    Bool(bool),
    /// A whole number; within the range of JSON's, `i64::MIN..=u64::MAX`, or on its way to an overflow error.
    Int(i128),
    Double(f64),
    Text(Text<'v>),
    /// A borrowed array or object.
    Json(&'v Value),
    List(Rc<Vec<Data<'v>>>),
    Map(Rc<BTreeMap<Text<'v>, Data<'v>>>),
}

impl<'v> From<&'v Value> for Data<'v> {
    fn from(value: &'v Value) -> Data<'v> {
        match value {
            Value::Null => Data::Null,
            Value::Bool(value) => Data::Bool(*value),
            Value::Number(number) => number_of(number),
            Value::String(text) => Data::Text(Text::Borrowed(text)),
            Value::Array(_) | Value::Object(_) => Data::Json(value),
        }
    }
}

pub(super) fn number_of<'v>(number: &Number) -> Data<'v> {
    if let Some(int) = number.as_i64() {
        Data::Int(i128::from(int))
    } else if let Some(int) = number.as_u64() {
        Data::Int(i128::from(int))
    } else {
        Data::Double(number.as_f64().unwrap_or(f64::NAN))
    }
}

impl<'v> Data<'v> {
    /// The name of its type, for messages and for `type()`.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Data::Null => "null",
            Data::Bool(_) => "bool",
            Data::Int(_) => "int",
            Data::Double(_) => "double",
            Data::Text(_) => "string",
            Data::Json(Value::Array(_)) | Data::List(_) => "list",
            Data::Json(_) | Data::Map(_) => "map",
        }
    }

    pub(super) fn text(text: String) -> Data<'v> {
        Data::Text(Text::from(text))
    }

    pub(super) fn list(elements: Vec<Data<'v>>) -> Data<'v> {
        Data::List(Rc::new(elements))
    }

    /// The number of elements of a list; `None` for other types.
    pub(super) fn list_len(&self) -> Option<usize> {
        match self {
            Data::Json(Value::Array(elements)) => Some(elements.len()),
            Data::List(elements) => Some(elements.len()),
            _ => None,
        }
    }

    /// An element of a list.
    pub(super) fn element(&self, at: usize) -> Option<Data<'v>> {
        match self {
            Data::Json(Value::Array(elements)) => elements.get(at).map(Data::from),
            Data::List(elements) => elements.get(at).cloned(),
            _ => None,
        }
    }

    /// The number of entries of a map; `None` for other types.
    pub(super) fn map_len(&self) -> Option<usize> {
        match self {
            Data::Json(Value::Object(entries)) => Some(entries.len()),
            Data::Map(entries) => Some(entries.len()),
            _ => None,
        }
    }

    /// A field of a map; see [`Data::charge_field`].
    pub(super) fn field(&self, name: &str) -> Option<Data<'v>> {
        match self {
            Data::Json(Value::Object(entries)) => entries.get(name).map(Data::from),
            Data::Map(entries) => entries.get(name).cloned(),
            _ => None,
        }
    }

    /// Charges for looking for a field; also where there is none, as the error tells its name.
    pub(super) fn charge_field(&self, name: &str, budget: &Budget) -> Outcome<()> {
        budget.charge_lookup(name, self.map_len().unwrap_or(0))
    }

    /// The entries of a map, sorted by key.
    pub(super) fn entries(&self, budget: &Budget) -> Outcome<Vec<(Text<'v>, Data<'v>)>> {
        budget.charge(self.map_len().unwrap_or(0))?;
        Ok(match self {
            Data::Json(Value::Object(entries)) => {
                let entries = entries.iter();
                let borrowed =
                    |(key, value): (&'v String, _)| (Text::Borrowed(key), Data::from(value));
                entries.map(borrowed).collect()
            }
            Data::Map(entries) => {
                let entries = entries.iter();
                entries
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect()
            }
            _ => Vec::new(),
        })
    }

    /// The value of a condition.
    pub(super) fn as_condition(&self) -> Outcome<bool> {
        match self {
            Data::Bool(value) => Ok(*value),
            other => Err(Failure::new(
                EvalErrorKind::Type,
                format!(
                    "a condition must be true or false, not {}",
                    other.type_name()
                ),
            )),
        }
    }

    /// The value as JSON, for the result. A double that is infinite or not a number is an error.
    pub(super) fn into_json(self, budget: &Budget) -> Outcome<Value> {
        match self {
            Data::Null => Ok(Value::Null),
            Data::Bool(value) => Ok(Value::Bool(value)),
            Data::Int(value) => int_to_json(value),
            Data::Double(value) => double_to_json(value),
            Data::Text(text) => {
                charge_text(&text, budget)?;
                Ok(Value::String(text.into_string()))
            }
            Data::Json(value) => {
                charge_copy(value, budget)?;
                Ok(value.clone())
            }
            Data::List(elements) => {
                budget.charge(elements.len())?;
                let elements = Rc::unwrap_or_clone(elements).into_iter();
                let elements = elements.map(|element| element.into_json(budget));
                Ok(Value::Array(elements.collect::<Outcome<_>>()?))
            }
            Data::Map(entries) => {
                budget.charge(MAP_UNITS + 3 * entries.len())?;
                let entries = entries.iter().map(|(key, value)| {
                    charge_text(key, budget)?;
                    Ok((key.to_string(), value.clone().into_json(budget)?))
                });
                Ok(Value::Object(entries.collect::<Outcome<Map<_, _>>>()?))
            }
        }
    }

    /// Appends the value to a text of the result: strings as they are, null as nothing, others as compact JSON.
    pub(super) fn render(&self, text: &mut String, budget: &Budget) -> Outcome<()> {
        match self {
            Data::Null => Ok(()),
            Data::Text(value) => {
                charge_text(value, budget)?;
                text.push_str(value);
                Ok(())
            }
            other => {
                let before = text.len();
                other.print(text, budget)?;
                budget.render(text.len() - before)
            }
        }
    }

    /// Appends the value as compact JSON.
    pub(super) fn print(&self, text: &mut String, budget: &Budget) -> Outcome<()> {
        match self {
            Data::Json(value) => Printer::print(value, text, budget),
            Data::Text(value) => {
                budget.charge_bytes(value.len())?;
                Printer::print(&Value::from(&**value), text, budget)
            }
            Data::List(elements) => {
                text.push('[');
                for (at, element) in elements.iter().enumerate() {
                    separate(at, text, budget)?;
                    element.print(text, budget)?;
                }
                text.push(']');
                Ok(())
            }
            Data::Map(entries) => {
                text.push('{');
                for (at, (key, value)) in entries.iter().enumerate() {
                    separate(at, text, budget)?;
                    Data::Text(key.clone()).print(text, budget)?;
                    text.push(':');
                    value.print(text, budget)?;
                }
                text.push('}');
                Ok(())
            }
            Data::Null => Printer::print(&Value::Null, text, budget),
            Data::Bool(value) => Printer::print(value, text, budget),
            Data::Int(value) => Printer::print(&int_to_json(*value)?, text, budget),
            Data::Double(value) => Printer::print(&double_to_json(*value)?, text, budget),
        }
    }
}

fn separate(at: usize, text: &mut String, budget: &Budget) -> Outcome<()> {
    if at > 0 {
        text.push(',');
    }
    budget.charge(1)
}

/// Appends to a text as long as there is work left.
struct Printer<'a> {
    text: &'a mut String,
    budget: &'a Budget,
    failure: Option<Failure>,
}

impl Printer<'_> {
    fn print(value: &impl fmt::Display, text: &mut String, budget: &Budget) -> Outcome<()> {
        let mut printer = Printer {
            text,
            budget,
            failure: None,
        };
        // It fails by the budget only.
        let _ = write!(printer, "{value}");
        printer.failure.map_or(Ok(()), Err)
    }
}

impl Write for Printer<'_> {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        /// How many bytes are printed for a unit.
        const BYTES: usize = 8;
        let len = self.text.len();
        let units = (len + part.len()) / BYTES - len / BYTES;
        if let Err(failure) = self.budget.charge(units) {
            self.failure = Some(failure);
            return Err(fmt::Error);
        }
        self.text.push_str(part);
        Ok(())
    }
}

fn int_to_json(value: i128) -> Outcome<Value> {
    if let Ok(value) = i64::try_from(value) {
        return Ok(Value::from(value));
    }
    u64::try_from(value)
        .map(Value::from)
        .map_err(|_| Failure::new(EvalErrorKind::Arithmetic, "a whole number is out of range"))
}

fn double_to_json(value: f64) -> Outcome<Value> {
    Number::from_f64(value).map(Value::Number).ok_or_else(|| {
        Failure::new(
            EvalErrorKind::Arithmetic,
            "the number is infinite or undefined, which JSON cannot hold",
        )
    })
}

/// Charges for a text of the result.
fn charge_text(text: &str, budget: &Budget) -> Outcome<()> {
    budget.charge_bytes(text.len())?;
    budget.render(text.len())
}

/// Charges for a deep copy of a value, for the result, before it is made.
fn charge_copy(value: &Value, budget: &Budget) -> Outcome<()> {
    match value {
        Value::Array(elements) => {
            budget.charge(elements.len())?;
            elements
                .iter()
                .try_for_each(|element| charge_copy(element, budget))
        }
        Value::Object(entries) => {
            budget.charge(MAP_UNITS + 3 * entries.len())?;
            entries.iter().try_for_each(|(key, value)| {
                charge_text(key, budget)?;
                charge_copy(value, budget)
            })
        }
        Value::String(text) => charge_text(text, budget),
        _ => Ok(()),
    }
}

/// Whether two values are equal: numbers by value, lists and maps by content, different types never.
pub(super) fn equal(a: &Data<'_>, b: &Data<'_>, budget: &Budget) -> Outcome<bool> {
    budget.charge(1)?;
    Ok(match (a, b) {
        (Data::Null, Data::Null) => true,
        (Data::Bool(a), Data::Bool(b)) => a == b,
        (Data::Text(a), Data::Text(b)) => {
            a.len() == b.len() && {
                budget.charge_bytes(a.len())?;
                a == b
            }
        }
        (Data::Int(_) | Data::Double(_), Data::Int(_) | Data::Double(_)) => {
            compare_numbers(a, b) == Some(Ordering::Equal)
        }
        _ => match (a.list_len(), b.list_len(), a.map_len(), b.map_len()) {
            (Some(len), Some(other), ..) => len == other && equal_lists(a, b, len, budget)?,
            (.., Some(len), Some(other)) => len == other && equal_maps(a, b, budget)?,
            _ => false,
        },
    })
}

/// Whether a list of `len` elements has one that equals `value`.
pub(super) fn contains(
    list: &Data<'_>,
    len: usize,
    value: &Data<'_>,
    budget: &Budget,
) -> Outcome<bool> {
    for at in 0..len {
        let element = list.element(at).unwrap_or(Data::Null);
        if equal(&element, value, budget)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn equal_lists(a: &Data<'_>, b: &Data<'_>, len: usize, budget: &Budget) -> Outcome<bool> {
    for at in 0..len {
        let (Some(a), Some(b)) = (a.element(at), b.element(at)) else {
            return Ok(false);
        };
        if !equal(&a, &b, budget)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn equal_maps(a: &Data<'_>, b: &Data<'_>, budget: &Budget) -> Outcome<bool> {
    let entries = a.entries(budget)?.into_iter().zip(b.entries(budget)?);
    for ((key, value), (other_key, other)) in entries {
        // Maps are sorted, unless another crate has serde_json keep the order.
        let other = if compare_texts(&key, &other_key, budget)?.is_eq() {
            Some(other)
        } else {
            b.charge_field(&key, budget)?;
            b.field(&key)
        };
        let Some(other) = other else {
            return Ok(false);
        };
        if !equal(&value, &other, budget)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The order of two texts.
pub(super) fn compare_texts(a: &str, b: &str, budget: &Budget) -> Outcome<Ordering> {
    budget.charge_bytes(a.len().min(b.len()))?;
    Ok(a.cmp(b))
}

/// The order of two numbers by value; `None` when one is not a number.
pub(super) fn compare_numbers(a: &Data<'_>, b: &Data<'_>) -> Option<Ordering> {
    match (a, b) {
        (Data::Int(a), Data::Int(b)) => Some(a.cmp(b)),
        (Data::Double(a), Data::Double(b)) => a.partial_cmp(b),
        (Data::Int(a), Data::Double(b)) => compare_int_double(*a, *b),
        (Data::Double(a), Data::Int(b)) => compare_int_double(*b, *a).map(Ordering::reverse),
        _ => None,
    }
}

/// Exact, also beyond 2^53 where a double skips whole numbers.
fn compare_int_double(int: i128, double: f64) -> Option<Ordering> {
    const BEYOND: f64 = 1e30;
    if double.is_nan() {
        return None;
    }
    if double.abs() > BEYOND {
        return Some(if double > 0.0 {
            Ordering::Less
        } else {
            Ordering::Greater
        });
    }
    let whole = int.cmp(&(double.trunc() as i128));
    Some(whole.then(0.0_f64.partial_cmp(&double.fract())?))
}
