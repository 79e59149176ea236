//! Snapshots on the wire: the file as the body, what it is in the headers.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use leveret_core::broadcast::Position;
use reqwest::{Response, header::HeaderMap};
use sha2::{Digest, Sha256};
use tokio::{fs::File, io::AsyncWriteExt};

use crate::broadcast::{link::LinkError, replica::Snapshot};

pub(super) const EPOCH: &str = "x-leveret-epoch";
pub(super) const SEQ: &str = "x-leveret-seq";
pub(super) const CLUSTER: &str = "x-leveret-cluster";
pub(super) const DIGEST: &str = "x-leveret-sha256";
/// The length; a header of our own, since a body of unknown length has no other.
pub(super) const SIZE: &str = "x-leveret-bytes";

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// A digest from its text.
pub(super) fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).ok()?;
    }
    Some(bytes)
}

/// Writes the body to a file in the directory, and compares length and digest. A file that does not match is removed.
pub(super) async fn receive(response: Response, into: PathBuf) -> Result<Snapshot, LinkError> {
    let mut snapshot = announced(response.headers())?;
    let name = format!("snapshot-{}.part", uuid::Uuid::now_v7());
    snapshot.path = into.join(name);
    let result = copy(response, &snapshot).await;
    if let Err(error) = result {
        // Nothing more can be done about a file that cannot be removed either.
        drop(tokio::fs::remove_file(&snapshot.path).await);
        return Err(error);
    }
    Ok(snapshot)
}

async fn copy(mut response: Response, snapshot: &Snapshot) -> Result<(), LinkError> {
    let at = |error: std::io::Error| unavailable(&snapshot.path, &error);
    let mut file = File::create(&snapshot.path).await.map_err(at)?;
    let mut digest = Sha256::new();
    let mut size_bytes = 0;
    loop {
        let piece = response.chunk().await;
        let piece = piece.map_err(|error| LinkError::Unavailable {
            detail: format!("the snapshot was cut: {error}"),
        })?;
        let Some(piece) = piece else { break };
        size_bytes += piece.len() as u64;
        digest.update(&piece);
        file.write_all(&piece).await.map_err(at)?;
    }
    file.sync_all().await.map_err(at)?;
    if size_bytes != snapshot.size_bytes || <[u8; 32]>::from(digest.finalize()) != snapshot.digest {
        return Err(LinkError::Unavailable {
            detail: "the snapshot was damaged on its way".to_owned(),
        });
    }
    Ok(())
}

fn unavailable(path: &Path, error: &std::io::Error) -> LinkError {
    LinkError::Unavailable {
        detail: format!("{}: {error}", path.display()),
    }
}

fn announced(headers: &HeaderMap) -> Result<Snapshot, LinkError> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let number = |name| text(name).and_then(|text| text.parse::<u64>().ok());
    let read = || {
        Some(Snapshot {
            path: PathBuf::new(),
            position: Position {
                epoch: number(EPOCH)?,
                seq: number(SEQ)?,
            },
            cluster: text(CLUSTER).map(Arc::from),
            digest: unhex(text(DIGEST)?)?,
            size_bytes: number(SIZE)?,
        })
    };
    read().ok_or_else(|| LinkError::Refused {
        detail: "the answer does not say what the snapshot is".to_owned(),
    })
}
