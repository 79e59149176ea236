//! The Prometheus text exposition format, version 0.0.4: families of samples, each family once, with its help and type.

use std::fmt::{Display, Write};

use super::Histogram;

/// The content type of the format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a family of samples is.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Only grows. Names end in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Buckets, sum and count.
    Histogram,
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// Labels of a sample.
pub type Labels<'a> = &'a [(&'static str, &'a str)];

/// Writes families one after the other.
#[derive(Debug, Default)]
pub struct TextWriter {
    text: String,
}

impl TextWriter {
    /// Begins a family. Its samples follow before the next one begins.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> Family<'_> {
        // Writing to a string does not fail, here and below.
        let _ = writeln!(
            self.text,
            "# HELP {name} {help}\n# TYPE {name} {}",
            kind.as_str()
        );
        Family { writer: self, name }
    }

    /// A family of one sample without labels.
    pub fn single(&mut self, name: &'static str, kind: Kind, help: &str, value: impl Display) {
        self.family(name, kind, help).sample(&[], value);
    }

    /// The text.
    pub fn finish(self) -> String {
        self.text
    }

    fn line(
        &mut self,
        name: &str,
        suffix: &str,
        labels: Labels<'_>,
        le: Option<&str>,
        value: impl Display,
    ) {
        let _ = write!(self.text, "{name}{suffix}");
        let labels = labels.iter().copied().chain(le.map(|le| ("le", le)));
        let mut separator = '{';
        for (label, value) in labels {
            let _ = write!(self.text, "{separator}{label}=\"");
            escape(&mut self.text, value);
            self.text.push('"');
            separator = ',';
        }
        if separator == ',' {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }
}

/// A family whose samples are being written.
#[derive(Debug)]
pub struct Family<'a> {
    writer: &'a mut TextWriter,
    name: &'static str,
}

impl Family<'_> {
    /// Writes a sample.
    pub fn sample(&mut self, labels: Labels<'_>, value: impl Display) -> &mut Self {
        self.writer.line(self.name, "", labels, None, value);
        self
    }

    /// Writes a histogram of whose values so many make one: `1e6` for microseconds that are shown as seconds.
    pub fn histogram(&mut self, labels: Labels<'_>, of: f64, histogram: &Histogram) -> &mut Self {
        let mut below = 0;
        for (bound, count) in histogram.cumulated() {
            let le = (bound as f64 / of).to_string();
            self.writer
                .line(self.name, "_bucket", labels, Some(&le), count);
            below = count;
        }
        // Values that come in between are in the next scrape: buckets never exceed the count.
        let count = histogram.count().max(below);
        self.writer
            .line(self.name, "_bucket", labels, Some("+Inf"), count);
        self.writer
            .line(self.name, "_sum", labels, None, histogram.sum() as f64 / of);
        self.writer.line(self.name, "_count", labels, None, count);
        self
    }
}

fn escape(text: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;

    #[test]
    fn prints_families() {
        let mut writer = TextWriter::default();
        writer.single("a_total", Kind::Counter, "All.", 3);
        writer
            .family("b", Kind::Gauge, "Some.")
            .sample(&[("q", "x\"y\\"), ("r", "\n")], 0.5)
            .sample(&[("q", "z")], 1);
        let histogram = Histogram::new(&[1000, 2_500_000]);
        for value in [10, 5000, 9_000_000] {
            histogram.observe(value);
        }
        writer
            .family("c_seconds", Kind::Histogram, "Times.")
            .histogram(&[("t", "set")], 1e6, &histogram);
        assert_snapshot!(writer.finish(), @r#"
        # HELP a_total All.
        # TYPE a_total counter
        a_total 3
        # HELP b Some.
        # TYPE b gauge
        b{q="x\"y\\",r="\n"} 0.5
        b{q="z"} 1
        # HELP c_seconds Times.
        # TYPE c_seconds histogram
        c_seconds_bucket{t="set",le="0.001"} 1
        c_seconds_bucket{t="set",le="2.5"} 2
        c_seconds_bucket{t="set",le="+Inf"} 3
        c_seconds_sum{t="set"} 9.00501
        c_seconds_count{t="set"} 3
        "#);
    }
}
