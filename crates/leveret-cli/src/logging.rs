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
    /// Without the AMQP client's own lines: it calls every closed connection an error, and our adapter tells what matters. Runs that fail are in the
    /// log of processes that stay; the others print them.
    fn filter(self) -> &'static str {
        match self {
            Chatter::Warnings => "warn,lapin=off,leveret::failures=off",
            Chatter::NodesAndWarnings => "warn,lapin=off,leveret::failures=off,leveret::log=info",
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
    let whole = Lines {
        inner: Stderr,
        has_colors: console::colors_enabled(),
    };
    match settings.log_format.unwrap_or_default() {
        LogFormat::Text => builder
            .with_ansi(whole.has_colors)
            .with_writer(whole)
            .init(),
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

/// Makes one line of each event, whatever is in its texts: a message with an end of line could pass for an event of its own.
struct Lines<W> {
    inner: W,
    has_colors: bool,
}

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for Lines<W> {
    type Writer = OneLine<W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        OneLine {
            inner: self.inner.make_writer(),
            has_colors: self.has_colors,
        }
    }
}

struct OneLine<W> {
    inner: W,
    has_colors: bool,
}

impl<W: io::Write> io::Write for OneLine<W> {
    /// Each event is written whole.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let mut line = String::with_capacity(text.len() + 1);
        for (at, char) in text.char_indices() {
            match char {
                '\x1b' if self.has_colors && is_color(&text[at + 1..]) => line.push(char),
                // Separators of lines and paragraphs, which some viewers heed.
                '\u{2028}' | '\u{2029}' => line.extend(char.escape_unicode()),
                _ if char.is_control() => line.extend(char.escape_default()),
                _ => line.push(char),
            }
        }
        line.push('\n');
        self.inner.write_all(line.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Whether what follows an escape makes it one that only sets a colour.
fn is_color(rest: &str) -> bool {
    let rest = rest.strip_prefix('[');
    let end = |rest: &str| rest.find(|c: char| !c.is_ascii_digit() && c != ';');
    rest.is_some_and(|rest| end(rest).is_some_and(|end| rest[end..].starts_with('m')))
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
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Keeps what is written.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// In a message as in a field, with colours and without.
    #[test]
    fn no_text_forges_a_line() {
        let forged = "one\r\n2026-01-01T00:00:00Z ERROR leveret: two\u{85}\u{2028}\x1b[1A\x1b[2K";
        for has_colors in [false, true] {
            let kept = Kept::default();
            let lines = Lines {
                inner: {
                    let kept = kept.clone();
                    move || kept.clone()
                },
                has_colors,
            };
            let subscriber = tracing_subscriber::fmt()
                .with_ansi(has_colors)
                .with_writer(lines)
                .finish();
            tracing::subscriber::with_default(subscriber, || {
                tracing::info!(run_id = forged, "{forged}");
                tracing::info!(run_id = %forged, "next");
            });
            let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
            assert_eq!(text.matches('\n').count(), 2, "{text}");
            assert!(!text.contains(['\r', '\u{85}', '\u{2028}']), "{text}");
            assert!(
                !text.contains("\x1b[1A") && !text.contains("\x1b[2K"),
                "{text}"
            );
        }
    }

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
