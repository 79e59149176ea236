//! Registers: entries that staff keep, each a document. Parts and services are such.

use std::marker::PhantomData;

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use leveret::{
    core::time::Timestamp,
    service::{
        Change, Decider, Decision, Key, Refusal, Service, View,
        documents::{Document, Order, Query},
    },
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::http::{limit, paged};
use crate::{
    auth::{Admin, Staff},
    failure::{CONFLICT, Failure, NOT_FOUND},
    ids::Id,
    request::{Keyed, Params, PathId, Seen, Served},
};

pub(super) type Answer = Result<Response, Failure>;

/// What a register has.
pub(super) trait Entry:
    Serialize + DeserializeOwned + Clone + Send + Sync + 'static
{
    /// The kind of its documents.
    const KIND: &'static str;
    /// What people call one.
    const NAME: &'static str;
    /// What can be changed of one.
    type Change: Send + Sync + 'static;

    /// The values that lists find one by.
    fn fields(&self) -> Vec<(&'static str, String)>;

    /// Changes it, or says why not.
    fn change(&mut self, change: &Self::Change) -> Result<(), Refusal>;

    /// As it is answered, but for id and times.
    fn shown(&self) -> Value;
}

/// An entry, as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Kept<E> {
    id: Id,
    entry: E,
    created_at: Timestamp,
    updated_at: Timestamp,
    served: Served,
}

impl<E: Entry> Kept<E> {
    pub(super) fn shown(&self) -> Value {
        let mut shown = self.entry.shown();
        shown["id"] = self.id.as_str().into();
        shown["_id"] = self.id.as_str().into();
        shown["createdAt"] = self.created_at.to_string().into();
        shown["updatedAt"] = self.updated_at.to_string().into();
        shown
    }
}

/// What is asked of an entry.
pub(super) struct Ask<E: Entry> {
    pub(super) id: Id,
    pub(super) keyed: Option<Keyed>,
    pub(super) what: What<E>,
}

pub(super) enum What<E: Entry> {
    Make(E),
    Change(E::Change),
    Remove,
}

/// The decider.
pub(super) struct Register<E>(PhantomData<fn() -> E>);

impl<E> Default for Register<E> {
    fn default() -> Register<E> {
        Register(PhantomData)
    }
}

impl<E: Entry> Decider for Register<E> {
    type Message = Ask<E>;
    type Answer = Kept<E>;

    fn keys(&self, ask: &Ask<E>) -> Vec<Key> {
        vec![key::<E>(&ask.id)]
    }

    fn decide(
        &self,
        documents: &View<'_>,
        ask: &Ask<E>,
        now: Timestamp,
    ) -> Result<Decision<Kept<E>>, Refusal> {
        let key = key::<E>(&ask.id);
        let kept = documents.state::<Kept<E>>(&key)?;
        match (kept, &ask.what) {
            (None, What::Make(entry)) => {
                let mut served = Served::default();
                served.keep(ask.keyed.as_ref());
                let kept = Kept {
                    id: ask.id.clone(),
                    entry: entry.clone(),
                    created_at: now,
                    updated_at: now,
                    served,
                };
                Ok(put(key, kept))
            }
            (None, _) => Err(Refusal::rejected(NOT_FOUND, not_found::<E>(&ask.id))),
            (Some(mut kept), what) => {
                match kept.served.look(ask.keyed.as_ref()) {
                    Seen::New => {}
                    Seen::Again => return Ok(Decision::answer(kept)),
                    Seen::Other => {
                        let reason = "this Idempotency-Key belongs to another request";
                        return Err(Refusal::rejected(CONFLICT, reason));
                    }
                }
                match what {
                    What::Make(_) => {
                        let reason = format!("{} {} is there already", E::NAME, ask.id);
                        Err(Refusal::rejected(CONFLICT, reason))
                    }
                    What::Change(change) => {
                        kept.entry.change(change)?;
                        kept.updated_at = now;
                        kept.served.keep(ask.keyed.as_ref());
                        Ok(put(key, kept))
                    }
                    What::Remove => Ok(Decision {
                        put: vec![Change::remove(key)],
                        ..Decision::answer(kept)
                    }),
                }
            }
        }
    }
}

fn put<E: Entry>(key: Key, kept: Kept<E>) -> Decision<Kept<E>> {
    Decision {
        put: vec![Change::set(key, &kept, kept.entry.fields())],
        ..Decision::answer(kept)
    }
}

fn key<E: Entry>(id: &Id) -> Key {
    Key::new(E::KIND, id.as_str())
}

fn not_found<E: Entry>(id: &Id) -> String {
    format!("{} {id} not found", E::NAME)
}

/// Has something decided.
pub(super) async fn ask<E: Entry>(service: &Service, ask: &Ask<E>, status: StatusCode) -> Answer {
    let kept = service.call(&Register::<E>::default(), ask).await?;
    Ok((status, Json(kept.shown())).into_response())
}

pub(super) async fn show<E: Entry>(
    State(service): State<Service>,
    _: Staff,
    PathId(id): PathId,
) -> Answer {
    let loaded = service.documents().load(&[key::<E>(&id)]).await?;
    let kept = loaded.first().map(read::<E>).transpose()?.flatten();
    let kept = kept.ok_or_else(|| Failure::not_found(not_found::<E>(&id)))?;
    Ok(Json(kept.shown()).into_response())
}

/// Administrators alone take entries away.
pub(super) async fn remove<E: Entry>(
    State(service): State<Service>,
    _: Admin,
    PathId(id): PathId,
) -> Answer {
    let remove = Ask::<E> {
        id,
        keyed: None,
        what: What::Remove,
    };
    ask(&service, &remove, StatusCode::OK).await
}

/// A page of entries with these values of fields.
pub(super) async fn list<E: Entry>(
    service: &Service,
    params: &Params,
    filter: Vec<(&str, &str)>,
) -> Answer {
    let query = Query {
        kind: E::KIND.into(),
        filter: filter
            .into_iter()
            .map(|(field, value)| (field.into(), value.into()))
            .collect(),
        order: Order::Newest,
        after: params.get("after").map(Into::into),
        limit: limit(params)?,
    };
    let page = service.documents().list(&query).await?;
    let kept = page.documents.iter().map(read::<E>);
    let kept = kept.collect::<Result<Vec<_>, _>>()?;
    let shown: Vec<Value> = kept.iter().flatten().map(Kept::shown).collect();
    Ok(paged(&shown, page.next.map(|next| next.to_string())))
}

fn read<E: Entry>(document: &Document) -> Result<Option<Kept<E>>, Failure> {
    let Some(state) = &document.state else {
        return Ok(None);
    };
    let read = serde_json::from_str(state.text());
    read.map(Some).map_err(|error| {
        tracing::error!(%error, id = &*document.key.id, "a stored {} cannot be read", E::KIND);
        let message = format!("The {} cannot be read", E::KIND);
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    })
}
