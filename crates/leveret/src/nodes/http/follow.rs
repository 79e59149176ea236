//! Redirects: followed by ourselves, since what goes along is for us to say.

use bytes::Bytes;
use reqwest::{
    Client, Method, Response, StatusCode, Url,
    header::{HeaderMap, LOCATION},
};

use super::{
    failure::{of_refused, of_transport, origin},
    headers::{is_of_body, is_safe},
    params::Params,
    reach::Reach,
};
use crate::nodes::NodeError;

/// One more is a circle.
const REDIRECTS_MAX: usize = 10;

/// A request that can be sent again elsewhere.
pub(super) struct Outgoing {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<Bytes>,
}

/// Sends a request, and again wherever redirects lead that the parameters do not name as results. Each place is one that may be asked; to
/// another origin no header goes along but those without secrets. Gives the last response, and whose it is.
pub(super) async fn send(
    client: &Client,
    reach: &Reach,
    mut request: Outgoing,
    params: &Params,
) -> Result<(Response, Url), NodeError> {
    for _ in 0..=REDIRECTS_MAX {
        let host = request.url.host_str().unwrap_or_default();
        reach.host(host).map_err(|refused| of_refused(&refused))?;
        let mut sent = client
            .request(request.method.clone(), request.url.clone())
            .headers(request.headers.clone());
        if let Some(body) = &request.body {
            sent = sent.body(body.clone());
        }
        let response = sent.send().await;
        let response = response.map_err(|error| of_transport(error, &request.url))?;
        match target(&response, &request.url, params) {
            Some(url) => request.turn_to(url, response.status()),
            None => return Ok((response, request.url)),
        }
    }
    let message = format!(
        "{} redirects more than {REDIRECTS_MAX} times",
        origin(&request.url)
    );
    Err(NodeError::permanent(message))
}

/// Where a response leads, if it is followed.
fn target(response: &Response, from: &Url, params: &Params) -> Option<Url> {
    let status = response.status();
    let leads = matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308);
    if !leads || params.names(status) {
        return None;
    }
    let location = response.headers().get(LOCATION)?;
    let url = from.join(str::from_utf8(location.as_bytes()).ok()?).ok()?;
    (matches!(url.scheme(), "http" | "https") && url.has_host()).then_some(url)
}

impl Outgoing {
    /// Changes as browsers do (the Fetch standard, "HTTP-redirect fetch"): after 303, and after 301 and 302 of a POST, it is a GET.
    fn turn_to(&mut self, mut url: Url, status: StatusCode) {
        let becomes_get = match status.as_u16() {
            301 | 302 => self.method == Method::POST,
            303 => self.method != Method::HEAD,
            _ => false,
        };
        if becomes_get {
            self.method = Method::GET;
            self.body = None;
            self.keep(|name| !is_of_body(name));
        }
        if url.origin() != self.url.origin() {
            self.keep(is_safe);
        }
        // Whoever redirects does not choose whom we are.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        self.url = url;
    }

    fn keep(&mut self, keeps: impl Fn(&reqwest::header::HeaderName) -> bool) {
        let names: Vec<_> = self.headers.keys().cloned().collect();
        for name in names.iter().filter(|name| !keeps(name)) {
            self.headers.remove(name);
        }
    }
}
