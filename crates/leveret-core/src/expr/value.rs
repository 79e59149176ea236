//! Values while an expression is evaluated: what is read stays borrowed, what is computed is owned.

use std::{borrow::Cow, cmp::Ordering, collections::BTreeMap, rc::Rc};

use serde_json::{Map, Number, Value};

use super::{
    EvalErrorKind,
    eval::{Failure, Work},
};

/// A value of an evaluation. Arrays and objects of the scope are [`Data::Json`] and never copied before the end.
#[derive(Clone, Debug)]
pub(super) enum Data<'v> {
    Null,
    Bool(bool),
    /// A whole number; within the range of JSON's, `i64::MIN..=u64::MAX`, or on its way to an overflow error.
    Int(i128),
    Double(f64),
    Text(Cow<'v, str>),
    /// A borrowed array or object.
    Json(&'v Value),
    List(Rc<Vec<Data<'v>>>),
    Map(Rc<BTreeMap<String, Data<'v>>>),
}

impl<'v> From<&'v Value> for Data<'v> {
    fn from(value: &'v Value) -> Data<'v> {
        match value {
            Value::Null => Data::Null,
            Value::Bool(value) => Data::Bool(*value),
            Value::Number(number) => number_of(number),
            Value::String(text) => Data::Text(Cow::Borrowed(text)),
            Value::Array(_) | Value::Object(_) => Data::Json(value),
        }
    }
}

fn number_of<'v>(number: &Number) -> Data<'v> {
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

    pub(super) fn text(text: impl Into<String>) -> Data<'v> {
        Data::Text(Cow::Owned(text.into()))
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

    /// A field of a map.
    pub(super) fn field(&self, name: &str) -> Option<Data<'v>> {
        match self {
            Data::Json(Value::Object(entries)) => entries.get(name).map(Data::from),
            Data::Map(entries) => entries.get(name).cloned(),
            _ => None,
        }
    }

    /// The keys of a map, sorted.
    pub(super) fn keys(&self) -> Vec<Data<'v>> {
        match self {
            Data::Json(Value::Object(entries)) => entries
                .keys()
                .map(|key| Data::Text(Cow::Borrowed(key.as_str())))
                .collect(),
            Data::Map(entries) => entries.keys().map(Data::text).collect(),
            _ => Vec::new(),
        }
    }

    /// The value of a condition.
    pub(super) fn as_condition(&self) -> Result<bool, Failure> {
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

    /// The value as JSON. A double that is infinite or not a number is an error.
    pub(super) fn into_json(self, work: &Work) -> Result<Value, Failure> {
        match self {
            Data::Null => Ok(Value::Null),
            Data::Bool(value) => Ok(Value::Bool(value)),
            Data::Int(value) => int_to_json(value),
            Data::Double(value) => Number::from_f64(value).map(Value::Number).ok_or_else(|| {
                Failure::new(
                    EvalErrorKind::Arithmetic,
                    "the number is infinite or undefined, which JSON cannot hold",
                )
            }),
            Data::Text(text) => {
                work.charge_bytes(text.len())?;
                Ok(Value::String(text.into_owned()))
            }
            Data::Json(value) => {
                charge_copy(value, work)?;
                Ok(value.clone())
            }
            Data::List(elements) => {
                work.charge(elements.len())?;
                let elements = elements
                    .iter()
                    .cloned()
                    .map(|element| element.into_json(work));
                Ok(Value::Array(elements.collect::<Result<_, _>>()?))
            }
            Data::Map(entries) => {
                work.charge(entries.len())?;
                let entries = entries
                    .iter()
                    .map(|(key, value)| Ok((key.clone(), value.clone().into_json(work)?)));
                Ok(Value::Object(
                    entries.collect::<Result<Map<_, _>, Failure>>()?,
                ))
            }
        }
    }
}

fn int_to_json(value: i128) -> Result<Value, Failure> {
    if let Ok(value) = i64::try_from(value) {
        return Ok(Value::from(value));
    }
    u64::try_from(value)
        .map(Value::from)
        .map_err(|_| Failure::new(EvalErrorKind::Arithmetic, "a whole number is out of range"))
}

/// Charges for a deep copy of a value before it is made.
fn charge_copy(value: &Value, work: &Work) -> Result<(), Failure> {
    match value {
        Value::Array(elements) => {
            work.charge(elements.len())?;
            elements
                .iter()
                .try_for_each(|element| charge_copy(element, work))
        }
        Value::Object(entries) => {
            work.charge(entries.len())?;
            entries.iter().try_for_each(|(key, value)| {
                work.charge_bytes(key.len())?;
                charge_copy(value, work)
            })
        }
        Value::String(text) => work.charge_bytes(text.len()),
        _ => Ok(()),
    }
}

/// Whether two values are equal: numbers by value, lists and maps by content, different types never.
pub(super) fn equal(a: &Data<'_>, b: &Data<'_>, work: &Work) -> Result<bool, Failure> {
    work.charge(1)?;
    Ok(match (a, b) {
        (Data::Null, Data::Null) => true,
        (Data::Bool(a), Data::Bool(b)) => a == b,
        (Data::Text(a), Data::Text(b)) => a == b,
        (Data::Int(_) | Data::Double(_), Data::Int(_) | Data::Double(_)) => {
            compare_numbers(a, b) == Some(Ordering::Equal)
        }
        _ => match (a.list_len(), b.list_len(), a.map_len(), b.map_len()) {
            (Some(len), Some(other), ..) => len == other && equal_lists(a, b, len, work)?,
            (.., Some(len), Some(other)) => len == other && equal_maps(a, b, work)?,
            _ => false,
        },
    })
}

fn equal_lists(a: &Data<'_>, b: &Data<'_>, len: usize, work: &Work) -> Result<bool, Failure> {
    for at in 0..len {
        let (Some(a), Some(b)) = (a.element(at), b.element(at)) else {
            return Ok(false);
        };
        if !equal(&a, &b, work)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn equal_maps(a: &Data<'_>, b: &Data<'_>, work: &Work) -> Result<bool, Failure> {
    for key in a.keys() {
        let Data::Text(key) = key else { continue };
        let (Some(a), Some(b)) = (a.field(&key), b.field(&key)) else {
            return Ok(false);
        };
        if !equal(&a, &b, work)? {
            return Ok(false);
        }
    }
    Ok(true)
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
