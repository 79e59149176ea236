//! A work order: as it is shown, and what is kept beside it.

use leveret::core::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{CUSTOMER, OPEN_CUSTOMER, OPEN_VEHICLE, STATUS, VEHICLE};
use crate::{
    ids::Id,
    money::Money,
    request::Served,
    statuses::{ExecutionStatus, WorkOrderStatus},
};

/// A work order as it is shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WorkOrder {
    pub(crate) id: Id,
    pub(crate) customer_id: i64,
    pub(crate) vehicle_id: i64,
    pub(crate) description: String,
    pub(crate) status: WorkOrderStatus,
    pub(crate) estimated_cost: Option<Money>,
    pub(crate) actual_cost: Option<Money>,
    pub(crate) labor_cost: Option<Money>,
    pub(crate) parts_cost: Option<Money>,
    pub(crate) diagnosis: Option<String>,
    pub(crate) technician_notes: Option<String>,
    pub(crate) customer_approval: bool,
    pub(crate) assigned_technician_id: Option<String>,
    #[serde(with = "leveret::core::time::rfc_3339::option")]
    pub(crate) estimated_completion_date: Option<Timestamp>,
    #[serde(with = "leveret::core::time::rfc_3339::option")]
    pub(crate) completed_at: Option<Timestamp>,
    pub(crate) services: Vec<ServiceItem>,
    pub(crate) parts: Vec<PartItem>,
    pub(crate) metadata: Option<Map<String, Value>>,
    /// When the customer's quote was sent, if Billing has said so.
    #[serde(with = "leveret::core::time::rfc_3339::option")]
    pub(crate) quote_sent_at: Option<Timestamp>,
    /// How far the work has come, as Execution has said last.
    pub(crate) execution_status: Option<ExecutionStatus>,
    /// Why nothing will be done.
    pub(crate) cancellation_reason: Option<String>,
    #[serde(with = "leveret::core::time::rfc_3339")]
    pub(crate) created_at: Timestamp,
    #[serde(with = "leveret::core::time::rfc_3339")]
    pub(crate) updated_at: Timestamp,
}

/// A service that is to be performed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ServiceItem {
    pub(crate) service_id: String,
    pub(crate) service_name: String,
    #[serde(default)]
    pub(crate) description: Option<String>,
    pub(crate) quantity: i64,
    pub(crate) unit_price: Money,
    /// Quantity times price, if it is not said.
    #[serde(default)]
    pub(crate) total_price: Option<Money>,
    /// In minutes.
    #[serde(default)]
    pub(crate) estimated_duration: Option<i64>,
    #[serde(default)]
    pub(crate) actual_duration: Option<i64>,
    #[serde(default)]
    pub(crate) status: Option<String>,
    #[serde(default)]
    pub(crate) started_at: Option<String>,
    #[serde(default)]
    pub(crate) completed_at: Option<String>,
    #[serde(default)]
    pub(crate) technician_notes: Option<String>,
}

/// A part that is to be used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct PartItem {
    pub(crate) part_id: String,
    pub(crate) part_name: String,
    #[serde(default)]
    pub(crate) part_number: Option<String>,
    pub(crate) quantity: i64,
    pub(crate) unit_price: Money,
    /// Quantity times price, if it is not said.
    #[serde(default)]
    pub(crate) total_price: Option<Money>,
    #[serde(default)]
    pub(crate) is_approved: bool,
    #[serde(default)]
    pub(crate) applied_at: Option<String>,
    #[serde(default)]
    pub(crate) notes: Option<String>,
}

/// A status that a work order has passed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Passed {
    pub(crate) status: WorkOrderStatus,
    pub(crate) at: Timestamp,
    pub(crate) cause: String,
}

/// The version of the newest event of something.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Newest {
    pub(crate) id: Id,
    pub(crate) version: u64,
}

/// The most statuses in a history. Of more, the first and the last ones are kept.
const HISTORY_MAX: usize = 500;
/// The most payments and executions whose newest events are known.
const NEWEST_MAX: usize = 100;

/// A work order as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Stored {
    pub(crate) order: WorkOrder,
    pub(crate) history: Vec<Passed>,
    /// How many events of it there are.
    pub(crate) events: u64,
    /// The quote that the customer has agreed to.
    pub(crate) approved_quote: Option<Id>,
    /// The payment that brought the work order into progress.
    pub(crate) paid_by: Option<Id>,
    /// Of each payment the newest event that was heard.
    pub(crate) payments: Vec<Newest>,
    /// Of each execution the newest event that was heard.
    pub(crate) executions: Vec<Newest>,
    /// The requests with a key that it has served.
    #[serde(default)]
    pub(crate) served: Served,
}

impl Stored {
    /// Notes the status that it has now.
    pub(crate) fn pass(&mut self, status: WorkOrderStatus, cause: &str, now: Timestamp) {
        self.order.status = status;
        if self.history.len() == HISTORY_MAX {
            self.history.remove(1);
        }
        self.history.push(Passed {
            status,
            at: now,
            cause: cause.to_owned(),
        });
    }

    /// Whether nothing has ended it.
    pub(crate) fn is_open(&self) -> bool {
        use WorkOrderStatus::{Cancelled, Completed, Delivered};
        !matches!(self.order.status, Completed | Delivered | Cancelled)
    }

    /// What lists find it by.
    pub(crate) fn fields(&self) -> Vec<(&'static str, String)> {
        let (customer, vehicle) = (self.order.customer_id, self.order.vehicle_id);
        let mut fields = vec![
            (STATUS, self.order.status.as_str().to_owned()),
            (CUSTOMER, customer.to_string()),
            (VEHICLE, vehicle.to_string()),
        ];
        if self.is_open() {
            fields.push((OPEN_CUSTOMER, customer.to_string()));
            fields.push((OPEN_VEHICLE, vehicle.to_string()));
        }
        fields
    }

    /// It and the statuses that it has passed.
    pub(crate) fn shown_history(&self) -> Value {
        let passed = self.history.iter().map(|passed| {
            json!({
                "status": passed.status,
                "timestamp": passed.at.to_string(),
                "cause": passed.cause,
            })
        });
        json!({ "workOrder": self.order, "timeline": passed.collect::<Vec<_>>() })
    }
}

/// Notes an event of something; whether it is newer than all of it that were heard.
pub(crate) fn is_newest(known: &mut Vec<Newest>, id: &Id, version: u64) -> bool {
    match known.iter_mut().find(|newest| newest.id == *id) {
        Some(newest) if newest.version >= version => false,
        Some(newest) => {
            newest.version = version;
            true
        }
        None => {
            if known.len() == NEWEST_MAX {
                known.remove(0);
            }
            let id = id.clone();
            known.push(Newest { id, version });
            true
        }
    }
}
