//! The store in a SQLite file, beside the embedded broker's tables.
//!
//! Every call that writes is one job of the file's writer thread, so that calls which wait together share one transaction and one fsync.
//! What a call returned is on disk.

mod commit;
mod numbers;
mod prune;
mod read;
mod signals;
mod timers;
mod workflows;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use leveret_core::{
    ids::{NodeId, RunId, Scope, StepKey, WorkflowId},
    json::Json,
    time::Timestamp,
    workflow::{Workflow, WorkflowHash},
};
use rusqlite::{Row, types::FromSql};

use super::{
    Batching, Committed, Finished, Load, Loaded, NewRun, NewSignal, NewTimer, NodeRef, Pass,
    Progress, RunEnd, RunFilter, RunRecord, Signalled, Started, StepError, StepHead, StepRecord,
    Store, StoreError, Timer, WaitFilter, WaitRecord, WorkflowRecord,
};
use crate::{
    schedules::{Schedules, SqliteSchedules},
    sqlite::{Database, DatabaseError, Session},
};

/// What was applied once never changes; add to the end.
const MIGRATIONS: &[&str] = &[
    include_str!("sqlite/schema.sql"),
    include_str!("sqlite/unbegun.sql"),
    include_str!("sqlite/scopes.sql"),
    include_str!("sqlite/signals.sql"),
];

/// The store. Clones share the file.
#[derive(Clone, Debug)]
pub struct SqliteStore {
    database: Database,
    schedules: SqliteSchedules,
}

impl SqliteStore {
    /// Opens the store in a database file and brings its tables to the newest version. Blocks for the disk.
    pub fn open(database: Database) -> Result<SqliteStore, StoreError> {
        database.migrate("store", MIGRATIONS)?;
        let schedules = SqliteSchedules::open(database.clone())?;
        Ok(SqliteStore {
            database,
            schedules,
        })
    }

    /// The file it lives in.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// Begins a run, as a part of a job of the same file.
    pub(crate) fn start_in(session: &Session<'_>, new: &NewRun) -> Result<Started, StoreError> {
        commit::start(session, new)
    }

    async fn write<T: Send + 'static>(
        &self,
        mut job: impl FnMut(&Session<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        Ok(self
            .database
            .write(move |session| job(session).map_err(DatabaseError::refused))
            .await?)
    }

    async fn read<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Session<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        Ok(self
            .database
            .read(move |session| job(session).map_err(DatabaseError::refused))
            .await?)
    }
}

impl From<DatabaseError> for StoreError {
    fn from(error: DatabaseError) -> StoreError {
        match error {
            DatabaseError::Closed => StoreError::Closed,
            DatabaseError::Uncertain { detail } => StoreError::Uncertain {
                detail: detail.to_string(),
            },
            DatabaseError::Refused(error) => match error.downcast::<StoreError>() {
                Ok(error) => *error,
                Err(error) => StoreError::Refused {
                    detail: error.to_string(),
                },
            },
            error if error.is_retryable() => StoreError::Unavailable {
                detail: error.chain(),
            },
            error => StoreError::Refused {
                detail: error.chain(),
            },
        }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> StoreError {
        DatabaseError::from(error).into()
    }
}

/// A column that holds something with a text form of its own.
fn parsed<T>(row: &Row<'_>, column: usize) -> Result<T, StoreError>
where
    T: std::str::FromStr<Err = StoreError>,
{
    row.get_ref(column)?
        .as_str()
        .map_err(|error| StoreError::corrupt(error.to_string()))?
        .parse()
}

/// A column that holds an id.
fn id<T>(row: &Row<'_>, column: usize) -> Result<T, StoreError>
where
    T: TryFrom<String, Error = leveret_core::ids::IdError>,
{
    T::try_from(row.get::<_, String>(column)?)
        .map_err(|error| StoreError::corrupt(error.to_string()))
}

fn time(row: &Row<'_>, column: usize) -> Result<Timestamp, StoreError> {
    Ok(Timestamp(row.get(column)?))
}

/// A column that holds JSON, or null for the document null.
fn json(row: &Row<'_>, column: usize) -> Result<Json, StoreError> {
    match row.get::<_, Option<String>>(column)? {
        None => Ok(Json::null()),
        Some(text) => Json::from_text(text).map_err(|error| StoreError::corrupt(error.to_string())),
    }
}

/// A document as stored: the document null is a null.
fn json_text(json: &Json) -> Option<&str> {
    if json.is_null() {
        None
    } else {
        Some(json.text())
    }
}

fn step_error(row: &Row<'_>, column: usize) -> Result<Option<StepError>, StoreError> {
    match row.get_ref(column)?.as_str_or_null() {
        Ok(None) => Ok(None),
        Ok(Some(text)) => parse_error(text).map(Some),
        Err(error) => Err(StoreError::corrupt(error.to_string())),
    }
}

fn parse_error(text: &str) -> Result<StepError, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::corrupt(error.to_string()))
}

fn error_text(error: &StepError) -> String {
    serde_json::to_string(error).expect("a step's error prints")
}

fn hash(row: &Row<'_>, column: usize) -> Result<WorkflowHash, StoreError> {
    let bytes = <[u8; 32]>::column_result(row.get_ref(column)?)
        .map_err(|error| StoreError::corrupt(format!("a workflow hash: {error}")))?;
    Ok(WorkflowHash::from(bytes))
}

/// Whether the runtime goes on while this thread is blocked for a moment.
fn has_other_threads() -> bool {
    tokio::runtime::Handle::try_current().is_ok_and(|runtime| runtime.metrics().num_workers() > 1)
}

#[async_trait]
impl Store for SqliteStore {
    /// Small ones: the writer makes transactions of what waits, and works on some while the runs of others go on.
    fn batching(&self) -> Batching {
        Batching {
            steps_max: 32,
            calls_max: 8,
        }
    }

    async fn put_workflow(
        &self,
        workflow: &Workflow,
        now: Timestamp,
    ) -> Result<(WorkflowRecord, bool), StoreError> {
        let (id, hash, definition) = (
            workflow.id.clone(),
            workflow.hash,
            workflow.definition.clone(),
        );
        self.write(move |session| workflows::put(session, &id, hash, &definition, now))
            .await
    }

    async fn workflow(&self, id: &WorkflowId) -> Result<Option<WorkflowRecord>, StoreError> {
        let id = id.clone();
        self.read(move |session| workflows::newest(session, &id))
            .await
    }

    async fn workflow_version(
        &self,
        id: &WorkflowId,
        version: u32,
    ) -> Result<Option<WorkflowRecord>, StoreError> {
        let id = id.clone();
        self.read(move |session| workflows::version(session, &id, version))
            .await
    }

    async fn definition(&self, hash: &WorkflowHash) -> Result<Option<Json>, StoreError> {
        let hash = *hash;
        self.read(move |session| workflows::definition(session, &hash))
            .await
    }

    async fn workflows(
        &self,
        after: Option<&WorkflowId>,
        limit: u32,
    ) -> Result<Vec<WorkflowRecord>, StoreError> {
        let after = after.cloned();
        self.read(move |session| workflows::list(session, after.as_ref(), limit))
            .await
    }

    async fn start(&self, batch: &[NewRun]) -> Result<Vec<Started>, StoreError> {
        let batch = batch.to_vec();
        self.write(move |session| {
            batch
                .iter()
                .map(|new| commit::start(session, new))
                .collect()
        })
        .await
    }

    async fn commit(&self, batch: &[Arc<Finished>]) -> Result<Vec<Committed>, StoreError> {
        let alone = batch.len() == 1;
        let batch = batch.to_vec();
        let job = move |session: &Session<'_>| {
            let committed = batch
                .iter()
                .map(|finished| commit::commit(session, finished));
            committed
                .collect::<Result<_, StoreError>>()
                .map_err(DatabaseError::refused)
        };
        let written = if alone && has_other_threads() {
            self.database.write_here(job)
        } else {
            self.database.write(job)
        };
        Ok(written.await?)
    }

    async fn load(&self, batch: &[(RunId, Load)]) -> Result<Vec<Option<Loaded>>, StoreError> {
        let batch = batch.to_vec();
        self.read(move |session| {
            batch
                .iter()
                .map(|(run_id, load)| read::load(session, run_id, load))
                .collect()
        })
        .await
    }

    async fn set_redeliveries(&self, key: &StepKey, count: u32) -> Result<(), StoreError> {
        let key = key.clone();
        self.write(move |session| commit::set_redeliveries(session, &key, count))
            .await
    }

    async fn claim_timers(
        &self,
        now: Timestamp,
        claim: Duration,
        limit: u32,
    ) -> Result<Vec<Timer>, StoreError> {
        let until = now + claim;
        if self.read(timers::next).await?.is_none_or(|due| due > now) {
            return Ok(Vec::new());
        }
        self.write(move |session| timers::claim(session, now, until, limit))
            .await
    }

    async fn set_timers(&self, timers: &[NewTimer]) -> Result<(), StoreError> {
        let timers = timers.to_vec();
        self.write(move |session| timers::set(session, &timers))
            .await
    }

    async fn remove_timers(&self, timers: &[Timer]) -> Result<(), StoreError> {
        let timers = timers.to_vec();
        self.write(move |session| timers::remove(session, &timers))
            .await
    }

    async fn next_timer(&self) -> Result<Option<Timestamp>, StoreError> {
        self.read(timers::next).await
    }

    async fn mark_unbegun(&self, runs: &[RunId]) -> Result<(), StoreError> {
        let runs = runs.to_vec();
        self.write(move |session| timers::mark_unbegun(session, &runs))
            .await
    }

    async fn claim_unbegun(
        &self,
        until: Timestamp,
        limit: u32,
    ) -> Result<Vec<(RunId, WorkflowHash)>, StoreError> {
        let unbegun = self.read(move |session| timers::unbegun(session, limit));
        let unbegun = unbegun.await?;
        if unbegun.is_empty() {
            return Ok(Vec::new());
        }
        self.write(move |session| timers::claim_unbegun(session, &unbegun, until))
            .await
    }

    async fn claim_stalled(
        &self,
        now: Timestamp,
        quiet: Duration,
        limit: u32,
    ) -> Result<(Vec<RunId>, u32), StoreError> {
        let due = move |session: &Session<'_>| timers::due_for_a_look(session, now, limit);
        let due = self.read(due).await?;
        if due.is_empty() {
            return Ok((Vec::new(), 0));
        }
        self.write(move |session| timers::claim_stalled(session, &due, now, quiet))
            .await
    }

    async fn signal(
        &self,
        batch: &[NewSignal],
        now: Timestamp,
        claim: Duration,
    ) -> Result<Vec<Signalled>, StoreError> {
        let batch = batch.to_vec();
        self.write(move |session| {
            let signal = |signal| signals::signal(session, signal, now, claim);
            batch.iter().map(signal).collect()
        })
        .await
    }

    async fn waits(&self, filter: &WaitFilter) -> Result<Vec<WaitRecord>, StoreError> {
        let filter = filter.clone();
        self.read(move |session| signals::list(session, &filter))
            .await
    }

    async fn put_off(&self, runs: &[RunId], until: Timestamp) -> Result<(), StoreError> {
        let runs = runs.to_vec();
        self.write(move |session| timers::put_off(session, &runs, until))
            .await
    }

    async fn progress_at(
        &self,
        run_id: &RunId,
        places: &[(NodeRef, Scope)],
    ) -> Result<Option<Progress>, StoreError> {
        let (run_id, places) = (run_id.clone(), places.to_vec());
        self.read(move |session| read::progress_at(session, &run_id, &places))
            .await
    }

    async fn waiting_steps(
        &self,
        run_id: &RunId,
        limit: u32,
    ) -> Result<Vec<(NodeId, Scope)>, StoreError> {
        let run_id = run_id.clone();
        self.read(move |session| read::waiting_steps(session, &run_id, limit))
            .await
    }

    async fn progress(&self, run_id: &RunId) -> Result<Option<Progress>, StoreError> {
        let run_id = run_id.clone();
        self.read(move |session| read::progress(session, &run_id))
            .await
    }

    async fn cancel(
        &self,
        run_id: &RunId,
        now: Timestamp,
    ) -> Result<Option<(RunEnd, bool)>, StoreError> {
        let run_id = run_id.clone();
        self.write(move |session| commit::cancel(session, &run_id, now))
            .await
    }

    async fn prune(
        &self,
        before: Timestamp,
        pass: Pass,
        limit: u32,
    ) -> Result<(u32, Option<Pass>), StoreError> {
        let looked_at = {
            let pass = pass.clone();
            self.read(move |session| prune::look(session, before, &pass, limit))
        };
        let (page, over, next) = looked_at.await?;
        self.write(move |session| signals::prune(session, before, limit))
            .await?;
        let removed = if over.is_empty() {
            0
        } else {
            self.write(move |session| prune::remove(session, before, &over))
                .await?
        };
        Ok((removed, pass.behind(&page, limit).or(next)))
    }

    async fn run(&self, run_id: &RunId) -> Result<Option<RunRecord>, StoreError> {
        let run_id = run_id.clone();
        self.read(move |session| read::run(session, &run_id)).await
    }

    async fn steps(&self, run_id: &RunId) -> Result<Vec<StepRecord>, StoreError> {
        let run_id = run_id.clone();
        self.read(move |session| read::steps(session, &run_id))
            .await
    }

    async fn step_heads(&self, run_id: &RunId) -> Result<Vec<StepHead>, StoreError> {
        let run_id = run_id.clone();
        self.read(move |session| read::step_heads(session, &run_id))
            .await
    }

    async fn steps_at(
        &self,
        run_id: &RunId,
        steps: &[(NodeRef, Scope)],
    ) -> Result<Vec<Option<StepRecord>>, StoreError> {
        let (run_id, steps) = (run_id.clone(), steps.to_vec());
        self.read(move |session| read::steps_at(session, &run_id, &steps))
            .await
    }

    async fn timers_of(
        &self,
        run_id: &RunId,
    ) -> Result<Vec<(NodeId, Scope, Timestamp)>, StoreError> {
        let run_id = run_id.clone();
        self.read(move |session| timers::of_run(session, &run_id))
            .await
    }

    async fn runs(&self, filter: &RunFilter) -> Result<Vec<RunRecord>, StoreError> {
        let filter = filter.clone();
        self.read(move |session| read::runs(session, &filter)).await
    }

    fn schedules(&self) -> Arc<dyn Schedules> {
        Arc::new(self.schedules.clone())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        if self.database.is_open() {
            Ok(())
        } else {
            Err(StoreError::Closed)
        }
    }

    async fn close(&self) {
        self.database.close().await;
    }
}

#[cfg(test)]
mod tests {
    use leveret_core::parse::workflow_from_json;
    use serde_json::json;

    use super::*;
    use crate::{
        sqlite::{DatabaseOptions, tests::TempPath},
        store::{Outcome, Woken, conformance},
    };

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn conforms() {
        let path = TempPath::new();
        let database = Database::open(DatabaseOptions::new(&path.0)).expect("opens");
        let store = SqliteStore::open(database).expect("migrates");
        conformance::exercise(move || {
            let store = store.clone();
            async move { Arc::new(store) as Arc<dyn Store> }
        })
        .await;
    }

    /// One timer whose id does not read is claimed, and holds no others.
    #[tokio::test]
    async fn an_unreadable_timer_is_left_out() {
        let path = TempPath::new();
        let database = path.open();
        let store = SqliteStore::open(database.clone()).expect("migrates");
        let definition = json!({ "id": "w", "nodes": [{ "id": "a", "uses": "set" }] });
        let workflow = Arc::new(workflow_from_json(&definition, None).expect("valid"));
        let at = Timestamp(1);
        for id in ["first", "second"] {
            let run_id = RunId::new(id).expect("an id");
            let new = NewRun {
                run_id: run_id.clone(),
                workflow: workflow.clone(),
                input: Json::null(),
                created_at: at,
                reconcile_at: at,
            };
            let waits = Finished {
                run_id,
                workflow: workflow.clone(),
                node: 0,
                scope: Scope::root(),
                via: None,
                attempts: 1,
                started_at: at,
                finished_at: at,
                woken: Woken::No,
                outcome: Outcome::Waiting {
                    until: Some(Timestamp(10)),
                    wait: None,
                    error: None,
                },
            };
            store.start(&[new]).await.expect("starts");
            store.commit(&[Arc::new(waits)]).await.expect("commits");
        }
        let spoil = "UPDATE timers SET node_id = '' WHERE run_id = 'first'";
        let spoilt = database.write(move |session| Ok(session.execute_batch(spoil)?));
        spoilt.await.expect("writes");
        let claim = Duration::from_secs(5);
        let claimed = store.claim_timers(Timestamp(20), claim, 10).await;
        let timers = claimed.expect("claims");
        assert_eq!(timers.len(), 1);
        assert_eq!(timers[0].key.run_id.as_str(), "second");
        store.remove_timers(&timers).await.expect("removes");
        let next = store.next_timer().await.expect("answers");
        assert_eq!(next, Some(Timestamp(20) + claim));
        database.close().await;
    }
}
