//! Putting, showing and listing workflows.

use super::*;

async fn put(world: &World, path: &str, content_type: &str, text: &str) -> Answer {
    let request = Request::put(path).header("content-type", content_type);
    world
        .send(request.body(Body::from(text.to_owned())).unwrap())
        .await
}

/// A definition that differs is a new version; the same one, in whatever form, is not.
#[tokio::test]
async fn versions_grow_with_definitions() {
    let world = World::new().await;
    let path = "/api/v1/workflows/greet";
    let first = put(
        &world,
        path,
        "application/yaml",
        "nodes: [{id: a, uses: set}]",
    )
    .await
    .expect(201);
    assert_eq!(
        (&first["workflow_id"], &first["version"]),
        (&json!("greet"), &json!(1))
    );
    assert_eq!(first["hash"].as_str().unwrap().len(), 64);
    assert!(first["created_at"].as_str().unwrap().ends_with('Z'));
    let again = r#"{"nodes":[{"uses":"set","id":"a"}],"id":"greet"}"#;
    let again = put(&world, path, "application/json; charset=utf-8", again)
        .await
        .expect(200);
    assert_eq!(
        (&again["version"], &again["hash"]),
        (&json!(1), &first["hash"])
    );
    let second = put(
        &world,
        path,
        "text/yaml",
        "id: greet\nnodes: [{id: b, uses: set}]",
    )
    .await
    .expect(201);
    assert_eq!(second["version"], 2);
    let shown = world.get(path).await.expect(200);
    assert_eq!(
        (&shown["version"], &shown["definition"]["nodes"][0]["id"]),
        (&json!(2), &json!("b"))
    );
    let result = world
        .post("/api/v1/workflows/greet/runs?wait=true", &json!({}))
        .await
        .expect(200);
    assert!(
        result["steps"]["b"].is_object(),
        "the newest version is run: {result}"
    );
    world.stop().await;
}

/// What is put is run at once, although the version before was in memory.
#[tokio::test]
async fn puts_are_seen_at_once() {
    let world = World::new().await;
    for node in ["a", "b", "c"] {
        let definition = json!({"nodes": [{"id": node, "uses": "set"}]});
        world
            .json("PUT", "/api/v1/workflows/w", &definition)
            .await
            .expect(201);
        let result = world
            .post("/api/v1/workflows/w/runs?wait=true", &json!({}))
            .await
            .expect(200);
        assert!(result["steps"][node].is_object(), "{result}");
    }
    world.stop().await;
}

#[tokio::test]
async fn diagnostics_have_places() {
    let world = World::new().await;
    let text = "id: w\nnodes:\n  - id: a\n    uses: sett\n";
    let answer = put(&world, "/api/v1/workflows/w", "application/yaml", text).await;
    answer.problem(422);
    let diagnostics = &answer.json()["diagnostics"];
    insta::assert_snapshot!(serde_json::to_string_pretty(diagnostics).unwrap(), @r#"
    [
      {
        "code": "unknown-node-type",
        "column": 11,
        "file": "definition.yaml",
        "help": "did you mean `set`?",
        "line": 4,
        "message": "there is no node type `sett`",
        "path": "nodes[0].uses",
        "severity": "error"
      }
    ]
    "#);
    let schema = serde_json::to_value(document()).unwrap();
    let known = schema["components"]["schemas"]["Diagnostic"]["properties"]
        .as_object()
        .unwrap();
    let told: BTreeSet<_> = diagnostics[0].as_object().unwrap().keys().collect();
    assert_eq!(
        told,
        known.keys().collect(),
        "the schema of a diagnostic has its fields"
    );
    world.stop().await;
}

#[tokio::test]
async fn refuses_what_is_no_definition() {
    let world = World::with(ApiOptions {
        body_bytes_max: 2000,
        ..ApiOptions::default()
    })
    .await;
    let path = "/api/v1/workflows/w";
    let other = put(
        &world,
        path,
        "application/yaml",
        "id: other\nnodes: [{id: a, uses: set}]",
    )
    .await;
    assert!(other.problem(422).contains("'other'"));
    assert!(
        put(&world, path, "application/xml", "<w/>")
            .await
            .problem(415)
            .contains("yaml")
    );
    put(&world, path, "application/json", "{")
        .await
        .problem(422);
    put(&world, path, "application/json", "").await.problem(422);
    put(&world, path, "application/yaml", &"x".repeat(2001))
        .await
        .problem(413);
    let not_text = Request::put(path)
        .body(Body::from(vec![0xff, 0xfe]))
        .unwrap();
    world.send(not_text).await.problem(400);
    let in_pieces =
        futures_util::stream::iter((0..300).map(|_| Ok::<_, std::io::Error>("12345678")));
    world
        .send(
            Request::put(path)
                .body(Body::from_stream(in_pieces))
                .unwrap(),
        )
        .await
        .problem(413);
    let cut = futures_util::stream::iter([Ok("id: w"), Err(std::io::Error::other("cut"))]);
    world
        .send(Request::put(path).body(Body::from_stream(cut)).unwrap())
        .await
        .problem(400);
    put(
        &world,
        &format!("/api/v1/workflows/{}", "x".repeat(201)),
        "application/yaml",
        "",
    )
    .await
    .problem(400);
    put(&world, "/api/v1/workflows/a%0Ab", "application/yaml", "")
        .await
        .problem(400);
    put(&world, "/api/v1/workflows/%ff", "application/yaml", "")
        .await
        .problem(400);
    world.get(path).await.problem(404);
    world.stop().await;
}

#[tokio::test]
async fn lists_in_pages() {
    let world = World::new().await;
    for id in ["c", "a", "b"] {
        world.put_chain(id, &["set"]).await;
    }
    let names = |page: &Value| -> Vec<String> {
        page["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["workflow_id"].as_str().unwrap().to_owned())
            .collect()
    };
    let first = world.get("/api/v1/workflows?limit=2").await.expect(200);
    assert_eq!(names(&first), ["a", "b"]);
    let next = first["next"].as_str().unwrap();
    let second = world
        .get(&format!("/api/v1/workflows?limit=2&after={next}"))
        .await
        .expect(200);
    assert_eq!(
        (names(&second), &second["next"]),
        (vec!["c".to_owned()], &Value::Null)
    );
    for bad in ["limit=0", "limit=501", "limit=x", "after=zz", "other=1"] {
        world
            .get(&format!("/api/v1/workflows?{bad}"))
            .await
            .problem(400);
    }
    world.stop().await;
}
