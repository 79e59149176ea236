//! Whether a server answers, asked in a few bytes of its own protocol.
//!
//! An open port alone is not enough: PostgreSQL refuses sessions while it recovers, Redis while it loads.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use super::Kind;

const PATIENCE: Duration = Duration::from_secs(2);

/// True when a client would be served now.
pub(crate) fn answers(kind: Kind, port: u16) -> bool {
    first_byte(port, hello(kind))
        .is_some_and(|byte| welcome(kind).is_none_or(|welcome| byte == welcome))
}

/// What a client says first.
fn hello(kind: Kind) -> &'static [u8] {
    match kind {
        Kind::RabbitMq => b"AMQP\x00\x00\x09\x01",
        // The length, protocol 3.0, the parameters; each text ends with a zero.
        Kind::Postgres => b"\x00\x00\x00\x29\x00\x03\x00\x00user\0postgres\0database\0postgres\0\0",
        Kind::Redis => b"PING\r\n",
        // The length, a number, no answer to another, OP_MSG, no flags, one document: `{ ping: 1, $db: "admin" }`.
        Kind::MongoDb => {
            b"\x33\0\0\0\x01\0\0\0\0\0\0\0\xdd\x07\0\0\0\0\0\0\0\
              \x1e\0\0\0\x10ping\0\x01\0\0\0\x02$db\0\x06\0\0\0admin\0\0"
        }
    }
}

/// The first byte of a server that is ready, where others begin otherwise.
fn welcome(kind: Kind) -> Option<u8> {
    let byte = match kind {
        // A method frame: connection.start.
        Kind::RabbitMq => 1,
        // Authentication, where `E` would be an error.
        Kind::Postgres => b'R',
        // `+PONG`, where `-` would be an error.
        Kind::Redis => b'+',
        // Any answer will do.
        Kind::MongoDb => return None,
    };
    Some(byte)
}

fn first_byte(port: u16, hello: &[u8]) -> Option<u8> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(hello).ok()?;
    let mut byte = [0];
    stream.read_exact(&mut byte).ok()?;
    Some(byte[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Messages say their own length, itself included.
    #[test]
    fn greetings_have_their_length() {
        let postgres = hello(Kind::Postgres);
        assert_eq!(postgres.len(), usize::from(postgres[3]));
        let mongodb = hello(Kind::MongoDb);
        assert_eq!(mongodb.len(), usize::from(mongodb[0]));
        assert_eq!(mongodb[21..].len(), usize::from(mongodb[21]));
    }
}
