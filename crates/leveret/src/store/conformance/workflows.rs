//! Workflows and their versions.

use leveret_core::workflow::WorkflowHash;
use serde_json::json;

use super::world::World;

/// A version is new when it differs from the one before, not from any before.
pub(super) async fn versions(world: &mut World) {
    let one = world.flow("a", &json!({}));
    let two = world.flow("a>b", &json!({}));
    let store = &world.store;
    assert_eq!(store.workflow(&one.id).await.unwrap(), None);

    let (first, new) = store.put_workflow(&one, world.at(0)).await.unwrap();
    assert_eq!((first.version, new, first.hash), (1, true, one.hash));
    assert_eq!(first.created_at, world.at(0));
    let (again, new) = store.put_workflow(&one, world.at(5)).await.unwrap();
    assert_eq!((again, new), (first.clone(), false));
    let (second, new) = store.put_workflow(&two, world.at(9)).await.unwrap();
    assert_eq!((second.version, new), (2, true));
    assert_eq!(store.workflow(&one.id).await.unwrap(), Some(second.clone()));
    let named = store.workflow_version(&one.id, 2).await.unwrap();
    assert_eq!(named, Some(second));
    let (third, new) = store.put_workflow(&one, world.at(10)).await.unwrap();
    assert_eq!((third.version, new, third.hash), (3, true, first.hash));
    assert_eq!(third.definition, one.definition);
    let version = async |version| store.workflow_version(&one.id, version).await.unwrap();
    assert_eq!(version(1).await, Some(first));
    assert_eq!(version(3).await, Some(third));
    for none in [0, 4, u32::MAX] {
        assert_eq!(version(none).await, None);
    }
    let other = world.workflow_id("other");
    let store = &world.store;
    assert_eq!(store.workflow_version(&other, 1).await.unwrap(), None);
}

pub(super) async fn newest_of_each_by_page(world: &mut World) {
    let names = ["a", "a b", "a/b", "aé", "b"];
    for name in names.iter().rev() {
        for shape in ["x", "x>y"] {
            let workflow = world.named_flow(name, shape, &json!({}));
            world
                .store
                .put_workflow(&workflow, world.base)
                .await
                .unwrap();
        }
    }
    let mut expected: Vec<_> = names.iter().map(|name| world.workflow_id(name)).collect();
    expected.sort();
    // Nothing of this case sorts before its prefix.
    let mut after = world.workflow_id("");
    let mut found = Vec::new();
    while found.len() < names.len() {
        let page = world.store.workflows(Some(&after), 2).await.unwrap();
        assert!((1..=2).contains(&page.len()), "pages of two");
        for record in page {
            // The last page may go on to the workflows of others.
            if found.len() < names.len() {
                assert_eq!(record.version, 2, "only the newest");
            }
            after = record.workflow_id.clone();
            found.push(record.workflow_id);
        }
    }
    found.truncate(names.len());
    assert_eq!(found, expected);
    assert_eq!(world.store.workflows(None, 1).await.unwrap().len(), 1);
}

/// Both ways of storing a definition make it readable, for ever.
pub(super) async fn definitions_by_hash(world: &mut World) {
    let put = world.flow("a", &json!({}));
    world.store.put_workflow(&put, world.base).await.unwrap();
    let started = world.flow("a>b", &json!({}));
    world.run("r", &started).await;
    let other = world.handle().await;
    for workflow in [put, started] {
        let definition = other
            .definition(&workflow.hash)
            .await
            .unwrap()
            .expect("it is stored");
        assert_eq!(definition.text(), workflow.definition.text());
    }
    let unknown = WorkflowHash::of(&world.prefix);
    assert_eq!(world.store.definition(&unknown).await.unwrap(), None);
}
