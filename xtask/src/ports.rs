//! Free TCP ports.
//!
//! They lie below the range that systems take for outgoing connections (32768 on Linux, 49152 elsewhere): while
//! a test has a server stopped, no client's own port, not even that of the client which tries to reconnect,
//! can take the server's place.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Result, bail};

const FIRST: u16 = 15_000;
const LAST: u16 = 31_999;

/// `count` different ports of 127.0.0.1 on which nothing listens now.
pub(crate) fn free(count: usize) -> Result<Vec<u16>> {
    let mut held = Vec::new();
    for _ in 0..2_000 {
        if held.len() == count {
            // All are held until all are found, so that they differ.
            return Ok(held.into_iter().map(|(port, _)| port).collect());
        }
        let port = fastrand::u16(FIRST..=LAST);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok();
        held.extend(listener.map(|listener| (port, listener)));
    }
    bail!("no {count} free ports between {FIRST} and {LAST}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    /// A hundred at once are all different; none are none.
    #[test]
    fn ports_differ() {
        assert!(super::free(0).unwrap().is_empty());
        let ports = super::free(100).unwrap();
        assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), 100);
    }
}
