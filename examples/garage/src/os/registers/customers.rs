//! Customers.

use leveret::{
    core::time::Timestamp,
    service::{Change, Decider, Decision, Key, Refusal, View},
};
use serde::{Deserialize, Serialize};

use super::{
    CUSTOMER, CUSTOMER_DOCUMENT, Named, check_seen, made_before, normal, remember, request_key,
};
use crate::{
    failure::{CONFLICT, Failure, NOT_FOUND},
    request::{Keyed, check_text},
};

/// The longest name and e-mail address, in bytes.
const NAME_BYTES_MAX: usize = 500;
/// The longest document and telephone number, in bytes.
const NUMBER_BYTES_MAX: usize = 50;

/// What somebody is before the law.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum PersonType {
    Individual,
    Company,
}

/// A customer as he is shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Customer {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) person_type: PersonType,
    pub(crate) document: String,
    pub(crate) email: Option<String>,
    pub(crate) phone: String,
    /// Whether the garage works for him.
    pub(crate) status: bool,
    #[serde(with = "leveret::core::time::rfc_3339")]
    pub(crate) created_at: Timestamp,
    #[serde(with = "leveret::core::time::rfc_3339")]
    pub(crate) updated_at: Timestamp,
}

/// A customer as he is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StoredCustomer {
    pub(crate) customer: Customer,
    /// How many vehicles he has.
    pub(crate) vehicles: u64,
    /// How many work orders were ever opened for him.
    pub(crate) work_orders: u64,
}

impl StoredCustomer {
    /// This state of him.
    pub(crate) fn change(&self) -> Change {
        Change::set(customer_key(self.customer.id), self, [])
    }
}

/// The document of one.
pub(crate) fn customer_key(id: i64) -> Key {
    Key::new(CUSTOMER, id.to_string())
}

/// The index document of a customer's document.
pub(super) fn document_key(document: &str) -> Key {
    Key::new(CUSTOMER_DOCUMENT, normal(document))
}

/// A customer to be.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NewCustomer {
    pub(super) name: String,
    pub(super) person_type: PersonType,
    pub(super) document: String,
    #[serde(default)]
    pub(super) email: Option<String>,
    pub(super) phone: String,
}

/// What is to be changed of one.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CustomerChanges {
    name: Option<String>,
    email: Option<String>,
    phone: Option<String>,
    status: Option<bool>,
}

impl NewCustomer {
    pub(super) fn check(&self) -> Result<(), Failure> {
        check_text("document", &self.document, NUMBER_BYTES_MAX)?;
        if normal(&self.document).is_empty() {
            let message = "document has neither letters nor digits";
            return Err(Failure::bad_request(message));
        }
        check(Some(&self.name), self.email.as_deref(), Some(&self.phone))
    }
}

impl CustomerChanges {
    pub(super) fn check(&self) -> Result<(), Failure> {
        check(
            self.name.as_deref(),
            self.email.as_deref(),
            self.phone.as_deref(),
        )
    }
}

fn check(name: Option<&str>, email: Option<&str>, phone: Option<&str>) -> Result<(), Failure> {
    if let Some(name) = name {
        check_text("name", name, NAME_BYTES_MAX)?;
    }
    if let Some(phone) = phone {
        check_text("phone", phone, NUMBER_BYTES_MAX)?;
    }
    let Some(email) = email else { return Ok(()) };
    check_text("email", email, NAME_BYTES_MAX)?;
    let parts = email.split_once('@');
    let is_email = parts.is_some_and(|(local, domain)| {
        let has_dot = domain
            .split_once('.')
            .is_some_and(|(name, rest)| !name.is_empty() && !rest.is_empty());
        !local.is_empty() && has_dot && !domain.contains('@')
    });
    if !is_email || email.contains(|letter: char| letter.is_whitespace() || letter.is_control()) {
        return Err(Failure::bad_request("email must be an email"));
    }
    Ok(())
}

/// What is decided upon.
#[derive(Clone, Debug)]
pub(super) enum CustomerMessage {
    Add {
        id: i64,
        new: Box<NewCustomer>,
        keyed: Option<Keyed>,
    },
    Change {
        id: i64,
        changes: Box<CustomerChanges>,
    },
    /// It was looked whether anything needs him.
    Remove {
        id: i64,
        document: String,
        seen: u64,
    },
}

/// The decider. It answers with the number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Customers;

impl Decider for Customers {
    type Message = CustomerMessage;
    type Answer = i64;

    fn keys(&self, message: &CustomerMessage) -> Vec<Key> {
        match message {
            CustomerMessage::Add { id, new, keyed } => {
                let request = keyed.as_ref().map(|keyed| request_key(CUSTOMER, keyed));
                let keys = [customer_key(*id), document_key(&new.document)];
                keys.into_iter().chain(request).collect()
            }
            CustomerMessage::Change { id, .. } => vec![customer_key(*id)],
            CustomerMessage::Remove { id, document, .. } => {
                vec![customer_key(*id), document_key(document)]
            }
        }
    }

    fn decide(
        &self,
        documents: &View<'_>,
        message: &CustomerMessage,
        now: Timestamp,
    ) -> Result<Decision<i64>, Refusal> {
        match message {
            CustomerMessage::Add { id, new, keyed } => {
                add(documents, *id, new, keyed.as_ref(), now)
            }
            CustomerMessage::Change { id, changes } => {
                let mut stored = stored(documents, *id)?;
                let changes = (**changes).clone();
                let customer = &mut stored.customer;
                customer.name = changes.name.unwrap_or(std::mem::take(&mut customer.name));
                customer.phone = changes.phone.unwrap_or(std::mem::take(&mut customer.phone));
                customer.email = changes.email.or(customer.email.take());
                customer.status = changes.status.unwrap_or(customer.status);
                customer.updated_at = now;
                Ok(Decision {
                    put: vec![stored.change()],
                    ..Decision::answer(*id)
                })
            }
            CustomerMessage::Remove { id, document, seen } => {
                check_seen(documents, &customer_key(*id), *seen)?;
                let stored = stored(documents, *id)?;
                if stored.vehicles > 0 {
                    let reason = format!("Customer {id} has vehicles");
                    return Err(Refusal::rejected(CONFLICT, reason));
                }
                Ok(Decision {
                    put: vec![
                        Change::remove(customer_key(*id)),
                        Change::remove(document_key(document)),
                    ],
                    ..Decision::answer(*id)
                })
            }
        }
    }
}

/// The customer of a number, or a 404.
pub(super) fn stored(documents: &View<'_>, id: i64) -> Result<StoredCustomer, Refusal> {
    let stored = documents.state(&customer_key(id))?;
    stored.ok_or_else(|| Refusal::rejected(NOT_FOUND, format!("Customer {id} not found")))
}

fn add(
    documents: &View<'_>,
    id: i64,
    new: &NewCustomer,
    keyed: Option<&Keyed>,
    now: Timestamp,
) -> Result<Decision<i64>, Refusal> {
    if let Some(id) = made_before(documents, CUSTOMER, keyed)? {
        return Ok(Decision::answer(id));
    }
    let document = document_key(&new.document);
    if documents.state::<Named>(&document)?.is_some() {
        let reason = format!("A customer with document {} exists", new.document);
        return Err(Refusal::rejected(CONFLICT, reason));
    }
    let new = new.clone();
    let stored = StoredCustomer {
        customer: Customer {
            id,
            name: new.name,
            person_type: new.person_type,
            document: new.document,
            email: new.email,
            phone: new.phone,
            status: true,
            created_at: now,
            updated_at: now,
        },
        vehicles: 0,
        work_orders: 0,
    };
    let mut put = vec![stored.change(), Change::set(document, &Named { id }, [])];
    put.extend(remember(CUSTOMER, keyed, id));
    Ok(Decision {
        put,
        ..Decision::answer(id)
    })
}
