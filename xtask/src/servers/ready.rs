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
    first_byte(port, hello(kind)).is_some_and(|byte| byte == welcome(kind))
}

/// What a client says first.
fn hello(kind: Kind) -> &'static [u8] {
    match kind {
        Kind::RabbitMq => b"AMQP\x00\x00\x09\x01",
        // The length, protocol 3.0, the parameters; each text ends with a zero.
        Kind::Postgres => b"\x00\x00\x00\x29\x00\x03\x00\x00user\0postgres\0database\0postgres\0\0",
        Kind::Redis => b"PING\r\n",
    }
}

/// The first byte of a server that is ready.
fn welcome(kind: Kind) -> u8 {
    match kind {
        // A method frame: connection.start.
        Kind::RabbitMq => 1,
        // Authentication, where `E` would be an error.
        Kind::Postgres => b'R',
        // `+PONG`, where `-` would be an error.
        Kind::Redis => b'+',
    }
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

    /// The message says its own length, itself included.
    #[test]
    fn the_postgres_greeting_has_its_length() {
        let hello = hello(Kind::Postgres);
        assert_eq!(hello.len(), usize::from(hello[3]));
    }
}
