//! Watching orders: for those who wait for them, and for the metrics.

use std::{pin::Pin, sync::Arc, time::Duration};

use leveret::{
    metrics::text::{Kind, TextWriter},
    service::{
        Key, Of, Service, Watch,
        documents::{Document, Order as Listing, Query},
        http::Extra,
    },
};
use tokio::time::timeout;

use crate::order::{KIND, Order, OrderState, OrderStatus, STATUS};

/// How often an order is looked at without a hint: another process may have moved it.
const POLL: Duration = Duration::from_millis(500);

/// Waits for an order's end.
pub(crate) async fn ended(service: &Service, order_id: &str) -> anyhow::Result<OrderState> {
    let key = Of::<Order>::key(order_id);
    let watch = service.watch(&key);
    let state = stored(service, &key).await?;
    end_of(service, &key, watch, state).await
}

/// Waits for the end of an order that is watched and was in this state.
pub(crate) async fn end_of(
    service: &Service,
    key: &Key,
    mut watch: Watch,
    mut state: OrderState,
) -> anyhow::Result<OrderState> {
    while !state.status.is_final() {
        state = match timeout(POLL, watch.next()).await {
            Ok(document) => read(key, &document)?,
            Err(_) => stored(service, key).await?,
        };
    }
    Ok(state)
}

async fn stored(service: &Service, key: &Key) -> anyhow::Result<OrderState> {
    let loaded = service.documents().load(std::slice::from_ref(key)).await?;
    read(key, &loaded[0])
}

fn read(key: &Key, document: &Document) -> anyhow::Result<OrderState> {
    let state = document.state.as_ref();
    let state = state.ok_or_else(|| anyhow::anyhow!("there is no order '{}'", key.id))?;
    Ok(serde_json::from_str(state.text())?)
}

/// The metrics of orders by status, and the age of the oldest one that waits.
pub(crate) fn pending_age(service: Option<Service>) -> Option<Extra> {
    let service = service?;
    let extra = move |mut text: TextWriter| -> Pin<Box<dyn Future<Output = TextWriter> + Send>> {
        let service = service.clone();
        Box::pin(async move {
            let mut ages = Vec::new();
            let mut counts = Vec::new();
            for status in OrderStatus::ALL {
                let filter = [(Arc::from(STATUS), Arc::from(status.as_str()))];
                if let Ok(count) = service.documents().count(KIND, &filter).await {
                    counts.push((status, count));
                }
                if !status.is_final()
                    && let Some(age) = oldest(&service, status).await
                {
                    ages.push((status, age));
                }
            }
            let mut family = text.family("orders", Kind::Gauge, "Orders by status.");
            for (status, count) in counts {
                family.sample(&[("status", status.as_str())], count);
            }
            let mut family = text.family(
                "orders_oldest_age_seconds",
                Kind::Gauge,
                "Age of the oldest order that has not ended.",
            );
            for (status, age) in ages {
                family.sample(&[("status", status.as_str())], age);
            }
            text
        })
    };
    Some(Arc::new(extra))
}

async fn oldest(service: &Service, status: OrderStatus) -> Option<u64> {
    let query = Query {
        kind: KIND.into(),
        filter: vec![(STATUS.into(), status.as_str().into())],
        order: Listing::Oldest,
        after: None,
        limit: 1,
    };
    let page = service.documents().list(&query).await.ok()?;
    let now = service.now();
    Some(
        page.documents
            .first()
            .map_or(0, |oldest| now.ms_since(oldest.created_at) / 1000),
    )
}
