//! `leveret prune`: removes runs that ended long ago.

use std::time::Duration;

use anyhow::Context;
use leveret::runtime::{Clock, SystemClock};
use leveret_core::time::Timestamp;
use serde::Serialize;

use crate::{
    engine,
    exit::{BadInput, Exit},
    output::{self, Output},
    settings::{Settings, Span},
};

#[derive(Serialize)]
struct Pruned {
    runs: u64,
}

pub(crate) async fn prune(
    older_than: Option<Span>,
    settings: &Settings,
    output: Output,
) -> anyhow::Result<Exit> {
    let kept: Option<Duration> = older_than.map(|span| span.0).or(settings.retention());
    let kept = kept.ok_or_else(|| {
        BadInput::new("retention is off: say --older-than which runs are to be removed")
    })?;
    let engine = engine::open(settings).await?;
    // The database's time, where it has one.
    let now = engine.store().now().await.ok().flatten();
    let now = now.unwrap_or_else(|| SystemClock.now());
    let kept_ms = i64::try_from(kept.as_millis()).unwrap_or(i64::MAX);
    let pruned = engine.prune(Timestamp(now.0.saturating_sub(kept_ms))).await;
    engine.close().await;
    let runs = pruned.context("cannot remove runs")?;
    if output.json {
        output::json(&Pruned { runs })?;
    } else {
        output::line(format!("{runs} runs removed"))?;
    }
    Ok(Exit::Ok)
}
