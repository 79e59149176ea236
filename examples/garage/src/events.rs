//! What happens in the garage: every type of event with its data, who tells it, and who listens. `asyncapi.json` is made of this.

use leveret::{
    core::event::Event,
    service::events::{Catalogue, EventData, EventType, Party, read},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{
    ids::Id,
    money::Money,
    statuses::{ExecutionStatus, WorkOrderStatus},
};

/// Customers, vehicles, work orders; the course of every saga.
pub(crate) const OS: Party = Party {
    name: "os",
    source: "os-service",
};
/// Quotes and payments.
pub(crate) const BILLING: Party = Party {
    name: "billing",
    source: "billing-service",
};
/// Diagnosis and repair.
pub(crate) const EXECUTION: Party = Party {
    name: "execution",
    source: "execution-service",
};

/// All events of the garage.
pub(crate) static CATALOGUE: Catalogue = Catalogue {
    title: "Garage",
    exchange: "garage-events",
    events: EVENTS,
    watchers: &[crate::os::sagas::QUEUE],
};

/// Declares the data of events and the list of their types.
macro_rules! events {
    ($(
        $(#[$doc:meta])*
        $name:ident = $type:literal by $publisher:ident to [$($consumer:ident),*], $summary:literal;
        $subject:ident, { $($field:ident: $kind:ty),+ $(,)? }
    )+) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
            #[serde(rename_all = "camelCase")]
            pub(crate) struct $name { $(pub(crate) $field: $kind),+ }

            impl EventData for $name {
                const TYPE: &'static str = $type;

                fn subject(&self) -> &str {
                    self.$subject.as_str()
                }
            }

            impl $name {
                fn schema() -> Value {
                    object(&[$((stringify!($field), <$kind as Described>::schema(), <$kind as Described>::REQUIRED)),+])
                }
            }
        )+

        const EVENTS: &[EventType] = &[$(EventType {
            name: $type,
            version: 1,
            publisher: $publisher,
            consumers: &[$($consumer),*],
            summary: $summary,
            data: $name::schema,
        }),+];

        /// Reads an event of any type, to see whether it can be one.
        pub(crate) fn check(event: &Event) -> Result<(), String> {
            match &*event.event_type {
                $($type => read::<$name>(event).map(drop),)+
                _ => Err("`eventType` is none of the garage's".to_owned()),
            }
        }
    };
}

events! {
    WorkOrderCreated = "work-order.created" by OS to [BILLING], "A customer has brought a vehicle.";
    work_order_id, {
        work_order_id: Id,
        customer_id: i64,
        vehicle_id: i64,
        description: String,
        estimated_cost: Option<Money>,
    }
    WorkOrderStatusChanged = "work-order.status-changed" by OS to [BILLING, EXECUTION], "A work order has another status.";
    work_order_id, {
        work_order_id: Id,
        previous_status: WorkOrderStatus,
        new_status: WorkOrderStatus,
    }
    WorkOrderApproved = "work-order.approved" by OS to [BILLING], "The customer agrees, as somebody at the garage says.";
    work_order_id, {
        work_order_id: Id,
        customer_id: i64,
    }
    WorkOrderCancelled = "work-order.cancelled" by OS to [BILLING, EXECUTION], "Nothing will be done; what was paid goes back.";
    work_order_id, {
        work_order_id: Id,
        customer_id: i64,
        reason: Option<String>,
    }
    QuoteCreated = "quote.created" by BILLING to [OS], "There is a quote.";
    quote_id, {
        quote_id: Id,
        work_order_id: Id,
        customer_id: i64,
        total_amount: Money,
    }
    QuoteSent = "quote.sent" by BILLING to [OS], "The customer has the quote.";
    quote_id, {
        quote_id: Id,
        work_order_id: Id,
        customer_id: i64,
        total_amount: Money,
    }
    QuoteApproved = "quote.approved" by BILLING to [OS, EXECUTION], "The customer agrees to the quote.";
    quote_id, {
        quote_id: Id,
        work_order_id: Id,
        customer_id: i64,
        total_amount: Money,
    }
    QuoteRejected = "quote.rejected" by BILLING to [OS], "The customer does not agree, or has not answered in time.";
    quote_id, {
        quote_id: Id,
        work_order_id: Id,
        reason: Option<String>,
    }
    PaymentCreated = "payment.created" by BILLING to [], "A payment is wanted.";
    payment_id, {
        payment_id: Id,
        quote_id: Id,
        work_order_id: Id,
        amount: Money,
    }
    PaymentApproved = "payment.approved" by BILLING to [OS, EXECUTION], "The money is here.";
    payment_id, {
        payment_id: Id,
        quote_id: Id,
        work_order_id: Id,
        amount: Money,
    }
    PaymentRejected = "payment.rejected" by BILLING to [OS], "The gateway has said no: no money moved.";
    payment_id, {
        payment_id: Id,
        work_order_id: Id,
        reason: String,
    }
    PaymentFailed = "payment.failed" by BILLING to [OS], "The gateway could not be used: no money moved.";
    payment_id, {
        payment_id: Id,
        work_order_id: Id,
        error: String,
    }
    PaymentRefunded = "payment.refunded" by BILLING to [], "The money is back.";
    payment_id, {
        payment_id: Id,
        work_order_id: Id,
        amount: Money,
        reason: String,
    }
    PaymentRefundFailed = "payment.refund-failed" by BILLING to [], "The gateway does not give the money back: somebody has to see to it.";
    payment_id, {
        payment_id: Id,
        work_order_id: Id,
        amount: Money,
        error: String,
    }
    ExecutionCreated = "execution.created" by EXECUTION to [], "Work waits for a technician.";
    execution_id, {
        execution_id: Id,
        work_order_id: Id,
        technician_id: String,
        status: ExecutionStatus,
    }
    ExecutionStatusChanged = "execution.status-changed" by EXECUTION to [OS], "Work has gone on.";
    execution_id, {
        execution_id: Id,
        work_order_id: Id,
        previous_status: ExecutionStatus,
        new_status: ExecutionStatus,
    }
    ExecutionCompleted = "execution.completed" by EXECUTION to [OS], "The work is done.";
    execution_id, {
        execution_id: Id,
        work_order_id: Id,
        parts_used: Vec<PartUsed>,
        services_performed: Vec<ServicePerformed>,
    }
    ExecutionFailed = "execution.failed" by EXECUTION to [OS, BILLING], "The work will not be done.";
    execution_id, {
        execution_id: Id,
        work_order_id: Id,
        reason: String,
    }
}

/// A part that was used up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct PartUsed {
    pub(crate) part_id: String,
    pub(crate) name: String,
    pub(crate) quantity: i64,
}

/// A service that was performed; its duration in minutes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ServicePerformed {
    pub(crate) service_id: String,
    pub(crate) name: String,
    pub(crate) duration: i64,
}

/// What has a JSON schema.
trait Described {
    const REQUIRED: bool = true;

    fn schema() -> Value;
}

impl Described for Id {
    fn schema() -> Value {
        json!({ "type": "string", "format": "uuid" })
    }
}

impl Described for i64 {
    fn schema() -> Value {
        json!({ "type": "integer" })
    }
}

impl Described for String {
    fn schema() -> Value {
        json!({ "type": "string" })
    }
}

impl Described for Money {
    fn schema() -> Value {
        json!({ "type": "string", "pattern": r"^\d+\.\d{2}$" })
    }
}

impl Described for WorkOrderStatus {
    fn schema() -> Value {
        json!({ "enum": WorkOrderStatus::ALL })
    }
}

impl Described for ExecutionStatus {
    fn schema() -> Value {
        json!({ "enum": ExecutionStatus::ALL })
    }
}

impl Described for PartUsed {
    fn schema() -> Value {
        object(&[
            ("part_id", String::schema(), true),
            ("name", String::schema(), true),
            ("quantity", i64::schema(), true),
        ])
    }
}

impl Described for ServicePerformed {
    fn schema() -> Value {
        object(&[
            ("service_id", String::schema(), true),
            ("name", String::schema(), true),
            ("duration", i64::schema(), true),
        ])
    }
}

impl<T: Described> Described for Vec<T> {
    fn schema() -> Value {
        json!({ "type": "array", "items": T::schema() })
    }
}

impl<T: Described> Described for Option<T> {
    const REQUIRED: bool = false;

    fn schema() -> Value {
        json!({ "anyOf": [T::schema(), { "type": "null" }] })
    }
}

/// An object with these members: name, schema, whether it has to be there. What else it has is not read.
fn object(members: &[(&str, Value, bool)]) -> Value {
    let required = members.iter().filter(|(_, _, required)| *required);
    let required: Vec<String> = required.map(|(name, ..)| camel(name)).collect();
    let properties = members.iter();
    let properties = properties.map(|(name, schema, _)| (camel(name), schema.clone()));
    json!({
        "type": "object",
        "required": required,
        "properties": properties.collect::<Map<_, _>>(),
    })
}

/// `work_order_id` as `workOrderId`.
fn camel(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |mut camel, word| {
        let mut letters = word.chars();
        camel.extend(letters.next().map(|letter| letter.to_ascii_uppercase()));
        camel.extend(letters);
        camel
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The document that is kept is the one of this catalogue.
    #[test]
    fn asyncapi_is_kept() {
        let document = CATALOGUE.asyncapi(env!("CARGO_PKG_VERSION"));
        let kept: Value = serde_json::from_str(include_str!("../asyncapi.json")).unwrap();
        assert!(
            kept == document,
            "write it again: cargo run -p garage -- asyncapi > examples/garage/asyncapi.json"
        );
    }

    #[test]
    fn names_of_members() {
        assert_eq!(camel("work_order_id"), "workOrderId");
        let schema = WorkOrderCreated::schema();
        assert!(schema["properties"]["estimatedCost"].is_object());
        assert_eq!(
            schema["required"],
            json!(["workOrderId", "customerId", "vehicleId", "description"])
        );
    }
}
