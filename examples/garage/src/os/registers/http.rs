//! `/customers` and `/vehicles`: the staff's; only administrators delete.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use leveret::service::{CallError, Decider, Of, Refusal, Service, View};
use serde_json::json;

use super::{
    CHANGED, CUSTOMER, Named, Numbers, OWNER, VEHICLE,
    customers::{
        Customer, CustomerChanges, CustomerMessage, Customers, NewCustomer, StoredCustomer,
        customer_key, document_key,
    },
    normal,
    vehicles::{
        NewVehicle, StoredVehicle, Vehicle, VehicleChanges, VehicleMessage, Vehicles, vehicle_key,
    },
};
use crate::{
    auth::{Admin, Staff},
    failure::Failure,
    os::{stored, work_orders},
    request::{Body, IdempotencyKey, Keyed, Params, PathNumber, PathText},
};

/// How often something is looked at again that others are changing, and how long between.
const TRIES_MAX: u32 = 50;
const PAUSE: Duration = Duration::from_millis(20);

/// The routes.
pub(crate) fn router(service: &Service) -> Router {
    Router::new()
        .route("/customers", post(add_customer).get(list_customers))
        .route(
            "/customers/{id}",
            get(show_customer)
                .patch(change_customer)
                .put(change_customer)
                .delete(remove_customer),
        )
        .route("/customers/document/{document}", get(customer_of_document))
        .route("/vehicles", post(add_vehicle).get(list_vehicles))
        .route(
            "/vehicles/{id}",
            get(show_vehicle)
                .patch(change_vehicle)
                .put(change_vehicle)
                .delete(remove_vehicle),
        )
        .route("/vehicles/customer/{customer_id}", get(vehicles_of))
        .with_state(service.clone())
}

/// Decides with the next number. It is tried without one first, so that none is given out in vain.
async fn add<D: Decider<Answer = i64>>(
    service: &Service,
    decider: D,
    counter: &'static str,
    message: impl Fn(i64) -> D::Message,
) -> Result<i64, Failure> {
    let tried = message(0);
    let documents = service.documents().load(&decider.keys(&tried)).await?;
    let documents: Vec<_> = documents.into_iter().map(Arc::new).collect();
    let decision = decider.decide(&View::new(&documents), &tried, service.now());
    let made = decision.map_err(CallError::from)?.answer;
    if made != 0 {
        return Ok(made);
    }
    let id = service.call(&Of::<Numbers>::default(), &counter).await?;
    Ok(service.call(&decider, &message(id)).await?)
}

/// Whether others have changed what was looked at.
fn is_changed(error: &CallError) -> bool {
    matches!(error, CallError::Refused(Refusal::Rejected { code, .. }) if *code == CHANGED)
}

async fn customer(service: &Service, id: i64) -> Result<Customer, Failure> {
    let stored: Option<StoredCustomer> = stored::load(service, &customer_key(id)).await?;
    stored
        .map(|stored| stored.customer)
        .ok_or_else(|| no_customer(id))
}

fn no_customer(id: i64) -> Failure {
    Failure::not_found(format!("Customer {id} not found"))
}

async fn vehicle(service: &Service, id: i64) -> Result<(Vehicle, u64), Failure> {
    let stored: Option<(StoredVehicle, u64)> = stored::load_seen(service, &vehicle_key(id)).await?;
    let (stored, seen) =
        stored.ok_or_else(|| Failure::not_found(format!("Vehicle {id} not found")))?;
    Ok((stored.vehicle, seen))
}

/// A 409 when a work order that is not ended needs it.
async fn check_unneeded(
    service: &Service,
    field: &str,
    id: i64,
    what: &str,
) -> Result<(), Failure> {
    let filter = [(field.into(), id.to_string().into())];
    let open = service
        .documents()
        .count(work_orders::KIND, &filter)
        .await?;
    if open > 0 {
        let message = format!("{what} {id} has work orders that are not ended: {open}");
        return Err(Failure::conflict(message));
    }
    Ok(())
}

async fn add_customer(
    State(service): State<Service>,
    Staff(caller): Staff,
    key: IdempotencyKey,
    Body { value, fingerprint }: Body<NewCustomer>,
) -> Result<Response, Failure> {
    value.check()?;
    let keyed = Keyed::of(&key, &caller.sub, "add customer", &fingerprint);
    let message = |id| CustomerMessage::Add {
        id,
        new: Box::new(value.clone()),
        keyed: keyed.clone(),
    };
    let id = add(&service, Customers, CUSTOMER, message).await?;
    let customer = customer(&service, id).await?;
    Ok((StatusCode::CREATED, Json(customer)).into_response())
}

async fn list_customers(
    State(service): State<Service>,
    Staff(_): Staff,
    params: Params,
) -> Result<Response, Failure> {
    let params = params.known(&["limit", "after"])?;
    stored::list(&service, CUSTOMER, Vec::new(), &params, |document| {
        let stored: StoredCustomer = stored::read(document)?;
        Ok(json!(stored.customer))
    })
    .await
}

async fn show_customer(
    State(service): State<Service>,
    Staff(_): Staff,
    PathNumber(id): PathNumber,
) -> Result<Json<Customer>, Failure> {
    Ok(Json(customer(&service, id).await?))
}

async fn customer_of_document(
    State(service): State<Service>,
    Staff(_): Staff,
    PathText(document): PathText,
) -> Result<Json<Customer>, Failure> {
    let unknown = || Failure::not_found(format!("Customer with document {document} not found"));
    let is_long = document.len() > 100;
    if normal(&document).is_empty() || is_long {
        return Err(unknown());
    }
    let named: Option<Named> = stored::load(&service, &document_key(&document)).await?;
    let named = named.ok_or_else(unknown)?;
    Ok(Json(customer(&service, named.id).await?))
}

async fn change_customer(
    State(service): State<Service>,
    Staff(_): Staff,
    PathNumber(id): PathNumber,
    Body { value, .. }: Body<CustomerChanges>,
) -> Result<Json<Customer>, Failure> {
    value.check()?;
    let changes = Box::new(value);
    let message = CustomerMessage::Change { id, changes };
    service.call(&Customers, &message).await?;
    Ok(Json(customer(&service, id).await?))
}

async fn remove_customer(
    State(service): State<Service>,
    _: Admin,
    PathNumber(id): PathNumber,
) -> Result<Json<Customer>, Failure> {
    for _ in 0..TRIES_MAX {
        let stored: Option<(StoredCustomer, u64)> =
            stored::load_seen(&service, &customer_key(id)).await?;
        let (stored, seen) = stored.ok_or_else(|| no_customer(id))?;
        let customer = stored.customer;
        check_unneeded(&service, work_orders::OPEN_CUSTOMER, id, "Customer").await?;
        let message = CustomerMessage::Remove {
            id,
            document: customer.document.clone(),
            seen,
        };
        match service.call(&Customers, &message).await {
            Err(error) if is_changed(&error) => tokio::time::sleep(PAUSE).await,
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(Json(customer)),
        }
    }
    Err(contended())
}

fn contended() -> Failure {
    Failure::conflict("It is being changed by others; try again")
}

async fn add_vehicle(
    State(service): State<Service>,
    Staff(caller): Staff,
    key: IdempotencyKey,
    Body { value, fingerprint }: Body<NewVehicle>,
) -> Result<Response, Failure> {
    value.check()?;
    let keyed = Keyed::of(&key, &caller.sub, "add vehicle", &fingerprint);
    let message = |id| VehicleMessage::Add {
        id,
        new: Box::new(value.clone()),
        keyed: keyed.clone(),
    };
    let id = add(&service, Vehicles, VEHICLE, message).await?;
    let (vehicle, _) = vehicle(&service, id).await?;
    Ok((StatusCode::CREATED, Json(vehicle)).into_response())
}

async fn vehicles(
    service: &Service,
    filter: Vec<(&str, String)>,
    params: Params,
) -> Result<Response, Failure> {
    let params = params.known(&["limit", "after"])?;
    stored::list(service, VEHICLE, filter, &params, |document| {
        let stored: StoredVehicle = stored::read(document)?;
        Ok(json!(stored.vehicle))
    })
    .await
}

async fn list_vehicles(
    State(service): State<Service>,
    Staff(_): Staff,
    params: Params,
) -> Result<Response, Failure> {
    vehicles(&service, Vec::new(), params).await
}

async fn vehicles_of(
    State(service): State<Service>,
    Staff(_): Staff,
    PathNumber(customer_id): PathNumber,
    params: Params,
) -> Result<Response, Failure> {
    vehicles(&service, vec![(OWNER, customer_id.to_string())], params).await
}

async fn show_vehicle(
    State(service): State<Service>,
    Staff(_): Staff,
    PathNumber(id): PathNumber,
) -> Result<Json<Vehicle>, Failure> {
    Ok(Json(vehicle(&service, id).await?.0))
}

async fn change_vehicle(
    State(service): State<Service>,
    Staff(_): Staff,
    PathNumber(id): PathNumber,
    Body { value, .. }: Body<VehicleChanges>,
) -> Result<Json<Vehicle>, Failure> {
    value.check()?;
    let changes = Box::new(value);
    for _ in 0..TRIES_MAX {
        let (known, seen) = vehicle(&service, id).await?;
        if changes.moves(&known) {
            check_unneeded(&service, work_orders::OPEN_VEHICLE, id, "Vehicle").await?;
        }
        let message = VehicleMessage::Change {
            vehicle: Box::new(known),
            seen,
            changes: changes.clone(),
        };
        match service.call(&Vehicles, &message).await {
            Err(error) if is_changed(&error) => tokio::time::sleep(PAUSE).await,
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(Json(vehicle(&service, id).await?.0)),
        }
    }
    Err(contended())
}

async fn remove_vehicle(
    State(service): State<Service>,
    _: Admin,
    PathNumber(id): PathNumber,
) -> Result<Json<Vehicle>, Failure> {
    for _ in 0..TRIES_MAX {
        let (known, seen) = vehicle(&service, id).await?;
        check_unneeded(&service, work_orders::OPEN_VEHICLE, id, "Vehicle").await?;
        let message = VehicleMessage::Remove {
            vehicle: Box::new(known.clone()),
            seen,
        };
        match service.call(&Vehicles, &message).await {
            Err(error) if is_changed(&error) => tokio::time::sleep(PAUSE).await,
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(Json(known)),
        }
    }
    Err(contended())
}
