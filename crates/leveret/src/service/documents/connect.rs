//! From a URL to documents: the only place that makes them.

use std::sync::Arc;

use super::{Documents, DocumentsError, Kind, memory::MemoryDocuments, sqlite::SqliteDocuments};
use crate::connect::{self, ConnectError};

/// Connects to a service's documents and brings their tables up to date.
///
/// | URL | |
/// |---|---|
/// | `sqlite:PATH` | a SQLite file of the service's own, which this process alone has open |
/// | `postgres://…` | PostgreSQL: a schema for each service, which any number of its processes share |
/// | `mongodb://…/DATABASE` | MongoDB: a collection for each service, which any number of its processes share; one document a commit |
/// | `memory:` | this process's memory, for tests |
///
/// `schema` names the tables' place in PostgreSQL, and begins the names of collections in MongoDB; the others do without.
///
/// PostgreSQL and MongoDB are there with the features of their names.
///
/// # Errors
/// [`DocumentsError::Url`] when the URL cannot be used, [`DocumentsError::Invalid`] for kinds that cannot be,
/// [`DocumentsError::Unavailable`] when nobody answers now.
pub async fn connect(
    url: &str,
    schema: &str,
    kinds: &[Kind],
) -> Result<Arc<dyn Documents>, DocumentsError> {
    match connect::scheme(url) {
        ("sqlite", path) => {
            if !connect::is_file(path) {
                return Err(DocumentsError::Url {
                    detail: "a service needs a file, such as sqlite:service.db".to_owned(),
                });
            }
            let database = connect::open_file(path).map_err(not_opened)?;
            Ok(Arc::new(SqliteDocuments::open(database, kinds)?))
        }
        ("memory", _) => Ok(Arc::new(MemoryDocuments::new(kinds)?)),
        #[cfg(feature = "postgres")]
        ("postgres" | "postgresql", _) => {
            use super::postgres::{PostgresDocuments, PostgresDocumentsOptions};
            let options = PostgresDocumentsOptions::new(url, schema, kinds);
            Ok(Arc::new(PostgresDocuments::connect(options).await?))
        }
        #[cfg(feature = "mongodb")]
        ("mongodb" | "mongodb+srv", _) => {
            use super::mongodb::{MongoDocuments, MongoDocumentsOptions};
            let options = MongoDocumentsOptions::new(url, schema, kinds);
            Ok(Arc::new(MongoDocuments::connect(options).await?))
        }
        _ => {
            let _ = schema;
            let there_are = if cfg!(feature = "mongodb") {
                "sqlite:PATH, postgres://… and mongodb://…"
            } else {
                "sqlite:PATH and postgres://…"
            };
            Err(DocumentsError::Url {
                detail: connect::no_kind(url, "service store", "sqlite", there_are),
            })
        }
    }
}

fn not_opened(error: ConnectError) -> DocumentsError {
    match error {
        ConnectError::Database(error) => error.into(),
        error => {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
            DocumentsError::Refused {
                detail: format!("{error}{}", cause.unwrap_or_default()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::tests::TempPath;

    #[tokio::test]
    async fn by_url() {
        let kinds = [Kind::new("order", &["status"])];
        let path = TempPath::new();
        let file = format!("sqlite:{}", path.0.display());
        for (url, durable) in [(&*file, true), ("memory:", false)] {
            let documents = connect(url, "orders", &kinds).await.unwrap();
            assert_eq!(documents.capabilities().durable, durable);
            documents.ping().await.unwrap();
            documents.close().await;
        }
        let check = async |url: &str, kinds: &[Kind], expect: &str| {
            let error = connect(url, "orders", kinds).await.err();
            let error = error.expect("is refused").to_string();
            assert!(error.contains(expect), "{url}: {error}");
        };
        check("redis://h", &kinds, "'redis:' is no kind of service store").await;
        check("sqlite:", &kinds, "such as sqlite:service.db").await;
        check("sqlite::memory:", &kinds, "such as sqlite:service.db").await;
        check("service.db", &kinds, "say sqlite:service.db").await;
        check(
            "memory:",
            &[Kind::new("no kind", &[])],
            "cannot name a kind",
        )
        .await;
        let twice = [kinds[0].clone(), kinds[0].clone()];
        check("memory:", &twice, "declared twice").await;
    }
}
