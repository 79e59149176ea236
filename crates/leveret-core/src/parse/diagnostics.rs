//! Problems of a definition: what is told about each, and how they are gathered.

use std::fmt;

use serde::{Serialize, Serializer};

use super::{
    Source,
    place::{Mark, position},
};
use crate::expr::ExpressionError;

/// The most errors, and the most warnings, told of one definition. Where there are more, a last one says so.
pub const DIAGNOSTICS_MAX: usize = 100;

/// The problems of a definition, sorted by place. Prints one a line, as compilers do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics(pub Vec<Diagnostic>);

/// A problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Diagnostic {
    /// The name of the file; empty when the definition was no text.
    pub file: String,
    /// The line, from 1; 0 when the definition was no text.
    pub line: usize,
    /// The column in characters, from 1; 0 when the definition was no text.
    pub column: usize,
    /// Where in the definition, as in `nodes[2].config.fallback`; empty for the whole.
    pub path: String,
    /// Whether it keeps the definition from being used.
    pub severity: Severity,
    /// A stable name for this kind of problem.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The definition is not usable.
    Error,
    /// The definition is usable, and probably not what was meant.
    Warning,
}

impl Diagnostics {
    /// Whether there is an error among them.
    pub fn has_errors(&self) -> bool {
        let is_error = |diagnostic: &Diagnostic| diagnostic.severity == Severity::Error;
        self.0.iter().any(is_error)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Diagnostics {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl std::error::Error for Diagnostics {}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, diagnostic) in self.0.iter().enumerate() {
            if at > 0 {
                writeln!(f)?;
            }
            write!(f, "{diagnostic}")?;
        }
        Ok(())
    }
}

/// `file:line:column: error: message`, or the path in place of these three, and a line of help.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "{}:{}:{}: ", self.file, self.line, self.column)?;
        } else if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{severity}: {}", self.message)?;
        match &self.help {
            Some(help) => write!(f, "\n  help: {help}"),
            None => Ok(()),
        }
    }
}

/// Gathers problems while a definition is read.
pub(super) struct Report<'a> {
    source: Option<&'a Source<'a>>,
    diagnostics: Vec<Diagnostic>,
    errors: usize,
    warnings: usize,
}

/// A problem that is about to be told.
pub(super) struct Problem {
    code: &'static str,
    severity: Severity,
    message: String,
    help: Option<String>,
}

impl Problem {
    pub(super) fn error(code: &'static str, message: impl Into<String>) -> Problem {
        Problem {
            code,
            severity: Severity::Error,
            message: message.into(),
            help: None,
        }
    }

    pub(super) fn warning(code: &'static str, message: impl Into<String>) -> Problem {
        Problem {
            severity: Severity::Warning,
            ..Problem::error(code, message)
        }
    }

    pub(super) fn expression(code: &'static str, error: ExpressionError) -> Problem {
        Problem {
            help: error.help,
            ..Problem::error(code, error.message)
        }
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Problem {
        self.help = Some(help.into());
        self
    }

    /// Adds "did you mean", when there is a name to suggest.
    pub(super) fn did_you_mean(self, near: Option<&str>) -> Problem {
        match near {
            Some(near) => self.help(format!("did you mean `{near}`?")),
            None => self,
        }
    }
}

impl<'a> Report<'a> {
    pub(super) fn for_text(source: &'a Source<'a>) -> Report<'a> {
        Report {
            source: Some(source),
            diagnostics: Vec::new(),
            errors: 0,
            warnings: 0,
        }
    }

    pub(super) fn for_value() -> Report<'a> {
        Report {
            source: None,
            diagnostics: Vec::new(),
            errors: 0,
            warnings: 0,
        }
    }

    /// Whether so many errors were found that more are not told, and reading on is in vain. Keeps "did you mean", which
    /// looks at all names, from being asked without bound.
    pub(super) fn is_full(&self) -> bool {
        self.errors > DIAGNOSTICS_MAX
    }

    pub(super) fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// Tells a problem at the start of a value.
    pub(super) fn tell(&mut self, problem: Problem, mark: Mark, path: String) {
        self.tell_inside(problem, mark, None, path);
    }

    /// Tells a problem at a byte of a string, or at the string's start where the byte's place cannot be known.
    pub(super) fn tell_inside(
        &mut self,
        problem: Problem,
        mark: Mark,
        offset: Option<usize>,
        path: String,
    ) {
        let told = match problem.severity {
            Severity::Error => &mut self.errors,
            Severity::Warning => &mut self.warnings,
        };
        *told += 1;
        if *told > DIAGNOSTICS_MAX {
            return;
        }
        let (line, column) = match self.source {
            Some(source) => position(source.text, mark, offset),
            None => (0, 0),
        };
        self.diagnostics.push(Diagnostic {
            file: self.source.map_or("", |source| source.name).to_owned(),
            line,
            column,
            path,
            severity: problem.severity,
            code: problem.code,
            message: problem.message,
            help: problem.help,
        });
    }

    /// What was read, if there was no error, and the problems by place.
    pub(super) fn finish<T>(mut self, read: Option<T>) -> (Option<T>, Diagnostics) {
        self.diagnostics
            .sort_by_key(|diagnostic| (diagnostic.line, diagnostic.column));
        let kinds = [
            (self.errors, Severity::Error, "errors"),
            (self.warnings, Severity::Warning, "warnings"),
        ];
        for (count, severity, kind) in kinds {
            if count > DIAGNOSTICS_MAX {
                self.diagnostics.push(Diagnostic {
                    file: String::new(),
                    line: 0,
                    column: 0,
                    path: String::new(),
                    severity,
                    code: "too-many",
                    message: format!("there are more {kind} than these {DIAGNOSTICS_MAX}"),
                    help: None,
                });
            }
        }
        let read = read.filter(|_| self.errors == 0);
        debug_assert!(read.is_some() || self.errors > 0);
        (read, Diagnostics(self.diagnostics))
    }
}
