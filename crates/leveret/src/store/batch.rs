//! Batches on their way to a store: cut where they grow large, and taken apart where they are refused.

use std::{collections::HashMap, sync::Arc, time::Duration};

use leveret_core::{ids::RunId, time::Timestamp};

use super::{
    Committed, Finished, Load, Loaded, NewRun, NewSignal, Outcome, Signalled, Started, Store,
    StoreError,
};

/// Commits a batch; if it is refused, each of its steps alone, so that only the guilty ones fail, and what follows on them in the same run.
/// Large steps go in several calls. Answers in the order of the batch; what holds after an answer is what [`Store::commit`] promises for it.
pub async fn commit_each(
    store: &dyn Store,
    batch: &[Arc<Finished>],
) -> Vec<Result<Committed, StoreError>> {
    let follows = |one: &Arc<Finished>, next: &Arc<Finished>| one.run_id == next.run_id;
    let mut answers = Vec::with_capacity(batch.len());
    for part in parts(batch, |finished| finished.outcome.bytes(), follows) {
        answers.extend(commit_part(store, part).await);
    }
    answers
}

async fn commit_part(
    store: &dyn Store,
    batch: &[Arc<Finished>],
) -> Vec<Result<Committed, StoreError>> {
    match store.commit(batch).await {
        Ok(committed) => committed.into_iter().map(Ok).collect(),
        Err(error) if batch.len() > 1 && is_of_one(&error) => {
            let mut answers = Vec::with_capacity(batch.len());
            let mut failed: HashMap<&RunId, StoreError> = HashMap::new();
            for finished in batch {
                let run_id = &finished.run_id;
                if let Some(error) = failed.get(run_id) {
                    answers.push(Err(error.clone()));
                    continue;
                }
                let alone = store.commit(std::slice::from_ref(finished)).await;
                if let Err(error) = &alone {
                    failed.insert(run_id, error.clone());
                }
                answers.push(alone.map(|mut committed| committed.remove(0)));
            }
            answers
        }
        Err(error) => vec![Err(error); batch.len()],
    }
}

/// Whether the error may be that of one item, which the others of its batch are to be spared.
fn is_of_one(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Refused { .. } | StoreError::Corrupt { .. }
    )
}

/// Loads for a batch of runs; if it fails for what is stored of one of them, for each alone. Answers in the order of the batch.
pub(crate) async fn load_each(
    store: &dyn Store,
    batch: &[(RunId, Load)],
) -> Vec<Result<Option<Loaded>, StoreError>> {
    match store.load(batch).await {
        Ok(loaded) => loaded.into_iter().map(Ok).collect(),
        Err(error) if batch.len() > 1 && is_of_one(&error) => {
            let mut answers = Vec::with_capacity(batch.len());
            for one in batch.chunks(1) {
                let alone = store.load(one).await;
                answers.push(alone.map(|mut loaded| loaded.remove(0)));
            }
            answers
        }
        Err(error) => vec![Err(error); batch.len()],
    }
}

/// Starts a batch of runs, large ones in several calls; if one is refused, each alone. Answers in the order of the batch.
pub(crate) async fn start_each(
    store: &dyn Store,
    batch: &[NewRun],
) -> Vec<Result<Started, StoreError>> {
    let mut answers = Vec::with_capacity(batch.len());
    for part in parts(batch, |new| new.input.text().len(), |_, _| false) {
        match store.start(part).await {
            Ok(started) => answers.extend(started.into_iter().map(Ok)),
            Err(error) if part.len() > 1 && is_of_one(&error) => {
                for one in part.chunks(1) {
                    let alone = store.start(one).await;
                    answers.push(alone.map(|mut started| started.remove(0)));
                }
            }
            Err(error) => answers.extend(vec![Err(error); part.len()]),
        }
    }
    answers
}

/// Records a batch of signals, large ones in several calls; if one is refused, each alone. Answers in the order of the batch.
pub(crate) async fn signal_each(
    store: &dyn Store,
    batch: &[NewSignal],
    now: Timestamp,
    claim: Duration,
) -> Vec<Result<Signalled, StoreError>> {
    let mut answers = Vec::with_capacity(batch.len());
    for part in parts(batch, |signal| signal.data.text().len(), |_, _| false) {
        match store.signal(part, now, claim).await {
            Ok(signalled) => answers.extend(signalled.into_iter().map(Ok)),
            Err(error) if part.len() > 1 && is_of_one(&error) => {
                for one in part.chunks(1) {
                    let alone = store.signal(one, now, claim).await;
                    answers.push(alone.map(|mut signalled| signalled.remove(0)));
                }
            }
            Err(error) => answers.extend(vec![Err(error); part.len()]),
        }
    }
    answers
}

/// From this many bytes on, what else waits goes into another call: databases bound the size of a message.
const CALL_BYTES: usize = 64 << 20;

/// Cuts a batch where a part has [`CALL_BYTES`] and the next item does not follow on the last.
fn parts<T>(
    batch: &[T],
    bytes: impl Fn(&T) -> usize,
    follows: impl Fn(&T, &T) -> bool,
) -> impl Iterator<Item = &[T]> {
    let mut size = 0;
    batch.chunk_by(move |one, next| {
        size += bytes(one);
        let together = size < CALL_BYTES || follows(one, next);
        if !together {
            size = 0;
        }
        together
    })
}

impl Outcome {
    /// About how much there is to store.
    fn bytes(&self) -> usize {
        match self {
            Outcome::Completed {
                output,
                context,
                items,
                ..
            } => {
                let context = context.iter().map(|(_, value)| value.text().len());
                let items = items.iter().flatten().map(|(_, item)| item.text().len());
                output.text().len() + context.chain(items).sum::<usize>()
            }
            Outcome::Waiting {
                wait: Some(wait), ..
            } => wait.about.text().len(),
            Outcome::Failed { .. } | Outcome::Waiting { .. } => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use leveret_core::{ids::Scope, json::Json, parse::workflow_from_json};
    use serde_json::json;

    use super::*;
    use crate::{
        sqlite::tests::TempPath,
        store::{NodeRef, Wanted, Woken, sqlite::SqliteStore},
    };

    /// What cannot be read of one run fails that run's load only.
    #[tokio::test]
    async fn an_unreadable_run_is_loaded_alone() {
        let path = TempPath::new();
        let database = path.open();
        let store = SqliteStore::open(database.clone()).expect("migrates");
        let definition = json!({ "id": "w", "nodes": [{ "id": "a", "uses": "set" }] });
        let workflow = Arc::new(workflow_from_json(&definition, None).expect("valid"));
        let at = Timestamp(1);
        let (mut new, mut done) = (Vec::new(), Vec::new());
        for id in ["first", "second", "third"] {
            let run_id = RunId::new(id).expect("an id");
            done.push(Arc::new(Finished {
                run_id: run_id.clone(),
                workflow: workflow.clone(),
                node: 0,
                scope: Scope::root(),
                via: None,
                attempts: 1,
                started_at: at,
                finished_at: at,
                woken: Woken::No,
                outcome: Outcome::Completed {
                    output: Json::null(),
                    action: None,
                    taken: Vec::new(),
                    context: Vec::new(),
                    items: None,
                },
            }));
            new.push(NewRun {
                run_id,
                workflow: workflow.clone(),
                input: Json::null(),
                created_at: at,
                reconcile_at: at,
            });
        }
        store.start(&new).await.expect("starts");
        store.commit(&done).await.expect("commits");
        let spoil = "UPDATE runs SET status = 'paused' WHERE run_id = 'second'";
        let spoilt = database.write(move |session| Ok(session.execute_batch(spoil)?));
        spoilt.await.expect("writes");

        let node = NodeRef::new(&workflow, 0);
        let load = |new: &NewRun| {
            let nodes = vec![Wanted::exactly(node.clone(), Scope::root())];
            let load = Load {
                nodes,
                ..Load::default()
            };
            (new.run_id.clone(), load)
        };
        let batch: Vec<_> = new.iter().map(load).collect();
        let answers = load_each(&store, &batch).await;
        let read: Vec<_> = answers
            .iter()
            .map(|answer| matches!(answer, Ok(Some(_))))
            .collect();
        assert_eq!(read, [true, false, true]);
        assert!(matches!(answers[1], Err(StoreError::Corrupt { .. })));
        database.close().await;
    }

    /// A run that the database refuses keeps no other from being started.
    #[tokio::test]
    async fn a_refused_start_is_refused_alone() {
        let path = TempPath::new();
        let database = path.open();
        let store = SqliteStore::open(database.clone()).expect("migrates");
        let refuse = "CREATE TRIGGER refuse BEFORE INSERT ON runs WHEN new.run_id = 'second'
            BEGIN SELECT raise(ABORT, 'not this one'); END";
        let made = database.write(move |session| Ok(session.execute_batch(refuse)?));
        made.await.expect("writes");
        let definition = json!({ "id": "w", "nodes": [{ "id": "a", "uses": "set" }] });
        let workflow = Arc::new(workflow_from_json(&definition, None).expect("valid"));
        let new = ["first", "second", "third"].map(|id| NewRun {
            run_id: RunId::new(id).expect("an id"),
            workflow: workflow.clone(),
            input: Json::null(),
            created_at: Timestamp(1),
            reconcile_at: Timestamp(1),
        });
        let answers = start_each(&store, &new).await;
        assert!(
            matches!(
                answers[..],
                [
                    Ok(Started::New),
                    Err(StoreError::Refused { .. }),
                    Ok(Started::New)
                ]
            ),
            "{answers:?}"
        );
        database.close().await;
    }

    #[test]
    fn large_steps_go_in_calls_of_their_own() {
        let batch = [
            ("a", CALL_BYTES / 2),
            ("a", CALL_BYTES / 2),
            ("a", 1),
            ("b", CALL_BYTES + 1),
            ("c", 1),
            ("d", 1),
        ];
        let parts = parts(&batch, |(_, bytes)| *bytes, |one, next| one.0 == next.0);
        let runs: Vec<String> = parts
            .map(|part| part.iter().map(|(run, _)| *run).collect())
            .collect();
        assert_eq!(runs, ["aaa", "b", "cd"]);
    }
}
