//! `heart.yaml` and `node.yaml`: keys with their lines, taken one by one; what is left over is a mistake.

use std::path::{Path, PathBuf};

use leveret_core::{
    parse::{Diagnostic, Setting, Source, parse_settings},
    suggest::nearest,
};
use serde_json::Value;

use crate::exit::BadInput;

/// The settings of a file that are not taken yet.
#[derive(Debug, Default)]
pub(crate) struct SettingsFile {
    path: PathBuf,
    left: Vec<Setting>,
    known: Vec<&'static str>,
}

impl SettingsFile {
    /// Reads the file; no file is one without settings.
    pub(crate) fn read(path: Option<&Path>) -> anyhow::Result<SettingsFile> {
        let Some(path) = path else {
            return Ok(SettingsFile::default());
        };
        let text = std::fs::read_to_string(path)
            .map_err(|error| BadInput::new(format!("cannot read {}: {error}", path.display())))?;
        SettingsFile::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> anyhow::Result<SettingsFile> {
        let name = path.display().to_string();
        let source = Source { name: &name, text };
        let left = parse_settings(&source).map_err(|diagnostics| {
            let lines = diagnostics.0.iter().map(told).collect::<Vec<_>>();
            BadInput::new(lines.join("\n"))
        })?;
        Ok(SettingsFile {
            path: path.to_owned(),
            left,
            known: Vec::new(),
        })
    }

    fn take(&mut self, key: &'static str) -> Option<Setting> {
        self.known.push(key);
        let at = self.left.iter().position(|setting| setting.key == key)?;
        Some(self.left.swap_remove(at))
    }

    /// Text. A number is text, too: names of nodes often are numbers.
    pub(crate) fn text(&mut self, key: &'static str) -> anyhow::Result<Option<String>> {
        let Some(setting) = self.take(key) else {
            return Ok(None);
        };
        match as_text(&setting.value) {
            Some(text) => Ok(Some(text)),
            None => Err(self.mistake(setting.line, &format!("'{key}' must be text"))),
        }
    }

    /// Text that has to pass a check: what that says is told with the line.
    pub(crate) fn checked(
        &mut self,
        key: &'static str,
        check: impl FnOnce(&str) -> anyhow::Result<()>,
    ) -> anyhow::Result<Option<String>> {
        let line = self.line(key);
        let text = self.text(key)?;
        if let Some(text) = &text {
            check(text).map_err(|error| self.mistake(line, &error.to_string()))?;
        }
        Ok(text)
    }

    /// What was said, here or elsewhere: without it nothing can begin.
    pub(crate) fn required<T>(
        &self,
        key: &str,
        example: &str,
        value: Option<T>,
    ) -> anyhow::Result<T> {
        value.ok_or_else(|| {
            let missing = format!("'{key}' is missing");
            if self.path.as_os_str().is_empty() {
                let help = format!("set it in the file of --config, or give {example}");
                BadInput::new(format!("{missing}: {help}")).into()
            } else {
                self.mistake(1, &format!("{missing}: set it here, or give {example}"))
            }
        })
    }

    /// One text or a list of them, each of which has to pass a check.
    pub(crate) fn checked_texts(
        &mut self,
        key: &'static str,
        check: impl Fn(&str) -> anyhow::Result<()>,
    ) -> anyhow::Result<Option<Vec<String>>> {
        let line = self.line(key);
        let texts = self.texts(key)?;
        for text in texts.iter().flatten() {
            check(text).map_err(|error| self.mistake(line, &error.to_string()))?;
        }
        Ok(texts)
    }

    /// One text or a list of them.
    pub(crate) fn texts(&mut self, key: &'static str) -> anyhow::Result<Option<Vec<String>>> {
        let Some(setting) = self.take(key) else {
            return Ok(None);
        };
        let texts = match &setting.value {
            Value::Array(values) => values.iter().map(as_text).collect::<Option<Vec<_>>>(),
            value => as_text(value).map(|text| vec![text]),
        };
        match texts.filter(|texts| !texts.is_empty()) {
            Some(texts) => Ok(Some(texts)),
            None => Err(self.mistake(
                setting.line,
                &format!("'{key}' must be text, or a list of texts"),
            )),
        }
    }

    /// A value read from text, such as a time span.
    pub(crate) fn parsed<T: std::str::FromStr<Err = String>>(
        &mut self,
        key: &'static str,
    ) -> anyhow::Result<Option<T>> {
        let line = self.line(key);
        match self.text(key)? {
            Some(text) => match text.parse() {
                Ok(value) => Ok(Some(value)),
                Err(error) => Err(self.mistake(line, &format!("'{key}': {error}"))),
            },
            None => Ok(None),
        }
    }

    /// True or false.
    pub(crate) fn flag(&mut self, key: &'static str) -> anyhow::Result<Option<bool>> {
        let Some(setting) = self.take(key) else {
            return Ok(None);
        };
        match setting.value.as_bool() {
            Some(flag) => Ok(Some(flag)),
            None => Err(self.mistake(setting.line, &format!("'{key}' must be true or false"))),
        }
    }

    fn line(&self, key: &str) -> usize {
        let setting = self.left.iter().find(|setting| setting.key == key);
        setting.map_or(1, |setting| setting.line)
    }

    /// No more keys are known: what is left over is a mistake.
    pub(crate) fn finish(&mut self) -> anyhow::Result<()> {
        self.left.sort_by_key(|setting| setting.line);
        let Some(unknown) = self.left.first() else {
            return Ok(());
        };
        let help = match nearest(&unknown.key, self.known.iter().copied()) {
            Some(near) => format!("did you mean '{near}'?"),
            None => format!("known: {}", self.known.join(", ")),
        };
        let message = format!("unknown setting '{}': {help}", unknown.key);
        Err(self.mistake(unknown.line, &message))
    }

    /// `FILE:LINE: message`.
    fn mistake(&self, line: usize, message: &str) -> anyhow::Error {
        let file = self.path.display();
        BadInput::new(format!("{file}:{line}: {message}")).into()
    }
}

fn as_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.trim().is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn told(diagnostic: &Diagnostic) -> String {
    let Diagnostic {
        file,
        line,
        message,
        ..
    } = diagnostic;
    format!("{file}:{line}: {message}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Span;

    #[test]
    fn mistakes_name_file_and_line() {
        let check = |text: &str, expect: &str| {
            let read = || {
                let mut file = SettingsFile::parse(Path::new("node.yaml"), text)?;
                file.text("node_id")?;
                file.texts("heart")?;
                file.parsed::<Span>("lease")?;
                file.finish()
            };
            let error = read().unwrap_err().to_string();
            assert_eq!(error, expect);
            assert!(!error.contains("hush"), "{error}");
        };
        check(
            "node_id: 1\nhaert: http://u:hush@h",
            "node.yaml:2: unknown setting 'haert': did you mean 'heart'?",
        );
        check(
            "zzz: 1",
            "node.yaml:1: unknown setting 'zzz': known: node_id, heart, lease",
        );
        check("\nnode_id: [1]", "node.yaml:2: 'node_id' must be text");
        check(
            "heart: []",
            "node.yaml:1: 'heart' must be text, or a list of texts",
        );
        check(
            "lease: soon",
            "node.yaml:1: 'lease': 'soon' is no time span: say 250ms, 10s, 5m, 1h or 2d",
        );
    }

    #[test]
    fn one_text_or_several() {
        let mut file = SettingsFile::parse(Path::new("x"), "a: x\nb: [x, y]\nc: 7").unwrap();
        assert_eq!(file.texts("a").unwrap(), Some(vec!["x".to_owned()]));
        assert_eq!(file.texts("b").unwrap().unwrap().len(), 2);
        assert_eq!(file.text("c").unwrap().as_deref(), Some("7"));
        assert_eq!(file.text("d").unwrap(), None);
        file.finish().unwrap();
    }
}
