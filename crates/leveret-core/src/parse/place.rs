//! Where the values of a definition stand in its text: a tree beside the tree of values.

/// Where a value begins, and how it is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// The line, from 1; 0 for no text.
    pub(super) line: u32,
    /// The column in characters, from 1.
    pub(super) column: u32,
    pub(super) style: Style,
}

/// How a value is written: what an offset in a string means in the text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Style {
    /// Not a string, or one over several lines that are folded.
    #[default]
    Other,
    Plain,
    SingleQuoted,
    DoubleQuoted,
    /// A block whose lines are those of the string.
    Literal,
}

/// The places of a value and all within it. Without a text, every place is the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    pub(super) mark: Mark,
    pub(super) inside: Inside,
}

#[derive(Clone, Debug, Default)]
pub(super) enum Inside {
    #[default]
    Nothing,
    Elements(Vec<Places>),
    /// By key, sorted.
    Entries(Vec<Entry>),
}

/// The place of a key and those of its value.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_mark: Mark,
    pub(super) places: Places,
}

static NONE: Places = Places::none();

impl Places {
    pub(super) const fn none() -> Places {
        Places {
            mark: Mark {
                line: 0,
                column: 0,
                style: Style::Other,
            },
            inside: Inside::Nothing,
        }
    }

    pub(super) fn element(&self, at: usize) -> &Places {
        match &self.inside {
            Inside::Elements(elements) => elements.get(at).unwrap_or(&NONE),
            _ => &NONE,
        }
    }

    pub(super) fn entry(&self, key: &str) -> &Places {
        self.find(key).map_or(&NONE, |entry| &entry.places)
    }

    /// The mark of a key, else the value's own.
    pub(super) fn key_mark(&self, key: &str) -> Mark {
        self.find(key).map_or(self.mark, |entry| entry.key_mark)
    }

    fn find(&self, key: &str) -> Option<&Entry> {
        let Inside::Entries(entries) = &self.inside else {
            return None;
        };
        let at = entries
            .binary_search_by(|entry| entry.key.as_str().cmp(key))
            .ok()?;
        Some(&entries[at])
    }
}

/// Line and column of a value, or of the byte `offset` of the string that it is.
pub(super) fn position(text: &str, mark: Mark, offset: Option<usize>) -> (usize, usize) {
    let start = (mark.line.max(1) as usize, mark.column.max(1) as usize);
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let inside = offset.and_then(|offset| match mark.style {
        Style::Literal => in_block(text, mark, offset),
        _ => columns(text, mark, offset).map(|columns| (0, columns)),
    });
    let (lines, columns) = inside.unwrap_or((0, 0));
    (start.0 + lines, start.1 + columns)
}

/// The lines and the characters between the mark of a block and the byte `offset` of its string.
fn in_block(text: &str, mark: Mark, offset: usize) -> Option<(usize, usize)> {
    let indent = mark.column.checked_sub(1)? as usize;
    let lines: Vec<&str> = text.split('\n').collect();
    let (before, block) = lines.split_at_checked(mark.line.checked_sub(1)? as usize)?;
    // The mark is at the first line that is not empty.
    let empty = before
        .iter()
        .rev()
        .take_while(|line| line.trim().is_empty());
    let mut left = offset.checked_sub(empty.count())?;
    for (line, written) in block.iter().enumerate() {
        // An indentation is of spaces. A line of less is empty.
        let content = written.get(indent..).unwrap_or_default();
        let content = content.strip_suffix('\r').unwrap_or(content);
        if left <= content.len() {
            return Some((line, content.get(..left)?.chars().count()));
        }
        left -= content.len() + 1;
    }
    None
}

/// The characters of the text between the start of a string and its byte `offset`; `None` when the string goes on in
/// the next line before.
fn columns(text: &str, mark: Mark, offset: usize) -> Option<usize> {
    let line = text.split('\n').nth(mark.line.checked_sub(1)? as usize)?;
    let mut written = line.chars().skip(mark.column.checked_sub(1)? as usize);
    let quotes = match mark.style {
        Style::Other | Style::Literal => return None,
        Style::Plain => 0,
        Style::SingleQuoted | Style::DoubleQuoted => {
            written.next()?;
            1
        }
    };
    let (mut bytes, mut columns) = (0, quotes);
    while bytes < offset {
        let (value, width) = match (written.next()?, mark.style) {
            ('\\', Style::DoubleQuoted) => escape(&mut written)?,
            ('\'', Style::SingleQuoted) => (written.next().filter(|c| *c == '\'')?, 2),
            (c, _) => (c, 1),
        };
        bytes += value.len_utf8();
        columns += width;
    }
    Some(columns)
}

/// The character of an escape and the characters it is written with.
fn escape(written: &mut impl Iterator<Item = char>) -> Option<(char, usize)> {
    let digits = match written.next()? {
        'x' => 2,
        'u' => 4,
        'U' => 8,
        _ => return Some(('\\', 2)),
    };
    let code = hexadecimal(written, digits)?;
    if !(0xD800..0xDC00).contains(&code) {
        return Some((char::from_u32(code)?, 2 + digits));
    }
    // JSON writes characters beyond the first 65,536 as two escapes.
    written.nth(1)?;
    let low = hexadecimal(written, 4)?;
    let code = 0x10000 + ((code - 0xD800) << 10) + low.checked_sub(0xDC00)?;
    Some((char::from_u32(code)?, 12))
}

fn hexadecimal(written: &mut impl Iterator<Item = char>, digits: usize) -> Option<u32> {
    (0..digits).try_fold(0_u32, |code, _| {
        code.checked_mul(16)?
            .checked_add(written.next()?.to_digit(16)?)
    })
}
