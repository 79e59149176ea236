//! `leveret migrate`: the schema of the store.

use anyhow::Context;
use leveret::{Migrated, migrate_prefixed, redact_url};

use crate::{
    engine,
    exit::Exit,
    output::{self, Output},
    settings::Settings,
};

pub(crate) async fn migrate(settings: &Settings, output: Output) -> anyhow::Result<Exit> {
    let store = settings.store();
    let migrated = migrate_prefixed(&store, settings.prefix.as_deref().unwrap_or_default())
        .await
        .map_err(engine::of_connect)
        .with_context(|| format!("cannot migrate {}", redact_url(&store)))?;
    if output.json {
        output::json(&migrated)?;
        return Ok(Exit::Ok);
    }
    for Migrated {
        component,
        from,
        to,
    } in &migrated
    {
        output::line(match from {
            from if from == to => format!("{component}: version {to}, up to date"),
            0 => format!("{component}: made, version {to}"),
            _ => format!("{component}: brought from version {from} to {to}"),
        })?;
    }
    Ok(Exit::Ok)
}
