//! Asks a broker for its version: the first frame it sends, before any login, tells its properties.

use std::{io, pin::Pin};

use futures_util::{AsyncReadExt, AsyncWriteExt};
use lapin::{
    protocol::{AMQPClass, connection::AMQPMethod, parse_class},
    tcp::AMQPUriTcpExt,
    types::{AMQPValue, FieldTable},
};
use tokio::time::timeout;

use super::link::Target;
use crate::broker::BrokerError;

const GREETING: &[u8] = b"AMQP\x00\x00\x09\x01";
const FRAME_HEADER_BYTES: usize = 7;
/// The properties of a broker take a few hundred bytes.
const FRAME_BYTES_MAX: usize = 64 * 1024;

/// Connects as far as the greeting, and reads the version from it.
pub(super) async fn ask(target: &Target) -> Result<String, BrokerError> {
    let unavailable = |detail: String| BrokerError::Unavailable { detail };
    let frame = timeout(target.connect_timeout, greet(target))
        .await
        .map_err(|_| unavailable("the broker does not greet".to_owned()))?
        .map_err(|error| unavailable(error.to_string()))?;
    version_of(&frame).ok_or_else(|| unavailable("the broker does not tell its version".to_owned()))
}

/// The payload of the first frame.
async fn greet(target: &Target) -> lapin::Result<Vec<u8>> {
    let runtime = lapin::runtime::default_runtime()?;
    let tls = target.tls.as_ref();
    let mut stream = target.uri.connect_with_config_async(tls, &runtime).await?;
    let mut stream = Pin::new(&mut stream);
    stream.write_all(GREETING).await?;
    stream.flush().await?;
    let mut header = [0; FRAME_HEADER_BYTES];
    stream.read_exact(&mut header).await?;
    let size = u32::from_be_bytes([header[3], header[4], header[5], header[6]]) as usize;
    if size > FRAME_BYTES_MAX {
        return Err(io::Error::from(io::ErrorKind::InvalidData).into());
    }
    let mut payload = vec![0; size];
    stream.read_exact(&mut payload).await?;
    Ok(payload)
}

fn version_of(payload: &[u8]) -> Option<String> {
    let (_, class) = parse_class(payload).ok()?;
    let AMQPClass::Connection(AMQPMethod::Start(start)) = class else {
        return None;
    };
    text(&start.server_properties, "version")
}

fn text(properties: &FieldTable, name: &str) -> Option<String> {
    match properties.inner().get(name)? {
        AMQPValue::LongString(text) => Some(text.to_string()),
        _ => None,
    }
}
