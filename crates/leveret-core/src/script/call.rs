//! What can be called.

use super::{
    eval::{Evaluation, Fault, Outcome},
    value::{Js, joined},
};

/// Methods of texts and lists.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Method {
    Includes,
    IndexOf,
    StartsWith,
    EndsWith,
    ToLowerCase,
    ToUpperCase,
    Trim,
    Split,
    Slice,
    Concat,
    Join,
}

impl Method {
    pub(super) fn named(name: &str) -> Option<Method> {
        Some(match name {
            "includes" => Method::Includes,
            "indexOf" => Method::IndexOf,
            "startsWith" => Method::StartsWith,
            "endsWith" => Method::EndsWith,
            "toLowerCase" => Method::ToLowerCase,
            "toUpperCase" => Method::ToUpperCase,
            "trim" => Method::Trim,
            "split" => Method::Split,
            "slice" => Method::Slice,
            "concat" => Method::Concat,
            "join" => Method::Join,
            _ => return None,
        })
    }
}

/// Functions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Function {
    Text,
    Number,
    Bool,
    IsArray,
    Keys,
    Min,
    Max,
    Abs,
    Floor,
    Ceil,
    Round,
}

impl Function {
    pub(super) fn named(name: &str) -> Option<Function> {
        Some(match name {
            "String" => Function::Text,
            "Number" => Function::Number,
            "Boolean" => Function::Bool,
            "Array.isArray" => Function::IsArray,
            "Object.keys" => Function::Keys,
            "Math.min" => Function::Min,
            "Math.max" => Function::Max,
            "Math.abs" => Function::Abs,
            "Math.floor" => Function::Floor,
            "Math.ceil" => Function::Ceil,
            "Math.round" => Function::Round,
            _ => return None,
        })
    }
}

impl<'a> Evaluation<'a> {
    pub(super) fn call(&self, function: Function, args: &[Js<'a>]) -> Outcome<Js<'a>> {
        let first = args.first().cloned().unwrap_or(Js::Undefined);
        let fold = |start: f64, of: fn(f64, f64) -> f64| {
            let numbers = args.iter().map(Js::number);
            numbers.fold(start, |a, b| {
                if a.is_nan() || b.is_nan() {
                    f64::NAN
                } else {
                    of(a, b)
                }
            })
        };
        Ok(match function {
            Function::Text if args.is_empty() => Js::Text("".into()),
            Function::Text => Js::Text(self.text(&first)?),
            Function::Number if args.is_empty() => Js::Number(0.0),
            Function::Number => Js::Number(first.number()),
            Function::Bool => Js::Bool(first.is_true()),
            Function::IsArray => Js::Bool(first.elements().is_some()),
            Function::Keys => Js::List(self.keys(&first)?),
            Function::Min => Js::Number(fold(f64::INFINITY, f64::min)),
            Function::Max => Js::Number(fold(f64::NEG_INFINITY, f64::max)),
            Function::Abs => Js::Number(first.number().abs()),
            Function::Floor => Js::Number(first.number().floor()),
            Function::Ceil => Js::Number(first.number().ceil()),
            // Halves go up, unlike Rust's.
            Function::Round => Js::Number((first.number() + 0.5).floor()),
        })
    }

    pub(super) fn method(&self, of: &Js<'a>, method: Method, args: &[Js<'a>]) -> Outcome<Js<'a>> {
        if let Js::Text(text) = of {
            return self.of_text(text, method, args);
        }
        match of.elements() {
            Some(elements) => self.of_list(elements, method, args),
            None => Err(Fault),
        }
    }

    fn of_text(&self, text: &str, method: Method, args: &[Js<'a>]) -> Outcome<Js<'a>> {
        let first = args.first().unwrap_or(&Js::Undefined);
        let wanted = self.text(first)?;
        let made = |text: String| {
            self.charge(text.len())?;
            Ok(Js::Text(text.into()))
        };
        match method {
            Method::Includes => Ok(Js::Bool(text.contains(&*wanted))),
            Method::StartsWith => Ok(Js::Bool(text.starts_with(&*wanted))),
            Method::EndsWith => Ok(Js::Bool(text.ends_with(&*wanted))),
            Method::IndexOf => {
                let found = text.find(&*wanted);
                let found = found.map(|at| text[..at].encode_utf16().count());
                Ok(Js::Number(found.map_or(-1.0, |at| at as f64)))
            }
            Method::ToLowerCase => made(text.to_lowercase()),
            Method::ToUpperCase => made(text.to_uppercase()),
            Method::Trim => made(text.trim().to_owned()),
            Method::Concat => {
                let mut whole = text.to_owned();
                for arg in args {
                    whole.push_str(&self.text(arg)?);
                }
                made(whole)
            }
            Method::Slice => {
                let units: Vec<u16> = text.encode_utf16().collect();
                self.charge(units.len())?;
                made(String::from_utf16_lossy(&units[range(units.len(), args)]))
            }
            Method::Split => {
                self.charge(text.len())?;
                let parts: Vec<String> = match first {
                    Js::Undefined => vec![text.to_owned()],
                    _ if wanted.is_empty() => text.chars().map(String::from).collect(),
                    _ => text.split(&*wanted).map(str::to_owned).collect(),
                };
                let parts = parts.into_iter().map(|part| Js::Text(part.into()));
                Ok(Js::List(parts.collect()))
            }
            Method::Join => Err(Fault),
        }
    }

    fn of_list(&self, elements: Vec<Js<'a>>, method: Method, args: &[Js<'a>]) -> Outcome<Js<'a>> {
        let first = args.first().unwrap_or(&Js::Undefined);
        self.charge(elements.len())?;
        let is_nan = |value: &Js<'_>| matches!(value, Js::Number(number) if number.is_nan());
        Ok(match method {
            Method::Includes => Js::Bool(
                elements
                    .iter()
                    .any(|element| element.same(first) || (is_nan(element) && is_nan(first))),
            ),
            Method::IndexOf => {
                let found = elements.iter().position(|element| element.same(first));
                Js::Number(found.map_or(-1.0, |at| at as f64))
            }
            Method::Join => {
                let separator = match first {
                    Js::Undefined => ",".into(),
                    other => self.text(other)?,
                };
                let between = separator.len().saturating_mul(elements.len());
                self.charge(between)?;
                let text = joined(&elements, &separator);
                self.charge(text.len())?;
                Js::Text(text.into())
            }
            Method::Slice => {
                let range = range(elements.len(), args);
                Js::List(elements[range].to_vec())
            }
            Method::Concat => {
                let mut whole = elements;
                for arg in args {
                    match arg.elements() {
                        Some(more) => whole.extend(more),
                        None => whole.push(arg.clone()),
                    }
                }
                self.charge(whole.len())?;
                Js::List(whole)
            }
            _ => return Err(Fault),
        })
    }
}

/// What `slice(from, to)` takes of so many.
fn range(len: usize, args: &[Js<'_>]) -> std::ops::Range<usize> {
    let place = |arg: Option<&Js<'_>>, default: usize| {
        let number = match arg {
            None | Some(Js::Undefined) => return default,
            Some(arg) => arg.number().trunc(),
        };
        if number.is_nan() {
            0
        } else if number < 0.0 {
            (len as f64 + number).max(0.0) as usize
        } else {
            number.min(len as f64) as usize
        }
    };
    let (from, to) = (place(args.first(), 0), place(args.get(1), len));
    from..to.max(from)
}
