//! The binary `leveret`.

mod api;
mod bench;
mod broadcast;
mod cli;
mod client;
mod commands;
mod demo;
mod directory;
mod engine;
mod exit;
mod input;
mod logging;
mod output;
mod progress;
mod proxies;
mod settings;
mod shutdown;
mod variables;

use std::process::ExitCode;

/// Many small values are made in one thread and dropped in another.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = variables::parse();
    let armed = variables::arm_crash_point().map_err(Into::into);
    match armed.and_then(|()| commands::execute(cli)) {
        Ok(exit) => exit.into(),
        Err(error) => {
            let exit = exit::of_error(&error);
            if exit != exit::Exit::Ok {
                let message = format!("error: {error:#}\n");
                progress::to_stderr(output::clean(&message).as_bytes());
            }
            exit.into()
        }
    }
}
