//! From a URL to a broker: the only place that makes one.

use std::sync::Arc;

use super::{Broker, BrokerError, embedded::EmbeddedBroker, memory::MemoryBroker};
use crate::{
    connect::{self, ConnectError},
    sqlite::Database,
};

/// Connects to a broker: `embedded:PATH`, `amqp://…`, `amqps://…`, `memory:`. A program that has a SQLite file open puts the embedded broker
/// into it by [`EmbeddedBroker::open`].
///
/// # Errors
/// [`BrokerError::Url`] when the URL cannot be used, [`BrokerError::Unavailable`] when nobody answers now.
pub async fn connect(url: &str) -> Result<Arc<dyn Broker>, ConnectError> {
    match open(url, None).await? {
        (_, Some(embedded)) => Ok(Arc::new(embedded.with_own_file())),
        (broker, None) => Ok(broker),
    }
}

/// The same for a program that may start before its broker: one that nobody can reach now is connected to when it is there, and until then
/// calls fail with [`BrokerError::Unavailable`].
///
/// # Errors
/// Those of [`connect`] that time does not mend: a URL that cannot be used, a refused login.
pub async fn connect_late(url: &str) -> Result<Arc<dyn Broker>, ConnectError> {
    #[cfg(feature = "rabbitmq")]
    if matches!(connect::scheme(url).0, "amqp" | "amqps") {
        use super::rabbitmq::{RabbitMq, RabbitMqOptions};
        let mut options = RabbitMqOptions::new(url);
        options.late = true;
        return Ok(Arc::new(RabbitMq::connect(options).await?));
    }
    connect(url).await
}

/// Whether a URL is one of a broker, by its look alone: nobody is asked.
///
/// # Errors
/// [`BrokerError::Url`].
pub fn check_url(url: &str) -> Result<(), BrokerError> {
    match connect::scheme(url) {
        ("embedded", path) if path.is_empty() || connect::is_file(path) => Ok(()),
        ("embedded", _) => Err(no_file(NO_FILE)),
        ("memory", _) => Ok(()),
        #[cfg(feature = "rabbitmq")]
        ("amqp" | "amqps", _) => super::rabbitmq::check_url(url),
        _ => Err(no_broker(url)),
    }
}

/// The broker, and itself again if it is embedded. `embedded:` alone is in the shared file.
pub(crate) async fn open(
    url: &str,
    shared: Option<&Database>,
) -> Result<(Arc<dyn Broker>, Option<EmbeddedBroker>), ConnectError> {
    match connect::scheme(url) {
        ("embedded", path) => {
            let database = match shared {
                Some(database) if path.is_empty() => database.clone(),
                _ => open_file(path)?,
            };
            let broker = EmbeddedBroker::open(database)?;
            Ok((Arc::new(broker.clone()), Some(broker)))
        }
        ("memory", _) => Ok((Arc::new(MemoryBroker::new()), None)),
        #[cfg(feature = "rabbitmq")]
        ("amqp" | "amqps", _) => {
            use super::rabbitmq::{RabbitMq, RabbitMqOptions};
            let broker = RabbitMq::connect(RabbitMqOptions::new(url)).await?;
            Ok((Arc::new(broker), None))
        }
        _ => Err(no_broker(url).into()),
    }
}

const NO_FILE: &str = "the embedded broker needs a file, such as embedded:broker.db";

fn open_file(path: &str) -> Result<Database, ConnectError> {
    match path {
        "" => {
            let detail = "the embedded broker needs a file: embedded:PATH, or a store in SQLite";
            Err(no_file(detail).into())
        }
        path if connect::is_file(path) => connect::open_file(path),
        _ => Err(no_file(NO_FILE).into()),
    }
}

fn no_file(detail: &str) -> BrokerError {
    let detail = detail.to_owned();
    BrokerError::Url { detail }
}

fn no_broker(url: &str) -> BrokerError {
    let detail = connect::no_kind(url, "broker", "embedded", "embedded: and amqp://…");
    BrokerError::Url { detail }
}
