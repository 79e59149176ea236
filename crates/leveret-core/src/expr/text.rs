//! Texts while an expression is evaluated: a copy of one costs nothing.

use std::{borrow::Borrow, cmp::Ordering, ops::Deref, rc::Rc};

/// A text of the scope, or one that was computed and is shared by what refers to it.
#[derive(Clone, Debug)]
pub(super) enum Text<'v> {
    Borrowed(&'v str),
    Shared(Rc<String>),
}

impl<'v> Text<'v> {
    /// A part of the text; `part` must be made of it. A part of what is borrowed is borrowed.
    pub(super) fn part(&self, of: impl Fn(&str) -> &str) -> Text<'v> {
        match self {
            Text::Borrowed(text) => Text::Borrowed(of(text)),
            Text::Shared(text) => Text::from(of(text).to_owned()),
        }
    }

    /// The text itself, copied if others refer to it.
    pub(super) fn into_string(self) -> String {
        match self {
            Text::Borrowed(text) => text.to_owned(),
            Text::Shared(text) => Rc::unwrap_or_clone(text),
        }
    }
}

impl From<String> for Text<'_> {
    fn from(text: String) -> Self {
        Text::Shared(Rc::new(text))
    }
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Text::Borrowed(text) => text,
            Text::Shared(text) => text,
        }
    }
}

impl Borrow<str> for Text<'_> {
    fn borrow(&self) -> &str {
        self
    }
}

impl PartialEq for Text<'_> {
    fn eq(&self, other: &Text<'_>) -> bool {
        **self == **other
    }
}

impl Eq for Text<'_> {}

impl PartialOrd for Text<'_> {
    fn partial_cmp(&self, other: &Text<'_>) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Text<'_> {
    fn cmp(&self, other: &Text<'_>) -> Ordering {
        (**self).cmp(&**other)
    }
}
