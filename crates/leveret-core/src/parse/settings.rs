//! Files of settings: one mapping of keys to values, YAML or JSON, each with its line.

use serde_json::Value;

use super::{
    Source,
    diagnostics::{Diagnostics, Problem, Report},
    document,
};

/// A setting in a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: Value,
    /// The line of the key, from 1.
    pub line: usize,
}

/// The settings of a file, sorted by key; none of an empty one. Which keys there are, and what their values must be, is the caller's to know.
///
/// # Errors
/// Everything that is wrong with the text: syntax, keys that come twice, what is no mapping.
pub fn parse_settings(source: &Source<'_>) -> Result<Vec<Setting>, Diagnostics> {
    if source.text.lines().all(is_blank) {
        return Ok(Vec::new());
    }
    let mut report = Report::for_text(source);
    let read = document::read(source, &mut report);
    let settings = match read {
        Some((Value::Object(fields), places)) => {
            let setting = |(key, value): (String, Value)| Setting {
                line: places.key_mark(&key).line.max(1) as usize,
                key,
                value,
            };
            Some(fields.into_iter().map(setting).collect())
        }
        Some((_, places)) => {
            let problem = Problem::error("type", "a file of settings has lines of `key: value`");
            report.tell(problem, places.mark, String::new());
            None
        }
        None => None,
    };
    let (settings, diagnostics) = report.finish(settings);
    settings.ok_or(diagnostics)
}

fn is_blank(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with('#') || line == "---"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<Setting>, String> {
        let source = Source {
            name: "heart.yaml",
            text,
        };
        parse_settings(&source).map_err(|diagnostics| diagnostics.to_string())
    }

    #[test]
    fn settings_have_lines() {
        let text = "# the heart\nlisten: 127.0.0.1:7090\n\nbroker:\n  amqp://localhost\n";
        let settings = parse(text).unwrap();
        let told: Vec<_> = settings
            .iter()
            .map(|setting| (&*setting.key, setting.value.as_str().unwrap(), setting.line))
            .collect();
        assert_eq!(
            told,
            [
                ("broker", "amqp://localhost", 4),
                ("listen", "127.0.0.1:7090", 2)
            ]
        );
        assert_eq!(parse("# nothing\n---\n"), Ok(Vec::new()));
    }

    #[test]
    fn mistakes_have_lines() {
        let check = |text: &str, expect: &str| {
            let told = parse(text).unwrap_err();
            assert!(told.contains(expect), "{told}");
        };
        check(
            "- a\n",
            "heart.yaml:1:1: error: a file of settings has lines",
        );
        check("a: 1\nb: [\n", "heart.yaml:3");
        check(
            "a: 1\na: 2\n",
            "heart.yaml:2:1: error: the key `a` comes twice",
        );
    }
}
