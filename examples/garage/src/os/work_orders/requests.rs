//! What can be asked of work orders, checked.

use leveret::core::time::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::order::{PartItem, ServiceItem};
use crate::{
    failure::Failure,
    money::Money,
    request::{TEXT_BYTES_MAX, check_text},
    statuses::WorkOrderStatus,
};

/// The most services or parts of a work order.
const ITEMS_MAX: usize = 100;
/// The longest name, number or id in words, in bytes.
const NAME_BYTES_MAX: usize = 500;
/// The largest `metadata`, as JSON in bytes.
const METADATA_BYTES_MAX: usize = 10_000;
/// The most of one item.
const QUANTITY_MAX: i64 = 1_000_000;
/// The longest work, in minutes.
const DURATION_MAX: i64 = 1_000_000;

/// A work order to be.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Opening {
    pub(crate) customer_id: i64,
    pub(crate) vehicle_id: i64,
    pub(crate) description: String,
    #[serde(default)]
    pub(crate) estimated_cost: Option<Money>,
    #[serde(default)]
    pub(crate) assigned_technician_id: Option<String>,
    #[serde(default)]
    pub(crate) estimated_completion_date: Option<Date>,
    #[serde(default)]
    pub(crate) metadata: Option<Map<String, Value>>,
}

/// What is to be changed: what is not said, or null, stays.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Changes {
    pub(crate) status: Option<WorkOrderStatus>,
    pub(crate) description: Option<String>,
    pub(crate) estimated_cost: Option<Money>,
    pub(crate) actual_cost: Option<Money>,
    pub(crate) labor_cost: Option<Money>,
    pub(crate) parts_cost: Option<Money>,
    pub(crate) diagnosis: Option<String>,
    pub(crate) technician_notes: Option<String>,
    pub(crate) customer_approval: Option<bool>,
    pub(crate) assigned_technician_id: Option<String>,
    pub(crate) estimated_completion_date: Option<Date>,
    pub(crate) services: Option<Vec<ServiceItem>>,
    pub(crate) parts: Option<Vec<PartItem>>,
    pub(crate) metadata: Option<Map<String, Value>>,
}

/// A day, or a point in time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Date(pub(crate) Timestamp);

impl<'de> Deserialize<'de> for Date {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Date, D::Error> {
        let text = String::deserialize(deserializer)?;
        let time = text.parse();
        let time = time.or_else(|_| format!("{text}T00:00:00Z").parse());
        time.map(Date)
            .map_err(|_| serde::de::Error::custom("no date as ISO 8601 has it, such as 2026-11-21"))
    }
}

impl Opening {
    pub(crate) fn check(&self) -> Result<(), Failure> {
        for (name, id) in [
            ("customerId", self.customer_id),
            ("vehicleId", self.vehicle_id),
        ] {
            if id < 1 {
                return Err(Failure::bad_request(format!(
                    "{name} is no whole number from 1"
                )));
            }
        }
        check_text("description", &self.description, TEXT_BYTES_MAX)?;
        check_name(
            "assignedTechnicianId",
            self.assigned_technician_id.as_deref(),
        )?;
        check_metadata(self.metadata.as_ref())
    }
}

impl Changes {
    /// Checks it, and computes the totals that are not said.
    pub(crate) fn check(&mut self) -> Result<(), Failure> {
        let texts = [
            ("description", &self.description),
            ("diagnosis", &self.diagnosis),
            ("technicianNotes", &self.technician_notes),
        ];
        for (name, text) in texts {
            if let Some(text) = text {
                check_text(name, text, TEXT_BYTES_MAX)?;
            }
        }
        check_name(
            "assignedTechnicianId",
            self.assigned_technician_id.as_deref(),
        )?;
        check_metadata(self.metadata.as_ref())?;
        let services = self.services.iter_mut().flatten().collect::<Vec<_>>();
        check_count("services", services.len())?;
        for (at, item) in services.into_iter().enumerate() {
            check_service(&format!("services[{at}]"), item)?;
        }
        let parts = self.parts.iter_mut().flatten().collect::<Vec<_>>();
        check_count("parts", parts.len())?;
        for (at, item) in parts.into_iter().enumerate() {
            check_part(&format!("parts[{at}]"), item)?;
        }
        Ok(())
    }
}

fn check_service(place: &str, item: &mut ServiceItem) -> Result<(), Failure> {
    let name = |field: &str| format!("{place}.{field}");
    check_text(&name("serviceId"), &item.service_id, NAME_BYTES_MAX)?;
    check_text(&name("serviceName"), &item.service_name, NAME_BYTES_MAX)?;
    for (field, text) in [
        ("description", &item.description),
        ("status", &item.status),
        ("technicianNotes", &item.technician_notes),
    ] {
        if let Some(text) = text {
            check_text(&name(field), text, TEXT_BYTES_MAX)?;
        }
    }
    for (field, text) in [
        ("startedAt", &item.started_at),
        ("completedAt", &item.completed_at),
    ] {
        check_time(&name(field), text.as_deref())?;
    }
    for (field, minutes) in [
        ("estimatedDuration", item.estimated_duration),
        ("actualDuration", item.actual_duration),
    ] {
        if minutes.is_some_and(|minutes| !(0..=DURATION_MAX).contains(&minutes)) {
            return Err(Failure::bad_request(format!(
                "{} is 0 to {DURATION_MAX} minutes",
                name(field)
            )));
        }
    }
    item.status.get_or_insert_with(|| "PENDING".to_owned());
    item.total_price = Some(total(
        place,
        item.quantity,
        item.unit_price,
        item.total_price,
    )?);
    Ok(())
}

fn check_part(place: &str, item: &mut PartItem) -> Result<(), Failure> {
    let name = |field: &str| format!("{place}.{field}");
    check_text(&name("partId"), &item.part_id, NAME_BYTES_MAX)?;
    check_text(&name("partName"), &item.part_name, NAME_BYTES_MAX)?;
    for (field, text) in [("partNumber", &item.part_number), ("notes", &item.notes)] {
        if let Some(text) = text {
            check_text(&name(field), text, TEXT_BYTES_MAX)?;
        }
    }
    check_time(&name("appliedAt"), item.applied_at.as_deref())?;
    item.total_price = Some(total(
        place,
        item.quantity,
        item.unit_price,
        item.total_price,
    )?);
    Ok(())
}

/// Quantity times price, which is what is said if something is.
fn total(place: &str, quantity: i64, price: Money, said: Option<Money>) -> Result<Money, Failure> {
    if !(1..=QUANTITY_MAX).contains(&quantity) {
        return Err(Failure::bad_request(format!(
            "{place}.quantity is 1 to {QUANTITY_MAX}"
        )));
    }
    let total = price.times(quantity).ok_or_else(|| {
        Failure::bad_request(format!("{place}: quantity times unitPrice is too much"))
    })?;
    if said.is_some_and(|said| said != total) {
        return Err(Failure::bad_request(format!(
            "{place}.totalPrice is not quantity times unitPrice, {total}"
        )));
    }
    Ok(total)
}

fn check_name(name: &str, text: Option<&str>) -> Result<(), Failure> {
    text.map_or(Ok(()), |text| check_text(name, text, NAME_BYTES_MAX))
}

fn check_time(name: &str, text: Option<&str>) -> Result<(), Failure> {
    let Some(text) = text else { return Ok(()) };
    let time: Result<Timestamp, _> = text.parse();
    time.map(drop)
        .map_err(|error| Failure::bad_request(format!("{name} is {error}")))
}

fn check_count(name: &str, count: usize) -> Result<(), Failure> {
    if count > ITEMS_MAX {
        return Err(Failure::bad_request(format!(
            "{name} has {count} items, more than {ITEMS_MAX}"
        )));
    }
    Ok(())
}

fn check_metadata(metadata: Option<&Map<String, Value>>) -> Result<(), Failure> {
    let Some(metadata) = metadata else {
        return Ok(());
    };
    let text = serde_json::to_string(metadata).unwrap_or_default();
    if text.len() > METADATA_BYTES_MAX {
        return Err(Failure::bad_request(format!(
            "metadata has {} bytes, more than {METADATA_BYTES_MAX}",
            text.len()
        )));
    }
    // As JSON has it.
    if text.contains("\\u0000") {
        return Err(Failure::bad_request("metadata has a NUL character"));
    }
    Ok(())
}
