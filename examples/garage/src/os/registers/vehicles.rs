//! Vehicles.

use leveret::{
    core::time::Timestamp,
    service::{Change, Decider, Decision, Key, Refusal, View},
};
use serde::{Deserialize, Serialize};

use super::{
    Named, OWNER, VEHICLE, VEHICLE_PLATE, check_seen,
    customers::{self, customer_key},
    made_before, normal, remember, request_key,
};
use crate::{
    failure::{CONFLICT, Failure, NOT_FOUND},
    request::{Keyed, check_text},
};

/// The longest plate, in bytes.
const PLATE_BYTES_MAX: usize = 20;
/// The longest brand and model, in bytes.
const NAME_BYTES_MAX: usize = 200;
/// Years that a vehicle can be of.
const YEARS: std::ops::RangeInclusive<i64> = 1886..=2200;

/// A vehicle as it is shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Vehicle {
    pub(crate) id: i64,
    pub(crate) plate: String,
    pub(crate) brand: String,
    pub(crate) model: String,
    pub(crate) year: i64,
    pub(crate) customer_id: i64,
    #[serde(with = "leveret::core::time::rfc_3339")]
    pub(crate) created_at: Timestamp,
    #[serde(with = "leveret::core::time::rfc_3339")]
    pub(crate) updated_at: Timestamp,
}

/// A vehicle as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StoredVehicle {
    pub(crate) vehicle: Vehicle,
    /// How many work orders were ever opened for it.
    pub(crate) work_orders: u64,
}

impl StoredVehicle {
    /// This state of it.
    pub(crate) fn change(&self) -> Change {
        let owner = self.vehicle.customer_id.to_string();
        Change::set(vehicle_key(self.vehicle.id), self, [(OWNER, owner)])
    }
}

/// The document of one.
pub(crate) fn vehicle_key(id: i64) -> Key {
    Key::new(VEHICLE, id.to_string())
}

fn plate_key(plate: &str) -> Key {
    Key::new(VEHICLE_PLATE, normal(plate))
}

/// A vehicle to be.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NewVehicle {
    plate: String,
    brand: String,
    model: String,
    year: i64,
    customer_id: i64,
}

/// What is to be changed of one.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct VehicleChanges {
    plate: Option<String>,
    brand: Option<String>,
    model: Option<String>,
    year: Option<i64>,
    customer_id: Option<i64>,
}

impl NewVehicle {
    pub(super) fn check(&self) -> Result<(), Failure> {
        let all = VehicleChanges {
            plate: Some(self.plate.clone()),
            brand: Some(self.brand.clone()),
            model: Some(self.model.clone()),
            year: Some(self.year),
            customer_id: Some(self.customer_id),
        };
        all.check()
    }
}

impl VehicleChanges {
    pub(super) fn check(&self) -> Result<(), Failure> {
        if let Some(plate) = &self.plate {
            check_text("plate", plate, PLATE_BYTES_MAX)?;
            if normal(plate).is_empty() {
                let message = "plate has neither letters nor digits";
                return Err(Failure::bad_request(message));
            }
        }
        for (name, text) in [("brand", &self.brand), ("model", &self.model)] {
            if let Some(text) = text {
                check_text(name, text, NAME_BYTES_MAX)?;
            }
        }
        if self.year.is_some_and(|year| !YEARS.contains(&year)) {
            let (first, last) = (YEARS.start(), YEARS.end());
            return Err(Failure::bad_request(format!("year is {first} to {last}")));
        }
        if self.customer_id.is_some_and(|id| id < 1) {
            let message = "customerId is no whole number from 1";
            return Err(Failure::bad_request(message));
        }
        Ok(())
    }

    /// Whether it gives the vehicle to somebody else.
    pub(super) fn moves(&self, vehicle: &Vehicle) -> bool {
        self.customer_id.is_some_and(|id| id != vehicle.customer_id)
    }
}

/// What is decided upon.
#[derive(Clone, Debug)]
pub(super) enum VehicleMessage {
    Add {
        id: i64,
        new: Box<NewVehicle>,
        keyed: Option<Keyed>,
    },
    /// The vehicle was looked at, and what needs it.
    Change {
        vehicle: Box<Vehicle>,
        seen: u64,
        changes: Box<VehicleChanges>,
    },
    /// The same.
    Remove { vehicle: Box<Vehicle>, seen: u64 },
}

/// The decider. It answers with the number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vehicles;

impl Decider for Vehicles {
    type Message = VehicleMessage;
    type Answer = i64;

    fn keys(&self, message: &VehicleMessage) -> Vec<Key> {
        let mut keys = match message {
            VehicleMessage::Add { id, new, keyed } => {
                let request = keyed.as_ref().map(|keyed| request_key(VEHICLE, keyed));
                let keys = [
                    vehicle_key(*id),
                    plate_key(&new.plate),
                    customer_key(new.customer_id),
                ];
                keys.into_iter().chain(request).collect()
            }
            VehicleMessage::Change {
                vehicle, changes, ..
            } => {
                let plate = changes.plate.as_deref().map(plate_key);
                let customer = changes.customer_id.map(customer_key);
                let known = known_keys(vehicle).into_iter();
                known.chain(plate).chain(customer).collect()
            }
            VehicleMessage::Remove { vehicle, .. } => known_keys(vehicle),
        };
        // Each once: what is not changed is named twice.
        let mut at = 0;
        while let Some(key) = keys.get(at).cloned() {
            at += 1;
            let mut place = 0;
            keys.retain(|other| {
                place += 1;
                place <= at || *other != key
            });
        }
        keys
    }

    fn decide(
        &self,
        documents: &View<'_>,
        message: &VehicleMessage,
        now: Timestamp,
    ) -> Result<Decision<i64>, Refusal> {
        match message {
            VehicleMessage::Add { id, new, keyed } => add(documents, *id, new, keyed.as_ref(), now),
            VehicleMessage::Change {
                vehicle,
                seen,
                changes,
            } => change(documents, vehicle, *seen, changes, now),
            VehicleMessage::Remove { vehicle, seen } => {
                check_seen(documents, &vehicle_key(vehicle.id), *seen)?;
                let mut put = vec![
                    Change::remove(vehicle_key(vehicle.id)),
                    Change::remove(plate_key(&vehicle.plate)),
                ];
                put.push(count(documents, vehicle.customer_id, false)?);
                Ok(Decision {
                    put,
                    ..Decision::answer(vehicle.id)
                })
            }
        }
    }
}

fn known_keys(vehicle: &Vehicle) -> Vec<Key> {
    vec![
        vehicle_key(vehicle.id),
        plate_key(&vehicle.plate),
        customer_key(vehicle.customer_id),
    ]
}

/// The customer with one vehicle more, or less.
fn count(documents: &View<'_>, customer_id: i64, more: bool) -> Result<Change, Refusal> {
    let mut customer = customers::stored(documents, customer_id)?;
    customer.vehicles = if more {
        customer.vehicles + 1
    } else {
        customer.vehicles.saturating_sub(1)
    };
    Ok(customer.change())
}

fn check_plate(documents: &View<'_>, plate: &str) -> Result<(), Refusal> {
    if documents.state::<Named>(&plate_key(plate))?.is_some() {
        let reason = format!("A vehicle with plate {plate} exists");
        return Err(Refusal::rejected(CONFLICT, reason));
    }
    Ok(())
}

fn add(
    documents: &View<'_>,
    id: i64,
    new: &NewVehicle,
    keyed: Option<&Keyed>,
    now: Timestamp,
) -> Result<Decision<i64>, Refusal> {
    if let Some(id) = made_before(documents, VEHICLE, keyed)? {
        return Ok(Decision::answer(id));
    }
    let counted = count(documents, new.customer_id, true)?;
    check_plate(documents, &new.plate)?;
    let stored = StoredVehicle {
        vehicle: Vehicle {
            id,
            plate: new.plate.clone(),
            brand: new.brand.clone(),
            model: new.model.clone(),
            year: new.year,
            customer_id: new.customer_id,
            created_at: now,
            updated_at: now,
        },
        work_orders: 0,
    };
    let plate = Change::set(plate_key(&new.plate), &Named { id }, []);
    let mut put = vec![stored.change(), plate, counted];
    put.extend(remember(VEHICLE, keyed, id));
    Ok(Decision {
        put,
        ..Decision::answer(id)
    })
}

fn change(
    documents: &View<'_>,
    seen_as: &Vehicle,
    seen: u64,
    changes: &VehicleChanges,
    now: Timestamp,
) -> Result<Decision<i64>, Refusal> {
    let id = seen_as.id;
    let key = vehicle_key(id);
    check_seen(documents, &key, seen)?;
    let stored: Option<StoredVehicle> = documents.state(&key)?;
    let mut stored =
        stored.ok_or_else(|| Refusal::rejected(NOT_FOUND, format!("Vehicle {id} not found")))?;
    let mut put = Vec::new();
    let vehicle = &mut stored.vehicle;
    if let Some(plate) = &changes.plate {
        if normal(plate) != normal(&vehicle.plate) {
            check_plate(documents, plate)?;
            put.push(Change::remove(plate_key(&vehicle.plate)));
            put.push(Change::set(plate_key(plate), &Named { id }, []));
        }
        vehicle.plate.clone_from(plate);
    }
    if changes.moves(vehicle) {
        let customer_id = changes.customer_id.unwrap_or(vehicle.customer_id);
        put.push(count(documents, vehicle.customer_id, false)?);
        put.push(count(documents, customer_id, true)?);
        vehicle.customer_id = customer_id;
    }
    if let Some(brand) = &changes.brand {
        vehicle.brand.clone_from(brand);
    }
    if let Some(model) = &changes.model {
        vehicle.model.clone_from(model);
    }
    vehicle.year = changes.year.unwrap_or(vehicle.year);
    vehicle.updated_at = now;
    put.push(stored.change());
    Ok(Decision {
        put,
        ..Decision::answer(id)
    })
}
