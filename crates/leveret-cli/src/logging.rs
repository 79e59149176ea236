//! The log: tracing events as lines on stderr, past a progress bar that may stand there.

use std::io;

use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use crate::{
    exit::BadInput,
    progress,
    settings::{LogFormat, Settings},
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
    fn filter(self) -> &'static str {
        match self {
            Chatter::Warnings => "warn",
            Chatter::NodesAndWarnings => "warn,leveret::log=info",
            Chatter::Everything => "info",
        }
    }
}

/// Begins to log. Once in a process.
pub(crate) fn init(settings: &Settings, chatter: Chatter) -> anyhow::Result<()> {
    let directives = settings.log.as_deref().unwrap_or(chatter.filter());
    let filter = EnvFilter::try_new(directives).map_err(|error| {
        BadInput::new(format!(
            "log filter '{directives}': {error}; say warn, info, or info,leveret=debug"
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
