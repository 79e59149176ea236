//! The signature of Mercado Pago's webhooks: `x-signature: ts=…,v1=…`, where `v1` is the HMAC-SHA256 over
//! `id:{data.id};request-id:{x-request-id};ts:{ts};` in hexadecimal digits.

use std::fmt::Write as _;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

fn mac(secret: &str, id: &str, request_id: &str, ts: &str) -> Hmac<Sha256> {
    let mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes());
    let mut mac = mac.expect("a key has any length");
    mac.update(format!("id:{id};request-id:{request_id};ts:{ts};").as_bytes());
    mac
}

/// The `v1` of a webhook.
pub(crate) fn sign(secret: &str, id: &str, request_id: &str, ts: &str) -> String {
    let digest = mac(secret, id, request_id, ts).finalize().into_bytes();
    digest.iter().fold(String::new(), |mut digits, byte| {
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}

/// Whether a header signs a webhook. The comparison takes the same time whatever differs.
pub(crate) fn is_signed(secret: &str, id: &str, request_id: &str, header: &str) -> bool {
    let part = |name: &str| {
        let mut parts = header.split(',').filter_map(|part| part.split_once('='));
        let found = parts.find(|(known, _)| known.trim() == name);
        found.map(|(_, value)| value.trim())
    };
    let (Some(ts), Some(v1)) = (part("ts"), part("v1").and_then(unhex)) else {
        return false;
    };
    mac(secret, id, request_id, ts).verify_slice(&v1).is_ok()
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    if !digits.len().is_multiple_of(2) || !digits.is_ascii() {
        return None;
    }
    let pairs = (0..digits.len()).step_by(2);
    pairs
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `printf 'id:123;request-id:r-1;ts:1700000000;' | openssl dgst -sha256 -hmac s3cret` has it.
    const V1: &str = "c6b22b9805828918cf4102925421ba4c97560e292f805df80615d7b81f5d3ddd";

    #[test]
    fn signed() {
        assert_eq!(sign("s3cret", "123", "r-1", "1700000000"), V1);
        let check = |header: &str, expected| {
            assert_eq!(
                is_signed("s3cret", "123", "r-1", header),
                expected,
                "{header}"
            );
        };
        check(&format!("ts=1700000000,v1={V1}"), true);
        check(&format!("ts=1700000000, v1={V1}"), true);
        check(&format!("v1={V1},ts=1700000000"), true);
        check(&format!("ts=1700000000,v1={}", V1.to_uppercase()), true);
        check(&format!("ts=1700000001,v1={V1}"), false);
        check(&format!("ts=1700000000,v1={}", &V1[2..]), false);
        check(&format!("ts=1700000000,v1={}", &V1[1..]), false);
        check(&format!("v1={V1}"), false);
        check("ts=1700000000", false);
        check("ts=1700000000,v1=", false);
        check("ts=1700000000,v1=é", false);
        check("", false);
        let header = format!("ts=1700000000,v1={V1}");
        assert!(!is_signed("s3cret", "124", "r-1", &header));
        assert!(!is_signed("s3cret", "123", "r-2", &header));
        assert!(!is_signed("other", "123", "r-1", &header));
    }
}
