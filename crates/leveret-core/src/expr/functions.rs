//! The functions of expressions.

mod lists;
mod texts;

use super::{
    Budget, EvalErrorKind, ExpressionError,
    eval::{Failure, Outcome},
    text::Text,
    value::{self, Data},
};
use crate::suggest;

/// A function, found by name and number of arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Size,
    Type,
    String,
    Int,
    Double,
    Bool,
    Min,
    Max,
    Sum,
    Abs,
    Floor,
    Ceil,
    Round,
    Contains,
    StartsWith,
    EndsWith,
    IndexOf,
    LowerAscii,
    UpperAscii,
    Trim,
    Replace,
    Split,
    Substring,
    Join,
    Sort,
    Flatten,
    Merge,
    Matches,
    ParseJson,
    Base64Encode,
    Base64Decode,
    UrlEncode,
    Sha256,
    HmacSha256,
    Duration,
    Timestamp,
}

/// How a function is called.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    /// `f(a)`.
    Plain,
    /// `a.f()`.
    Method,
    /// Either.
    Both,
}

/// Every function with its name, how it is called, and its least and most arguments, what it is called on included.
const FUNCTIONS: [(&str, Style, usize, usize, Function); 36] = [
    ("size", Style::Both, 1, 1, Function::Size),
    ("type", Style::Plain, 1, 1, Function::Type),
    ("string", Style::Plain, 1, 1, Function::String),
    ("int", Style::Plain, 1, 1, Function::Int),
    ("double", Style::Plain, 1, 1, Function::Double),
    ("bool", Style::Plain, 1, 1, Function::Bool),
    ("min", Style::Plain, 1, 16, Function::Min),
    ("max", Style::Plain, 1, 16, Function::Max),
    ("sum", Style::Plain, 1, 16, Function::Sum),
    ("abs", Style::Plain, 1, 1, Function::Abs),
    ("floor", Style::Plain, 1, 1, Function::Floor),
    ("ceil", Style::Plain, 1, 1, Function::Ceil),
    ("round", Style::Plain, 1, 1, Function::Round),
    ("contains", Style::Method, 2, 2, Function::Contains),
    ("startsWith", Style::Method, 2, 2, Function::StartsWith),
    ("endsWith", Style::Method, 2, 2, Function::EndsWith),
    ("indexOf", Style::Method, 2, 2, Function::IndexOf),
    ("lowerAscii", Style::Method, 1, 1, Function::LowerAscii),
    ("upperAscii", Style::Method, 1, 1, Function::UpperAscii),
    ("trim", Style::Method, 1, 1, Function::Trim),
    ("replace", Style::Method, 3, 3, Function::Replace),
    ("split", Style::Method, 2, 2, Function::Split),
    ("substring", Style::Method, 2, 3, Function::Substring),
    ("join", Style::Method, 1, 2, Function::Join),
    ("sort", Style::Method, 1, 1, Function::Sort),
    ("flatten", Style::Method, 1, 1, Function::Flatten),
    ("merge", Style::Method, 2, 2, Function::Merge),
    ("matches", Style::Method, 2, 2, Function::Matches),
    ("parseJson", Style::Plain, 1, 1, Function::ParseJson),
    ("base64Encode", Style::Plain, 1, 1, Function::Base64Encode),
    ("base64Decode", Style::Plain, 1, 1, Function::Base64Decode),
    ("urlEncode", Style::Plain, 1, 1, Function::UrlEncode),
    ("sha256", Style::Plain, 1, 1, Function::Sha256),
    ("hmacSha256", Style::Plain, 2, 2, Function::HmacSha256),
    ("duration", Style::Plain, 1, 1, Function::Duration),
    ("timestamp", Style::Plain, 1, 1, Function::Timestamp),
];

/// Why a call names no function.
pub(super) struct Problem {
    message: String,
    help: Option<String>,
}

impl Problem {
    pub(super) fn at(self, offset: usize) -> ExpressionError {
        let error = ExpressionError::new(offset, self.message);
        match self.help {
            Some(help) => error.help(help),
            None => error,
        }
    }
}

/// Finds the function that a call means.
pub(super) fn find(name: &str, is_method: bool, arguments: usize) -> Result<Function, Problem> {
    let Some((_, style, least, most, function)) =
        FUNCTIONS.iter().find(|(known, ..)| *known == name)
    else {
        let macros = [
            "has",
            "all",
            "exists",
            "exists_one",
            "map",
            "filter",
            "secret",
        ];
        let known = FUNCTIONS.iter().map(|(known, ..)| *known).chain(macros);
        return Err(Problem {
            message: format!("there is no function `{name}`"),
            help: suggest::nearest(name, known).map(|near| format!("did you mean `{near}`?")),
        });
    };
    let form = match style {
        Style::Plain if is_method => Some(format!("it is called as `{name}(…)`")),
        Style::Method if !is_method => Some(format!("it is called as `VALUE.{name}(…)`")),
        _ => None,
    };
    if form.is_some() {
        return Err(Problem {
            message: format!("`{name}` is called in the wrong form"),
            help: form,
        });
    }
    if !(*least..=*most).contains(&arguments) {
        let given = arguments - usize::from(is_method);
        return Err(Problem {
            message: format!("`{name}` does not take {given} arguments"),
            help: None,
        });
    }
    Ok(*function)
}

/// Calls a function.
pub(super) fn call<'v>(
    function: Function,
    arguments: &[Data<'v>],
    budget: &Budget,
) -> Outcome<Data<'v>> {
    let first = &arguments[0];
    match function {
        Function::Size => size(first, budget),
        Function::Type => Ok(Data::Text(Text::Borrowed(first.type_name()))),
        Function::String => string(first, budget),
        Function::Int => int(first, budget),
        Function::Double => double(first, budget),
        Function::Bool => boolean(first),
        Function::Min => extreme(arguments, budget, std::cmp::Ordering::is_lt),
        Function::Max => extreme(arguments, budget, std::cmp::Ordering::is_gt),
        Function::Sum => sum(arguments, budget),
        Function::Abs => match first {
            Data::Int(value) => Ok(Data::Int(value.abs())),
            Data::Double(value) => Ok(Data::Double(value.abs())),
            other => Err(wrong("abs", other)),
        },
        Function::Floor => rounded("floor", first, f64::floor),
        Function::Ceil => rounded("ceil", first, f64::ceil),
        Function::Round => rounded("round", first, f64::round),
        Function::Join => join(first, arguments.get(1), budget),
        Function::Contains => contains(first, &arguments[1], budget),
        Function::IndexOf if first.list_len().is_some() => {
            lists::index_of(first, &arguments[1], budget)
        }
        Function::Sort => lists::sort(first, budget),
        Function::Flatten => lists::flatten(first, budget),
        Function::Merge => lists::merge(first, &arguments[1], budget),
        Function::Matches => texts::matches(first, &arguments[1], budget),
        Function::ParseJson => texts::parse_json(first, budget),
        Function::Base64Encode => texts::base64_encode(first, budget),
        Function::Base64Decode => texts::base64_decode(first, budget),
        Function::UrlEncode => texts::url_encode(first, budget),
        Function::Sha256 => texts::sha256(first, budget),
        Function::HmacSha256 => texts::hmac_sha256(first, &arguments[1], budget),
        Function::Duration => texts::duration(first),
        Function::Timestamp => texts::timestamp(first),
        _ => on_text(function, arguments, budget),
    }
}

fn wrong(name: &str, found: &Data<'_>) -> Failure {
    Failure::new(
        EvalErrorKind::Type,
        format!("`{name}` does not take {}", found.type_name()),
    )
}

fn text_of<'a, 'v>(name: &str, data: &'a Data<'v>) -> Outcome<&'a Text<'v>> {
    match data {
        Data::Text(text) => Ok(text),
        other => Err(wrong(name, other)),
    }
}

fn size<'v>(of: &Data<'v>, budget: &Budget) -> Outcome<Data<'v>> {
    if let Data::Text(text) = of {
        budget.charge_bytes(text.len())?;
        return Ok(Data::Int(text.chars().count() as i128));
    }
    of.list_len()
        .or_else(|| of.map_len())
        .map(|len| Data::Int(len as i128))
        .ok_or_else(|| wrong("size", of))
}

/// Text of a value: strings as they are, lists and maps as JSON.
fn string<'v>(of: &Data<'v>, budget: &Budget) -> Outcome<Data<'v>> {
    if let Data::Text(_) = of {
        return Ok(of.clone());
    }
    let mut text = String::new();
    of.print(&mut text, budget)?;
    Ok(Data::text(text))
}

fn int<'v>(of: &Data<'v>, budget: &Budget) -> Outcome<Data<'v>> {
    match of {
        Data::Int(value) => Ok(Data::Int(*value)),
        Data::Double(value) => whole_part(*value),
        Data::Bool(value) => Ok(Data::Int(i128::from(*value))),
        Data::Text(text) => {
            budget.charge_scan(text.len())?;
            let value = text.parse::<i128>().map_err(|_| not_whole())?;
            if (i128::from(i64::MIN)..=i128::from(u64::MAX)).contains(&value) {
                return Ok(Data::Int(value));
            }
            Err(not_whole())
        }
        other => Err(wrong("int", other)),
    }
}

fn whole_part<'v>(value: f64) -> Outcome<Data<'v>> {
    let whole = value.trunc();
    if (i64::MIN as f64..u64::MAX as f64).contains(&whole) {
        return Ok(Data::Int(whole as i128));
    }
    Err(not_whole())
}

fn not_whole() -> Failure {
    Failure::new(
        EvalErrorKind::Arithmetic,
        "`int` takes a number within the range of whole numbers",
    )
}

fn double<'v>(of: &Data<'v>, budget: &Budget) -> Outcome<Data<'v>> {
    match of {
        Data::Int(value) => Ok(Data::Double(*value as f64)),
        Data::Double(value) => Ok(Data::Double(*value)),
        Data::Text(text) => {
            budget.charge_scan(text.len())?;
            text.parse().map(Data::Double).map_err(|_| {
                Failure::new(
                    EvalErrorKind::Arithmetic,
                    "`double` takes text that is a number",
                )
            })
        }
        other => Err(wrong("double", other)),
    }
}

fn boolean<'v>(of: &Data<'v>) -> Outcome<Data<'v>> {
    match of {
        Data::Bool(value) => Ok(Data::Bool(*value)),
        Data::Text(text) => match &**text {
            "true" => Ok(Data::Bool(true)),
            "false" => Ok(Data::Bool(false)),
            _ => Err(Failure::new(
                EvalErrorKind::Type,
                "`bool` takes \"true\" or \"false\"",
            )),
        },
        other => Err(wrong("bool", other)),
    }
}

/// The arguments, or the elements of the one list that they are.
fn elements<'v>(arguments: &[Data<'v>], budget: &Budget) -> Outcome<Vec<Data<'v>>> {
    match (arguments, arguments[0].list_len()) {
        ([list], Some(len)) => {
            budget.charge(len)?;
            Ok((0..len).filter_map(|at| list.element(at)).collect())
        }
        _ => Ok(arguments.to_vec()),
    }
}

/// The least or greatest of some numbers, or of one list of numbers.
fn extreme<'v>(
    arguments: &[Data<'v>],
    budget: &Budget,
    better: impl Fn(std::cmp::Ordering) -> bool,
) -> Outcome<Data<'v>> {
    let elements = elements(arguments, budget)?;
    let mut elements = elements.into_iter();
    let mut best = elements.next().ok_or_else(|| {
        Failure::new(
            EvalErrorKind::Missing,
            "an empty list has no least or greatest element",
        )
    })?;
    if !matches!(best, Data::Int(_) | Data::Double(_)) {
        return Err(wrong("min or max", &best));
    }
    for element in elements {
        let ordering =
            value::compare_numbers(&element, &best).ok_or_else(|| wrong("min or max", &element))?;
        if better(ordering) {
            best = element;
        }
    }
    Ok(best)
}

/// The sum of some numbers, or of one list of numbers; an empty list's is 0. Whole numbers stay whole.
fn sum<'v>(arguments: &[Data<'v>], budget: &Budget) -> Outcome<Data<'v>> {
    let elements = elements(arguments, budget)?;
    elements
        .iter()
        .try_fold(Data::Int(0), |total, element| match (&total, element) {
            (Data::Int(a), Data::Int(b)) => whole(a + b),
            (Data::Int(a), Data::Double(b)) => Ok(Data::Double(*a as f64 + b)),
            (Data::Double(a), Data::Int(b)) => Ok(Data::Double(a + *b as f64)),
            (Data::Double(a), Data::Double(b)) => Ok(Data::Double(a + b)),
            (_, other) => Err(wrong("sum", other)),
        })
}

/// A whole number, if JSON has it. Checked at each step, so that a long list cannot overflow.
fn whole<'v>(value: i128) -> Outcome<Data<'v>> {
    if (i128::from(i64::MIN)..=i128::from(u64::MAX)).contains(&value) {
        Ok(Data::Int(value))
    } else {
        Err(Failure::new(
            EvalErrorKind::Arithmetic,
            "`sum` leaves the range of whole numbers",
        ))
    }
}

fn rounded<'v>(name: &str, of: &Data<'v>, round: impl Fn(f64) -> f64) -> Outcome<Data<'v>> {
    match of {
        Data::Int(value) => Ok(Data::Int(*value)),
        Data::Double(value) => whole_part(round(*value)),
        other => Err(wrong(name, other)),
    }
}

fn contains<'v>(of: &Data<'v>, value: &Data<'v>, budget: &Budget) -> Outcome<Data<'v>> {
    if let Some(len) = of.list_len() {
        return value::contains(of, len, value, budget).map(Data::Bool);
    }
    let (text, part) = (text_of(ON_TEXT, of)?, text_of(ON_TEXT, value)?);
    charge_search(text, part, budget)?;
    Ok(Data::Bool(text.contains(&**part)))
}

fn join<'v>(list: &Data<'v>, separator: Option<&Data<'v>>, budget: &Budget) -> Outcome<Data<'v>> {
    let separator = match separator {
        Some(separator) => text_of("join", separator)?,
        None => &Text::Borrowed(""),
    };
    let len = list.list_len().ok_or_else(|| wrong("join", list))?;
    let mut joined = String::new();
    for at in 0..len {
        let element = list.element(at).unwrap_or(Data::Null);
        let text = text_of("join", &element)?;
        budget.charge_bytes(16 + separator.len() + text.len())?;
        if at > 0 {
            joined.push_str(separator);
        }
        joined.push_str(text);
    }
    Ok(Data::text(joined))
}

/// What an error calls the functions on strings.
const ON_TEXT: &str = "a function on strings";

/// Charges for a search, which first makes itself a table of what it looks for.
fn charge_search(text: &str, part: &str, budget: &Budget) -> Outcome<()> {
    budget.charge_bytes(text.len())?;
    budget.charge_scan(part.len())
}

/// The functions on strings.
fn on_text<'v>(function: Function, arguments: &[Data<'v>], budget: &Budget) -> Outcome<Data<'v>> {
    let text = text_of(ON_TEXT, &arguments[0])?;
    let other = |at: usize| text_of(ON_TEXT, &arguments[at]);
    Ok(match function {
        Function::StartsWith => {
            let part = other(1)?;
            budget.charge_bytes(part.len())?;
            Data::Bool(text.starts_with(&**part))
        }
        Function::EndsWith => {
            let part = other(1)?;
            budget.charge_bytes(part.len())?;
            Data::Bool(text.ends_with(&**part))
        }
        Function::IndexOf => {
            let part = other(1)?;
            charge_search(text, part, budget)?;
            let found = text.find(&**part);
            Data::Int(found.map_or(-1, |at| text[..at].chars().count() as i128))
        }
        Function::LowerAscii => {
            budget.charge_bytes(text.len())?;
            Data::text(text.to_ascii_lowercase())
        }
        Function::UpperAscii => {
            budget.charge_bytes(text.len())?;
            Data::text(text.to_ascii_uppercase())
        }
        Function::Trim => {
            budget.charge_scan(text.len())?;
            Data::Text(text.part(str::trim))
        }
        Function::Replace => replace(text, other(1)?, other(2)?, budget)?,
        Function::Split => split(text, other(1)?, budget)?,
        _ => substring(text, &arguments[1], arguments.get(2), budget)?,
    })
}

fn replace<'v>(text: &str, from: &str, to: &str, budget: &Budget) -> Outcome<Data<'v>> {
    charge_search(text, from, budget)?;
    let count = text.matches(from).count();
    budget.charge(count)?;
    budget.charge_bytes(count.saturating_mul(to.len()))?;
    Ok(Data::text(text.replace(from, to)))
}

fn split<'v>(text: &Text<'v>, separator: &str, budget: &Budget) -> Outcome<Data<'v>> {
    if separator.is_empty() {
        return Err(Failure::new(
            EvalErrorKind::Type,
            "`split` takes a separator that is not empty",
        ));
    }
    charge_search(text, separator, budget)?;
    budget.charge(2 * text.matches(separator).count())?;
    Ok(Data::list(match text {
        Text::Borrowed(text) => {
            let parts = text.split(separator);
            parts.map(|part| Data::Text(Text::Borrowed(part))).collect()
        }
        Text::Shared(text) => {
            let parts = text.split(separator);
            parts.map(|part| Data::text(part.to_owned())).collect()
        }
    }))
}

/// Characters from `start` to before `end`.
fn substring<'v>(
    text: &Text<'v>,
    start: &Data<'_>,
    end: Option<&Data<'_>>,
    budget: &Budget,
) -> Outcome<Data<'v>> {
    let position = |data: &Data<'_>| match data {
        Data::Int(at) => usize::try_from(*at).map_err(|_| {
            Failure::new(
                EvalErrorKind::Missing,
                "`substring` takes positions within the text",
            )
        }),
        other => Err(wrong("substring", other)),
    };
    let start = position(start)?;
    let end = end.map_or(Ok(usize::MAX), position)?;
    budget.charge_scan(text.len().min(end.saturating_mul(4)))?;
    Ok(Data::Text(text.part(|text| {
        let behind = skip_chars(text, start);
        let rest = skip_chars(behind, end.saturating_sub(start));
        &behind[..behind.len() - rest.len()]
    })))
}

/// What is behind the first `count` characters.
fn skip_chars(text: &str, count: usize) -> &str {
    let mut chars = text.chars();
    if count > 0 {
        chars.nth(count - 1);
    }
    chars.as_str()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::expr::{Budget, EvalScope, Expression, Names, NoValues, NodeIds};

    fn eval(source: &str) -> Result<Value, String> {
        let node_ids = &NodeIds::new();
        let names = Names {
            per_item: false,
            node_ids,
            on_edge: false,
            secrets: None,
        };
        let scope = EvalScope {
            item: None,
            input: &json!({ "lines": [{ "n": 2 }, { "n": 3 }], "max": u64::MAX }),
            run_id: "r1",
            run_input: &Value::Null,
            values: &NoValues,
            result: None,
        };
        let expression = Expression::compile(source, &names).map_err(|error| error.message)?;
        expression
            .eval(&scope, &Budget::new())
            .map_err(|error| error.message)
    }

    /// A table: what is given, what it is.
    #[test]
    fn what_functions_give() {
        let check = |source: &str, expect: Value| assert_eq!(eval(source), Ok(expect), "{source}");
        check("[3, 1.5, 2].sort()", json!([1.5, 2, 3]));
        check("['b', 'a', 'B'].sort()", json!(["B", "a", "b"]));
        check("[].sort()", json!([]));
        check("[[1, 2], 3, [[4]]].flatten()", json!([1, 2, 3, [4]]));
        check(
            "{'a': 1, 'b': 1}.merge({'b': 2, 'c': 3})",
            json!({"a": 1, "b": 2, "c": 3}),
        );
        check("input.merge({'max': 1}).max", json!(1));
        check("[1, 'x', null].indexOf('x')", json!(1));
        check("[1].indexOf(2)", json!(-1));
        check("'abc'.indexOf('c')", json!(2));
        check("'order-17'.matches('^[a-z]+-\\\\d+$')", json!(true));
        check("'order'.matches('\\\\d')", json!(false));
        check(
            "parseJson('{\"a\": [1, 2.5, null, true, \"x\"]}').a",
            json!([1, 2.5, null, true, "x"]),
        );
        check("base64Encode('größe')", json!("Z3LDtsOfZQ=="));
        check("base64Decode('Z3LDtsOfZQ==')", json!("größe"));
        check("urlEncode('a b/ü?&')", json!("a%20b%2F%C3%BC%3F%26"));
        check(
            "sha256('abc')",
            json!("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        );
        // RFC 4231, test cases 2 and 6.
        check(
            "hmacSha256('Jefe', 'what do ya want for nothing?')",
            json!("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
        );
        check("duration('90s')", json!(90_000));
        check(
            "timestamp('2026-11-21T02:24:23.755Z')",
            json!(1_795_227_863_755_i64),
        );
        check(
            "timestamp('2026-11-21T02:24:23Z') + duration('1h') > 0",
            json!(true),
        );
        let refused = |source: &str, expect: &str| {
            let error = eval(source).unwrap_err();
            assert!(error.contains(expect), "{source}: {error}");
        };
        refused("[1, 'a'].sort()", "`sort` takes numbers, or texts");
        refused("'a'.matches('(')", "is no regular expression");
        refused("parseJson('{')", "is no JSON");
        refused("parseJson('18446744073709551616')", "beyond 64 bits");
        refused("base64Decode('!')", "`base64Decode` takes base64");
        refused("base64Decode('/w==')", "no text");
        refused("duration('soon')", "`duration` takes");
        refused("timestamp('soon')", "`timestamp` takes");
        refused("sha256(1)", "does not take int");
        refused("1.sort()", "");
    }

    /// Text of every whole number that JSON has, and of no other.
    #[test]
    fn whole_numbers_of_text() {
        let check = |source: &str, expect: Value| assert_eq!(eval(source), Ok(expect), "{source}");
        check("int('18446744073709551615')", json!(u64::MAX));
        check("int('-9223372036854775808')", json!(i64::MIN));
        for source in [
            "int('18446744073709551616')",
            "int('-9223372036854775809')",
            "int('1.0')",
        ] {
            assert!(eval(source).is_err(), "{source}");
        }
    }

    /// Sums of lists and of arguments; whole numbers stay whole, and what is no number or no JSON number is an error.
    #[test]
    fn sums() {
        let check = |source: &str, expect: Value| assert_eq!(eval(source), Ok(expect), "{source}");
        check("sum(input.lines.map(line, line.n))", json!(5));
        check("sum([])", json!(0));
        check("sum(1, 2, 3)", json!(6));
        check("sum([1, 0.5])", json!(1.5));
        let refused = |source: &str, expect: &str| {
            let error = eval(source).unwrap_err();
            assert!(error.contains(expect), "{source}: {error}");
        };
        refused("sum(['a'])", "`sum` does not take string");
        refused("sum([input.max, 1])", "leaves the range");
        refused("sum()", "does not take 0 arguments");
    }
}
