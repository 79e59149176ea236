//! Values that some databases trip over.

use std::sync::Arc;

use leveret_core::{
    ids::{RunId, Scope},
    json::Json,
};
use serde_json::json;

use super::world::{Run, World, error, ready};
use crate::store::{ErrorCode, Finished, Load, NewRun, Outcome, StepError};

const TEXTS: [&str; 7] = [
    "plain",
    "with space",
    "a/b//c",
    "quo'te\"s; -- {x} $1 \\",
    "naïve 日本 🐇",
    "%_*?[]()",
    "NULL",
];

/// Ids, scopes, actions, context keys and errors hold any text.
pub(super) async fn strange_texts(world: &mut World) {
    for text in TEXTS {
        let definition = json!({
            "nodes": [{ "id": text, "uses": "log" }, { "id": "j", "uses": "log" }, { "id": "x", "uses": "log" }],
            "edges": [{ "source": text, "target": "j" }, { "source": "x", "target": "j" }],
        });
        let workflow = world.workflow(text, &definition);
        world
            .store
            .put_workflow(&workflow, world.base)
            .await
            .unwrap();
        let run = world.run(text, &workflow).await;
        let step = run.ended(
            text,
            Outcome::Completed {
                output: Json::from(json!(text)),
                action: Some(text.into()),
                taken: vec![0],
                context: vec![(Arc::from(text), Json::from(json!({ text: text })))],
                items: None,
            },
        );
        let scoped = Finished {
            scope: Scope::new(text),
            ..run.waiting(text, 1, world.at(9))
        };
        world.commit(&[step, scoped]).await;
        let (decision, _) = world.record(run.done("x")).await;
        assert_eq!(ready(&workflow, &decision), ["j"]);
        let steps = world.steps(&run).await;
        let recorded = steps
            .iter()
            .find(|step| step.action.is_some())
            .expect("recorded");
        assert_eq!(
            (recorded.node_id.as_str(), recorded.action.as_deref()),
            (text, Some(text))
        );
        let load = Load {
            context: vec![text.into()],
            ..Load::default()
        };
        assert_eq!(
            world.load(&run, load).await.context,
            [Some(Json::from(json!({ text: text })))]
        );
        let timers = world.claim(world.at(9), super::world::ms(1)).await;
        assert_eq!(timers[0].key.scope.as_str(), text);
        world.store.remove_timers(&timers).await.unwrap();
        let error = StepError {
            message: format!("{text}\n\0\u{1}"),
            code: ErrorCode::Crashed,
            ..error(text)
        };
        let outcome = Outcome::Failed {
            error: error.clone(),
            fall_back: true,
        };
        let (_, end) = world.record(run.ended("j", outcome)).await;
        assert_eq!(end.unwrap().error, Some(error));
        assert_eq!(
            world
                .store
                .workflow(&workflow.id)
                .await
                .unwrap()
                .unwrap()
                .hash,
            workflow.hash
        );
    }
    let long = RunId::new(format!("{}{}", world.prefix, "é".repeat(90))).unwrap();
    let workflow = world.flow("a", &json!({}));
    let new = NewRun {
        run_id: long.clone(),
        ..world.new_run("x", &workflow)
    };
    world.store.start(&[new]).await.unwrap();
    let run = Run {
        id: long,
        workflow,
        now: world.base,
    };
    assert!(world.record(run.done("a")).await.1.is_some());
}

/// JSON comes back as it was, also what a database's own JSON type refuses or rounds.
pub(super) async fn strange_json(world: &mut World) {
    let texts = [
        r#""\u0000 and \u001f \"quoted\" \\ \n\r\t""#,
        r#"{"\u0000":"\u0000","":[[],{},null,true]}"#,
        "[9223372036854775807,-9223372036854775808,18446744073709551615]",
        "123456789012345678901234567890.12345678901234567890",
        "[1e300,-0.0,1.0,5e-324]",
        r#""日本 🐇 \ud83d\udc07 '; DROP TABLE runs; --""#,
        "null",
    ];
    let names: Vec<String> = (0..texts.len())
        .map(|number| format!("r{number}"))
        .collect();
    let workflow = world.flow("a>b", &json!({}));
    for (name, text) in names.iter().zip(texts) {
        let json = Json::from_text(text.to_owned()).expect("JSON");
        let new = NewRun {
            input: json.clone(),
            ..world.new_run(name, &workflow)
        };
        world.store.start(std::slice::from_ref(&new)).await.unwrap();
        let run = Run {
            id: new.run_id,
            workflow: workflow.clone(),
            now: world.base,
        };
        let outcome = Outcome::Completed {
            output: json.clone(),
            action: None,
            taken: vec![0],
            context: vec![("k".into(), json)],
            items: None,
        };
        world.record(run.ended("a", outcome)).await;
        let load = Load {
            input: true,
            nodes: vec![run.wanted("a")],
            context: vec!["k".into()],
            ..Load::default()
        };
        let loaded = world.load(&run, load).await;
        let output = loaded.nodes[0].as_ref().expect("recorded").output.clone();
        for json in [
            loaded.input.expect("wanted"),
            output,
            loaded.context[0].clone().expect("set"),
        ] {
            assert_eq!(json.text(), text);
        }
    }
}

pub(super) async fn megabyte(world: &mut World) {
    let run = world.run("r", &world.flow("a>b", &json!({}))).await;
    let big = Json::from(json!({ "text": "x\n\"é".repeat(200_000) }));
    assert!(big.text().len() > 1_000_000);
    let outcome = Outcome::Completed {
        output: big.clone(),
        action: None,
        taken: vec![0],
        context: vec![("big".into(), big.clone())],
        items: None,
    };
    world.record(run.ended("a", outcome)).await;
    assert_eq!(world.steps(&run).await[0].output, big);
    let load = Load {
        context: vec!["big".into()],
        ..Load::default()
    };
    assert_eq!(world.load(&run, load).await.context, [Some(big)]);
}
