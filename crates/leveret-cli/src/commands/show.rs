//! `leveret config`, `leveret version`, `leveret completions`.

use clap::CommandFactory;
use clap_complete::Shell;
use serde_json::json;

use crate::{
    cli::Cli,
    exit::Exit,
    output::{self, Output},
    settings::Settings,
};

pub(crate) fn config(settings: &Settings, output: Output) -> anyhow::Result<Exit> {
    let effective = settings.effective();
    if output.json {
        output::json(&effective)?;
        return Ok(Exit::Ok);
    }
    let from = effective.config.as_ref().map_or_else(
        || "no settings file".to_owned(),
        |file| format!("settings file {}", file.display()),
    );
    output::line(format!(
        "# {from}; flags go over LEVERET_*, these over the file"
    ))?;
    output::line(toml::to_string(&effective)?.trim_end())?;
    Ok(Exit::Ok)
}

pub(crate) fn version(output: Output) -> anyhow::Result<Exit> {
    let version = env!("CARGO_PKG_VERSION");
    if output.json {
        output::json(&json!({ "version": version }))?;
    } else {
        output::line(format!("leveret {version}"))?;
    }
    Ok(Exit::Ok)
}

pub(crate) fn completions(shell: Shell) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "leveret", &mut script);
    output::script(String::from_utf8_lossy(&script).trim_end())?;
    Ok(Exit::Ok)
}
