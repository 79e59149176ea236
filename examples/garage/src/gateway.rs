//! A simulated Mercado Pago.

use axum::Router;
use tokio::sync::watch;

use crate::{settings::Settings, stack::Place};

/// Its routes.
pub(crate) fn router(_webhook_secret: Option<String>) -> Router {
    Router::new()
}

/// Runs one along with the services of this process; its URL. What is not set is agreed upon: access token, webhook secret, public URL.
pub(crate) async fn simulate(
    _settings: &mut Settings,
    _places: &[Place],
    _stopped: watch::Receiver<bool>,
) -> anyhow::Result<String> {
    anyhow::bail!("not yet")
}
