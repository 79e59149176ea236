//! The rolling hash of outcomes: replicas of one kind that have applied the same writes have the same one.
//!
//! Replicas of different versions compare it, so that it never changes.

use super::{Outcome, Position, Value, random::mix};

/// The hash after one more outcome. Of a mistake it takes code and statement, but not the text for people.
pub fn rolled(hash: u64, position: Position, outcome: &Outcome) -> u64 {
    let mut roll = Roll(hash);
    roll.number(position.seq);
    match outcome {
        Outcome::Done(results) => {
            roll.number(results.len() as u64);
            for result in results {
                roll.number(result.rows_affected);
                roll.number(result.last_insert_id.map_or(0, |id| mix(id as u64) | 1));
                for row in result.rows.iter().flatten() {
                    for value in row {
                        roll.value(value);
                    }
                }
            }
        }
        Outcome::Failed(error) => {
            roll.number(u64::MAX);
            roll.bytes(error.code.as_bytes());
            roll.number(error.statement as u64);
        }
    }
    roll.0
}

struct Roll(u64);

impl Roll {
    fn number(&mut self, number: u64) {
        self.0 = mix(self.0.rotate_left(5) ^ number).wrapping_add(number);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.number(u64::from_le_bytes(word));
        }
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Null => self.number(1),
            Value::Integer(number) => {
                self.number(2);
                self.number(*number as u64);
            }
            Value::Real(number) => {
                self.number(3);
                self.number(number.to_bits());
            }
            Value::Text(text) => {
                self.number(4);
                self.bytes(text.as_bytes());
            }
            Value::Blob(bytes) => {
                self.number(5);
                self.bytes(bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broadcast::{SqlError, StatementResult};

    fn failed(code: &str, message: &str, statement: usize) -> Outcome {
        Outcome::Failed(SqlError {
            code: code.to_owned(),
            message: message.to_owned(),
            statement,
        })
    }

    fn returned(value: Value) -> Outcome {
        Outcome::Done(vec![StatementResult {
            rows_affected: 1,
            rows: Some(vec![vec![value]]),
            ..StatementResult::default()
        }])
    }

    /// Replicas of all versions compute this one.
    #[test]
    fn the_hash_never_changes() {
        let at = |seq| Position { epoch: 1, seq };
        let hash = rolled(0, at(1), &returned(Value::Text("ä".to_owned())));
        let hash = rolled(hash, at(2), &failed("SQLITE_ERROR", "no such table: t", 0));
        assert_eq!(hash, 14_099_610_181_799_875_076);
    }

    #[test]
    fn what_differs_hashes_differently() {
        let hash = |seq, outcome| rolled(7, Position { epoch: 1, seq }, &outcome);
        let hashes = [
            hash(1, returned(Value::Null)),
            hash(2, returned(Value::Null)),
            hash(1, returned(Value::Integer(1))),
            hash(1, returned(Value::Real(1.0))),
            hash(1, returned(Value::Text("1".to_owned()))),
            hash(1, returned(Value::Blob(b"1".to_vec()))),
            hash(1, failed("A", "", 0)),
            hash(1, failed("B", "", 0)),
            hash(1, failed("A", "", 1)),
        ];
        for (place, hash) in hashes.iter().enumerate() {
            assert!(!hashes[..place].contains(hash), "{place}");
        }
        assert_eq!(hash(1, failed("A", "x", 0)), hash(1, failed("A", "y", 0)));
    }
}
