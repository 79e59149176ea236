//! The clients: one for all requests, and one more for each private certificate authority. Connections are reused.

use std::{
    error::Error,
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use reqwest::{
    Certificate, Client, NoProxy, Proxy,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect,
};

use super::{
    failure::chain,
    reach::{Reach, Refused},
};
use crate::{nodes::NodeError, redact_url};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Certificate authorities whose clients are kept; one more takes the place of the first.
const CLIENTS_MAX: usize = 16;

/// What `http` nodes use. The default asks everything but metadata addresses, without proxies.
#[derive(Clone, Debug, Default)]
pub struct HttpOptions {
    /// Which hosts and addresses may be asked. Of what a proxy resolves only the name is known.
    pub reach: Reach,
    /// The proxies.
    pub proxies: Proxies,
}

/// Proxies by the scheme of what is asked, as the variables `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` say them.
#[derive(Clone, Default)]
pub struct Proxies {
    /// For `http://`.
    pub http: Option<String>,
    /// For `https://`.
    pub https: Option<String>,
    /// For what has none of its own.
    pub all: Option<String>,
    /// What is asked without a proxy: names, which stand for all below them too, addresses and ranges, with commas between; `*` is everything.
    pub none_for: Option<String>,
}

impl fmt::Debug for Proxies {
    /// Without passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |url: &Option<String>| url.as_deref().map(redact_url);
        f.debug_struct("Proxies")
            .field("http", &shown(&self.http))
            .field("https", &shown(&self.https))
            .field("all", &shown(&self.all))
            .field("none_for", &self.none_for)
            .finish()
    }
}

/// A proxy's URL that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{url}' is no URL of a proxy; say 'http://proxy.example:3128'")]
pub struct ProxyError {
    url: String,
}

impl Proxies {
    /// The rules, in the order in which they are asked.
    fn rules(&self) -> Result<Vec<Proxy>, ProxyError> {
        let none_for = self.none_for.as_deref().unwrap_or_default();
        // The client takes `*` for all names, but not for addresses.
        if none_for.split(',').any(|entry| entry.trim() == "*") {
            return Ok(Vec::new());
        }
        let rule = |url: &Option<String>, make: fn(&str) -> reqwest::Result<Proxy>| {
            let url = url.as_deref().filter(|url| !url.trim().is_empty())?;
            let rule = make(url).map_err(|_| ProxyError {
                url: redact_url(url),
            });
            Some(rule.map(|rule| rule.no_proxy(NoProxy::from_string(none_for))))
        };
        let rules = [
            rule(&self.http, |url| Proxy::http(url)),
            rule(&self.https, |url| Proxy::https(url)),
            rule(&self.all, |url| Proxy::all(url)),
        ];
        rules.into_iter().flatten().collect()
    }

    /// The hosts of the proxies themselves: who may be asked through them is decided by the name of that.
    fn hosts(&self) -> Vec<String> {
        let urls = [&self.http, &self.https, &self.all].into_iter().flatten();
        let hosts = urls.filter_map(|url| {
            let url =
                reqwest::Url::parse(url).or_else(|_| reqwest::Url::parse(&format!("http://{url}")));
            Some(url.ok()?.host_str()?.to_owned())
        });
        hosts.collect()
    }
}

/// All clients of a worker.
pub(super) struct Clients {
    pub(super) reach: Arc<Reach>,
    proxies: Vec<Proxy>,
    proxy_hosts: Arc<[String]>,
    /// By the certificate authority beside those of the system.
    made: Mutex<Vec<(Option<String>, Client)>>,
}

impl Clients {
    pub(super) fn new(options: HttpOptions) -> Result<Clients, ProxyError> {
        Ok(Clients {
            reach: Arc::new(options.reach),
            proxies: options.proxies.rules()?,
            proxy_hosts: options.proxies.hosts().into(),
            made: Mutex::default(),
        })
    }

    /// The client that trusts this certificate authority beside those of the system.
    pub(super) fn get(&self, ca: Option<&str>) -> Result<Client, NodeError> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, client)) = made.iter().find(|(of, _)| of.as_deref() == ca) {
            return Ok(client.clone());
        }
        let client = self.make(ca)?;
        if made.len() >= CLIENTS_MAX {
            let oldest = made.iter().position(|(of, _)| of.is_some());
            made.remove(oldest.unwrap_or_default());
        }
        made.push((ca.map(str::to_owned), client.clone()));
        Ok(client)
    }

    fn make(&self, ca: Option<&str>) -> Result<Client, NodeError> {
        crate::tls::install_provider();
        let resolver = Guarded {
            reach: self.reach.clone(),
            proxy_hosts: self.proxy_hosts.clone(),
        };
        let mut builder = Client::builder()
            .user_agent(concat!("leveret/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(redirect::Policy::none())
            .referer(false)
            .dns_resolver(Arc::new(resolver))
            .no_proxy();
        for proxy in &self.proxies {
            builder = builder.proxy(proxy.clone());
        }
        if let Some(ca) = ca {
            let certificates = certificates(ca).map_err(NodeError::permanent)?;
            builder = builder.tls_certs_merge(certificates);
        }
        let client = builder.build();
        client.map_err(|error| NodeError::permanent(format!("HTTP client: {}", chain(&error))))
    }
}

/// The certificates of a text in PEM: one at least.
pub(super) fn certificates(pem: &str) -> Result<Vec<Certificate>, String> {
    let certificates = Certificate::from_pem_bundle(pem.as_bytes()).unwrap_or_default();
    if certificates.is_empty() {
        return Err("parameter 'ca' has no certificate in PEM".to_owned());
    }
    Ok(certificates)
}

/// Resolves names to those of their addresses that may be asked.
struct Guarded {
    reach: Arc<Reach>,
    proxy_hosts: Arc<[String]>,
}

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let (reach, proxy_hosts) = (self.reach.clone(), self.proxy_hosts.clone());
        Box::pin(async move {
            let name = name.as_str();
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name, 0)).await?.collect();
            if proxy_hosts.iter().any(|host| host == name) {
                return Ok(Box::new(found.into_iter()) as Addrs);
            }
            let mut allowed = Vec::new();
            let mut refused: Option<Refused> = None;
            for address in found {
                match reach.address(name, address.ip()) {
                    Ok(()) => allowed.push(address),
                    Err(why) => refused = Some(why),
                }
            }
            match refused {
                Some(why) if allowed.is_empty() => {
                    Err(Box::new(why) as Box<dyn Error + Send + Sync>)
                }
                _ => Ok(Box::new(allowed.into_iter()) as Addrs),
            }
        })
    }
}
