//! What expressions come to, by table; what is refused, with its place.

use std::{collections::HashSet, sync::Arc};

use serde_json::{Value, json};

use super::{Scope, Script};
use crate::expr::NodeIds;

struct Context(Value);

impl Scope for Context {
    fn name(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    fn context(&self) -> Option<&Value> {
        Some(&self.0)
    }
}

fn context() -> Context {
    Context(json!({
        "order": { "total": 120, "vip": false, "tags": ["new", "eu"], "note": null, "name": "Ada" },
        "fetch-user": { "ok": true, "age": 41 },
        "_outputs.A": { "x": 1 },
        "count": 3,
        "text": "7",
        "big": 9_007_199_254_740_993_i64,
        "list": [1, "1", null, [2, 3]],
        "smile": "a😀b",
        "hyphen": 10,
        "user": 4,
    }))
}

fn ids() -> NodeIds {
    let ids = ["fetch-user", "fetch", "order"];
    ids.into_iter().map(Arc::from).collect::<HashSet<_>>()
}

fn value(source: &str) -> Option<Value> {
    let script = Script::compile(source, &ids());
    script
        .unwrap_or_else(|error| panic!("{source}: {error}"))
        .value(&context())
}

#[test]
fn values() {
    let check =
        |source: &str, expected: Value| assert_eq!(value(source), Some(expected), "{source}");
    check("1 + 2 * 3", json!(7));
    check("2 ** 3 ** 2", json!(512));
    check("7 / 2", json!(3.5));
    check("-7 % 3", json!(-1));
    check("1 / 0", json!(null));
    check("'a' + 1 + 2", json!("a12"));
    check("1 + 2 + 'a'", json!("3a"));
    check("text * 2", json!(14));
    check("text + 2", json!("72"));
    check("+text", json!(7));
    check("order.total", json!(120));
    check("order['na' + 'me']", json!("Ada"));
    check("order.tags[1]", json!("eu"));
    check("order.tags.length", json!(2));
    check("smile.length", json!(4));
    check("smile.slice(-1)", json!("b"));
    check("context['_outputs.A'].x", json!(1));
    check("context.count", json!(3));
    check("fetch-user.age", json!(41));
    check("hyphen-user", json!(6));
    check("order.missing ?? 'none'", json!("none"));
    check("order.note ?? 'none'", json!("none"));
    check("order.vip ?? 'none'", json!(false));
    check("order.missing?.deep.deeper ?? 1", json!(1));
    check("count > 2 ? 'many' : 'few'", json!("many"));
    check(
        "`${order.name} has ${count + 1} of ${`${1}`}`",
        json!("Ada has 4 of 1"),
    );
    check("`a${ { b: 1 }.b }c`", json!("a1c"));
    check("typeof missing", json!("undefined"));
    check("typeof null", json!("object"));
    check("typeof order.tags", json!("object"));
    check("[1, order.total, missing]", json!([1, 120, null]));
    check(
        "({ total: order.total, 'a-b': 1, count, none: missing })",
        json!({ "total": 120, "a-b": 1, "count": 3 }),
    );
    check("{ a: 1, a: 2 }", json!({ "a": 2 }));
    check("order.tags.join('-')", json!("new-eu"));
    check("list + ''", json!("1,1,,2,3"));
    check("'A b'.toLowerCase().split(' ')", json!(["a", "b"]));
    check("order.tags.concat('x', [1]).length", json!(4));
    check("Object.keys(order).length", json!(5));
    check("Math.max(1, count, text)", json!(7));
    check("Math.round(-2.5)", json!(-2));
    check("0.1 + 0.2", json!(0.300_000_000_000_000_04));
    check("1e21 + ''", json!("1e+21"));
    check("1e-7 + ''", json!("1e-7"));
    check("0x1F", json!(31));
    check("'\\u0041\\x42\\u{43}\\ud83d\\ude00'", json!("ABC😀"));
    check("'x' in { x: missing }", json!(true));
    check("1 < 2 === true", json!(true));
    check("(missing || 0) ?? 1", json!(0));
    check("order?.['total']", json!(120));
    check("true ?.5 : 1", json!(0.5));
}

#[test]
fn undefined() {
    for source in [
        "missing",
        "order.missing",
        "missing?.a.b.c",
        "order.missing?.a",
        "missing.a",
        "order.note.a",
        "(missing?.a).b",
        "order.total.includes('x')",
        "'x' in 1",
        "list[9]",
        "order.constructor",
        "order.toString",
    ] {
        assert_eq!(value(source), None, "{source}");
    }
}

#[test]
fn conditions() {
    let check = |source: &str, expected: bool| {
        let script = Script::compile(source, &ids()).unwrap();
        assert_eq!(script.is_true(&context()), expected, "{source}");
    };
    check("order.total > 100 && !order.vip", true);
    check("order.tags.includes('eu')", true);
    check("order.name.startsWith('A')", true);
    check("order.tags", true);
    check("[]", true);
    check("''", false);
    check("0", false);
    check("NaN", false);
    check("missing", false);
    check("missing.deep", false);
    check("1 == '1'", true);
    check("1 === '1'", false);
    check("null == undefined", true);
    check("null === undefined", false);
    check("null == 0", false);
    check("'' == 0", true);
    check("[1] == 1", true);
    check("order === order", true);
    check("({}) === ({})", false);
    check("NaN == NaN", false);
    check("NaN != NaN", true);
    check("'b' > 'a'", true);
    check("'10' < '9'", true);
    check("'10' < 9", false);
    check("missing < 1", false);
    check("!missing", true);
    check("list.includes(null)", true);
    check("[NaN].includes(NaN)", true);
    check("[NaN].indexOf(NaN) === -1", true);
    check("Array.isArray(list)", true);
}

#[test]
fn what_is_refused() {
    let check = |source: &str, offset: usize, expected: &str| {
        let error = Script::compile(source, &ids()).expect_err(source);
        assert!(error.message.contains(expected), "{source}: {error}");
        assert_eq!(error.offset, offset, "{source}: {error}");
    };
    check("process.exit()", 12, "not among the methods");
    check("new Date()", 0, "outside of the subset");
    check("eval('1')", 0, "outside of the subset");
    check("a => a", 2, "not expected");
    check("fetch('x')", 0, "not among the functions");
    check("a = 1", 2, "has no meaning");
    check("a.map(x)", 5, "not among the methods");
    check("Math.random()", 0, "not among the functions");
    check("a[b](1)", 4, "has to be named");
    check("(a)(1)", 3, "only the methods");
    check("1 +", 3, "ends too early");
    check("", 0, "ends too early");
    check("'a", 0, "no closing quote");
    check("`a${b`", 5, "no closing backtick");
    check("a || b ?? c", 7, "needs parentheses");
    check("a ?? b || c", 7, "needs parentheses");
    check("-2 ** 2", 3, "needs parentheses");
    check("3px", 1, "ends in letters");
    check("a; b", 1, "has no meaning");
    check("...a", 0, "not expected");
    check(&"(".repeat(500), 64, "too deep");
    check(&"!".repeat(500), 64, "too deep");
    check(&format!("a{}", "+a".repeat(500)), 802, "too long");
    check(&"x".repeat(20_000), 0, "more than");
}

#[test]
fn what_it_may_make_is_bounded() {
    let long = Context(json!({ "a": "x".repeat(4 << 20) }));
    let script = |source: &str| Script::compile(source, &HashSet::new()).unwrap();
    assert!(script("a + a").value(&long).is_none());
    assert!(script("[a, a, a, a, a]").value(&long).is_none());
    assert!(script("a.length > 5").is_true(&long));
}

proptest::proptest! {
    /// Whatever the text: an answer or an error with a place inside of it.
    #[test]
    fn never_panics(source in "[a-z0-9 .?!:+*/%<>=&|()\\[\\]{}'\"`$,\\\\-]{0,60}") {
        match Script::compile(&source, &ids()) {
            Ok(script) => drop(script.value(&context())),
            Err(error) => proptest::prop_assert!(source.is_char_boundary(error.offset)),
        }
    }
}
