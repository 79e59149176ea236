//! Which hosts and addresses steps may ask: a pure decision.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Which hosts and addresses the steps of a worker may ask.
///
/// Both lists take host names (`api.example.com`, `*.example.com` for all below), addresses (`10.1.2.3`, `::1`) and ranges (`10.0.0.0/8`).
/// What `deny` names is refused. If `allow` has entries, all that it does not name is refused. By default everything can be asked but the
/// addresses at which clouds hand out the credentials of the machine: those are refused unless `allow` names them by an address, or by a range of
/// nothing but such.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    allow: Vec<Entry>,
    deny: Vec<Entry>,
}

/// A text that is no host, no address and no range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{text}' is no host name, address or range; say 'api.example.com', '*.example.com', '10.1.2.3' or '10.0.0.0/8'"
)]
pub struct ReachError {
    text: String,
}

/// Why a host is not asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("{0} is refused by http_deny")]
    Denied(String),
    #[error("{0} is not among what http_allow names")]
    NotAllowed(String),
    #[error("{0} hands out the machine's credentials, and http_allow does not name its address")]
    Metadata(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    Host(String),
    /// All hosts that end in this, which begins with a dot.
    Below(String),
    Range(Range),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    address: IpAddr,
    bits: u32,
}

const fn v4(address: [u8; 4], bits: u32) -> Range {
    let [a, b, c, d] = address;
    let address = IpAddr::V4(Ipv4Addr::new(a, b, c, d));
    Range { address, bits }
}

const fn v6(high: [u16; 2], bits: u32) -> Range {
    let address = Ipv6Addr::new(high[0], high[1], 0, 0, 0, 0, 0, 0);
    let address = IpAddr::V6(address);
    Range { address, bits }
}

/// Link-local addresses of both kinds, and what AWS, Google, Azure, Alibaba and Oracle use beside them.
const METADATA: [Range; 7] = [
    v4([169, 254, 0, 0], 16),
    v6([0xfe80, 0], 10),
    v6([0xfd00, 0xec2], 32),
    v6([0xfd20, 0xce], 32),
    v4([168, 63, 129, 16], 32),
    v4([100, 100, 100, 200], 32),
    v4([192, 0, 0, 192], 32),
];

/// Their names, for when a proxy resolves them.
const METADATA_NAMES: [&str; 3] = ["metadata.google.internal", "metadata.goog", "instance-data"];

impl Reach {
    /// Reads both lists. Fails at an entry that is none.
    pub fn new<S: AsRef<str>>(allow: &[S], deny: &[S]) -> Result<Reach, ReachError> {
        let read = |texts: &[S]| -> Result<Vec<Entry>, ReachError> {
            texts
                .iter()
                .map(|text| Entry::read(text.as_ref()))
                .collect()
        };
        Ok(Reach {
            allow: read(allow)?,
            deny: read(deny)?,
        })
    }

    /// Whether a host may be asked, by what its URL says; of a name's address more is known once it is resolved: [`address`](Self::address).
    pub(super) fn host(&self, host: &str) -> Result<(), Refused> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = bare.parse() {
            return self.decide(None, Some(address));
        }
        self.decide(Some(&plain(host)), None)
    }

    /// Whether an address may be asked that a name has.
    pub(super) fn address(&self, name: &str, address: IpAddr) -> Result<(), Refused> {
        self.decide(Some(&plain(name)), Some(address))
    }

    fn decide(&self, name: Option<&str>, address: Option<IpAddr>) -> Result<(), Refused> {
        let told = || match (name, address) {
            (Some(name), Some(address)) => format!("{name} ({address})"),
            (Some(name), None) => name.to_owned(),
            (None, address) => address
                .map(|address| address.to_string())
                .unwrap_or_default(),
        };
        let named_by = |entries: &[Entry]| entries.iter().any(|entry| entry.names(name, address));
        if named_by(&self.deny) {
            return Err(Refused::Denied(told()));
        }
        if self.is_metadata(name, address) {
            return Err(Refused::Metadata(told()));
        }
        let may_be_named = address.is_none() && self.allow.iter().any(Entry::is_range);
        if self.allow.is_empty() || named_by(&self.allow) || may_be_named {
            return Ok(());
        }
        Err(Refused::NotAllowed(told()))
    }

    /// Whether it hands out credentials and is not allowed by a narrow entry.
    fn is_metadata(&self, name: Option<&str>, address: Option<IpAddr>) -> bool {
        let is_metadata = |range: &Range| METADATA.iter().any(|known| known.contains(*range));
        let narrow = |entry: &Entry| match entry {
            Entry::Range(range) => is_metadata(range) && entry.names(None, address),
            Entry::Host(host) => address.is_none() && METADATA_NAMES.contains(&&**host),
            Entry::Below(_) => false,
        };
        let by_address =
            address.is_some_and(|address| METADATA.iter().any(|range| range.has(address)));
        let by_name = address.is_none() && name.is_some_and(|name| METADATA_NAMES.contains(&name));
        (by_address || by_name) && !self.allow.iter().any(narrow)
    }
}

/// A host name in lower case, without the dot that may end it.
fn plain(host: &str) -> String {
    host.trim_end_matches('.').to_ascii_lowercase()
}

impl Entry {
    fn read(text: &str) -> Result<Entry, ReachError> {
        let error = || ReachError {
            text: text.to_owned(),
        };
        let trimmed = text.trim();
        if let Some((address, bits)) = trimmed.split_once('/') {
            let address: IpAddr = address.parse().map_err(|_| error())?;
            let bits: u32 = bits.parse().map_err(|_| error())?;
            let bits_max = if address.is_ipv4() { 32 } else { 128 };
            let range = (bits <= bits_max).then_some(Range { address, bits });
            return range.map(Entry::Range).ok_or_else(error);
        }
        if let Ok(address) = trimmed.trim_matches(['[', ']']).parse::<IpAddr>() {
            let bits = if address.is_ipv4() { 32 } else { 128 };
            return Ok(Entry::Range(Range { address, bits }));
        }
        let (is_below, name) = match trimmed.strip_prefix("*.") {
            Some(name) => (true, plain(name)),
            None => (false, plain(trimmed)),
        };
        let is_name = |char: char| char.is_alphanumeric() || matches!(char, '-' | '_' | '.');
        if name.is_empty() || name.starts_with('.') || !name.chars().all(is_name) {
            return Err(error());
        }
        Ok(if is_below {
            Entry::Below(format!(".{name}"))
        } else {
            Entry::Host(name)
        })
    }

    fn is_range(&self) -> bool {
        matches!(self, Entry::Range(_))
    }

    fn names(&self, name: Option<&str>, address: Option<IpAddr>) -> bool {
        match self {
            Entry::Host(host) => name == Some(host),
            Entry::Below(end) => name.is_some_and(|name| name.ends_with(end)),
            Entry::Range(range) => address.is_some_and(|address| range.has(address)),
        }
    }
}

impl Range {
    /// Whether an address is in the range, as it is or as the IPv4 address that it stands for.
    fn has(self, address: IpAddr) -> bool {
        self.has_as_it_is(address) || embedded(address).is_some_and(|v4| self.has_as_it_is(v4))
    }

    fn has_as_it_is(self, address: IpAddr) -> bool {
        let same = |ours: u128, theirs: u128, width: u32| {
            let rest = width - self.bits;
            ours.checked_shr(rest) == theirs.checked_shr(rest)
        };
        match (self.address, address) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                same(ours.to_bits().into(), theirs.to_bits().into(), 32)
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => same(ours.to_bits(), theirs.to_bits(), 128),
            _ => false,
        }
    }

    fn contains(self, other: Range) -> bool {
        self.bits <= other.bits && self.has_as_it_is(other.address)
    }
}

/// The IPv4 address that an IPv6 address leads to: mapped (`::ffff:0:0/96`), compatible (`::/96`), or translated (`64:ff9b::/96`).
fn embedded(address: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(v6) = address else { return None };
    let [.., high, low] = v6.segments();
    let leads = matches!(
        v6.segments(),
        [0, 0, 0, 0, 0, 0 | 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..]
    );
    let bits = (u32::from(high) << 16) | u32::from(low);
    leads.then(|| IpAddr::V4(Ipv4Addr::from_bits(bits)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(allow: &[&str], deny: &[&str], cases: &[(&str, bool)]) {
        let reach = Reach::new(allow, deny).expect("entries");
        for (asked, expect) in cases {
            // `name=address`: a name that is resolved.
            let seen = match asked.split_once('=') {
                Some((name, address)) => reach.address(name, address.parse().expect("an address")),
                None => reach.host(asked),
            };
            assert_eq!(seen.is_ok(), *expect, "{asked}: {seen:?}");
        }
    }

    #[test]
    fn metadata_is_refused_by_default() {
        let metadata = [
            "169.254.169.254",
            "169.254.170.2",
            "[::ffff:169.254.169.254]",
            "[64:ff9b::a9fe:a9fe]",
            "[fd00:ec2::254]",
            "[fe80::a9fe:a9fe]",
            "100.100.100.200",
            "168.63.129.16",
            "metadata.google.internal",
            "Metadata.Google.Internal.",
            "innocent.example=169.254.169.254",
        ];
        check(&[], &[], &metadata.map(|asked| (asked, false)));
        check(
            &[],
            &[],
            &[
                ("127.0.0.1", true),
                ("[::1]", true),
                ("localhost=127.0.0.1", true),
                ("api.example.com", true),
                ("api.example.com=93.184.216.34", true),
            ],
        );
        // Everything is no name of it; itself is, and a part of it.
        check(
            &["0.0.0.0/0", "::/0", "*.example"],
            &[],
            &metadata.map(|asked| (asked, false)),
        );
        check(
            &["169.254.169.254", "10.0.0.0/8"],
            &[],
            &[
                ("169.254.169.254", true),
                ("x.example=169.254.169.254", true),
                ("169.254.170.2", false),
                ("metadata.google.internal=169.254.169.254", true),
            ],
        );
    }

    #[test]
    fn what_is_allowed_is_all_and_what_is_denied_is_out() {
        check(
            &["api.example.com", "*.corp", "10.0.0.0/8", "::1"],
            &["10.9.0.0/16", "evil.corp"],
            &[
                ("api.example.com", true),
                ("API.example.com.", true),
                ("api.example.com=1.2.3.4", true),
                ("a.b.corp=1.2.3.4", true),
                ("corp=1.2.3.4", false),
                ("evil.corp", false),
                ("evil.corp=10.1.1.1", false),
                // Its address decides.
                ("other.example", true),
                ("other.example=10.1.1.1", true),
                ("other.example=1.2.3.4", false),
                ("10.1.1.1", true),
                ("10.9.1.1", false),
                ("a.corp=10.9.1.1", false),
                ("[::1]", true),
                ("[::ffff:10.1.1.1]", true),
                ("1.2.3.4", false),
            ],
        );
        check(
            &["a.example"],
            &[],
            &[("b.example", false), ("1.2.3.4", false)],
        );
        check(
            &[],
            &["0.0.0.0/0"],
            &[("1.2.3.4", false), ("a.example", true)],
        );
    }

    #[test]
    fn what_is_no_entry_is_told() {
        for bad in [
            "",
            "http://x",
            "10.0.0.0/33",
            "10.0.0/8",
            "::/129",
            "a b",
            "*",
            "*.",
            "a/8",
            "x:80",
        ] {
            assert!(Reach::new(&[bad], &[]).is_err(), "{bad}");
        }
    }
}
