//! A private RabbitMQ: a node name, an Erlang port mapper, a cookie and paths of its own.
//!
//! Erlang starts its port mapper (`epmd`) by itself, as a daemon that outlives the node. Here it is started
//! first, as a process we know, on a port of its own, and the node finds it there.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::Kind;
use super::instance::{Backing, Daemon, Instance, Program, environment};
use crate::{paths, ports};

/// Where Debian and Red Hat keep the script itself; their `rabbitmq-server` on the `PATH` changes the user.
const SCRIPT: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

#[derive(Debug)]
pub(crate) struct Programs {
    server: PathBuf,
    epmd: PathBuf,
}

pub(crate) fn programs() -> Option<Programs> {
    let script = Some(PathBuf::from(SCRIPT)).filter(|path| path.is_file());
    Some(Programs {
        server: script.or_else(|| paths::program("rabbitmq-server"))?,
        epmd: epmd()?,
    })
}

/// On the `PATH`, or with the Erlang run-time system that `erl` belongs to.
fn epmd() -> Option<PathBuf> {
    let erlang = [
        "/usr/lib/erlang",
        "/usr/lib64/erlang",
        "/usr/local/lib/erlang",
    ];
    let systems = erlang
        .into_iter()
        .flat_map(|dir| fs::read_dir(dir).into_iter().flatten().flatten());
    let beside = systems
        .map(|entry| entry.path().join("bin/epmd"))
        .find(|path| path.is_file());
    paths::program("epmd").or(beside)
}

pub(crate) fn plan(dir: &Path, port: u16, distribution_port: u16) -> Result<Instance> {
    let programs = programs().context("rabbitmq-server is not installed")?;
    let data_dir = dir.join("rabbitmq");
    let epmd_port = ports::free(1)?[0].to_string();
    let at = |name: &str| data_dir.join(name).display().to_string();
    let env = environment(&[
        // The cookie is there.
        ("HOME", at("")),
        ("ERL_EPMD_PORT", epmd_port.clone()),
        ("ERL_EPMD_ADDRESS", "127.0.0.1".into()),
        ("RABBITMQ_NODENAME", format!("leveret-{port}@localhost")),
        ("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1".into()),
        ("RABBITMQ_NODE_PORT", port.to_string()),
        ("RABBITMQ_DIST_PORT", distribution_port.to_string()),
        (
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
            "-kernel inet_dist_use_interface {127,0,0,1}".into(),
        ),
        ("RABBITMQ_MNESIA_BASE", at("mnesia")),
        ("RABBITMQ_LOG_BASE", at("log")),
        ("RABBITMQ_LOGS", "-".into()),
        ("RABBITMQ_SCHEMA_DIR", at("schema")),
        ("RABBITMQ_GENERATED_CONFIG_DIR", at("generated")),
        ("RABBITMQ_PID_FILE", at("node.pid")),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", at("enabled_plugins")),
        ("RABBITMQ_CONFIG_FILE", at("rabbitmq.conf")),
        ("RABBITMQ_CONF_ENV_FILE", at("rabbitmq-env.conf")),
    ]);
    let daemon = |name: &str, argv: Vec<String>| Daemon {
        argv,
        env: env.clone(),
        user: None,
        pid_file: dir.join(format!("{name}.pid")),
        log_file: dir.join(format!("{name}.log")),
    };
    let epmd = [
        &programs.epmd.display().to_string(),
        "-port",
        &epmd_port,
        "-address",
        "127.0.0.1",
    ];
    let helper = daemon("epmd", epmd.map(str::to_owned).to_vec());
    let daemon = daemon("rabbitmq", vec![programs.server.display().to_string()]);
    Ok(Instance::program(
        Kind::RabbitMq,
        port,
        Program {
            data_dir,
            daemon,
            helper: Some(helper),
        },
    ))
}

/// Gives the broker an order of an operator.
pub(crate) fn order(broker: &Instance, args: &[String]) -> Result<()> {
    let program = match &broker.backing {
        Backing::Program(program) => program,
        Backing::Container(container) => {
            let args = args.iter().map(String::as_str);
            let order: Vec<&str> = ["rabbitmqctl"].into_iter().chain(args).collect();
            return container.execute(&order);
        }
    };
    let ctl = Path::new(SCRIPT).with_file_name("rabbitmqctl");
    let ctl = Some(ctl).filter(|path| path.is_file());
    let ctl = ctl.or_else(|| paths::program("rabbitmqctl"));
    let ctl = ctl.context("rabbitmqctl is not installed")?;
    let mut command = vec![ctl.display().to_string()];
    command.extend_from_slice(args);
    let status = program.daemon.command(&command).status();
    let status = status.context("cannot run rabbitmqctl")?;
    if !status.success() {
        bail!("`rabbitmqctl {}` failed ({status})", args.join(" "));
    }
    Ok(())
}

/// A nearly full disk shall not block the publishers of a test.
const CONFIGURATION: &str = "\
disk_free_limit.absolute = 64MB
log.console.level = info
";

/// Classic queues as they always are from RabbitMQ 4.0 on, by the policy that `docs/OPERATIONS.md` recommends before that. A broker that loads
/// definitions makes no user of its own: the password is `guest`, after the salt `hare`.
const DEFINITIONS: &str = r#"{
  "vhosts": [{ "name": "/" }],
  "users": [{
    "name": "guest",
    "password_hash": "aGFyZZ0XXC1KuzqeWVzLklr6D6OI9m/AZPNQ1hfOqzH8nh2n",
    "hashing_algorithm": "rabbit_password_hashing_sha256",
    "tags": "administrator"
  }],
  "permissions": [{ "user": "guest", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*" }],
  "policies": [{
    "vhost": "/",
    "name": "classic-queues-on-disk",
    "pattern": ".*",
    "apply-to": "queues",
    "definition": { "queue-version": 2, "queue-mode": "lazy" },
    "priority": 0
  }]
}
"#;

/// Writes the configuration.
pub(crate) fn initialise(program: &Program) -> Result<()> {
    let dir = &program.data_dir;
    for part in ["", "mnesia", "log", "schema", "generated"] {
        fs::create_dir_all(dir.join(part))?;
    }
    fs::write(dir.join("enabled_plugins"), "[].\n")?;
    fs::write(dir.join("rabbitmq-env.conf"), "")?;
    let definitions = dir.join("definitions.json");
    fs::write(&definitions, DEFINITIONS)?;
    let configuration = format!(
        "{CONFIGURATION}load_definitions = {}\n",
        definitions.display()
    );
    fs::write(dir.join("rabbitmq.conf"), configuration)?;
    Ok(())
}
