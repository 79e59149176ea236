//! A node type of one's own: a workflow that uses it, run on an embedded broker and a SQLite file.
//!
//! `cargo run -p leveret --example greet`

use std::sync::Arc;

use leveret::{
    connect,
    core::parse::{Source, parse_workflow},
    nodes::{NodeContext, Registry},
    runtime::{Engine, EngineParts, Roles, StartRequest},
};
use serde_json::json;
use tokio::sync::watch;

const WORKFLOW: &str = "
id: greet
nodes:
  - { id: hello, uses: greet }
";

#[tokio::main]
pub(crate) async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut nodes = Registry::builtin();
    nodes.register_fn("greet", |ctx: NodeContext| async move {
        Ok(json!({ "hello": ctx.input.value()["name"] }))
    });
    let source = Source {
        name: "greet.yaml",
        text: WORKFLOW,
    };
    let workflow = Arc::new(parse_workflow(&source, Some(&nodes))?);

    let file = std::env::temp_dir().join(format!("leveret-greet-{}/greet.db", std::process::id()));
    let connected = connect(&format!("sqlite:{}", file.display()), "embedded:").await?;
    let parts = EngineParts {
        one_file: connected.one_file,
        registry: nodes,
        ..EngineParts::new(connected.store, connected.broker)
    };
    let engine = Engine::new(parts).await?;
    let (stop, stopped) = watch::channel(false);
    let serving = tokio::spawn({
        let engine = engine.clone();
        async move { engine.serve(Roles::all(), stopped).await }
    });

    let input = json!({ "name": "Ada" }).into();
    let result = engine
        .start_and_wait(StartRequest {
            workflow,
            input,
            run_id: None,
        })
        .await?;
    println!("{}", result.output.text());
    assert_eq!(result.output.value(), &json!({ "hello": "Ada" }));

    stop.send_replace(true);
    serving.await??;
    engine.close().await;
    std::fs::remove_dir_all(file.parent().expect("the file has a directory"))?;
    Ok(())
}
