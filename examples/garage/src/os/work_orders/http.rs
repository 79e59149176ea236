//! `/work-orders`, and their status for everybody who knows the customer's document.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Json, Router,
    extract::{ConnectInfo, Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use leveret::{core::time::Timestamp, service::Service};
use serde_json::{Value, json};

use super::{
    CUSTOMER, KIND, STATUS, VEHICLE, WorkOrder,
    decide::{Message, WorkOrders},
    key,
    order::Stored,
    requests::{Changes, Opening},
};
use crate::{
    auth::{Caller, Role, Staff},
    failure::Failure,
    ids::Id,
    os::{
        registers::{StoredCustomer, customer_key, normal},
        stored,
    },
    request::{Body, IdempotencyKey, Keyed, Params, PathId},
    statuses::WorkOrderStatus,
};

/// The routes that need a token.
pub(crate) fn router(service: &Service) -> Router {
    Router::new()
        .route("/work-orders", post(open).get(list))
        .route(
            "/work-orders/{id}",
            get(show).patch(change).put(change).delete(cancel),
        )
        .route("/work-orders/{id}/approve", post(approve))
        .route("/work-orders/{id}/history", get(history))
        .with_state(service.clone())
}

async fn open(
    State(service): State<Service>,
    caller: Caller,
    key: IdempotencyKey,
    Body { value, fingerprint }: Body<Opening>,
) -> Result<Response, Failure> {
    value.check()?;
    if !caller.may_see(value.customer_id) {
        let message = "A customer opens work orders for himself only";
        return Err(Failure::forbidden(message));
    }
    let keyed = Keyed::of(&key, &caller.sub, "open", &fingerprint);
    let id = keyed.as_ref();
    let message = Message::Open {
        id: id.map_or_else(Id::new, |keyed| keyed.id(KIND)),
        opening: Box::new(value),
        keyed,
    };
    let stored = service.call(&WorkOrders, &message).await?;
    Ok((StatusCode::CREATED, Json(stored.order)).into_response())
}

async fn list(
    State(service): State<Service>,
    caller: Caller,
    params: Params,
) -> Result<Response, Failure> {
    let params = params.known(&["status", "customerId", "vehicleId", "limit", "after"])?;
    let status = params.get("status").map(status).transpose()?;
    let customer = stored::number(&params, "customerId")?;
    let vehicle = stored::number(&params, "vehicleId")?;
    let mut filter = Vec::new();
    if let Some(status) = status {
        filter.push((STATUS, status.as_str().to_owned()));
    } else if let Some(customer) = customer {
        filter.push((CUSTOMER, customer.to_string()));
    } else if let Some(vehicle) = vehicle {
        filter.push((VEHICLE, vehicle.to_string()));
    }
    if caller.role == Role::Customer {
        filter.push((CUSTOMER, caller.sub.clone()));
    }
    filter.dedup();
    stored::list(&service, KIND, filter, &params, |document| {
        let stored: Stored = stored::read(document)?;
        Ok(json!(stored.order))
    })
    .await
}

fn status(word: &str) -> Result<WorkOrderStatus, Failure> {
    WorkOrderStatus::parse(word).ok_or_else(|| {
        let known = WorkOrderStatus::ALL.iter().map(|status| status.as_str());
        let known: Vec<_> = known.collect();
        Failure::bad_request(format!("status is one of {}", known.join(", ")))
    })
}

fn not_found(id: &Id) -> Failure {
    Failure::not_found(format!("Work order {id} not found"))
}

/// The work order, if the caller may know of it.
async fn own(service: &Service, caller: &Caller, id: &Id) -> Result<Stored, Failure> {
    let stored: Option<Stored> = stored::load(service, &key(id)).await?;
    let own = stored.filter(|stored| caller.may_see(stored.order.customer_id));
    own.ok_or_else(|| not_found(id))
}

async fn show(
    State(service): State<Service>,
    caller: Caller,
    PathId(id): PathId,
) -> Result<Json<WorkOrder>, Failure> {
    Ok(Json(own(&service, &caller, &id).await?.order))
}

async fn history(
    State(service): State<Service>,
    caller: Caller,
    PathId(id): PathId,
) -> Result<Json<Value>, Failure> {
    let stored = own(&service, &caller, &id).await?;
    Ok(Json(stored.shown_history()))
}

async fn change(
    State(service): State<Service>,
    Staff(_): Staff,
    PathId(id): PathId,
    Body { mut value, .. }: Body<Changes>,
) -> Result<Json<WorkOrder>, Failure> {
    value.check()?;
    let changes = Box::new(value);
    let message = Message::Change { id, changes };
    Ok(Json(service.call(&WorkOrders, &message).await?.order))
}

async fn approve(
    State(service): State<Service>,
    caller: Caller,
    key: IdempotencyKey,
    PathId(id): PathId,
    Body { fingerprint, .. }: Body<serde::de::IgnoredAny>,
) -> Result<Response, Failure> {
    own(&service, &caller, &id).await?;
    let keyed = Keyed::of(&key, &caller.sub, "approve", &fingerprint);
    let message = Message::Approve { id, keyed };
    let stored = service.call(&WorkOrders, &message).await?;
    Ok((StatusCode::CREATED, Json(stored.order)).into_response())
}

async fn cancel(
    State(service): State<Service>,
    caller: Caller,
    PathId(id): PathId,
) -> Result<Json<WorkOrder>, Failure> {
    own(&service, &caller, &id).await?;
    let message = Message::Cancel { id };
    Ok(Json(service.call(&WorkOrders, &message).await?.order))
}

/// The route for everybody.
pub(crate) fn public_status(service: &Service) -> Router {
    let counted = Counted {
        service: service.clone(),
        visitors: Arc::default(),
    };
    let count = middleware::from_fn_with_state(counted, count_visits);
    Router::new()
        .route("/public/work-orders/{id}/status", get(status_for_everybody))
        .route_layer(count)
        .with_state(service.clone())
}

#[derive(Clone)]
struct Counted {
    service: Service,
    visitors: Arc<Visitors>,
}

/// Lets an address through so often a minute.
async fn count_visits(
    State(Counted { service, visitors }): State<Counted>,
    request: Request,
    next: Next,
) -> Response {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let peer = peer.map(|ConnectInfo(peer)| peer.ip());
    match visitors.come(peer, service.now()) {
        Ok(()) => next.run(request).await,
        Err(wait_seconds) => {
            let message = format!("At most {VISITS_MAX} requests a minute; wait");
            let failure = Failure::new(StatusCode::TOO_MANY_REQUESTS, message);
            let wait = [(header::RETRY_AFTER, wait_seconds.to_string())];
            (wait, failure).into_response()
        }
    }
}

async fn status_for_everybody(
    State(service): State<Service>,
    PathId(id): PathId,
    params: Params,
) -> Result<Json<Value>, Failure> {
    let params = params.known(&["document"])?;
    let document = params.get("document").map(normal);
    let document = document.filter(|document| !document.is_empty());
    let document = document.ok_or_else(|| Failure::bad_request("document should not be empty"))?;
    let stored: Option<Stored> = stored::load(&service, &key(&id)).await?;
    let order = stored.ok_or_else(|| not_found(&id))?.order;
    let customer: Option<StoredCustomer> =
        stored::load(&service, &customer_key(order.customer_id)).await?;
    let is_his = customer.is_some_and(|stored| normal(&stored.customer.document) == document);
    if !is_his {
        return Err(not_found(&id));
    }
    let date = order.estimated_completion_date.map(|date| date.to_string());
    Ok(Json(json!({
        "id": order.id,
        "status": order.status,
        "description": order.description,
        "estimatedCost": order.estimated_cost,
        "createdAt": order.created_at.to_string(),
        "estimatedCompletionDate": date,
    })))
}

/// How often an address may ask in a minute.
const VISITS_MAX: u32 = 30;
const MINUTE_MS: u64 = 60_000;
/// The most addresses that are counted at once. When there are more, those that have asked least lately are forgotten.
const ADDRESSES_MAX: usize = 10_000;

/// Who has asked how often in the present minute: that of an address begins with its first request.
#[derive(Debug, Default)]
struct Visitors(Mutex<HashMap<Option<IpAddr>, Visits>>);

#[derive(Clone, Copy, Debug)]
struct Visits {
    since: Timestamp,
    count: u32,
}

impl Visitors {
    /// Counts a request; an error says how many seconds to wait.
    fn come(&self, peer: Option<IpAddr>, now: Timestamp) -> Result<(), u64> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let peer = peer.map(network);
        if all.len() >= ADDRESSES_MAX && !all.contains_key(&peer) {
            all.retain(|_, visits| now.ms_since(visits.since) < MINUTE_MS);
            if all.len() >= ADDRESSES_MAX {
                let quiet = all.iter().min_by_key(|(_, visits)| visits.count);
                let quiet = quiet.map(|(peer, _)| *peer);
                quiet.and_then(|quiet| all.remove(&quiet));
            }
        }
        let new = Visits {
            since: now,
            count: 0,
        };
        let visits = all.entry(peer).or_insert(new);
        if now.ms_since(visits.since) >= MINUTE_MS || now < visits.since {
            *visits = new;
        }
        if visits.count == VISITS_MAX {
            let rest = MINUTE_MS - now.ms_since(visits.since);
            return Err(rest.div_ceil(1000));
        }
        visits.count += 1;
        Ok(())
    }
}

/// One customer of a provider has a whole network of IPv6 addresses.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => {
            let bits = address.to_bits() >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from_bits(bits))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thirty_a_minute() {
        let visitors = Visitors::default();
        let one: IpAddr = "10.0.0.1".parse().unwrap();
        let other: IpAddr = "10.0.0.2".parse().unwrap();
        for at in 0..30 {
            assert_eq!(visitors.come(Some(one), Timestamp(at)), Ok(()));
        }
        assert_eq!(visitors.come(Some(one), Timestamp(30_500)), Err(30));
        assert_eq!(visitors.come(Some(other), Timestamp(30_500)), Ok(()));
        assert_eq!(visitors.come(Some(one), Timestamp(60_000)), Ok(()));
        let near: IpAddr = "2001:db8::1".parse().unwrap();
        let same: IpAddr = "2001:db8::2".parse().unwrap();
        assert_eq!(network(near), network(same));
        for at in 0..i64::try_from(ADDRESSES_MAX).unwrap() + 50 {
            let address = IpAddr::from(u32::try_from(at).unwrap().to_be_bytes());
            assert_eq!(visitors.come(Some(address), Timestamp(60_000)), Ok(()));
        }
        assert!(visitors.0.lock().unwrap().len() <= ADDRESSES_MAX);
    }
}
