//! From a URL to a collection with its indexes.

use std::{
    sync::atomic::{AtomicBool, AtomicU64},
    time::Duration,
};

use mongodb::{
    Client, Collection, Database, IndexModel,
    bson::{Document as Doc, doc},
    options::{
        Acknowledgment, ClientOptions, CollectionOptions, IndexOptions, ReadConcern,
        ReadPreference, ReturnDocument, SelectionCriteria, WriteConcern,
    },
};

use super::{Inner, MongoDocumentsOptions, error::Failure};
use crate::service::documents::{DocumentsError, Kind, check::Kinds};

/// The form in which documents lie there. Goes up when an older program could not read them.
const VERSION: i32 = 1;

/// That of MongoDB 4.4, the first whose answers compute what they show.
const WIRE_VERSION_MIN: i32 = 9;

/// How long a call waits for a server that can be written to.
const SELECTION_TIME_MAX: Duration = Duration::from_secs(5);

/// Connects; `change` has the last word on how.
pub(super) async fn open(
    options: MongoDocumentsOptions,
    change: impl FnOnce(&mut ClientOptions),
) -> Result<Inner, DocumentsError> {
    let kinds = Kinds::new(&options.kinds)?;
    check_schema(&options.schema)?;
    // What the driver says of a URL may quote its password.
    let parsed = ClientOptions::parse(&*options.url).await;
    let mut client_options = parsed.map_err(|_| DocumentsError::Url {
        detail: "it is no such URL as mongodb://host:port/database".to_owned(),
    })?;
    client_options
        .app_name
        .get_or_insert_with(|| "leveret".to_owned());
    client_options.server_selection_timeout = Some(SELECTION_TIME_MAX);
    client_options.connect_timeout = Some(SELECTION_TIME_MAX);
    client_options.max_pool_size = Some(options.connections_max);
    // They need sessions; versions and the inbox make repetitions safe.
    client_options.retry_writes = Some(false);
    change(&mut client_options);
    let client = Client::with_options(client_options).map_err(Failure::from)?;
    let database = client
        .default_database()
        .ok_or_else(|| DocumentsError::Url {
            detail: "it names no database: mongodb://host:port/database".to_owned(),
        })?;
    let name = format!("{}.documents", options.schema);
    let durable = WriteConcern::builder()
        .w(Acknowledgment::Majority)
        .journal(true)
        .build();
    let light = WriteConcern::builder().w(Acknowledgment::Nodes(1)).build();
    let inner = Inner {
        durable: collection(&database, &name, durable),
        light: collection(&database, &name, light),
        client,
        kinds,
        inbox_max: options.inbox_max,
        lease_ms: i64::try_from(options.lease.as_millis()).unwrap_or(i64::MAX >> 1),
        lease: options.lease,
        turns: AtomicU64::new(0),
        closed: AtomicBool::new(false),
        schema: options.schema,
    };
    check_server(&inner, &database).await?;
    check_version(&inner, &database).await?;
    let indexes = inner.durable.create_indexes(indexes(&options.kinds));
    inner.exchange(indexes).await?;
    Ok(inner)
}

fn collection(database: &Database, name: &str, write_concern: WriteConcern) -> Collection<Doc> {
    let options = CollectionOptions::builder()
        .read_concern(ReadConcern::local())
        .selection_criteria(SelectionCriteria::ReadPreference(ReadPreference::Primary))
        .write_concern(write_concern)
        .build();
    database.collection_with_options(name, options)
}

/// What the names of collections can begin with.
fn check_schema(schema: &str) -> Result<(), DocumentsError> {
    let is_name = !schema.is_empty()
        && schema.len() <= 60
        && !schema.starts_with("system.")
        && !schema.contains(['$', '\0']);
    if is_name {
        return Ok(());
    }
    Err(DocumentsError::Invalid {
        detail: format!(
            "'{}' cannot name collections: 1 to 60 bytes, without '$'",
            schema.escape_debug()
        ),
    })
}

async fn check_server(inner: &Inner, database: &Database) -> Result<(), Failure> {
    let hello = inner
        .exchange(database.run_command(doc! { "hello": 1 }))
        .await?;
    let version = hello.get_i32("maxWireVersion").unwrap_or(0);
    if version < WIRE_VERSION_MIN {
        return Err(Failure::Documents(DocumentsError::Refused {
            detail: "the server is older than MongoDB 4.4".to_owned(),
        }));
    }
    Ok(())
}

/// A newer program's documents are left alone.
async fn check_version(inner: &Inner, database: &Database) -> Result<(), Failure> {
    let versions = format!("{}.versions", inner.schema);
    let versions = collection(database, &versions, WriteConcern::majority());
    let newest = versions
        .find_one_and_update(
            doc! { "_id": "service" },
            doc! { "$max": { "version": VERSION } },
        )
        .upsert(true)
        .return_document(ReturnDocument::After);
    let newest = match inner.exchange(newest).await {
        // Another process made it at the same time.
        Err(failure) if failure.is_duplicate() => {
            inner
                .exchange(versions.find_one(doc! { "_id": "service" }))
                .await?
        }
        newest => newest?,
    };
    let found = newest
        .and_then(|newest| newest.get_i32("version").ok())
        .unwrap_or(0);
    if found != VERSION {
        return Err(Failure::Documents(DocumentsError::Refused {
            detail: format!(
                "the documents have version {found}, this program knows {VERSION}: use a newer program"
            ),
        }));
    }
    Ok(())
}

/// Those of all documents, and one for each field that lists may ask for.
fn indexes(kinds: &[Kind]) -> Vec<IndexModel> {
    let sparse = |name: &str| index(doc! { name: 1 }, true, false);
    let mut indexes = vec![
        index(doc! { "inbox.id": 1 }, true, true),
        sparse("inbox_since"),
        sparse("due"),
        sparse("deadline"),
        sparse("parked.at"),
        index(doc! { "kind": 1, "created_at": 1, "id": 1 }, false, false),
    ];
    let mut fields: Vec<&str> = kinds
        .iter()
        .flat_map(|kind| &kind.fields)
        .map(|field| &**field)
        .collect();
    fields.sort_unstable();
    fields.dedup();
    for field in fields {
        let field = format!("fields.{field}");
        indexes.push(index(
            doc! { "kind": 1, field: 1, "created_at": 1, "id": 1 },
            false,
            false,
        ));
    }
    indexes
}

fn index(keys: Doc, sparse: bool, unique: bool) -> IndexModel {
    let options = IndexOptions::builder()
        .sparse(sparse.then_some(true))
        .unique(unique.then_some(true))
        .build();
    IndexModel::builder().keys(keys).options(options).build()
}

/// Whether the server answers.
pub(super) async fn ping(inner: &Inner) -> Result<(), Failure> {
    let database = inner.client.database("admin");
    inner
        .exchange(database.run_command(doc! { "ping": 1 }))
        .await?;
    Ok(())
}
