//! Where a page ends: the place of its last document in the order of a list.

use std::{fmt, str::FromStr, sync::Arc};

use leveret_core::time::Timestamp;

use super::{Document, DocumentsError, Page};

/// A place in the order of a list: by time, then by id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cursor {
    pub(super) created_at: Timestamp,
    pub(super) id: Arc<str>,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.created_at.0, self.id)
    }
}

impl FromStr for Cursor {
    type Err = DocumentsError;

    fn from_str(text: &str) -> Result<Cursor, DocumentsError> {
        let parts = text.split_once(':');
        let cursor = parts.and_then(|(time, id)| {
            let created_at = Timestamp(time.parse().ok()?);
            let is_id = !id.is_empty() && !id.contains('\0');
            is_id.then(|| Cursor {
                created_at,
                id: id.into(),
            })
        });
        cursor.ok_or_else(|| DocumentsError::Invalid {
            detail: "no page of such a list ended there".to_owned(),
        })
    }
}

impl Page {
    /// The page of the first `limit` documents; where there are more, the next one begins behind them.
    pub(super) fn cut(mut documents: Vec<Document>, limit: u32) -> Page {
        let more = documents.len() > limit as usize;
        documents.truncate(limit as usize);
        let last = documents.last().filter(|_| more);
        let next = last.map(|last| {
            let cursor = Cursor {
                created_at: last.created_at,
                id: last.key.id.clone(),
            };
            cursor.to_string().into()
        });
        Page { documents, next }
    }
}
