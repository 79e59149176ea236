//! The proxies of the environment: `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, in capitals or not.

use std::env;

use leveret::nodes::Proxies;

/// The proxies of the environment. In a CGI script, `HTTP_PROXY` is what a client sent as the header `Proxy`, and is not read.
pub(crate) fn of_environment() -> Proxies {
    let is_script = env::var_os("REQUEST_METHOD").is_some();
    Proxies {
        http: first(["HTTP_PROXY", "http_proxy"]).filter(|_| !is_script),
        https: first(["HTTPS_PROXY", "https_proxy"]),
        all: first(["ALL_PROXY", "all_proxy"]),
        none_for: first(["NO_PROXY", "no_proxy"]),
    }
}

/// Whether `NO_PROXY` says that nothing is asked through a proxy, which clients take for names only.
pub(crate) fn are_off() -> bool {
    let none_for = of_environment().none_for.unwrap_or_default();
    none_for.split(',').any(|entry| entry.trim() == "*")
}

fn first(names: [&str; 2]) -> Option<String> {
    let values = names.into_iter().filter_map(|name| env::var(name).ok());
    values.into_iter().find(|value| !value.is_empty())
}
