//! Dead letters, for administrators: what `leveret dlq` asks for.

use std::sync::Arc;

use axum::Router;
use leveret::{
    broker::Broker,
    http::{DeadLetterQueues, dead_letters as routes},
};

use crate::auth::Admin;

/// Lists, replays and discards the dead letters of these queues. Behind the guard of tokens.
pub(crate) fn dead_letters(broker: &Arc<dyn Broker>, queues: Vec<String>) -> Router {
    let queues = DeadLetterQueues {
        names: queues.into_iter().map(Into::into).collect(),
        prefix: None,
    };
    let admins_only = axum::middleware::from_extractor::<Admin>();
    routes(broker.clone(), queues).route_layer(admins_only)
}
