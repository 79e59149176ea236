//! What handlers take from a request, each bounded and refused with a problem.

use axum::{
    body::{Body, Bytes},
    extract::{FromRequestParts, Path, Query},
    http::{HeaderMap, header, request::Parts},
};
use bytes::BytesMut;
use futures_util::StreamExt;
use leveret_core::ids::{IdError, RunId};
use serde::de::DeserializeOwned;

use super::{ApiOptions, problem::Problem};

/// An id from the path.
pub(super) struct Id<T>(pub(super) T);

impl<S, T> FromRequestParts<S> for Id<T>
where
    S: Send + Sync,
    T: TryFrom<String, Error = IdError>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(text) = Path::<String>::from_request_parts(parts, state).await?;
        Ok(Id(T::try_from(text)?))
    }
}

/// The query, by its fields.
pub(super) struct Params<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let Query(query) = Query::try_from_uri(&parts.uri)?;
        Ok(Params(query))
    }
}

/// That there is no query, in the place of [`Params`] where none means anything.
pub(super) struct NoQuery;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

impl<S: Send + Sync> FromRequestParts<S> for NoQuery {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Params(Nothing {}) = Params::from_request_parts(parts, state).await?;
        Ok(NoQuery)
    }
}

/// Reads a body to its end, within the bounds on size and time.
pub(super) async fn read_body(
    headers: &HeaderMap,
    body: Body,
    options: &ApiOptions,
) -> Result<Bytes, Problem> {
    let mut codings = headers.get_all(header::CONTENT_ENCODING).iter();
    if codings.any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(Problem::content_encoding());
    }
    let bytes_max = options.body_bytes_max;
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|bytes| bytes > bytes_max as u64) {
        return Err(Problem::body_too_large(bytes_max));
    }
    tokio::time::timeout(options.body_timeout, collect(body, bytes_max))
        .await
        .map_err(|_| Problem::body_timeout())?
}

/// A body that came in one piece, as most do, is not copied.
async fn collect(body: Body, bytes_max: usize) -> Result<Bytes, Problem> {
    let mut pieces = body.into_data_stream();
    let mut first = Bytes::new();
    let mut whole = BytesMut::new();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|_| Problem::body_cut())?;
        if first.len().max(whole.len()) + piece.len() > bytes_max {
            return Err(Problem::body_too_large(bytes_max));
        }
        if first.is_empty() {
            first = piece;
            continue;
        }
        if whole.is_empty() {
            whole.extend_from_slice(&first);
        }
        whole.extend_from_slice(&piece);
    }
    Ok(if whole.is_empty() {
        first
    } else {
        whole.freeze()
    })
}

/// The media type of the body, in lower case and without parameters; `None` when the client does not say.
pub(super) fn media_type(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return Ok(None);
    };
    let text = value
        .to_str()
        .map_err(|_| Problem::bad_request("the header Content-Type is not text"))?;
    let essence = text.split(';').next().unwrap_or_default().trim();
    Ok((!essence.is_empty()).then(|| essence.to_ascii_lowercase()))
}

pub(super) fn is_json(media_type: &str) -> bool {
    media_type == "application/json"
        || (media_type.starts_with("application/") && media_type.ends_with("+json"))
}

/// The longest idempotency key, in bytes.
const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;

/// The client's own name of a request that may be repeated.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<&[u8]>, Problem> {
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() || value.is_empty() || value.len() > IDEMPOTENCY_KEY_BYTES_MAX {
        let detail =
            format!("there is one Idempotency-Key, of 1 to {IDEMPOTENCY_KEY_BYTES_MAX} bytes");
        return Err(Problem::bad_request(detail));
    }
    Ok(Some(value.as_bytes()))
}

/// A run id in a body or query.
pub(super) fn run_id(text: Option<String>) -> Result<Option<RunId>, Problem> {
    Ok(text.map(RunId::new).transpose()?)
}
