//! Schedules: what is asked for, what is refused, what they fire.

use std::time::Duration;

use super::*;

async fn put(world: &World, id: &str, body: Value) -> Answer {
    world
        .json("PUT", &format!("/api/v1/schedules/{id}"), &body)
        .await
}

#[tokio::test]
async fn a_schedule_is_put_shown_listed_and_removed() {
    let world = World::new().await;
    world.put_chain("w", &["set"]).await;
    let spec = json!({ "workflow_id": "w", "cron": "0 3 1 1 *", "time_zone": "Europe/Berlin", "input": { "n": 1 }, "jitter": "5s" });
    let made = put(&world, "yearly", spec.clone()).await.expect(201);
    assert_eq!(made["schedule_id"], "yearly");
    assert_eq!(
        [&made["overlap"], &made["catch_up"], &made["input"]["n"]],
        [&json!("skip"), &json!("one"), &json!(1)]
    );
    let next = made["next"].as_array().unwrap();
    assert_eq!(next.len(), 5);
    assert!(
        next.iter()
            .all(|next| next.as_str().unwrap().ends_with("-01-01T02:00:00.000Z")),
        "{made}"
    );
    let again = put(&world, "yearly", spec).await.expect(200);
    assert_eq!(again["next"], made["next"]);
    assert_eq!(
        world.get("/api/v1/schedules/yearly").await.expect(200)["created_at"],
        made["created_at"]
    );
    put(
        &world,
        "a",
        json!({ "workflow_id": "w", "every": 3_600_000 }),
    )
    .await
    .expect(201);
    let page = world.get("/api/v1/schedules?limit=1").await.expect(200);
    assert_eq!(page["items"][0]["schedule_id"], "a");
    let after = page["next"].as_str().unwrap();
    let page = world
        .get(&format!("/api/v1/schedules?limit=1&after={after}"))
        .await
        .expect(200);
    assert_eq!(
        (&page["items"][0]["schedule_id"], &page["next"]),
        (&json!("yearly"), &Value::Null)
    );
    let delete = || {
        Request::delete("/api/v1/schedules/yearly")
            .body(Body::empty())
            .unwrap()
    };
    assert_eq!(world.send(delete()).await.status, StatusCode::NO_CONTENT);
    assert_eq!(
        world.send(delete()).await.problem(404),
        "there is no schedule 'yearly'"
    );
    for path in ["", "/history"] {
        let path = format!("/api/v1/schedules/yearly{path}");
        assert_eq!(
            world.get(&path).await.problem(404),
            "there is no schedule 'yearly'"
        );
    }
    for what in ["pause", "resume", "run"] {
        let path = format!("/api/v1/schedules/yearly/{what}");
        assert_eq!(
            world.post(&path, &Value::Null).await.problem(404),
            "there is no schedule 'yearly'"
        );
    }
    world.stop().await;
}

#[tokio::test]
async fn what_is_never_due_is_refused() {
    let world = World::new().await;
    world.put_chain("w", &["set"]).await;
    for (more, expect) in [
        (
            json!({ "every": "0s" }),
            "`every` must be from 100ms to a hundred years, not 0ns",
        ),
        (json!({ "cron": "0 0 30 2 *" }), "'0 0 30 2 *' is never due"),
        (
            json!({ "cron": "0 0 * *" }),
            "'0 0 * *' is no cron pattern: ",
        ),
        (
            json!({ "cron": "* * * * *", "time_zone": "Mars/Phobos" }),
            "there is no time zone 'Mars/Phobos'; ",
        ),
        (json!({}), "say either `every` or `cron`"),
        (
            json!({ "every": "1s", "overlap": "maybe" }),
            "unknown variant `maybe`",
        ),
        (
            json!({ "every": "1s", "cronn": 1 }),
            "unknown field `cronn`",
        ),
        (
            json!({ "every": "1s", "workflow_id": "none" }),
            "there is no workflow 'none'",
        ),
    ] {
        let mut body = json!({ "workflow_id": "w" });
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let detail = put(&world, "s", body).await.problem(422);
        assert!(detail.starts_with(expect), "{more}: {detail}");
    }
    let broken = Request::put("/api/v1/schedules/s")
        .header("content-type", "application/json")
        .body(Body::from("{"));
    world.send(broken.unwrap()).await.problem(400);
    assert_eq!(
        world.get("/api/v1/schedules").await.expect(200)["items"],
        json!([])
    );
    world.stop().await;
}

/// Each due time once, one interval after the other, the first one interval after it was put; not while it is paused.
#[tokio::test]
async fn due_times_are_fired_once() {
    let world = World::new().await;
    world.put_chain("w", &["set"]).await;
    let spec = json!({ "workflow_id": "w", "every": 100, "overlap": "allow", "input": "hi" });
    let made = put(&world, "s", spec).await.expect(201);
    let firings = loop {
        let page = world.get("/api/v1/schedules/s/history").await.expect(200);
        let firings = page["items"].as_array().unwrap().clone();
        if firings.len() >= 4 {
            break firings;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let due = |firing: &Value| {
        firing["due_at"]
            .as_str()
            .unwrap()
            .parse::<leveret_core::time::Timestamp>()
            .unwrap()
            .0
    };
    let made_at = due(&json!({ "due_at": made["created_at"] }));
    let mut expect = made_at;
    for firing in firings.iter().rev() {
        expect += 100;
        assert_eq!((due(firing), &firing["state"]), (expect, &json!("started")));
        let run_id = firing["run_id"].as_str().unwrap();
        let run = world
            .engine
            .wait(&run_id.to_owned().try_into().unwrap())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            (run.status, run.output.text()),
            (RunStatus::Completed, r#""hi""#)
        );
    }
    let paused = world
        .post("/api/v1/schedules/s/pause", &Value::Null)
        .await
        .expect(200);
    assert_eq!(
        (&paused["paused"], &paused["next"]),
        (&json!(true), &json!([]))
    );
    let begun = world
        .post("/api/v1/schedules/s/run", &Value::Null)
        .await
        .expect(202);
    let page = world
        .get("/api/v1/schedules/s/history?limit=1")
        .await
        .expect(200);
    assert_eq!(
        (&page["items"][0]["run_id"], &page["items"][0]["manual"]),
        (&begun["run_id"], &json!(true))
    );
    let number = page["items"][0]["number"].as_u64().unwrap();
    let path = format!(
        "/api/v1/schedules/s/history?limit=1&after={}",
        page["next"].as_str().unwrap()
    );
    assert_eq!(
        world.get(&path).await.expect(200)["items"][0]["number"],
        number - 1
    );
    let resumed = world
        .post("/api/v1/schedules/s/resume", &Value::Null)
        .await
        .expect(200);
    assert_eq!(resumed["next"].as_array().unwrap().len(), 5);
    world.stop().await;
}

/// While a run is held, the next due times are skipped.
#[tokio::test]
async fn a_run_that_is_running_keeps_others_away() {
    let world = World::new().await;
    world.put_chain("slow", &["gate"]).await;
    put(&world, "s", json!({ "workflow_id": "slow", "every": 100 }))
        .await
        .expect(201);
    world.reached.acquire().await.unwrap().forget();
    let skipped = loop {
        let page = world.get("/api/v1/schedules/s/history").await.expect(200);
        let newest = page["items"][0].clone();
        if newest["state"] == "skipped" {
            break newest;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(
        (&skipped["detail"], &skipped["run_id"]),
        (&json!("the run before is still running"), &Value::Null)
    );
    world.let_go();
    // The next one begins when it has ended.
    world.reached.acquire().await.unwrap().forget();
    world.stop().await;
}
