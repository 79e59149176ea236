//! What is found wrong with parameters before anything runs.

use serde_json::json;

use super::*;

fn problems(uses: &str, params: &Value) -> String {
    let problems = Registry::builtin().check_params(uses, params);
    let line = |problem: ParamProblem| format!("{}: {}", problem.path.join("."), problem.message);
    problems
        .into_iter()
        .map(line)
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn parameters_are_checked_as_they_are_written() {
    let check = |uses: &str, params: Value, expect: &[&str]| {
        assert_eq!(
            problems(uses, &params),
            expect.join("\n"),
            "{uses} {params}"
        );
    };
    check(
        "fail",
        json!({ "fatal": "maybe", "message": ["a"] }),
        &[
            "message: parameter 'message' must be text, not a list",
            "fatal: parameter 'fatal' must be true or false, not text",
        ],
    );
    check(
        "set",
        json!({ "outptu": 1, "action": 5 }),
        &[
            "outptu: unknown parameter 'outptu'; did you mean 'output'?",
            "action: parameter 'action' must be text, not this number",
        ],
    );
    check(
        "log",
        json!({ "level": "loud" }),
        &[
            "message: parameter 'message' is missing",
            "level: level \"loud\" is none of debug, info, warn, error",
        ],
    );
    check(
        "sleep",
        json!({ "duration": "soon" }),
        &["duration: 'soon' is no duration: say '250ms', '10s', '5m', '1h' or '2d'"],
    );
    check(
        "sleep",
        json!({}),
        &["duration: parameter 'duration' is missing"],
    );
    check(
        "switch",
        json!({ "cases": [{ "when": true }, { "when": "x", "action": "a" }], "default": 1 }),
        &[
            "default: parameter 'default' must be text, not this number",
            "cases.0: a case needs an 'action'",
            "cases.1: a case needs a condition: when: \"{{ expression }}\"",
        ],
    );
}

#[test]
fn requests_are_checked_as_they_are_written() {
    let check = |params: Value, expect: &[&str]| {
        let mut params = params;
        params["url"] = json!("http://h/");
        assert_eq!(problems("http", &params), expect.join("\n"), "{params}");
    };
    let status = "a status is a number from 100 to 599; several are a list of them";
    for bad in [json!("4xx"), json!(999), json!("200")] {
        check(
            json!({ "expected_status": bad }),
            &[&format!("expected_status: {status}")],
        );
    }
    let several = json!({ "expected_status": [200, "{{ input }}", 99] });
    check(several, &[&format!("expected_status.2: {status}")]);
    check(
        json!({ "expected_status": [200, 404], "method": "purge" }),
        &[],
    );
    check(
        json!({ "method": "POTS", "headers": { "a b": 1, "c": "{{ x }}\n" }, "query": 5 }),
        &[
            "method: 'POTS' is no HTTP method; did you mean 'POST'?",
            "query: parameter 'query' must be an object, not this number",
            "headers.a b: 'a b' is no header name",
        ],
    );
    check(
        json!({ "timeout": true, "response_bytes_max": "1k", "idempotency_key": "no" }),
        &[
            "timeout: true is no timeout: say milliseconds or '10s'",
            "response_bytes_max: parameter 'response_bytes_max' must be a whole number, not text",
            "idempotency_key: parameter 'idempotency_key' must be true or false, not text",
        ],
    );
}

#[test]
fn urls_are_checked_as_they_are_written() {
    let check = |url: Value, is_good: bool| {
        let found = problems("http", &json!({ "url": url }));
        assert_eq!(found.is_empty(), is_good, "{url}: {found}");
        assert!(!found.contains("hush"), "{found}");
    };
    check(json!("http://127.0.0.1:1/x"), true);
    check(json!("{{ input.base }}/x"), true);
    check(json!("https://h/{{ input.id }}"), true);
    check(json!("127.0.0.1:1/x"), false);
    check(json!("localhost:7070/?token=hush"), false);
    check(json!("ftp://h/x"), false);
    check(json!(""), false);
    check(Value::Null, false);
}

/// What an expression makes is known at execution only.
#[test]
fn templates_pass() {
    let text = "{{ input }}";
    for (uses, params) in [
        ("fail", json!({ "message": text, "fatal": text })),
        ("set", json!({ "action": text })),
        ("sleep", json!({ "duration": text })),
        ("log", json!({ "message": text, "level": text })),
        ("switch", json!({ "cases": [], "default": text })),
        (
            "http",
            json!({
                "url": text, "method": text, "headers": text, "query": text, "timeout": text,
                "expected_status": text, "response_bytes_max": text, "idempotency_key": text,
            }),
        ),
    ] {
        assert_eq!(problems(uses, &params), "", "{uses}");
    }
}

#[test]
fn a_wait_is_for_one_thing() {
    let check = |params: Value, expect: &[&str]| {
        assert_eq!(problems("wait", &params), expect.join("\n"), "{params}");
    };
    check(json!({}), &[]);
    check(
        json!({ "event": "paid", "key": "{{ run.input.order }}", "timeout": "2d" }),
        &[],
    );
    check(json!({ "until": "2026-12-24T18:00:00+01:00" }), &[]);
    check(
        json!({ "duration": "1h", "event": "paid" }),
        &["event: there is either 'duration' or 'event', not both"],
    );
    check(
        json!({ "until": "tomorrow", "timeout": 5 }),
        &[
            "until: 'tomorrow' is no time: say '2026-12-24T18:00:00Z', or with an offset",
            "timeout: 'timeout' goes with an event, and 'until' waits for none",
        ],
    );
    check(
        json!({ "event": 5, "key": "", "timeout": "soon" }),
        &[
            "timeout: 'soon' is no duration: say '250ms', '10s', '5m', '1h' or '2d'",
            "event: parameter 'event' must be text, not this number",
            "key: parameter 'key': key is empty",
        ],
    );
    check(
        json!({ "evnt": "paid" }),
        &["evnt: unknown parameter 'evnt'; did you mean 'event'?"],
    );
}

#[test]
fn webhooks_and_approvals_are_checked() {
    let check = |uses: &str, params: Value, expect: &[&str]| {
        assert_eq!(
            problems(uses, &params),
            expect.join("\n"),
            "{uses} {params}"
        );
    };
    check("webhook", json!({ "secret": "KEY", "timeout": "2d" }), &[]);
    check(
        "webhook",
        json!({ "wait": false, "secret": "{{ run.input }}", "timeout": "1s" }),
        &[
            "secret: parameter 'secret' is the name of a secret, not an expression",
            "timeout: 'timeout' goes with a webhook that waits; give it to the `wait` that follows",
        ],
    );
    check(
        "webhook",
        json!({ "wait": "no", "secret": 5 }),
        &[
            "wait: parameter 'wait' must be true or false, not text",
            "secret: parameter 'secret' must be text, not this number",
        ],
    );
    check(
        "approve",
        json!({ "to": ["ada"], "title": "Pay {{ run.input }}", "deadline": "2d", "form": { "type": "{{ run.input }}" } }),
        &[],
    );
    check(
        "approve",
        json!({ "deadline": "2026-12-24T18:00:00Z", "to": "{{ run.input.to }}" }),
        &[],
    );
    check(
        "approve",
        json!({ "to": [5], "deadline": "tomorrow", "form": { "properties": { "a": { "typ": "object" } } } }),
        &[
            "form.properties.a.typ: is no keyword that forms have here",
            "deadline: parameter 'deadline' is a time such as '2d', or '2026-12-24T18:00:00Z': 'tomorrow' is no time: say \
             '2026-12-24T18:00:00Z', or with an offset",
            "to: parameter 'to' must be text, or a list of texts",
        ],
    );
}
