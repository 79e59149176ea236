//! temporary
mod commands;
use clap::Parser;
use commands::bench::{Bench, Target, chain};
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    bench: Bench,
    #[arg(long, global = true, default_value = "")]
    store: String,
    #[arg(long, global = true, default_value = "embedded:")]
    broker: String,
    #[arg(long, global = true, default_value = "off")]
    status: String,
}
#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let Bench::Chain(options) = cli.bench;
    let dir = std::env::temp_dir().join(format!("leveret-bench-{}", std::process::id()));
    let store = if cli.store.is_empty() { format!("sqlite:{}/leveret.db", dir.display()) } else { cli.store };
    let status = serde_json::from_value(serde_json::json!(cli.status))?;
    let report = chain(&options, &Target { store, broker: cli.broker, status }, &|_| ()).await?;
    println!("{}", serde_json::to_string_pretty(&report)?);
    std::fs::remove_dir_all(dir).ok();
    Ok(())
}
