//! A digest of contents that replicas of all kinds compute alike: of what they have alike.
//!
//! These are the names of tables and their columns, without regard to the size of letters, and the rows without regard to their order. Of the
//! columns, those of types whose values are equal everywhere: whole numbers, truth, rounded numbers of eight bytes, texts and bytes. Nodes of
//! several versions compare it, so that it never changes.

use leveret_core::broadcast::Value;
use sha2::{Digest, Sha256};

/// Types as they are declared, in capitals and without a size.
const ALIKE: [&str; 18] = [
    "INTEGER",
    "INT",
    "INT2",
    "INT4",
    "INT8",
    "SMALLINT",
    "BIGINT",
    "BOOLEAN",
    "BOOL",
    "REAL",
    "DOUBLE PRECISION",
    "FLOAT8",
    "TEXT",
    "VARCHAR",
    "CHARACTER VARYING",
    "CHAR VARYING",
    "BLOB",
    "BYTEA",
];

/// Whether the values of columns of this declared type are equal in all kinds of databases.
pub(super) fn is_alike(declared: &str) -> bool {
    let bare = declared.split('(').next().unwrap_or_default();
    let words: Vec<String> = bare.split_whitespace().map(str::to_uppercase).collect();
    ALIKE.contains(&words.join(" ").as_str())
}

/// A table, with the columns that are looked at.
#[derive(Debug)]
pub(super) struct Table {
    /// As the database spells it.
    pub(super) name: String,
    /// As the database spells them.
    pub(super) columns: Vec<String>,
}

/// The order of the tables in the digest.
pub(super) fn sort(tables: &mut [Table]) {
    tables.sort_by_cached_key(|table| table.name.to_lowercase());
}

/// The digest under way.
#[derive(Default)]
pub(super) struct Portable {
    sha: Sha256,
    rows: Rows,
}

/// A sum of the digests of rows, which is the same in every order.
#[derive(Default)]
struct Rows {
    sum: [u64; 4],
    count: u64,
}

impl Portable {
    /// The rows behind this are of the table.
    pub(super) fn table(&mut self, table: &Table) {
        self.end_rows();
        let names = table.columns.iter().map(String::as_str);
        self.sha.update((table.columns.len() as u64).to_le_bytes());
        for name in [table.name.as_str()].into_iter().chain(names) {
            bytes(&mut self.sha, name.to_lowercase().as_bytes());
        }
    }

    /// A row of the table, in the order of its columns.
    pub(super) fn row<'a>(&mut self, values: impl IntoIterator<Item = &'a Value>) {
        let mut sha = Sha256::new();
        for one in values {
            value(&mut sha, one);
        }
        let digest: [u8; 32] = sha.finalize().into();
        for (lane, piece) in self.rows.sum.iter_mut().zip(digest.chunks_exact(8)) {
            let mut word = [0; 8];
            word.copy_from_slice(piece);
            *lane = lane.wrapping_add(u64::from_le_bytes(word));
        }
        self.rows.count += 1;
    }

    pub(super) fn finish(mut self) -> [u8; 32] {
        self.end_rows();
        self.sha.finalize().into()
    }

    fn end_rows(&mut self) {
        let rows = std::mem::take(&mut self.rows);
        for number in rows.sum.into_iter().chain([rows.count]) {
            self.sha.update(number.to_le_bytes());
        }
    }
}

/// Numbers by their value, texts and bytes by their bytes.
fn value(sha: &mut Sha256, value: &Value) {
    /// Two to the power of 63: rounded numbers below it that have no fraction are whole ones.
    const WHOLE_END: f64 = 9_223_372_036_854_775_808.0;
    let whole = |sha: &mut Sha256, number: i64| {
        sha.update([1]);
        sha.update(number.to_le_bytes());
    };
    match value {
        Value::Null => sha.update([0]),
        Value::Integer(number) => whole(sha, *number),
        Value::Real(number) if number.fract() == 0.0 && number.abs() < WHOLE_END => {
            whole(sha, *number as i64);
        }
        Value::Real(number) => {
            sha.update([2]);
            sha.update(number.to_bits().to_le_bytes());
        }
        Value::Text(text) => {
            sha.update([3]);
            bytes(sha, text.as_bytes());
        }
        Value::Blob(blob) => {
            sha.update([3]);
            bytes(sha, blob);
        }
    }
}

fn bytes(sha: &mut Sha256, bytes: &[u8]) {
    sha.update((bytes.len() as u64).to_le_bytes());
    sha.update(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(name: &str, rows: &[&[Value]]) -> [u8; 32] {
        let mut digest = Portable::default();
        digest.table(&Table {
            name: name.to_owned(),
            columns: vec!["a".to_owned(), "B".to_owned()],
        });
        for row in rows {
            digest.row(*row);
        }
        digest.finish()
    }

    #[test]
    fn what_is_alike_digests_alike() {
        let text = |text: &str| Value::Text(text.to_owned());
        let (one, two) = ([Value::Integer(1), text("x")], [Value::Null, text("y")]);
        let both = digest("t", &[&one, &two]);
        assert_eq!(digest("T", &[&two, &one]), both);
        let same = [Value::Real(1.0), Value::Blob(b"x".to_vec())];
        assert_eq!(digest("t", &[&same, &two]), both);
        for other in [
            digest("u", &[&one, &two]),
            digest("t", &[&one]),
            digest("t", &[&one, &one]),
            digest("t", &[&one, &[Value::Null, text("z")]]),
            digest("t", &[&[Value::Real(1.5), text("x")], &two]),
            digest("t", &[]),
        ] {
            assert_ne!(other, both);
        }
    }

    #[test]
    fn the_digest_never_changes() {
        let row = [Value::Real(0.1), Value::Text("ä".to_owned())];
        let digest = digest("t", &[&row]);
        assert_eq!(digest[..4], [64, 79, 186, 227]);
    }

    #[test]
    fn types_by_their_names() {
        for alike in ["integer", "Double  Precision", "VARCHAR (20)", "bytea"] {
            assert!(is_alike(alike), "{alike}");
        }
        for other in ["", "numeric(10, 2)", "timestamptz", "INTEGERS", "float(24)"] {
            assert!(!is_alike(other), "{other}");
        }
    }
}
