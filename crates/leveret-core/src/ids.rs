//! Names of things: each id is its own type, so that two cannot be exchanged by mistake.

use std::{borrow::Borrow, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// The longest id accepted, in bytes. Ids become keys in databases and parts of headers.
pub const ID_BYTES_MAX: usize = 200;

/// Why a text is not an id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdError {
    /// The text has no characters.
    #[error("{kind} is empty")]
    Empty {
        /// Which id.
        kind: &'static str,
    },
    /// The text is longer than [`ID_BYTES_MAX`].
    #[error("{kind} has {bytes} bytes, more than the {ID_BYTES_MAX} allowed")]
    TooLong {
        /// Which id.
        kind: &'static str,
        /// Its length.
        bytes: usize,
    },
    /// The text has a control character.
    #[error("{kind} has a control character")]
    Control {
        /// Which id.
        kind: &'static str,
    },
    /// The text is `.` or `..`, which stand for other places in URLs.
    #[error("{kind} is '{text}', which no URL can name")]
    Dots {
        /// Which id.
        kind: &'static str,
        /// The text.
        text: &'static str,
    },
}

fn check(kind: &'static str, text: &str) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty { kind });
    }
    if text.len() > ID_BYTES_MAX {
        return Err(IdError::TooLong {
            kind,
            bytes: text.len(),
        });
    }
    if text.chars().any(char::is_control) {
        return Err(IdError::Control { kind });
    }
    Ok(())
}

/// As [`check`], of an id that is a segment of the paths of URLs.
fn check_segment(kind: &'static str, text: &str) -> Result<(), IdError> {
    match [".", ".."].into_iter().find(|dots| *dots == text) {
        Some(text) => Err(IdError::Dots { kind, text }),
        None => check(kind, text),
    }
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $check:ident, $rule:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            #[doc = concat!("Checks and takes an id: 1 to [`ID_BYTES_MAX`] bytes without control characters", $rule, ".")]
            pub fn new(text: impl Into<Arc<str>>) -> Result<Self, IdError> {
                let text = text.into();
                $check($kind, &text)?;
                Ok(Self(text))
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0.to_string()
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &self.0)
            }
        }
    };
}

id_type!(
    /// One execution of a workflow (`execution_id` and `runId` on the wire). Time-ordered where
    /// Leveret makes it (UUID v7), any text where a client brings it.
    RunId,
    "run id",
    check_segment,
    ", and not `.` or `..`"
);
id_type!(
    /// The name of a workflow; its versions share it.
    WorkflowId,
    "workflow id",
    check_segment,
    ", and not `.` or `..`"
);
id_type!(
    /// The name of a schedule.
    ScheduleId,
    "schedule id",
    check_segment,
    ", and not `.` or `..`"
);
id_type!(
    /// The name of a node within its workflow.
    NodeId,
    "node id",
    check,
    ""
);
id_type!(
    /// What steps wait for and signals bring.
    EventName,
    "event",
    check,
    ""
);
id_type!(
    /// By which a signal finds the runs that wait for it, without their ids.
    SignalKey,
    "key",
    check,
    ""
);
id_type!(
    /// A client's own name of a signal: the same one counts once.
    SignalId,
    "signal id",
    check,
    ""
);

/// Where a step stands in loops and batches: empty, `each[17]`, `loop#2`, nested by `/`.
///
/// The root is no shared value: all steps of all runs would count their references at one place.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope(Option<Arc<str>>);

impl Scope {
    /// The scope outside every loop and batch.
    pub fn root() -> Scope {
        Scope::default()
    }

    /// Takes a stored or received scope as it is.
    pub fn new(text: impl Into<Arc<str>>) -> Scope {
        let text = text.into();
        Scope((!text.is_empty()).then_some(text))
    }

    /// Whether it is the scope outside every loop and batch.
    pub fn is_root(&self) -> bool {
        self.0.is_none()
    }

    /// The scope as text; empty for the root.
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }

    /// What its parts are, from the outside inwards; `None` for a text that is no scope.
    pub fn parts(&self) -> Option<Vec<ScopePart>> {
        if self.is_root() {
            return Some(Vec::new());
        }
        self.as_str().split('/').map(ScopePart::parse).collect()
    }

    /// Within this scope, the first pass of a loop.
    #[must_use]
    pub fn first_pass(&self) -> Scope {
        self.within(ScopePart::Pass(1))
    }

    /// The pass of the loop, if the innermost part is one.
    pub fn pass(&self) -> Option<u64> {
        match self.split()? {
            (_, ScopePart::Pass(pass)) => Some(pass),
            _ => None,
        }
    }

    /// Within this scope, an item of a batch, by its position from 0.
    #[must_use]
    pub fn item(&self, index: u64) -> Scope {
        self.within(ScopePart::Item(index))
    }

    /// Within this scope, several items of a batch: what is [to be begun](ScopePart::Items), and no scope of steps.
    #[must_use]
    pub fn items(&self, from: u64, to: u64) -> Scope {
        self.within(ScopePart::Items(from, to))
    }

    /// The position of the item, if the innermost part is one.
    pub fn item_index(&self) -> Option<u64> {
        match self.split()? {
            (_, ScopePart::Item(index)) => Some(index),
            _ => None,
        }
    }

    /// The scope around the innermost part, and the items that it stands for, if it stands for several.
    pub fn item_range(&self) -> Option<(Scope, u64, u64)> {
        match self.split()? {
            (outer, ScopePart::Items(from, to)) => Some((outer, from, to)),
            _ => None,
        }
    }

    /// The pass after this one; itself for what is no pass.
    #[must_use]
    pub fn next_pass(&self) -> Scope {
        match self.split() {
            Some((outer, ScopePart::Pass(pass))) => {
                outer.within(ScopePart::Pass(pass.saturating_add(1)))
            }
            _ => self.clone(),
        }
    }

    /// The pass before this one; `None` for a first one, and for what is no pass.
    pub fn previous_pass(&self) -> Option<Scope> {
        match self.split()? {
            (outer, ScopePart::Pass(pass)) if pass > 1 => {
                Some(outer.within(ScopePart::Pass(pass - 1)))
            }
            _ => None,
        }
    }

    /// The scope around this one; the root for the root.
    #[must_use]
    pub fn outer(&self) -> Scope {
        let text = self.as_str();
        Scope::new(&text[..text.rfind('/').unwrap_or(0)])
    }

    /// The scope around this one that has so many parts; itself if it has not so many.
    #[must_use]
    pub fn first_parts(&self, parts: usize) -> Scope {
        let text = self.as_str();
        if parts == 0 {
            return Scope::root();
        }
        match text.match_indices('/').nth(parts - 1) {
            Some((end, _)) => Scope::new(&text[..end]),
            None => self.clone(),
        }
    }

    fn within(&self, part: ScopePart) -> Scope {
        if self.is_root() {
            Scope::new(part.to_string())
        } else {
            Scope::new(format!("{}/{part}", self.as_str()))
        }
    }

    /// The scope around, and the innermost part.
    fn split(&self) -> Option<(Scope, ScopePart)> {
        let text = self.as_str();
        let last = text.rsplit('/').next()?;
        Some((self.outer(), ScopePart::parse(last)?))
    }
}

/// A part of a scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScopePart {
    /// `loop#2`: the second pass of a loop.
    Pass(u64),
    /// `each[17]`: the item of a batch that has 17 others before it.
    Item(u64),
    /// `each[17..20]`: three items that are to be begun together. No step stands there.
    Items(u64, u64),
}

impl ScopePart {
    /// Only the one text that it prints as is taken: two texts would be two scopes.
    fn parse(text: &str) -> Option<ScopePart> {
        let part = if let Some(pass) = text.strip_prefix("loop#") {
            ScopePart::Pass(pass.parse().ok().filter(|pass| *pass > 0)?)
        } else {
            let items = text.strip_prefix("each[")?.strip_suffix(']')?;
            match items.split_once("..") {
                None => ScopePart::Item(items.parse().ok()?),
                Some((from, to)) => {
                    let (from, to) = (from.parse().ok()?, to.parse().ok()?);
                    (from < to).then_some(ScopePart::Items(from, to))?
                }
            }
        };
        (part.to_string() == text).then_some(part)
    }
}

impl fmt::Display for ScopePart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ScopePart::Pass(pass) => write!(f, "loop#{pass}"),
            ScopePart::Item(index) => write!(f, "each[{index}]"),
            ScopePart::Items(from, to) => write!(f, "each[{from}..{to}]"),
        }
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

/// The identity of a step: what is recorded at most once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepKey {
    /// The run.
    pub run_id: RunId,
    /// The node of the run's workflow.
    pub node_id: NodeId,
    /// Where in loops and batches.
    pub scope: Scope,
}

impl StepKey {
    /// The key that an outside system can use to recognise a repeated attempt: `run_id/node_id/scope`. In the ids, `%`, `/` and white space are
    /// percent-encoded: no two steps have one key, and none is trimmed as a header.
    pub fn idempotency_key(&self) -> String {
        let StepKey {
            run_id,
            node_id,
            scope,
        } = self;
        let mut key = String::with_capacity(run_id.0.len() + node_id.0.len() + 2);
        for id in [&run_id.0, &node_id.0] {
            push_escaped(&mut key, id);
            key.push('/');
        }
        key.push_str(scope.as_str());
        key
    }
}

fn push_escaped(key: &mut String, id: &str) {
    let mut rest = id;
    while let Some(at) = rest.find(|c: char| c == '%' || c == '/' || c.is_whitespace()) {
        key.push_str(&rest[..at]);
        let special = rest[at..].chars().next().expect("it was found");
        for byte in special.encode_utf8(&mut [0; 4]).bytes() {
            key.extend(['%', hex(byte >> 4), hex(byte & 0xf)]);
        }
        rest = &rest[at + special.len_utf8()..];
    }
    key.push_str(rest);
}

fn hex(digit: u8) -> char {
    char::from_digit(digit.into(), 16)
        .expect("it is below 16")
        .to_ascii_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_cannot_be_a_key() {
        assert_eq!(RunId::new(""), Err(IdError::Empty { kind: "run id" }));
        assert_eq!(
            NodeId::new("a\nb"),
            Err(IdError::Control { kind: "node id" })
        );
        assert!(matches!(
            WorkflowId::new("x".repeat(201)),
            Err(IdError::TooLong { bytes: 201, .. })
        ));
        assert_eq!(RunId::new("ex1").unwrap().as_str(), "ex1");
    }

    #[test]
    fn no_two_steps_have_one_key() {
        let key = |run: &str, node: &str, scope: &str| {
            let key = StepKey {
                run_id: RunId::new(run).unwrap(),
                node_id: NodeId::new(node).unwrap(),
                scope: Scope::new(scope),
            };
            key.idempotency_key()
        };
        assert_eq!(
            key("r1", "größe", "each[1]/loop#2"),
            "r1/größe/each[1]/loop#2"
        );
        assert_eq!(key("17/pay", "card", ""), "17%2Fpay/card/");
        assert_eq!(key("17", "pay/card", ""), "17/pay%2Fcard/");
        let runs = ["a", " a", "a ", "a/b", "a%2Fb", "a%252Fb", "a\u{2003}", "/"];
        let nodes = ["a", "b", "b/", "/b", " ", "%", "a/b"];
        let scopes = ["", "b/", "each[1]"];
        let mut keys = std::collections::BTreeSet::new();
        for run in runs {
            for node in nodes {
                for scope in scopes {
                    let key = key(run, node, scope);
                    assert_eq!(key.trim_start(), key);
                    assert!(keys.insert(key), "{run} {node} {scope}");
                }
            }
        }
    }

    #[test]
    fn scopes_are_taken_apart_and_put_together() {
        let scope = Scope::root().first_pass().next_pass();
        assert_eq!(scope.as_str(), "loop#2");
        let inner = scope.first_pass();
        assert_eq!(inner.as_str(), "loop#2/loop#1");
        assert_eq!((inner.pass(), inner.previous_pass()), (Some(1), None));
        assert_eq!(inner.next_pass().as_str(), "loop#2/loop#2");
        assert_eq!(inner.next_pass().previous_pass(), Some(inner.clone()));
        assert_eq!(
            (inner.outer(), scope.outer()),
            (scope.clone(), Scope::root())
        );
        assert_eq!(Scope::root().outer(), Scope::root());
        for (parts, expect) in [
            (0, ""),
            (1, "loop#2"),
            (2, "loop#2/loop#1"),
            (3, "loop#2/loop#1"),
        ] {
            assert_eq!(inner.first_parts(parts).as_str(), expect);
        }
        let passes = [ScopePart::Pass(2), ScopePart::Pass(1)];
        assert_eq!(inner.parts(), Some(passes.to_vec()));
        assert_eq!(Scope::root().parts(), Some(Vec::new()));
        let item = scope.item(17);
        assert_eq!(item.as_str(), "loop#2/each[17]");
        assert_eq!((item.item_index(), item.pass()), (Some(17), None));
        assert_eq!(item.next_pass(), item);
        let some = Scope::root().items(3, 5);
        assert_eq!(some.as_str(), "each[3..5]");
        assert_eq!(some.item_range(), Some((Scope::root(), 3, 5)));
        assert_eq!(item.item_range(), None);
        assert_eq!(some.parts(), Some(vec![ScopePart::Items(3, 5)]));
        for bad in [
            "loop#0",
            "loop#01",
            "loop#+1",
            "loop#",
            "loop",
            "/",
            "loop#1/",
            "x/loop#1",
            "each[]",
            "each[01]",
            "each[1",
            "each[-1]",
            "each[2..2]",
            "each[3..2]",
            "each[..2]",
            "each[1..02]",
        ] {
            assert_eq!(Scope::new(bad).parts(), None, "{bad}");
        }
    }

    /// What stands for another place in a URL names no run and no workflow. Nodes are in no URL.
    #[test]
    fn refuses_what_no_url_can_name() {
        for text in [".", ".."] {
            let kind = "run id";
            assert_eq!(RunId::new(text), Err(IdError::Dots { kind, text }));
            assert!(WorkflowId::new(text).is_err());
            assert_eq!(NodeId::new(text).unwrap().as_str(), text);
        }
        assert_eq!(RunId::new("...").unwrap().as_str(), "...");
    }
}
