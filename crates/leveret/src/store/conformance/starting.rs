//! The beginning of runs.

use leveret_core::json::Json;
use serde_json::json;

use super::world::World;
use crate::store::{NewRun, RunStatus, Started};

pub(super) async fn new_then_exists(world: &mut World) {
    let workflow = world.flow("a", &json!({}));
    let new = world.new_run("r", &workflow);
    assert_eq!(
        world.store.start(std::slice::from_ref(&new)).await.unwrap(),
        [Started::New]
    );
    let changed = NewRun {
        input: Json::from(json!("other")),
        created_at: world.at(99),
        ..new.clone()
    };
    let again = world.store.start(&[changed]).await.unwrap();
    assert_eq!(again, [Started::Exists(RunStatus::Running)]);

    let record = world
        .store
        .run(&new.run_id)
        .await
        .unwrap()
        .expect("recorded");
    assert_eq!(record.input, new.input, "the first one stands");
    assert_eq!(
        (record.status, record.created_at),
        (RunStatus::Running, world.base)
    );
    assert_eq!((record.ended_at, record.error), (None, None));
    assert_eq!(
        (record.workflow_id, record.workflow_hash),
        (workflow.id.clone(), workflow.hash)
    );

    world.store.cancel(&new.run_id, world.at(1)).await.unwrap();
    let again = world.store.start(&[new]).await.unwrap();
    assert_eq!(again, [Started::Exists(RunStatus::Cancelled)]);
}

pub(super) async fn empty_workflow_ends_at_once(world: &mut World) {
    let workflow = world.workflow("w", &json!({ "nodes": [], "edges": [] }));
    let new = world.new_run("r", &workflow);
    let run_id = new.run_id.clone();
    assert_eq!(
        world.store.start(std::slice::from_ref(&new)).await.unwrap(),
        [Started::New]
    );
    let record = world.store.run(&run_id).await.unwrap().expect("recorded");
    assert_eq!(
        (record.status, record.ended_at),
        (RunStatus::Completed, Some(world.base))
    );
    let again = world.store.start(&[new]).await.unwrap();
    assert_eq!(again, [Started::Exists(RunStatus::Completed)]);
}

pub(super) async fn duplicates_in_a_batch(world: &mut World) {
    let workflow = world.flow("a", &json!({}));
    let empty = world.workflow("e", &json!({ "nodes": [], "edges": [] }));
    let (a, b) = (world.new_run("a", &workflow), world.new_run("b", &empty));
    let second_a = NewRun {
        input: Json::from(json!(2)),
        ..a.clone()
    };
    let batch = [
        b.clone(),
        a.clone(),
        second_a,
        b,
        world.new_run("c", &workflow),
    ];
    assert_eq!(
        world.store.start(&batch).await.unwrap(),
        [
            Started::New,
            Started::New,
            Started::Exists(RunStatus::Running),
            Started::Exists(RunStatus::Completed),
            Started::New
        ]
    );
    let record = world.store.run(&a.run_id).await.unwrap().expect("recorded");
    assert_eq!(record.input, a.input);
    assert_eq!(world.store.start(&[]).await.unwrap(), []);
}

pub(super) async fn other_handle_sees_it(world: &mut World) {
    let run = world.run("r", &world.flow("a", &json!({}))).await;
    let other = world.handle().await;
    assert_eq!(
        other.run(&run.id).await.unwrap(),
        world.store.run(&run.id).await.unwrap()
    );
    other.ping().await.unwrap();
}
