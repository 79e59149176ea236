//! Functions whose answers differ from call to call, answered from the write instead: the same on every node.
//!
//! They take the place of SQLite's own on the connection that applies, so that they count wherever an expression stands: in the statement, in
//! a DEFAULT, a trigger, a view, a CHECK, a generated column. `CURRENT_TIMESTAMP` and its kin are calls of functions of these names.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use leveret_core::{broadcast::Random, time::Timestamp};
use rusqlite::{
    Connection, Error, Result,
    functions::{Context, FunctionFlags},
    params_from_iter,
    types::{Value, ValueRef},
};

/// No value is longer: 64 MiB.
pub(super) const VALUE_BYTES_MAX: usize = 64 << 20;

/// The dates and times of SQLite that take any number of arguments.
const DATES: [&str; 6] = [
    "date",
    "time",
    "datetime",
    "julianday",
    "unixepoch",
    "strftime",
];

/// With more arguments than this, a date in a generated column and one outside of it are not told apart.
const DATE_ARGUMENTS: i32 = 8;

/// What the answers of a node's own software or history are: they fail where they are called.
const REFUSED: [(&str, i32); 7] = [
    ("total_changes", 0),
    ("sqlite_version", 0),
    ("sqlite_source_id", 0),
    ("sqlite_compileoption_get", 1),
    ("sqlite_compileoption_used", 1),
    ("load_extension", 1),
    ("load_extension", 2),
];

/// Calls by name and number of arguments.
pub(super) type Calls = HashSet<(String, usize)>;

/// The latest time that dates of SQLite know.
const LAST: i64 = 253_402_300_799_999;

#[derive(Debug)]
struct State {
    now: String,
    random: Random,
    /// Dates that stand in a CHECK, a generated column or an index: these must not depend on the time.
    pure: Arc<Calls>,
}

/// What time it is, and what is drawn, for the statement that runs.
#[derive(Clone, Debug)]
pub(super) struct Moment(Arc<Mutex<State>>);

impl Moment {
    /// Takes the place of the functions on this connection.
    pub(super) fn install(connection: &Connection) -> Result<Moment> {
        let moment = Moment(Arc::new(Mutex::new(State {
            now: text(Timestamp(0)),
            random: Random::new(0, 0, 0),
            pure: Arc::default(),
        })));
        moment.install_random(connection)?;
        moment.install_dates(connection)?;
        install_refused(connection)?;
        Ok(moment)
    }

    /// It is `at` from here on; random numbers are of this sequence, and these dates must not ask for the time.
    pub(super) fn set(&self, at: Timestamp, random: Random, pure: Arc<Calls>) {
        *self.lock() = State {
            now: text(at),
            random,
            pure,
        };
    }

    /// Statements are compiled at one and the same moment: plans may depend on what a constant call answers.
    pub(super) fn compile(&self) {
        self.set(Timestamp(0), Random::new(0, 0, 0), Arc::default());
    }

    fn install_random(&self, connection: &Connection) -> Result<()> {
        let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_INNOCUOUS;
        let moment = self.clone();
        connection.create_scalar_function("random", 0, flags, move |_| {
            Ok(moment.lock().random.next_u64() as i64)
        })?;
        let moment = self.clone();
        connection.create_scalar_function("randomblob", 1, flags, move |context| {
            let count = context.get_raw(0);
            let count = match count {
                ValueRef::Integer(count) => count,
                ValueRef::Real(count) => count as i64,
                ValueRef::Text(text) => leading_integer(text),
                _ => 0,
            };
            let count = usize::try_from(count.max(1)).unwrap_or(usize::MAX);
            if count > VALUE_BYTES_MAX {
                return Err(failed("string or blob too big"));
            }
            Ok(moment.lock().random.bytes(count))
        })
    }

    fn install_dates(&self, connection: &Connection) -> Result<()> {
        let pure = FunctionFlags::SQLITE_UTF8
            | FunctionFlags::SQLITE_INNOCUOUS
            | FunctionFlags::SQLITE_DETERMINISTIC;
        let calendar = Arc::new(Mutex::new(Connection::open_in_memory()?));
        for name in DATES {
            // A number of arguments of its own lets EXPLAIN tell which call is which.
            for count in -1..=DATE_ARGUMENTS {
                let (moment, calendar) = (self.clone(), calendar.clone());
                connection.create_scalar_function(name, count, pure, move |context| {
                    moment.date(&calendar, name, context)
                })?;
            }
        }
        let (moment, calendar) = (self.clone(), calendar.clone());
        connection.create_scalar_function("timediff", 2, pure, move |context| {
            moment.date(&calendar, "timediff", context)
        })?;
        let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_INNOCUOUS;
        for (name, part) in [
            ("current_date", 0..10),
            ("current_time", 11..19),
            ("current_timestamp", 0..19),
        ] {
            let moment = self.clone();
            connection.create_scalar_function(name, 0, flags, move |_| {
                Ok(moment.lock().now[part.clone()].to_owned())
            })?;
        }
        Ok(())
    }

    /// Asks SQLite's own function on another connection, with the time in the place of `now`.
    fn date(
        &self,
        calendar: &Mutex<Connection>,
        name: &'static str,
        context: &Context<'_>,
    ) -> Result<Value> {
        let mut arguments = Vec::with_capacity(context.len() + 2);
        let times = match name {
            "timediff" => 0..2,
            "strftime" => 1..2,
            _ => 0..1,
        };
        let mut asks = false;
        for place in 0..context.len() {
            let argument = context.get_raw(place);
            let word = match argument {
                ValueRef::Text(text) => text,
                _ => &[],
            };
            let is = |other: &str| word.eq_ignore_ascii_case(other.as_bytes());
            if times.contains(&place) {
                let subsecond = is("subsec") || is("subsecond");
                if subsecond || is("now") {
                    asks = true;
                    arguments.push(Value::Text(self.lock().now.clone()));
                    if subsecond {
                        arguments.push(Value::Text("subsec".to_owned()));
                    }
                    continue;
                }
            } else if place >= times.end && (is("localtime") || is("utc")) {
                // Every node is in UTC: it is a modifier that changes nothing.
                asks = true;
                arguments.push(Value::Text("+0 days".to_owned()));
                continue;
            }
            arguments.push(lossless(argument));
        }
        if context.len() <= times.start && name != "timediff" {
            asks = true;
            if name != "strftime" || context.len() == 1 {
                arguments.push(Value::Text(self.lock().now.clone()));
            }
        }
        if asks && self.lock().pure.contains(&(name.to_owned(), context.len())) {
            return Err(failed(&format!(
                "non-deterministic use of {name}() in a CHECK constraint, a generated column or an index"
            )));
        }
        let places = vec!["?"; arguments.len()].join(",");
        let calendar = calendar.lock().unwrap_or_else(PoisonError::into_inner);
        let mut select = calendar.prepare_cached(&format!("SELECT {name}({places})"))?;
        select.query_row(params_from_iter(arguments), |row| row.get(0))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn install_refused(connection: &Connection) -> Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_INNOCUOUS;
    for (name, count) in REFUSED {
        connection.create_scalar_function(name, count, flags, move |_| -> Result<i64> {
            Err(failed(&format!(
                "{name}() is not allowed in a write: its answer differs from node to node"
            )))
        })?;
    }
    Ok(())
}

fn failed(message: &str) -> Error {
    Error::UserFunctionError(message.into())
}

/// A time as SQLite's dates read it.
fn text(at: Timestamp) -> String {
    let mut text = Timestamp(at.0.clamp(0, LAST)).to_string();
    text.truncate(23);
    text.replace('T', " ")
}

/// An argument as it is; text that is no UTF-8 is no date in any case.
fn lossless(argument: ValueRef<'_>) -> Value {
    match argument {
        ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Integer(number) => Value::Integer(number),
        ValueRef::Real(number) => Value::Real(number),
        ValueRef::Blob(bytes) => Value::Blob(bytes.to_vec()),
        ValueRef::Null => Value::Null,
    }
}

/// The number that a text begins with, as SQLite casts it.
fn leading_integer(text: &[u8]) -> i64 {
    let text = String::from_utf8_lossy(text);
    let text = text.trim_start();
    let digits = text
        .char_indices()
        .take_while(|(place, c)| c.is_ascii_digit() || (*place == 0 && matches!(c, '-' | '+')))
        .count();
    let beyond = match (
        text[..digits].ends_with(|c: char| c.is_ascii_digit()),
        text.as_bytes(),
    ) {
        (true, [b'-', ..]) => i64::MIN,
        (true, _) => i64::MAX,
        _ => 0,
    };
    text[..digits].parse().unwrap_or(beyond)
}
