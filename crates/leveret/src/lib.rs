//! Leveret: message-driven backends, embedded or across machines.
//!
//! A program that embeds it connects to a store and a broker, registers its own node types, parses or receives workflows, and starts an
//! engine. In one process that is a SQLite file; across machines the same program takes the URLs of PostgreSQL and RabbitMQ.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use leveret::{
//!     connect,
//!     core::parse::{Source, parse_workflow},
//!     nodes::{NodeContext, Registry},
//!     runtime::{Engine, EngineParts, Roles, StartRequest},
//! };
//! use serde_json::json;
//! use tokio::sync::watch;
//!
//! const WORKFLOW: &str = "
//! id: greet
//! nodes:
//!   - { id: hello, uses: greet }
//! ";
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut nodes = Registry::builtin();
//! nodes.register_fn("greet", |ctx: NodeContext| async move {
//!     Ok(json!({ "hello": ctx.input.value()["name"] }))
//! });
//! let source = Source {
//!     name: "greet.yaml",
//!     text: WORKFLOW,
//! };
//! let workflow = Arc::new(parse_workflow(&source, Some(&nodes))?);
//!
//! let connected = connect("sqlite:greet.db", "embedded:").await?;
//! let parts = EngineParts {
//!     one_file: connected.one_file,
//!     registry: nodes,
//!     ..EngineParts::new(connected.store, connected.broker)
//! };
//! let engine = Engine::new(parts).await?;
//! let (stop, stopped) = watch::channel(false);
//! let serving = tokio::spawn({
//!     let engine = engine.clone();
//!     async move { engine.serve(Roles::all(), stopped).await }
//! });
//!
//! let input = json!({ "name": "Ada" }).into();
//! let result = engine
//!     .start_and_wait(StartRequest {
//!         workflow,
//!         input,
//!         run_id: None,
//!     })
//!     .await?;
//! assert_eq!(result.output.value(), &json!({ "hello": "Ada" }));
//!
//! stop.send_replace(true);
//! serving.await??;
//! engine.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! `examples/greet.rs` is the same as a program.
//!
//! | module | holds |
//! |---|---|
//! | [`nodes`] | the trait of node types, their verdicts and errors, the registry, the built-in types |
//! | [`runtime`] | the engine: start, await and cancel runs; play worker, timers and reconciler |
//! | [`broker`], [`store`] | the two seams: their promises, their adapters, and a conformance suite for each |
//! | `http` | the API, with the feature of that name |
//! | [`metrics`] | what a process counts |
//! | [`core`] | workflows, expressions and decisions: the pure half, in a crate of its own |
//!
//! What holds when a call has returned, and what a crash before and after it means, stands at the call; what holds everywhere, in the
//! modules `broker`, `store` and `nodes`. The features `rabbitmq`, `postgres` and `http` are on by default; without them one process with
//! one SQLite file is left. The feature `crash-points` is for tests: see [`crash`].

mod batcher;
pub mod broadcast;
pub mod broker;
mod clock;
mod connect;
pub mod crash;
#[cfg(feature = "http")]
pub mod http;
pub mod metrics;
pub mod nodes;
mod one_file;
#[cfg(feature = "postgres")]
mod postgres;
mod redact;
pub mod runtime;
pub mod schedules;
pub mod service;
pub mod sqlite;
pub mod store;
mod tls;

pub use leveret_core as core;

pub use self::{
    connect::{
        ConnectError, Connected, Migrated, connect, connect_prefixed, migrate, migrate_prefixed,
        remove_prefixed,
    },
    one_file::OneFile,
    redact::redact_url,
};

#[cfg(test)]
mod tests {
    /// The example in the crate's documentation, which nobody compiles, has the lines of the one that is compiled.
    #[test]
    fn the_example_is_the_compiled_one() {
        let compiled = include_str!("../examples/greet.rs");
        let shown = include_str!("lib.rs").split("//! ```").nth(1);
        for line in shown.expect("there is an example").lines().skip(1) {
            let line = line.trim_start_matches("//!").trim();
            // Where its file lies is its own business.
            let is_own = line.starts_with('#') || line.starts_with("let connected");
            assert!(
                is_own || compiled.lines().any(|known| known.trim() == line),
                "not in examples/greet.rs: {line}"
            );
        }
    }
}
