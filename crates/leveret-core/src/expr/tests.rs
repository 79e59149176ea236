//! Expressions against one small world: a line in, a line out.

use std::sync::atomic::{AtomicUsize, Ordering};

use insta::assert_snapshot;
use proptest::prelude::*;
use serde_json::json;

use super::*;

/// Nodes `A`, `failed`, `my-node` and `quiet` (without output), a context key and a secret; counts what is asked for.
struct World {
    a: Value,
    my_node: Value,
    error: Value,
    note: Value,
    asked: AtomicUsize,
}

impl World {
    fn new() -> World {
        World {
            a: json!({ "ok": true, "list": [1, 2.5, "x"], "odd key": 1 }),
            my_node: json!(7),
            error: json!({ "message": "boom" }),
            note: json!("hello"),
            asked: AtomicUsize::new(0),
        }
    }
}

impl Values for World {
    fn node_output(&self, id: &str) -> Option<&Value> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        match id {
            "A" => Some(&self.a),
            "my-node" => Some(&self.my_node),
            _ => None,
        }
    }
    fn node_error(&self, id: &str) -> Option<&Value> {
        (id == "failed").then_some(&self.error)
    }
    fn context(&self, key: &str) -> Option<&Value> {
        (key == "note").then_some(&self.note)
    }
    fn secret(&self, name: &str) -> Option<String> {
        (name == "KEY").then(|| "hush".to_owned())
    }
}

fn ids() -> NodeIds {
    let ids = ["A", "failed", "my-node", "quiet"];
    ids.into_iter().map(Arc::from).collect()
}

fn compile(source: &str, on_edge: bool) -> Result<Expression, ExpressionError> {
    let node_ids = &ids();
    Expression::compile(
        source,
        &Names {
            per_item: false,
            node_ids,
            on_edge,
            secrets: None,
        },
    )
}

fn eval(source: &str) -> String {
    let expression = match compile(source, true) {
        Ok(expression) => expression,
        Err(error) => {
            let help = error
                .help
                .map_or(String::new(), |help| format!(" ({help})"));
            return format!("at {}: {}{help}", error.offset, error.message);
        }
    };
    let input = json!({
        "n": 5, "d": 5.0, "half": 0.5, "big": u64::MAX, "name": "Ada", "no": null,
        "deeply": { "nested": { "value": 1 } }, "list": [3, 1, 2], "users": [{ "age": 20 }, { "age": 9 }],
    });
    let run_input = json!({ "kind": "x", "customer": { "id": 42 } });
    let world = World::new();
    let scope = EvalScope {
        item: None,
        input: &input,
        run_id: "r1",
        run_input: &run_input,
        values: &world,
        result: Some(ResultView {
            output: &input,
            action: Some("go"),
        }),
    };
    match expression.eval(&scope, &Budget::new()) {
        Ok(value) => value.to_string(),
        Err(error) => format!("{:?}: {}", error.kind, error.message),
    }
}

/// Evaluates each line.
fn table(lines: &str) -> String {
    let lines = lines.lines().map(str::trim).filter(|line| !line.is_empty());
    let rows: Vec<String> = lines
        .map(|line| format!("{line}  =>  {}", eval(line)))
        .collect();
    rows.join("\n")
}

#[test]
fn names_what_is_in_scope() {
    assert_snapshot!(table(r#"
        input.n
        input
        input["name"]
        input.deeply.nested.value
        input.list[0]
        run.id
        run.input.customer.id
        nodes.A.output.ok
        nodes["my-node"].output
        nodes["failed"].error.message
        A.ok
        A["odd key"]
        context.note
        context["kind"]
        context["A"].ok
        context["_outputs.A"].ok
        result.output.n
        result.action
        secret("KEY")
    "#), @r#"
    input.n  =>  5
    input  =>  {"big":18446744073709551615,"d":5.0,"deeply":{"nested":{"value":1}},"half":0.5,"list":[3,1,2],"n":5,"name":"Ada","no":null,"users":[{"age":20},{"age":9}]}
    input["name"]  =>  "Ada"
    input.deeply.nested.value  =>  1
    input.list[0]  =>  3
    run.id  =>  "r1"
    run.input.customer.id  =>  42
    nodes.A.output.ok  =>  true
    nodes["my-node"].output  =>  7
    nodes["failed"].error.message  =>  "boom"
    A.ok  =>  true
    A["odd key"]  =>  1
    context.note  =>  "hello"
    context["kind"]  =>  "x"
    context["A"].ok  =>  true
    context["_outputs.A"].ok  =>  true
    result.output.n  =>  5
    result.action  =>  "go"
    secret("KEY")  =>  "hush"
    "#);
}

#[test]
fn refuses_unknown_names_when_compiled() {
    assert_snapshot!(table(r#"
        inptu.n
        count < 3
        1 + nope
        my-node.ok
        nodes.B.output
        nodes.faild.output
        nodes.A
        nodes
        nodes.A.result
        run.output
        result.value
        context
        context[input.name]
        nodes[input.name].output
        secret(input.name)
        secret
        siz(input)
        size(1, 2)
        contains("a", "b")
        "a".type()
        has(input)
        input.list.map(1, 2)
        x.map(x, x)
        item.id
        input.list.map(item, item + index)
    "#), @r#"
    inptu.n  =>  at 0: `inptu` is not known here (did you mean `input`?)
    count < 3  =>  at 0: `count` is not known here (a context key is read by `context.count`; also in scope are input, run.input and nodes.ID.output)
    1 + nope  =>  at 4: `nope` is not known here (a context key is read by `context.nope`; also in scope are input, run.input and nodes.ID.output)
    my-node.ok  =>  at 0: `my` is not known here (write `nodes["my-node"].output`)
    nodes.B.output  =>  at 6: there is no node `B`
    nodes.faild.output  =>  at 6: there is no node `faild` (did you mean `failed`?)
    nodes.A  =>  at 0: `nodes.A` is not a value by itself (a node has `output` and `error`, as in `nodes.ID.output`)
    nodes  =>  at 0: `nodes` is not a value by itself (name a node, as in `nodes.ID.output`)
    nodes.A.result  =>  at 8: `nodes.A` has no `result` (it has `output` and `error`)
    run.output  =>  at 4: `run` has no `output` (it has `input` and `id`)
    result.value  =>  at 7: `result` has no `value` (it has `output` and `action`)
    context  =>  at 0: `context` is not a value by itself (name a key, as in `context.KEY`)
    context[input.name]  =>  at 8: the name between the brackets must be written out, in quotes (what an expression reads is loaded before it is evaluated)
    nodes[input.name].output  =>  at 6: the name between the brackets must be written out, in quotes (what an expression reads is loaded before it is evaluated)
    secret(input.name)  =>  at 0: `secret` takes the name of a secret, in quotes
    secret  =>  at 0: `secret` is not known here (a secret is read by `secret("NAME")`)
    siz(input)  =>  at 0: there is no function `siz` (did you mean `size`?)
    size(1, 2)  =>  at 0: `size` does not take 2 arguments
    contains("a", "b")  =>  at 0: `contains` is called in the wrong form (it is called as `VALUE.contains(…)`)
    "a".type()  =>  at 4: `type` is called in the wrong form (it is called as `type(…)`)
    has(input)  =>  at 0: `has` takes one field, as in `has(input.name)`
    input.list.map(1, 2)  =>  at 15: the first argument of `map` is the name of a variable
    x.map(x, x)  =>  at 0: `x` is not known here (a context key is read by `context.x`; also in scope are input, run.input and nodes.ID.output)
    item.id  =>  at 0: `item` is not known here (a macro gives its variable a name, as in `input.list.map(item, item)`)
    input.list.map(item, item + index)  =>  at 28: `index` is not known here (a macro gives its variable a name, as in `input.list.map(index, index)`)
    "#);
    // Nor does a node of such a name hide it.
    let node_ids = &NodeIds::from([Arc::from("item")]);
    let on_edge = false;
    let item = |source| {
        Expression::compile(
            source,
            &Names {
                per_item: false,
                node_ids,
                on_edge,
                secrets: None,
            },
        )
    };
    assert_eq!(
        item("item.id").unwrap_err().help.as_deref(),
        Some("write `nodes.item.output`")
    );
    item("nodes.item.output.id + [1].map(item, item)[0]").unwrap();
    let error = compile("result.output", false).unwrap_err();
    assert_eq!(
        error.help.as_deref(),
        Some("`result` is in scope on edges only")
    );
}

#[test]
fn refuses_what_is_not_an_expression() {
    assert_snapshot!(table(r#"
        input.
        input.n >
        (1 + 2
        [1, 2
        {"a" 1}
        "open
        1 = 1
        true & false
        a ? b
        1 2
        input.?n
        if
        @
        12abc
        "\q"
        99999999999999999999999
        1e999
    "#), @r#"
    input.  =>  at 6: expected the name of a field, but the expression ends
    input.n >  =>  at 9: expected a value, but the expression ends
    (1 + 2  =>  at 6: expected `)`, but the expression ends
    [1, 2  =>  at 5: expected `]`, but the expression ends
    {"a" 1}  =>  at 5: expected `:`, but found a number
    "open  =>  at 0: this text has no closing quote
    1 = 1  =>  at 2: expected an operator, but found `=` (equality is written `==`)
    true & false  =>  at 5: expected an operator, but found `&` (`and` is written `&&`)
    a ? b  =>  at 5: expected `:`, but the expression ends
    1 2  =>  at 2: expected an operator, but found a number
    input.?n  =>  at 6: expected the name of a field, but found `?` (test for a field with `has(a.b)`)
    if  =>  at 0: expected a value, but found `if`
    @  =>  at 0: `@` has no meaning here
    12abc  =>  at 2: a number ends in letters
    "\q"  =>  at 1: this escape is not known
    99999999999999999999999  =>  at 0: this whole number is too large
    1e999  =>  at 0: this number is too large
    "#);
    assert_eq!(
        compile("  ", true).unwrap_err().message,
        "the expression is empty"
    );
}

#[test]
fn counts_and_compares_numbers_by_value() {
    assert_snapshot!(table(r"
        input.n * 2
        input.d * 2
        input.n * 1.5
        5.5 * 2
        7 / 2
        7 / 2.0
        -7 % 3
        1 + 2 * 3 - 4
        (1 + 2) * 3
        -input.n
        - -1
        0x10 + 1u
        input.n == input.d
        input.n < 5.5
        input.d >= 5
        input.big
        input.big > 1.0
        input.big + 1
        9007199254740993 == 9007199254740992.0
        1 / 0
        1.0 / 0.0
        1 / 0 == 1 || true
        1e3
        .5 + 1
    "), @"
    input.n * 2  =>  10
    input.d * 2  =>  10.0
    input.n * 1.5  =>  7.5
    5.5 * 2  =>  11.0
    7 / 2  =>  3
    7 / 2.0  =>  3.5
    -7 % 3  =>  -1
    1 + 2 * 3 - 4  =>  3
    (1 + 2) * 3  =>  9
    -input.n  =>  -5
    - -1  =>  1
    0x10 + 1u  =>  17
    input.n == input.d  =>  true
    input.n < 5.5  =>  true
    input.d >= 5  =>  true
    input.big  =>  18446744073709551615
    input.big > 1.0  =>  true
    input.big + 1  =>  Arithmetic: a whole number overflows
    9007199254740993 == 9007199254740992.0  =>  false
    1 / 0  =>  Arithmetic: division by zero
    1.0 / 0.0  =>  Arithmetic: the number is infinite or undefined, which JSON cannot hold
    1 / 0 == 1 || true  =>  true
    1e3  =>  1000.0
    .5 + 1  =>  1.5
    ");
}

#[test]
fn works_on_text_lists_and_maps() {
    assert_snapshot!(table(r#"
        "a" + 'b'
        "tab\tA\x41\u00e9"
        r"raw\n"
        "a" < "b"
        "Ada" == input.name && input.name === 'Ada'
        input.name !== "Bob"
        [1, 2] == [1.0, 2.0]
        [1, 2] + input.list
        input.list == [3, 1, 2]
        [3, 1, 2] == input.list
        {"a": 1, "b": [input.n]}
        {"id": 42} == run.input.customer
        1 in input.list
        "kind" in run.input
        "nothing" in run.input
        input.list.map(x, x * 2)
        input.list.map(x, x > 1, x * 2)
        input.list.map(item, item * 2)
        input.list.filter(x, x > 1)
        input.users.exists(u, u.age > 18)
        input.users.all(u, u.age > 18)
        input.users.exists_one(u, u.age > 18)
        input.users.map(u, input.list.map(x, x + u.age))
        run.input.map(k, k)
        input.n > 3 ? "many" : "few"
        has(input.deeply.nested) && !has(input.deeply.other)
        has(input.no.way)
        has(input["odd key"])
        has(context.note) && !has(context.nothing)
        has(A.ok) && has(nodes.A.output) && !has(nodes.quiet.output) && !has(nodes.A.error)
        // a comment
        1 // one
    "#), @r#"
    "a" + 'b'  =>  "ab"
    "tab\tA\x41\u00e9"  =>  "tab\tAAé"
    r"raw\n"  =>  "raw\\n"
    "a" < "b"  =>  true
    "Ada" == input.name && input.name === 'Ada'  =>  true
    input.name !== "Bob"  =>  true
    [1, 2] == [1.0, 2.0]  =>  true
    [1, 2] + input.list  =>  [1,2,3,1,2]
    input.list == [3, 1, 2]  =>  true
    [3, 1, 2] == input.list  =>  true
    {"a": 1, "b": [input.n]}  =>  {"a":1,"b":[5]}
    {"id": 42} == run.input.customer  =>  true
    1 in input.list  =>  true
    "kind" in run.input  =>  true
    "nothing" in run.input  =>  false
    input.list.map(x, x * 2)  =>  [6,2,4]
    input.list.map(x, x > 1, x * 2)  =>  [6,4]
    input.list.map(item, item * 2)  =>  [6,2,4]
    input.list.filter(x, x > 1)  =>  [3,2]
    input.users.exists(u, u.age > 18)  =>  true
    input.users.all(u, u.age > 18)  =>  false
    input.users.exists_one(u, u.age > 18)  =>  true
    input.users.map(u, input.list.map(x, x + u.age))  =>  [[23,21,22],[12,10,11]]
    run.input.map(k, k)  =>  ["customer","kind"]
    input.n > 3 ? "many" : "few"  =>  "many"
    has(input.deeply.nested) && !has(input.deeply.other)  =>  true
    has(input.no.way)  =>  false
    has(input["odd key"])  =>  false
    has(context.note) && !has(context.nothing)  =>  true
    has(A.ok) && has(nodes.A.output) && !has(nodes.quiet.output) && !has(nodes.A.error)  =>  true
    // a comment  =>  at 0: the expression is empty
    1 // one  =>  1
    "#);
}

#[test]
fn has_functions() {
    assert_snapshot!(table(r#"
        size("héllo") + size(input.list) + input.deeply.size()
        type(1) + type(1.5) + type("") + type([]) + type({}) + type(null) + type(true)
        string(1) + string(1.5) + string(true) + string([1, {"a": null}])
        int("12") + int(3.9) + int(true)
        double(2)
        bool("true")
        [min(3, 1.5, 2), max(input.list), abs(-3), abs(-1.5), floor(1.7), ceil(1.2), round(2.5)]
        "hello".contains("ell") && [1, 2].contains(2.0)
        "hello".startsWith("he") && "hello".endsWith("lo")
        "hello".indexOf("l")
        "Ab".lowerAscii() + "Ab".upperAscii() + "  x ".trim()
        "a-b-c".replace("-", "+")
        "a,b,c".split(",")
        "héllo".substring(1, 3) + "héllo".substring(3)
        ["a", "b"].join("-") + ["a"].join()
        int("twelve")
        int("NaN")
        size(1)
        "a".split("")
        [1].join(",")
        min([])
    "#), @r#"
    size("héllo") + size(input.list) + input.deeply.size()  =>  9
    type(1) + type(1.5) + type("") + type([]) + type({}) + type(null) + type(true)  =>  "intdoublestringlistmapnullbool"
    string(1) + string(1.5) + string(true) + string([1, {"a": null}])  =>  "11.5true[1,{\"a\":null}]"
    int("12") + int(3.9) + int(true)  =>  16
    double(2)  =>  2.0
    bool("true")  =>  true
    [min(3, 1.5, 2), max(input.list), abs(-3), abs(-1.5), floor(1.7), ceil(1.2), round(2.5)]  =>  [1.5,3,3,1.5,1,2,3]
    "hello".contains("ell") && [1, 2].contains(2.0)  =>  true
    "hello".startsWith("he") && "hello".endsWith("lo")  =>  true
    "hello".indexOf("l")  =>  2
    "Ab".lowerAscii() + "Ab".upperAscii() + "  x ".trim()  =>  "abABx"
    "a-b-c".replace("-", "+")  =>  "a+b+c"
    "a,b,c".split(",")  =>  ["a","b","c"]
    "héllo".substring(1, 3) + "héllo".substring(3)  =>  "éllo"
    ["a", "b"].join("-") + ["a"].join()  =>  "a-ba"
    int("twelve")  =>  Arithmetic: `int` takes a number within the range of whole numbers
    int("NaN")  =>  Arithmetic: `int` takes a number within the range of whole numbers
    size(1)  =>  Type: `size` does not take int
    "a".split("")  =>  Type: `split` takes a separator that is not empty
    [1].join(",")  =>  Type: `join` does not take int
    min([])  =>  Missing: an empty list has no least or greatest element
    "#);
}

#[test]
fn fails_with_the_part_that_failed_and_no_value() {
    assert_snapshot!(table(r#"
        input.missing
        input.name.first
        input.no.way
        input.n > 1 && input.missing > 1
        input.list[9]
        input.list["x"]
        input.name + input.n
        input.name > input.n
        input.list + 1
        nodes.quiet.output.x
        nodes.A.error
        context.nothing
        secret("NONE")
        secret("KEY").missing
        int(secret("KEY"))
        !input.n
        input.n ? 1 : 2
        input.n && true
        input.n && false
        input.missing || true
        {1: 2}
        {"a": 1, "a": 2}
        input.n.map(x, x)
        9223372036854775807 * 9223372036854775807
        1.0 / 0.0
    "#), @r#"
    input.missing  =>  Missing: there is no field `missing`
    input.name.first  =>  Type: string has no field `first`
    input.no.way  =>  Missing: null has no field `way`
    input.n > 1 && input.missing > 1  =>  Missing: in `input.missing`: there is no field `missing`
    input.list[9]  =>  Missing: the index is outside of the list's 3 elements
    input.list["x"]  =>  Type: cannot index list with string
    input.name + input.n  =>  Type: there is no string + int
    input.name > input.n  =>  Type: there is no string > int
    input.list + 1  =>  Type: there is no list + int
    nodes.quiet.output.x  =>  Missing: node `quiet` has no output
    nodes.A.error  =>  Missing: node `A` has no error
    context.nothing  =>  Missing: there is no context key `nothing`
    secret("NONE")  =>  Secret: there is no secret `NONE`
    secret("KEY").missing  =>  Type: string has no field `missing`
    int(secret("KEY"))  =>  Arithmetic: `int` takes a number within the range of whole numbers
    !input.n  =>  Type: `!` takes true or false, not int
    input.n ? 1 : 2  =>  Type: `?` takes true or false, not int
    input.n && true  =>  Type: in `input.n`: a condition must be true or false, not int
    input.n && false  =>  false
    input.missing || true  =>  true
    {1: 2}  =>  Type: a key must be a string, not int
    {"a": 1, "a": 2}  =>  Type: a key appears twice
    input.n.map(x, x)  =>  Type: this goes over a list or a map, not int
    9223372036854775807 * 9223372036854775807  =>  Arithmetic: a whole number overflows
    1.0 / 0.0  =>  Arithmetic: the number is infinite or undefined, which JSON cannot hold
    "#);
    let scope = EvalScope {
        item: None,
        input: &json!({}),
        run_id: "r",
        run_input: &Value::Null,
        values: &NoValues,
        result: None,
    };
    let error = |source| {
        compile(source, true)
            .unwrap()
            .eval_bool(&scope, &Budget::new())
            .unwrap_err()
            .to_string()
    };
    assert_snapshot!(error("input.total > 100"), @"expression `input.total > 100`: in `input.total`: there is no field `total`");
    assert_snapshot!(error("input"), @"expression `input`: a condition must be true or false, not map");
    assert_snapshot!(error("result.action == 'a'"), @"expression `result.action == 'a'`: `result` exists on edges only");
}

#[test]
fn says_what_it_reads() {
    let references = |source| compile(source, true).unwrap().references().clone();
    let set = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect();
    assert_eq!(
        references(
            r#"input.x + A.y + nodes["failed"].error.z + context.k + secret("S") + context["my-node"]"#
        ),
        References {
            input: true,
            run_input: true,
            nodes: set(&["A", "my-node"]),
            node_errors: set(&["failed"]),
            context: set(&["k"]),
            secrets: set(&["S"]),
            ..References::default()
        }
    );
    assert_eq!(
        references("result.action == run.id"),
        References {
            result: true,
            ..References::default()
        }
    );
    // A macro's variable hides a node of its name.
    assert_eq!(references("[1].map(A, A)"), References::default());
}

#[test]
fn asks_for_what_it_needs_and_nothing_else() {
    // Counts the values asked for: a branch that is not taken asks for none, and a fold over one output asks once.
    let world = World::new();
    let scope = EvalScope {
        item: None,
        input: &Value::Null,
        run_id: "r",
        run_input: &Value::Null,
        values: &world,
        result: None,
    };
    let asked = |source| {
        world.asked.store(0, Ordering::Relaxed);
        compile(source, true)
            .unwrap()
            .eval(&scope, &Budget::new())
            .unwrap();
        world.asked.load(Ordering::Relaxed)
    };
    assert_eq!(asked("true || A.ok"), 0);
    assert_eq!(asked("true ? 1 : A.ok"), 0);
    assert_eq!(asked("A.list.map(x, [x, x, x])"), 1);
    assert_eq!(asked("A.ok && nodes['my-node'].output > 1"), 2);
}

#[test]
fn reads_a_field_of_a_large_input_without_copying_it() {
    // The work left tells what was copied: a field of a million elements' neighbour costs what one of none costs.
    let work_of = |input: &Value| {
        let expression = compile("input.customer.id == 42 && size(input.rows) >= 0", true).unwrap();
        let scope = EvalScope {
            item: None,
            input,
            run_id: "r",
            run_input: &Value::Null,
            values: &NoValues,
            result: None,
        };
        let budget = Budget::new();
        let value = eval::eval(&expression.0.root, &scope, expression.source(), &budget).unwrap();
        assert!(value.as_condition().unwrap());
        budget.spent()
    };
    let small = json!({ "customer": { "id": 42 }, "rows": [] });
    let large = json!({ "customer": { "id": 42 }, "rows": vec![0; 1_000_000] });
    assert_eq!(work_of(&small), work_of(&large));
    assert!(work_of(&large) < 32);
}

#[test]
fn stops_at_bounds() {
    let nested = |depth: usize| format!("{}1{}", "(".repeat(depth), ")".repeat(depth));
    assert_eq!(eval(&nested(50)), "1");
    assert!(eval(&nested(5000)).contains("nested deeper"));
    assert!(eval(&"!".repeat(5000)).contains("expected a value"));
    assert!(eval(&format!("{}true", "!".repeat(5000))).contains("nested deeper"));
    assert!(eval(&format!("1{}", "+1".repeat(5000))).contains("nested deeper"));
    assert!(eval(&format!("input{}", ".a".repeat(5000))).contains("nested deeper"));
    assert_eq!(eval(&format!("true{}", " && true".repeat(1500))), "true");
    assert!(eval(&"x".repeat(20_000)).contains("at most 16384 bytes"));
    // Doubling at each step would make 2^20 elements of elements.
    let doubling = format!("[1]{}", ".map(x, [x, x])".repeat(40));
    assert_snapshot!(eval(&doubling), @"Work: it takes more work than the 2000000 units allowed");
    let product = "input.users.map(a, input.users.map(b, a))"
        .replace("input.users", &format!("[{}]", "0,".repeat(3000)));
    assert_snapshot!(eval(&product), @"Work: it takes more work than the 2000000 units allowed");
}

#[test]
#[ignore = "measures; run it with --release and --nocapture"]
fn takes_little_time() {
    let expression = compile(
        r#"result.output.total > 100 && run.input.kind == "x""#,
        true,
    )
    .unwrap();
    let rows: Vec<Value> = (0..10_000)
        .map(|row| json!({ "row": row, "name": "a row" }))
        .collect();
    for rows in [vec![], rows] {
        let output = json!({ "total": 101, "rows": rows });
        let run_input = json!({ "kind": "x", "rows": rows });
        let scope = EvalScope {
            item: None,
            input: &output,
            run_id: "r",
            run_input: &run_input,
            values: &NoValues,
            result: Some(ResultView {
                output: &output,
                action: None,
            }),
        };
        let count = 1_000_000_u32;
        let start = std::time::Instant::now();
        for _ in 0..count {
            assert!(expression.eval_bool(&scope, &Budget::new()).unwrap());
        }
        let bytes = output.to_string().len();
        println!("{:?} each, over {bytes} bytes", start.elapsed() / count);
    }
    let start = std::time::Instant::now();
    for _ in 0..10_000 {
        compile(expression.source(), true).unwrap();
    }
    println!("{:?} to compile", start.elapsed() / 10_000);
}

/// Expressions that would do as much as they can, each in its own way; `EACH` stands for three loops over 300 elements. `s` and `t` are texts
/// of a megabyte, almost equal, `w` is one of blanks, `z` of zeros, `u` of umlauts; `l` has 300 elements, `n` a hundred thousand, as `m` has
/// entries; `k` is a map with a key of a megabyte, `r` has rows.
const GREEDY: &str = r#"
    EACH(input.s == input.t)
    EACH(input.s > input.t)
    EACH(input.s in [input.t])
    EACH([input.s] == [input.t])
    EACH({"a": input.s} == {"a": input.t})
    EACH({input.s: 1} == {input.t: 1})
    EACH(input.s in input.k)
    EACH(input.k[input.s] == 1 || true)
    EACH(input.e[input.s] == 1 || true)
    EACH(input.s[input.s] == 1 || true)
    EACH(input.m == input.m)
    EACH(input.m["k99999"] == 0)
    EACH(input.m.exists(x, false))
    EACH(input.n == input.n)
    EACH(-1 in input.n)
    EACH(input.n.contains(-1))
    EACH((input.n + input.n).size() == 0)
    EACH(sum(input.n) == 0)
    EACH(max(input.n) == 0)
    EACH(input.s.contains(input.t))
    EACH(input.s.contains("xy"))
    EACH(input.s.contains("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxy"))
    EACH("a".indexOf(input.s) == 0)
    EACH("a".contains(input.s))
    EACH(input.s.startsWith(input.t))
    EACH(input.s.endsWith(input.s))
    EACH(input.s.indexOf("z") == 0)
    EACH(input.u.indexOf("z") == 0)
    EACH(input.s.lowerAscii() == "")
    EACH(input.w.trim() == "x")
    EACH(input.s.replace("x", "y") == "")
    EACH(input.s.replace("", "y") == "")
    EACH(input.s.split("x").size() == 0)
    EACH((input.s + "y").split("x").size() == 0)
    EACH(input.s.substring(999999) == "")
    EACH(input.u.substring(400000) == "")
    EACH(input.u.size() == 0)
    EACH(input.s.split("x").join("y") == "")
    EACH(string(input.n) == "")
    EACH(string(input.m) == "")
    EACH(string(input.s.split("x")) == "")
    EACH(string([input.c]) == "")
    EACH(string(1.5) == "")
    EACH(int(input.z) == 1)
    EACH(double(input.z) == 1.0)
    EACH(double(input.z + "e5") == 1.0)
    EACH(input.nothing == 1 || true)
    EACH(1 / 0 == 1 || true)
    EACH(18446744073709551615 / 3 == 1)
    EACH(9223372036854775807 * 3 == 1 || true)
    EACH(A.ok == 1)
    EACH(context.kind == 1)
    EACH(secret("KEY") == "")
    EACH(has(nodes.A.output))
    EACH({"a": 1, "b": 2} == {})
    EACH([1, [2, 3]] == [])
    input.l.map(i, input.l.map(j, input.l.map(k, [])))
    input.l.map(i, input.l.map(j, input.l.map(k, {"a": 1})))
    input.l.map(i, input.l.map(j, input.l.map(k, input.e)))
    input.l.map(i, input.l.map(j, input.l.map(k, input.r[0])))
    input.l.map(i, input.l.map(j, input.l.map(k, input.s)))
    input.l.map(i, input.l.map(j, input.l.map(k, input.s + string(k))))
    input.l.map(i, input.l.map(j, (input.s + "y").split("x")))
    input.l.map(i, input.l.map(j, input.s.split("x")))
    input.l.map(i, input.l.map(j, input.l.map(k, [i, j, k])))
    input.l.map(i, input.r)
    input.l.map(i, input.m)
    [input.s + "y"].map(a, input.l.map(i, input.l.map(j, a)))
    [{input.s + "y": 1}].map(a, input.l.map(i, input.l.map(j, a.map(k, k))))
    input.l.map(i, input.l.map(j, {input.s: j}))
    [[input.s + "y"]].map(a, input.l.map(i, input.l.map(j, a[0])))
    [{"b": input.s + "y"}].map(a, input.l.map(i, input.l.map(j, a.b)))
"#;

fn greedy() -> impl Iterator<Item = String> {
    let lines = GREEDY.lines().map(str::trim);
    lines.filter(|line| !line.is_empty()).map(|line| {
        let inner = line
            .strip_prefix("EACH(")
            .and_then(|rest| rest.strip_suffix(')'));
        inner.map_or(line.to_owned(), |inner| {
            format!("input.l.map(i, input.l.map(j, input.l.map(k, {inner}))).size()")
        })
    })
}

fn greedy_input() -> Value {
    const LEN: usize = 1 << 20;
    let text = "x".repeat(LEN);
    json!({
        "s": text,
        "t": format!("{}y", &text[1..]),
        "w": " ".repeat(LEN),
        "z": "0".repeat(LEN),
        "u": "\u{fc}".repeat(LEN / 2),
        "c": "\u{1}".repeat(LEN),
        "l": (0..300).collect::<Vec<_>>(),
        "n": (0..100_000).collect::<Vec<_>>(),
        "m": (0..100_000).map(|at| (format!("k{at}"), json!(at))).collect::<serde_json::Map<_, _>>(),
        "k": { &text[1..]: 1 },
        "e": {},
        "r": (0..1000).map(|at| json!({ "a": at, "b": "x", "c": null })).collect::<Vec<_>>(),
    })
}

fn eval_greedy(source: &str, input: &Value, budget: &Budget) -> Result<Value, EvalErrorKind> {
    let world = World::new();
    let scope = EvalScope {
        item: None,
        input,
        run_id: "r",
        run_input: input,
        values: &world,
        result: None,
    };
    let expression = compile(source, true).expect(source);
    let outcome = expression.eval(&scope, budget);
    outcome.map_err(|error| error.kind)
}

/// What looks at a megabyte of text, or at a hundred thousand elements, is charged for it: the thousands of units that each line costs once.
#[test]
fn charges_for_what_is_looked_at() {
    let input = greedy_input();
    let lines = GREEDY
        .lines()
        .filter_map(|line| line.trim().strip_prefix("EACH("));
    let rows: Vec<String> = lines
        .filter(|line| line.contains("input."))
        .map(|line| {
            let source = &line[..line.len() - 1];
            let budget = Budget::new();
            let outcome = eval_greedy(source, &input, &budget);
            let failed = outcome
                .err()
                .map_or(String::new(), |kind| format!(" {kind:?}"));
            format!("{source}  =>  {}{failed}", budget.spent() / 1000)
        })
        .collect();
    assert_snapshot!(rows.join("\n"), @r#"
    input.s == input.t  =>  65
    input.s > input.t  =>  65
    input.s in [input.t]  =>  65
    [input.s] == [input.t]  =>  65
    {"a": input.s} == {"a": input.t}  =>  65
    {input.s: 1} == {input.t: 1}  =>  262
    input.s in input.k  =>  65
    input.k[input.s] == 1 || true  =>  65
    input.e[input.s] == 1 || true  =>  65
    input.s[input.s] == 1 || true  =>  65
    input.m == input.m  =>  300
    input.m["k99999"] == 0  =>  0
    input.m.exists(x, false)  =>  200
    input.n == input.n  =>  100
    -1 in input.n  =>  100
    input.n.contains(-1)  =>  100
    (input.n + input.n).size() == 0  =>  200
    sum(input.n) == 0  =>  100
    max(input.n) == 0  =>  100
    input.s.contains(input.t)  =>  196
    input.s.contains("xy")  =>  65
    input.s.contains("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxy")  =>  65
    "a".indexOf(input.s) == 0  =>  131
    "a".contains(input.s)  =>  131
    input.s.startsWith(input.t)  =>  65
    input.s.endsWith(input.s)  =>  65
    input.s.indexOf("z") == 0  =>  65
    input.u.indexOf("z") == 0  =>  65
    input.s.lowerAscii() == ""  =>  65
    input.w.trim() == "x"  =>  131
    input.s.replace("x", "y") == ""  =>  1179
    input.s.replace("", "y") == ""  =>  1179
    input.s.split("x").size() == 0  =>  65 Work
    (input.s + "y").split("x").size() == 0  =>  131 Work
    input.s.substring(999999) == ""  =>  131
    input.u.substring(400000) == ""  =>  131
    input.u.size() == 0  =>  65
    input.s.split("x").join("y") == ""  =>  65 Work
    string(input.n) == ""  =>  73
    string(input.m) == ""  =>  184
    string(input.s.split("x")) == ""  =>  65 Work
    string([input.c]) == ""  =>  851
    int(input.z) == 1  =>  131
    double(input.z) == 1.0  =>  131
    double(input.z + "e5") == 1.0  =>  196
    input.nothing == 1 || true  =>  0
    "#);
}

/// Neither a loop nor sharing gets more than the budget: it ends after some hundred megabytes of text were compared, or after some millions
/// of copies were asked for.
#[test]
fn greedy_expressions_come_to_the_budget() {
    let input = greedy_input();
    for source in [
        "input.l.map(i, input.l.map(j, input.l.exists(k, input.s > input.t))).size()",
        "input.l.map(i, input.l.map(j, input.l.exists(k, [input.s] == [input.t]))).size()",
        "input.l.map(i, input.l.map(j, 'a'.indexOf(input.s)))",
        "input.l.exists(i, input.l.exists(j, input.l.exists(k, input.e[input.s])))",
    ] {
        let outcome = eval_greedy(source, &input, &Budget::new());
        assert_eq!(outcome, Err(EvalErrorKind::Work), "{source}");
    }
    for source in [
        r#"[[input.s + "y"]].map(a, input.l.map(i, input.l.map(j, a[0])))"#,
        r#"[{"b": input.s + "y"}].map(a, input.l.map(i, input.l.map(j, a.b)))"#,
        r#"[{input.s + "y": 1}].map(a, input.l.map(i, a.map(k, k)))"#,
        "input.l.map(i, input.k)",
    ] {
        let outcome = eval_greedy(source, &input, &Budget::new());
        assert_eq!(outcome, Err(EvalErrorKind::Size), "{source}");
    }
    // What is not in the result is shared, whatever it costs to render.
    let shared =
        r#"[[input.s + "y"]].map(a, input.l.map(i, input.l.map(j, a[0])))[0][0][0].size()"#;
    let outcome = eval_greedy(shared, &input, &Budget::new());
    assert_eq!(outcome, Ok(json!((1 << 20) + 1)));
}

/// How long this thread has run, whatever else the machine does (Linux only).
fn time_on_cpu() -> std::time::Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    let nanos = stat.split(' ').next().unwrap().parse().unwrap();
    std::time::Duration::from_nanos(nanos)
}

#[test]
#[ignore = "measures; run it with --release and --nocapture"]
fn greedy_expressions_take_little_time() {
    let input = greedy_input();
    let mut times = Vec::new();
    for source in greedy() {
        let start = time_on_cpu();
        let outcome = eval_greedy(&source, &input, &Budget::new());
        let kind = outcome.map(drop);
        times.push((time_on_cpu().saturating_sub(start), kind, source));
    }
    times.sort_by_key(|(time, ..)| *time);
    for (time, kind, source) in times {
        println!("{time:?} {kind:?} {source}");
    }
}

proptest! {
    /// Whatever the text, compiling and evaluating end in a value or an error, whose offset is within the text.
    #[test]
    fn no_text_makes_it_panic(source in prop_oneof![
        "\\PC{0,40}",
        r#"([a-z]{1,3}|[0-9]{1,3}|input|A|nodes|\.|\(|\)|\[|\]|\{|\}|"|'|\\|\+|-|\*|/|%|<|=|!|&&|\|\||\?|:|,| |é|size|has|map|context){0,20}"#,
    ]) {
        if let Err(error) = compile(&source, true) {
            prop_assert!(source.is_char_boundary(error.offset), "{} of {source:?}", error.offset);
        }
        eval(&source);
    }
}

/// Only where it is said that there are items, and a macro's variable hides them.
#[test]
fn knows_the_item_where_there_is_one() {
    let names = Names {
        node_ids: &NodeIds::from([Arc::from("item")]),
        on_edge: false,
        per_item: true,
        secrets: None,
    };
    let item = json!({ "n": 4 });
    let check = |source: &str, with_item: bool| {
        let scope = EvalScope {
            input: &Value::Null,
            run_id: "r1",
            run_input: &Value::Null,
            values: &NoValues,
            result: None,
            item: with_item.then_some(ItemView {
                item: &item,
                index: 2,
            }),
        };
        let expression = Expression::compile(source, &names).unwrap();
        match expression.eval(&scope, &Budget::new()) {
            Ok(value) => value.to_string(),
            Err(error) => error.message,
        }
    };
    assert_snapshot!(check("[item.n, index, item]", true), @r#"[4,2,{"n":4}]"#);
    assert_snapshot!(check("[5].map(item, item + index)", true), @"[7]");
    assert_snapshot!(check("nodes.item.output", true), @"node `item` has no output");
    assert_snapshot!(check("index", false), @"there is no list whose item this could be");
}

/// CEL's conformance cases as a table: what differs from it is in WORKFLOWS.
#[test]
fn cel_conforms() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for line in include_str!("cel.txt").lines() {
        let Some((source, expect)) = line.split_once(" => ").filter(|_| !line.starts_with('#'))
        else {
            assert!(line.is_empty() || line.starts_with('#'), "{line}");
            continue;
        };
        count += 1;
        let given = match compile(source, false) {
            Err(_) => None,
            Ok(expression) => {
                let scope = EvalScope {
                    item: None,
                    input: &Value::Null,
                    run_id: "r",
                    run_input: &Value::Null,
                    values: &NoValues,
                    result: None,
                };
                expression.eval(&scope, &Budget::new()).ok()
            }
        };
        let expect_json: Option<Value> = (expect != "error")
            .then(|| serde_json::from_str(expect).unwrap_or_else(|_| panic!("{line}")));
        // As text, so that 1 and 1.0 are two.
        if given.as_ref().map(Value::to_string) != expect_json.as_ref().map(Value::to_string) {
            wrong.push(format!("{source} => {given:?}, not {expect}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 200, "{count}");
}
