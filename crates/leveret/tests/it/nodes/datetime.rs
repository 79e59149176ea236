//! `datetime`: one attempt at 2026-03-28T11:00:00.500Z, the day before Berlin's clocks go forward.

use leveret::core::time::Timestamp;

use super::*;

async fn answer(params: Value) -> String {
    let mut context = context(params);
    context.now = "2026-03-28T11:00:00.500Z"
        .parse::<Timestamp>()
        .expect("a time");
    match attempt("datetime", context).await {
        Ok(Verdict::Done(done)) => done.output.value().as_str().expect("text").to_owned(),
        Ok(other) => panic!("{other:?}"),
        Err(error) => {
            assert!(!error.is_retryable());
            error.message().to_owned()
        }
    }
}

#[tokio::test]
async fn times_are_told_moved_written_and_read() {
    for (params, expect) in [
        (json!({}), "2026-03-28T11:00:00.5Z"),
        (
            json!({ "time_zone": "Europe/Berlin" }),
            "2026-03-28T12:00:00.5+01:00",
        ),
        (
            json!({ "value": 0, "time_zone": "America/New_York" }),
            "1969-12-31T19:00:00-05:00",
        ),
        // A day is one of the clock, and hours are hours.
        (
            json!({ "operation": "add", "amount": "1 day", "time_zone": "Europe/Berlin" }),
            "2026-03-29T12:00:00.5+02:00",
        ),
        (
            json!({ "operation": "add", "amount": "24h", "time_zone": "Europe/Berlin" }),
            "2026-03-29T13:00:00.5+02:00",
        ),
        (
            json!({ "operation": "add", "amount": "P1M", "value": "2026-01-31T00:00:00Z" }),
            "2026-02-28T00:00:00Z",
        ),
        (
            json!({ "operation": "subtract", "amount": "1y 2mo", "value": "2026-03-01T00:00:00+00:00" }),
            "2025-01-01T00:00:00Z",
        ),
        (
            json!({ "operation": "format", "format": "%Y-%m-%d %H:%M %Z", "time_zone": "Europe/Berlin" }),
            "2026-03-28 12:00 CET",
        ),
        (
            json!({ "operation": "parse", "value": "28.03.2026", "format": "%d.%m.%Y", "time_zone": "Europe/Berlin" }),
            "2026-03-28T00:00:00+01:00",
        ),
        (
            json!({ "operation": "parse", "value": "2026-03-28 10:00 +0500", "format": "%F %H:%M %z" }),
            "2026-03-28T05:00:00Z",
        ),
        // What the clock skips is later, and what it shows twice is the first.
        (
            json!({ "value": "2026-03-29T02:30:00", "time_zone": "Europe/Berlin" }),
            "2026-03-29T03:30:00+02:00",
        ),
        (
            json!({ "value": "2026-10-25T02:30:00", "time_zone": "Europe/Berlin" }),
            "2026-10-25T02:30:00+02:00",
        ),
    ] {
        assert_eq!(answer(params.clone()).await, expect, "{params}");
    }
}

#[tokio::test]
async fn what_is_no_time_is_told() {
    for (params, expect) in [
        (
            json!({ "value": "tomorrow" }),
            "parameter 'value' must be a date and time as in 2026-03-29T10:00:00Z",
        ),
        (
            json!({ "value": [1] }),
            "parameter 'value' must be a date and time as in 2026-03-29T10:00:00Z",
        ),
        (
            json!({ "time_zone": "Mars/Phobos" }),
            "there is no time zone 'Mars/Phobos'; say one as in Europe/Berlin, or UTC",
        ),
        (
            json!({ "operation": "add" }),
            "parameter 'amount' is missing",
        ),
        (
            json!({ "operation": "add", "amount": 5 }),
            "parameter 'amount' must be text, not a number",
        ),
        (
            json!({ "operation": "add", "amount": "some" }),
            "'some' is no amount of time: say 'P1M2DT3H'",
        ),
        (json!({ "operation": "add", "amount": "19000 years" }), ""),
        (
            json!({ "operation": "parse", "value": "x", "format": "%Y" }),
            "parameter 'value' is not as the format says: ",
        ),
        (
            json!({ "operation": "format", "format": "%" }),
            "the format cannot be used: ",
        ),
        (
            json!({ "operation": "ad" }),
            "'ad' is no operation; did you mean 'add'?",
        ),
    ] {
        let told = answer(params.clone()).await;
        assert!(told.starts_with(expect), "{params}: {told}");
    }
    let check = |params: Value, expect: &str| assert_eq!(complaint("datetime", &params), expect);
    check(
        json!({ "operation": "parse" }),
        "parameter 'value' is missing; parameter 'format' is missing",
    );
    check(
        json!({ "operation": "move" }),
        "'move' is no operation; known: now, add, subtract, format, parse",
    );
    check(
        json!({ "operation": "add", "amount": "{{ input }}", "time_zone": "{{ input }}" }),
        "",
    );
    check(
        json!({ "time_zone": "Mars/Phobos" }),
        "there is no time zone 'Mars/Phobos'; say one as in Europe/Berlin, or UTC",
    );
}
