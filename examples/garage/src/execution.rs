//! The execution service.

use std::sync::Arc;

use axum::Router;
use leveret::{
    broker::Broker,
    service::{Documents, Kind, Service, ServiceOptions},
};

use crate::{events::CATALOGUE, openapi::Operation, settings::Settings};

/// The kinds of its documents.
pub(crate) fn kinds() -> Vec<Kind> {
    vec![Kind::new("placeholder", &[])]
}

/// The queues that it reads.
pub(crate) fn queues() -> Vec<String> {
    Vec::new()
}

/// The service.
pub(crate) fn service(
    documents: Arc<dyn Documents>,
    broker: Arc<dyn Broker>,
    settings: &Settings,
) -> anyhow::Result<Service> {
    let mut options = ServiceOptions::new("execution", settings.work.now.clone());
    options.topology = CATALOGUE.topology();
    Ok(Service::builder(options, documents, broker).build())
}

/// Routes that need a token.
pub(crate) fn router(_service: &Service, _settings: &Settings) -> Router {
    Router::new()
}

/// What it can be asked.
pub(crate) fn operations() -> Vec<Operation> {
    Vec::new()
}
