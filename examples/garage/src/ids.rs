//! Ids: uuids of work orders, quotes, payments, executions, parts and services; whole numbers of customers and vehicles.

use std::fmt;

use leveret::core::event::is_uuid;
use serde::{Deserialize, Deserializer, Serialize, de::Error};
use uuid::Uuid;

/// A uuid, in small letters.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub(crate) struct Id(String);

/// Names what is made of something else. It is in stored ids: it never changes.
const DERIVED: Uuid = Uuid::from_u128(0x8f2c_41d6_0b7e_4c19_9d35_e1a4_7760_b3c2);

impl Id {
    /// A new one, later than those before it.
    pub(crate) fn new() -> Id {
        Id(Uuid::now_v7().to_string())
    }

    /// The one that these words always make.
    pub(crate) fn derived(words: &[&str]) -> Id {
        let name = serde_json::to_vec(words).expect("words print as JSON");
        Id(Uuid::new_v5(&DERIVED, &name).to_string())
    }

    /// Reads one.
    pub(crate) fn parse(text: &str) -> Option<Id> {
        is_uuid(text).then(|| Id(text.to_ascii_lowercase()))
    }

    /// As text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Id, D::Error> {
        let text = String::deserialize(deserializer)?;
        Id::parse(&text).ok_or_else(|| D::Error::custom("is no uuid"))
    }
}
