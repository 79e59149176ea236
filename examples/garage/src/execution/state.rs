//! What is kept of an execution, and how it is shown.

use leveret::{core::time::Timestamp, service::Key};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    events::{PartUsed, ServicePerformed},
    ids::Id,
    request::Served,
    statuses::{EXECUTION, ExecutionStatus, WorkOrderStatus},
};

/// The kind of its documents.
pub(crate) const KIND: &str = "execution";

/// The fields that lists find executions by. The first one is `yes` for all that there are: a document may know of a work order before there is
/// an execution.
pub(super) const CREATED: &str = "created";
/// `yes` while it has not ended.
pub(super) const ACTIVE: &str = "active";
pub(super) const STATUS: &str = "status";
pub(super) const YES: &str = "yes";

/// Who does it as long as nobody does.
pub(super) const UNASSIGNED: &str = "unassigned";
/// How urgent it is when nobody has said so.
pub(super) const PRIORITY_BY_EVENT: i64 = 5;

/// An execution, as it is stored, or what is known before there is one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ExecutionState {
    pub(crate) id: Id,
    pub(crate) work_order_id: Id,
    /// None: there is no execution, only what follows is known of its work order.
    pub(crate) status: Option<ExecutionStatus>,
    pub(crate) quote_approved: bool,
    /// The payment that made it workable.
    pub(crate) payment_id: Option<Id>,
    /// Why the work order is cancelled, when it is.
    pub(crate) cancelled: Option<String>,
    /// The status of the work order, and the version of the event that said so.
    pub(crate) work_order: Option<(WorkOrderStatus, u64)>,

    pub(crate) technician_id: String,
    pub(crate) priority: i64,
    pub(crate) quote_id: Option<Id>,
    pub(crate) diagnosis_notes: Option<String>,
    pub(crate) repair_notes: Option<String>,
    pub(crate) parts_used: Vec<PartUsed>,
    pub(crate) services_performed: Vec<ServicePerformed>,
    pub(crate) failure_reason: Option<String>,

    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) diagnosis_completed_at: Option<Timestamp>,
    pub(crate) repair_completed_at: Option<Timestamp>,
    pub(crate) completed_at: Option<Timestamp>,
    pub(crate) failed_at: Option<Timestamp>,

    /// How many events there are of it.
    pub(crate) version: u64,
    pub(crate) served: Served,
}

/// The id of a work order's execution.
pub(crate) fn id_of(work_order_id: &Id) -> Id {
    Id::derived(&[KIND, work_order_id.as_str()])
}

/// The document of an execution.
pub(crate) fn key_of(id: &Id) -> Key {
    Key::new(KIND, id.as_str())
}

impl ExecutionState {
    /// Nothing is known of it but its work order.
    pub(super) fn unknown(work_order_id: &Id, now: Timestamp) -> ExecutionState {
        ExecutionState {
            id: id_of(work_order_id),
            work_order_id: work_order_id.clone(),
            status: None,
            quote_approved: false,
            payment_id: None,
            cancelled: None,
            work_order: None,
            technician_id: UNASSIGNED.to_owned(),
            priority: PRIORITY_BY_EVENT,
            quote_id: None,
            diagnosis_notes: None,
            repair_notes: None,
            parts_used: Vec::new(),
            services_performed: Vec::new(),
            failure_reason: None,
            created_at: now,
            updated_at: now,
            started_at: None,
            diagnosis_completed_at: None,
            repair_completed_at: None,
            completed_at: None,
            failed_at: None,
            version: 0,
            served: Served::default(),
        }
    }

    /// Whether it is there and has not ended.
    pub(crate) fn is_active(&self) -> bool {
        self.status
            .is_some_and(|status| !EXECUTION.is_final(status))
    }

    /// The values that lists find it by.
    pub(super) fn fields(&self) -> Vec<(&'static str, String)> {
        let Some(status) = self.status else {
            return Vec::new();
        };
        let mut fields = vec![
            (CREATED, YES.to_owned()),
            (STATUS, status.as_str().to_owned()),
        ];
        if self.is_active() {
            fields.push((ACTIVE, YES.to_owned()));
        }
        fields
    }

    /// As it is answered.
    pub(super) fn shown(&self) -> Value {
        let at = |time: Option<Timestamp>| time.map(|time| time.to_string());
        json!({
            "id": self.id,
            "workOrderId": self.work_order_id,
            "quoteId": self.quote_id,
            "technicianId": self.technician_id,
            "priority": self.priority,
            "status": self.status,
            "paid": self.payment_id.is_some(),
            "workOrderStatus": self.work_order.map(|(status, _)| status),
            "diagnosisNotes": self.diagnosis_notes,
            "repairNotes": self.repair_notes,
            "partsUsed": self.parts_used,
            "servicesPerformed": self.services_performed,
            "failureReason": self.failure_reason,
            "startedAt": at(self.started_at),
            "diagnosisCompletedAt": at(self.diagnosis_completed_at),
            "repairCompletedAt": at(self.repair_completed_at),
            "completedAt": at(self.completed_at),
            "failedAt": at(self.failed_at),
            "createdAt": self.created_at.to_string(),
            "updatedAt": self.updated_at.to_string(),
        })
    }
}
