//! Values of headers: all that AMQP 0-9-1 and RabbitMQ know, so that what others put into a message survives a copy of it.

use std::collections::BTreeMap;

use super::{BrokerError, Message};

/// Lists and tables inside each other, at most.
pub const HEADER_DEPTH_MAX: u32 = 32;

/// A header's value. Our own headers are of the first three kinds; the others are for headers of others.
///
/// Whole numbers of all widths are [`Int`](Header::Int), and are sent as 64 bits; all else is sent as what it arrived as.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Header {
    /// Text.
    Text(String),
    /// A whole number.
    Int(i64),
    /// A truth value.
    Bool(bool),
    /// A text that is not UTF-8.
    Octets(Vec<u8>),
    /// Bytes.
    Bytes(Vec<u8>),
    /// A floating-point number of 32 bits.
    Float(f32),
    /// A floating-point number of 64 bits.
    Double(f64),
    /// `value` with its last `scale` digits behind the point.
    Decimal {
        /// Digits behind the point.
        scale: u8,
        /// All digits.
        value: u32,
    },
    /// A point in time, in seconds since 1970.
    Seconds(u64),
    /// Several values.
    List(Vec<Header>),
    /// Values by name.
    Table(BTreeMap<String, Header>),
    /// No value.
    Void,
}

impl Header {
    /// What it takes of a frame, about.
    fn bytes(&self) -> usize {
        match self {
            Header::Text(text) => text.len() + 5,
            Header::Octets(bytes) | Header::Bytes(bytes) => bytes.len() + 5,
            Header::Int(_) | Header::Double(_) | Header::Seconds(_) => 9,
            Header::Float(_) => 5,
            Header::Decimal { .. } => 6,
            Header::Bool(_) => 2,
            Header::List(list) => 5 + list.iter().map(Header::bytes).sum::<usize>(),
            Header::Table(table) => {
                let entries = table
                    .iter()
                    .map(|(name, header)| header_bytes(name, header));
                5 + entries.sum::<usize>()
            }
            Header::Void => 1,
        }
    }

    /// What keeps a broker from giving it back, if something does.
    fn flaw(&self, depth: u32) -> Option<String> {
        let mut inner: Box<dyn Iterator<Item = &Header>> = match self {
            Header::List(list) => Box::new(list.iter()),
            Header::Table(table) => Box::new(table.values()),
            Header::Float(number) if !number.is_finite() => {
                return Some(format!("is {number}, which RabbitMQ cannot read"));
            }
            Header::Double(number) if !number.is_finite() => {
                return Some(format!("is {number}, which RabbitMQ cannot read"));
            }
            _ => return None,
        };
        match depth.checked_sub(1) {
            None => Some(format!("lies more than {HEADER_DEPTH_MAX} deep")),
            Some(depth) => inner.find_map(|header| header.flaw(depth)),
        }
    }
}

/// What a header takes of a frame, about.
pub(super) fn header_bytes(name: &str, header: &Header) -> usize {
    name.len() + 1 + header.bytes()
}

/// Whether every broker can keep these headers and give them back. RabbitMQ ends the connection over a number that is not finite.
pub(super) fn check_headers(message: &Message) -> Result<(), BrokerError> {
    for (name, header) in &message.headers {
        if let Some(flaw) = header.flaw(HEADER_DEPTH_MAX) {
            return Err(BrokerError::Invalid {
                detail: format!("its header '{name}' {flaw}"),
            });
        }
    }
    Ok(())
}
