//! The log: tracing events as lines on stderr, past a progress bar that may stand there.

use std::io;

use tracing_subscriber::{EnvFilter, filter::LevelFilter, fmt::MakeWriter};

use crate::{
    exit::BadInput,
    progress,
    settings::{LogFormat, Settings},
    variables::given_by,
};

/// What a command logs when nothing else is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chatter {
    /// Warnings.
    Warnings,
    /// Warnings, and what `log` nodes say.
    NodesAndWarnings,
    /// Information.
    Everything,
}

impl Chatter {
    /// Without the AMQP client's own lines: it calls every closed connection an error, and our adapter tells what matters.
    fn filter(self) -> &'static str {
        match self {
            Chatter::Warnings => "warn,lapin=off",
            Chatter::NodesAndWarnings => "warn,lapin=off,leveret::log=info",
            Chatter::Everything => "info,lapin=off",
        }
    }
}

/// Begins to log. Once in a process.
pub(crate) fn init(settings: &Settings, chatter: Chatter) -> anyhow::Result<()> {
    let directives = settings.log.as_deref().unwrap_or(chatter.filter());
    let filter = filter(directives).map_err(|error| {
        let given = given_by("--log", "LEVERET_LOG", directives);
        BadInput::new(format!(
            "{given} '{directives}': {error}; say warn, info, or info,leveret=debug"
        ))
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(Stderr);
    match settings.log_format.unwrap_or_default() {
        LogFormat::Text => builder.with_ansi(console::colors_enabled()).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}

/// The filter, unless a directive is neither a level nor says one of a target: a word alone would be a target that nothing has.
fn filter(directives: &str) -> anyhow::Result<EnvFilter> {
    let is_level = |word: &str| word.parse::<LevelFilter>().is_ok();
    let is_target = |word: &str| word.starts_with("leveret") || word.contains(['=', ':', '[']);
    // Within brackets, which are for spans, a comma parts no directives.
    let words = directives.split(',').map(str::trim);
    let mut words = words.take_while(|word| !word.contains('['));
    if let Some(word) = words.find(|word| !word.is_empty() && !is_level(word) && !is_target(word)) {
        anyhow::bail!("'{word}' is no level; there are error, warn, info, debug, trace and off");
    }
    Ok(EnvFilter::try_new(directives)?)
}

/// Writes whole lines to stderr.
struct Stderr;

impl<'a> MakeWriter<'a> for Stderr {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line
    }
}

struct Line;

impl io::Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        progress::to_stderr(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

mod console {
    use std::io::IsTerminal;

    /// Colours only for people, and not for those who said no (<https://no-color.org>).
    pub(super) fn colors_enabled() -> bool {
        std::io::stderr().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_neither_level_nor_target_is_refused() {
        for good in [
            "info",
            "WARN",
            "off",
            "",
            "info,leveret::log=debug",
            "leveret",
            "warn,lapin=off, hyper::client",
            "[span]=info",
            Chatter::NodesAndWarnings.filter(),
        ] {
            assert!(filter(good).is_ok(), "{good}");
        }
        for bad in ["verbose", "info,loud", "leveret=loud"] {
            assert!(filter(bad).is_err(), "{bad}");
        }
    }
}
