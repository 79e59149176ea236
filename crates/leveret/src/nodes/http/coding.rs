//! Content codings: what a response's `content-encoding` did to its body is undone, within a bound.

use std::io::Read;

use brotli_decompressor::Decompressor;
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};

/// More codings on top of each other are taken for an attack.
const CODINGS_MAX: usize = 3;
const BROTLI_BUFFER_BYTES: usize = 4096;

/// Why a body cannot be had as it was before its codings.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// A coding that was not asked for.
    Unknown(String),
    /// The body is not what the coding makes, or ends too early.
    Broken(String),
    /// It is longer than the bound.
    TooLong,
}

/// Undoes the codings, which the header names in the order in which they were applied. With a fault comes what there is until then.
pub(super) fn decode(
    mut body: Vec<u8>,
    codings: &str,
    bytes_max: usize,
) -> Result<Vec<u8>, (Vec<u8>, Fault)> {
    let names = codings
        .split(',')
        .map(|name| name.trim().to_ascii_lowercase());
    let names: Vec<String> = names
        .filter(|name| !name.is_empty() && name != "identity")
        .collect();
    // An answer to HEAD tells of codings, and has no body.
    if body.is_empty() {
        return Ok(body);
    }
    if names.len() > CODINGS_MAX {
        return Err((body, Fault::Unknown(codings.to_owned())));
    }
    for name in names.into_iter().rev() {
        body = undo(body, name, bytes_max)?;
    }
    Ok(body)
}

fn undo(body: Vec<u8>, name: String, bytes_max: usize) -> Result<Vec<u8>, (Vec<u8>, Fault)> {
    let mut undone: Box<dyn Read + '_> = match &*name {
        "gzip" | "x-gzip" => Box::new(MultiGzDecoder::new(&*body)),
        "br" => Box::new(Decompressor::new(&*body, BROTLI_BUFFER_BYTES)),
        // With the header of zlib by the standard, without it by some servers.
        "deflate" if is_zlib(&body) => Box::new(ZlibDecoder::new(&*body)),
        "deflate" => Box::new(DeflateDecoder::new(&*body)),
        _ => return Err((body, Fault::Unknown(name))),
    };
    let mut decoded = Vec::new();
    let limit = bytes_max as u64 + 1;
    let read = undone.by_ref().take(limit).read_to_end(&mut decoded);
    if read.is_err() {
        return Err((decoded, Fault::Broken(name)));
    }
    if decoded.len() > bytes_max {
        return Err((decoded, Fault::TooLong));
    }
    Ok(decoded)
}

/// Whether a body begins with the two bytes of zlib (RFC 1950).
fn is_zlib(body: &[u8]) -> bool {
    match *body {
        [cmf, flags, ..] => cmf & 0x0f == 8 && u16::from_be_bytes([cmf, flags]).is_multiple_of(31),
        _ => false,
    }
}
