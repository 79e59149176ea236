//! Texts that are URLs: what an expression comes to stays within the part of the URL where it stands.
//!
//! A value is percent-encoded, so that it is one segment of the path, one name or value of the query: `/`, `?`, `#`, `&` and all else that could
//! end its part are letters of it. A value that stands at the very start is taken as it is, since there it is the address itself. Within the host a value
//! may have the characters of hosts and ports. A segment that a value makes `.` or `..` has no encoding, and is refused.

use std::fmt::Write;

/// Where in a URL a text ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// In front of `://`.
    Scheme,
    /// Between that and the path.
    Authority,
    Path,
    /// In the query or the fragment.
    Rest,
}

/// A URL that grows by literal text and by values.
pub(super) struct UrlText {
    text: String,
    part: Part,
    /// Where the segment of the path begins that is being made, and whether a value is a part of it.
    segment: (usize, bool),
}

/// A value made a segment of the path that leads elsewhere.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("with it a segment of the URL's path is `.` or `..`, which leads elsewhere")]
pub(super) struct LeadsElsewhere;

impl UrlText {
    pub(super) fn new() -> UrlText {
        UrlText {
            text: String::new(),
            part: Part::Scheme,
            segment: (0, false),
        }
    }

    /// Adds text of the template itself.
    pub(super) fn push_literal(&mut self, literal: &str) -> Result<(), LeadsElsewhere> {
        for char in literal.chars() {
            self.step(char)?;
        }
        Ok(())
    }

    /// Adds what an expression came to. `rest` is the literal text that follows it: it tells whether this is a name or password in front of a host.
    pub(super) fn push_value(&mut self, value: &str, rest: &str) -> Result<(), LeadsElsewhere> {
        if self.text.is_empty() {
            return self.push_literal(value);
        }
        let of_host = |char: char| matches!(char, ':' | '[' | ']');
        let before_host =
            || rest[..rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len())].contains('@');
        let may_have_port = self.part == Part::Authority && !before_host();
        self.segment.1 = true;
        for char in value.chars() {
            let is_plain = char.is_ascii_alphanumeric() || matches!(char, '-' | '.' | '_' | '~');
            if is_plain || (may_have_port && of_host(char)) {
                self.text.push(char);
                continue;
            }
            for byte in char.encode_utf8(&mut [0; 4]).bytes() {
                write!(self.text, "%{byte:02X}").expect("memory takes it");
            }
        }
        Ok(())
    }

    /// The URL.
    pub(super) fn end(self) -> Result<String, LeadsElsewhere> {
        self.check_segment()?;
        Ok(self.text)
    }

    /// One character that means what it says.
    fn step(&mut self, char: char) -> Result<(), LeadsElsewhere> {
        if self.part == Part::Path && matches!(char, '/' | '\\' | '?' | '#') {
            self.check_segment()?;
        }
        self.text.push(char);
        self.part = match (self.part, char) {
            (Part::Scheme, '/') if self.text.ends_with("://") => Part::Authority,
            (Part::Authority, '/' | '\\') => Part::Path,
            (Part::Authority | Part::Path, '?' | '#') => Part::Rest,
            (part, _) => part,
        };
        if self.part == Part::Path && matches!(char, '/' | '\\') {
            self.segment = (self.text.len(), false);
        }
        Ok(())
    }

    /// By the URL standard `%2e` is a dot, too.
    fn check_segment(&self) -> Result<(), LeadsElsewhere> {
        let (start, has_value) = self.segment;
        if self.part != Part::Path || !has_value {
            return Ok(());
        }
        let segment = self.text[start..].to_ascii_lowercase().replace("%2e", ".");
        if matches!(&*segment, "." | "..") {
            return Err(LeadsElsewhere);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A URL of pieces: every other one is a value.
    fn check(pieces: &[&str], expect: Option<&str>) {
        let mut url = UrlText::new();
        let made = pieces.iter().enumerate().try_for_each(|(at, piece)| {
            if at.is_multiple_of(2) {
                url.push_literal(piece)
            } else {
                let rest: String = pieces[at + 1..].iter().step_by(2).copied().collect();
                url.push_value(piece, &rest)
            }
        });
        let made = made.and_then(|()| url.end()).ok();
        assert_eq!(made.as_deref(), expect, "{pieces:?}");
    }

    #[test]
    fn values_stay_within_their_part() {
        check(
            &["https://h/users/", "../admin?x=1#", "/orders"],
            Some("https://h/users/..%2Fadmin%3Fx%3D1%23/orders"),
        );
        check(
            &["https://h/a/", "ü %\\;"],
            Some("https://h/a/%C3%BC%20%25%5C%3B"),
        );
        check(
            &["https://h/?q=", "a&b=c#d e", "&n=", "1.5-x_~"],
            Some("https://h/?q=a%26b%3Dc%23d%20e&n=1.5-x_~"),
        );
        check(&["https://h/#", "a/b"], Some("https://h/#a%2Fb"));
        // The address itself.
        check(
            &["", "http://h:1/base/", "a/b"],
            Some("http://h:1/base/a/b"),
        );
        check(
            &["", "http://h:1/base", "/x/", "a/b"],
            Some("http://h:1/base/x/a%2Fb"),
        );
        check(&["", "http://h?q=", "", "a&b"], Some("http://h?q=a%26b"));
        // Hosts, and who asks them.
        check(
            &["http://", "h.example:8080", "/x"],
            Some("http://h.example:8080/x"),
        );
        check(&["http://", "[::1]:80", ""], Some("http://[::1]:80"));
        check(
            &["http://", "evil/x?@", ".example/"],
            Some("http://evil%2Fx%3F%40.example/"),
        );
        check(
            &["http://", "a:b", ":", "c@d", "@h/"],
            Some("http://a%3Ab:c%40d@h/"),
        );
    }

    #[test]
    fn a_segment_that_leads_elsewhere_is_refused() {
        for value in [".", "..", "%2e"] {
            let expect = (value == "%2e").then_some("http://h/a/%252e/b");
            check(&["http://h/a/", value, "/b"], expect);
        }
        check(&["http://h/a/", ".."], None);
        check(&["http://h/a/.", "."], None);
        check(&["http://h/a/%2E", ".", "?q"], None);
        check(&["http://h/a/", ".", "", ".", "/b"], None);
        check(&["http://h/a/..", "x", "/b"], Some("http://h/a/..x/b"));
        // What the template itself says is the author's.
        check(&["http://h/a/../", "x"], Some("http://h/a/../x"));
        check(&["http://h/?a=", "..", "/x"], Some("http://h/?a=../x"));
    }
}
