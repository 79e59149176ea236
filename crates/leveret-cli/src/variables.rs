//! Variables `LEVERET_*`: an empty one counts as unset, a mistake in one is told as such, and a misspelt one is not passed over in silence.

use std::{collections::BTreeSet, env, ffi::OsStr};

use clap::{
    Arg, Command, CommandFactory, Error, FromArgMatches,
    error::{ContextKind, ContextValue},
};
use leveret_core::suggest::nearest;

use crate::{cli::Cli, output, progress};

const PREFIX: &str = "LEVERET_";

/// What is free: secrets of workflows, and what the tests of this project read or set.
const FREE: [&str; 3] = ["LEVERET_SECRET_", "LEVERET_TEST_", CRASH_AT];

/// Names the [crash point](leveret::crash) of a process, where these are compiled in.
const CRASH_AT: &str = "LEVERET_CRASH_AT";

/// The command line and the variables, or the end of the process with what is wrong with them.
pub(crate) fn parse() -> Cli {
    let mut command = without(Cli::command(), &|variable| {
        env::var_os(variable).is_some_and(|value| value.is_empty())
    });
    warn_of_unknown(&command);
    let parsed = command.try_get_matches_from_mut(env::args_os());
    let parsed = parsed.and_then(|matches| Cli::from_arg_matches(&matches));
    parsed.unwrap_or_else(|error| named(error, &command).exit())
}

/// Arms the crash point that a test names.
pub(crate) fn arm_crash_point() -> Result<(), leveret::crash::ArmError> {
    if !leveret::crash::COMPILED {
        return Ok(());
    }
    env::var(CRASH_AT).map_or(Ok(()), |at| leveret::crash::arm(&at))
}

/// How a value was given: the variable if it holds this value, else the flag.
pub(crate) fn given_by(flag: &'static str, variable: &'static str, value: &str) -> &'static str {
    let is_variable = env::var_os(variable).is_some_and(|held| held == value);
    if is_variable { variable } else { flag }
}

/// The command without the variables that `is_unset` speaks of.
fn without(command: Command, is_unset: &dyn Fn(&OsStr) -> bool) -> Command {
    let unset = |arg: Arg| match arg.get_env() {
        Some(variable) if is_unset(variable) => arg.env(None::<&'static str>),
        _ => arg,
    };
    command
        .mut_args(unset)
        .mut_subcommands(|command| without(command, is_unset))
}

/// The error, with the name of the variable that brought the value.
fn named(mut error: Error, command: &Command) -> Error {
    let Some(ContextValue::String(arg)) = error.get(ContextKind::InvalidArg) else {
        return error;
    };
    let flag = arg.split_whitespace().next().unwrap_or_default();
    let is_given = |given: &str| given == flag || given.starts_with(&format!("{flag}="));
    if env::args().any(|given| is_given(&given)) {
        return error;
    }
    let of_flag = |arg: &&Arg| {
        let long = arg.get_long();
        long.is_some_and(|long| flag.strip_prefix("--") == Some(long))
    };
    let variable = command.get_arguments().find(of_flag).and_then(Arg::get_env);
    if let Some(variable) = variable.filter(|variable| env::var_os(variable).is_some()) {
        let tip = format!("the value is that of the variable {}", variable.display());
        let tips = ContextValue::StyledStrs(vec![tip.into()]);
        error.insert(ContextKind::Suggested, tips);
    }
    error
}

/// Warns of variables that look like misspelt ones.
fn warn_of_unknown(command: &Command) {
    let known: BTreeSet<&str> = known(command).into_iter().collect();
    for (name, _) in env::vars_os() {
        if let Some(near) = name.to_str().and_then(|name| meant(name, &known)) {
            let line = format!(
                "warning: the variable {} is not known and ignored; did you mean {PREFIX}{near}?\n",
                name.display()
            );
            progress::to_stderr(output::clean(&line).as_bytes());
        }
    }
}

/// The variables of a command and those below it.
fn known(command: &Command) -> Vec<&str> {
    let variables = command.get_arguments().filter_map(Arg::get_env);
    let own = variables.filter_map(OsStr::to_str);
    own.chain(command.get_subcommands().flat_map(known))
        .collect()
}

/// What a variable that is not known probably means, without the prefix that all have.
fn meant<'a>(name: &str, known: &BTreeSet<&'a str>) -> Option<&'a str> {
    let is_free = FREE.iter().any(|prefix| name.starts_with(prefix));
    if is_free || known.contains(name) {
        return None;
    }
    let name = name.strip_prefix(PREFIX)?;
    let rests = known.iter().filter_map(|known| known.strip_prefix(PREFIX));
    nearest(name, rests)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_variables_are_told() {
        let command = Cli::command();
        let known: BTreeSet<&str> = known(&command).into_iter().collect();
        let check = |name: &str, expect: Option<&str>| {
            assert_eq!(meant(name, &known), expect, "{name}");
        };
        check("LEVERET_STORE", None);
        check("LEVERET_STOER", Some("STORE"));
        check("LEVERET_WORKERS_CONCURRENCY", Some("WORKER_CONCURRENCY"));
        check("LEVERET_SECRET_STORE", None);
        check("LEVERET_TEST_AMQP_URL", None);
        check("LEVERET_HOME_OF_MINE", None);
        check("STOER", None);
    }
}
