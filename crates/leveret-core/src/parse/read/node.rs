//! A node: its type, parameters and inputs.

use std::{borrow::Cow, sync::Arc};

use serde_json::{Map, Value};

use super::{Reader, keep};
use crate::{
    each::{Each, Form, each_param},
    expr::{Expression, ExpressionError},
    ids::{ID_BYTES_MAX, NodeId},
    parse::{
        ParamProblem,
        diagnostics::Problem,
        fields::{Checked, Field, Told},
        keys,
    },
    suggest,
    template::{Template, TemplateError},
    workflow::{InputRef, Inputs, LOOP_CONTROLLER, Node},
};

/// What the context key of a node's output begins with.
const OUTPUTS: &str = "_outputs.";

/// What the context key of what was handed over to a node begins with.
const INPUTS: &str = "_inputs.";

/// A node as the canonical definition has it.
pub(super) fn canonical(key: Option<&str>, node: &Value) -> Value {
    let mut kept = keep(node, keys::NODE.known);
    if let Some(key) = key {
        kept.entry("id").or_insert_with(|| Value::from(key));
    }
    if let Some(config) = kept.get_mut("config") {
        *config = keep(config, keys::CONFIG.known).into();
    }
    kept.into()
}

impl Reader<'_, '_, '_> {
    /// Reads a node whose id was read before.
    pub(super) fn node(
        &mut self,
        ix: usize,
        id: Checked<NodeId>,
        field: &Field<'_>,
    ) -> Checked<Node> {
        let Value::Object(object) = field.value else {
            return Err(Told);
        };
        if self.report.is_full() {
            return Err(Told);
        }
        field.warn_of_unknown(self.report, object, &keys::NODE);
        self.per_item = self.in_batch[ix];
        let uses = self.uses(field);
        let name = self.optional_text(field, "name");
        let params = match uses.as_deref() {
            Ok(LOOP_CONTROLLER) => self.loop_params(field),
            uses => self.params(field, uses.ok()),
        };
        let (params, each) = params.map_or_else(
            |_| (Err(Told), Err(Told)),
            |(params, each)| (Ok(params), Ok(each)),
        );
        let inputs = self.inputs(field);
        let config = self.config(ix, field);
        let batch = self.batch(ix, field);
        Ok(Node {
            id: id?,
            uses: uses?,
            name: name?,
            params: params?,
            each: each?,
            inputs: inputs?,
            config: config?,
            batch: batch?,
        })
    }

    fn uses(&mut self, node: &Field<'_>) -> Checked<Arc<str>> {
        let Some(field) = node.get("uses") else {
            let Some(field) = node.get("type").filter(|field| field.value.is_string()) else {
                return Err(node.tell_missing(self.report, "a node", "uses"));
            };
            let problem = Problem::error("missing-field", "a node needs `uses`")
                .help("`type` is for editors; did you mean `uses`?");
            return Err(field.tell(self.report, problem));
        };
        let uses = field.text(self.report, "`uses`")?;
        if uses.is_empty() || uses.len() > ID_BYTES_MAX {
            let message = format!("`uses` has 1 to {ID_BYTES_MAX} bytes");
            return Err(field.tell(self.report, Problem::error("out-of-range", message)));
        }
        self.known_type(&field, uses)?;
        Ok(Arc::from(uses))
    }

    /// Tells of a node type that the catalog, if there is one, does not have.
    pub(super) fn known_type(&mut self, field: &Field<'_>, uses: &str) -> Checked<()> {
        let Some(catalog) = self.catalog.filter(|catalog| !catalog.contains(uses)) else {
            return Ok(());
        };
        let names = self.node_types.get_or_insert_with(|| catalog.names());
        let near = suggest::nearest(uses, names.iter().map(String::as_str));
        let message = format!("there is no node type `{uses}`");
        let problem = Problem::error("unknown-node-type", message).did_you_mean(near);
        Err(field.tell(self.report, problem))
    }

    /// A field that is text, if it is there and not empty.
    pub(super) fn optional_text(&mut self, of: &Field<'_>, key: &str) -> Checked<Option<Arc<str>>> {
        let Some(field) = of.get(key) else {
            return Ok(None);
        };
        let text = field.text(self.report, &format!("`{key}`"))?;
        Ok((!text.is_empty()).then(|| Arc::from(text)))
    }

    /// The parameters, and the one among them that is evaluated for each item.
    fn params(
        &mut self,
        node: &Field<'_>,
        uses: Option<&str>,
    ) -> Checked<(Template, Option<Each>)> {
        let empty = Value::Object(Map::new());
        let field = node.get("params");
        if let Some(field) = &field {
            field.object(self.report, "`params`")?;
        }
        let value = field.as_ref().map_or(&empty, |field| field.value);
        let at = field.as_ref().unwrap_or(node);
        let once = once(value, uses);
        let template = Template::compile_all(&once, &self.names(false));
        let template = template.map_err(|errors| self.tell_of_template(at, None, errors));
        let each = match &field {
            Some(params) => self.each(params, uses),
            None => Ok(None),
        };
        if let (Some(catalog), Some(uses)) = (self.catalog, uses) {
            let problems = catalog.check_params(uses, value);
            let mut is_good = problems.is_empty();
            for ParamProblem { path, message } in problems {
                let problem = Problem::error("bad-params", message);
                at.tell_within(self.report, &path, None, problem);
            }
            for (param, name) in catalog.secrets(uses, value) {
                if !self.secrets.contains(&*name) {
                    let message = format!("the workflow does not declare the secret `{name}`");
                    let help = format!("declare it: `secrets: [{name}]` beside `nodes`");
                    let problem = Problem::error("bad-params", message).help(help);
                    at.tell_within(self.report, &[param.to_owned()], None, problem);
                    is_good = false;
                }
            }
            if !is_good {
                return Err(Told);
            }
        }
        Ok((template?, each?))
    }

    /// The parameter that is evaluated for each item.
    fn each(&mut self, params: &Field<'_>, uses: Option<&str>) -> Checked<Option<Each>> {
        let Some((name, form)) = uses.and_then(each_param) else {
            return Ok(None);
        };
        if form == Form::Expression {
            let expression = self.expression(params, name, Self::names_per_item)?;
            return Ok(expression.map(Each::Expression));
        }
        let Some(field) = params.get(name) else {
            return Ok(None);
        };
        match Template::compile_all(field.value, &self.names_per_item()) {
            Ok(template) => Ok(Some(Each::Template(template))),
            Err(errors) => Err(self.tell_of_template(params, Some(name), errors)),
        }
    }

    /// Tells the mistakes of the template that `at` is, or its entry of that name.
    fn tell_of_template(
        &mut self,
        at: &Field<'_>,
        entry: Option<&str>,
        errors: Vec<TemplateError>,
    ) -> Told {
        for TemplateError { path, error } in errors {
            let path: Vec<_> = entry.map(str::to_owned).into_iter().chain(path).collect();
            let offset = Some(error.offset);
            let problem = Problem::expression("bad-template", error);
            at.tell_within(self.report, &path, offset, problem);
        }
        Told
    }

    /// Those of a loop's controller. Its `condition` is an expression; the template that stands for it gives what it evaluates to.
    fn loop_params(&mut self, node: &Field<'_>) -> Checked<(Template, Option<Each>)> {
        let Some(params) = node.get("params") else {
            return Err(node.tell_missing(self.report, "a loop", "params"));
        };
        params.object(self.report, "`params`")?;
        let condition = self.expression(&params, "condition", |reader| reader.names(false))?;
        let Some(condition) = condition else {
            return Err(params.tell_missing(self.report, "the parameters of a loop", "condition"));
        };
        let (template, each) = self.params(node, Some(LOOP_CONTROLLER))?;
        Ok((template.with_expression("condition", condition), each))
    }

    fn inputs(&mut self, node: &Field<'_>) -> Checked<Inputs> {
        let Some(field) = node.get("inputs") else {
            return Ok(Inputs::Handed);
        };
        match field.value {
            Value::String(text) if text.is_empty() => Ok(Inputs::Handed),
            Value::String(_) => self.input(&field).map(Inputs::One),
            Value::Object(entries) => {
                let mut map = Vec::with_capacity(entries.len());
                for (key, entry) in field.entries(entries) {
                    map.push((Arc::from(key), self.input(&entry)));
                }
                // By key, so that the order in the text, which the canonical definition forgets, has no effect.
                map.sort_by(|a: &(Arc<str>, _), b| a.0.cmp(&b.0));
                let map = map.into_iter().map(|(key, input)| Ok((key, input?)));
                map.collect::<Checked<_>>().map(Inputs::Map)
            }
            _ => Err(field.wrong_type(self.report, "`inputs`", "text, or an object of texts")),
        }
    }

    fn input(&mut self, field: &Field<'_>) -> Checked<InputRef> {
        let Value::String(text) = field.value else {
            let wanted = "the name of where it comes from";
            return Err(field.wrong_type(self.report, "an input", wanted));
        };
        if text.contains("{{") {
            return self.input_expression(field, text);
        }
        if let Some(&ix) = self.index.get(text.as_str()) {
            return Ok(InputRef::Named { ix });
        }
        let handed = text.strip_prefix(INPUTS);
        if let Some(&ix) = handed.and_then(|name| self.index.get(name)) {
            return Ok(InputRef::Handed { ix });
        }
        let name = text.strip_prefix(OUTPUTS).unwrap_or(text);
        if let Some(ix) = self.index.get(name) {
            let path = Vec::new();
            return Ok(InputRef::Node { ix: *ix, path });
        }
        // A node id may have dots itself: the longest one that fits is meant.
        let dots = name.match_indices('.').map(|(at, _)| at);
        let dots = dots.take_while(|at| *at <= ID_BYTES_MAX);
        for at in dots.collect::<Vec<_>>().into_iter().rev() {
            if let Some(ix) = self.index.get(&name[..at]) {
                let path = name[at + 1..].split('.').map(Arc::from).collect();
                return Ok(InputRef::Node { ix: *ix, path });
            }
        }
        self.context_input(field, text)
    }

    /// An input that names no node: a context key. A path leads to nothing then, but what begins with `_` is a key as it stands.
    fn context_input(&mut self, field: &Field<'_>, text: &str) -> Checked<InputRef> {
        let name = text.strip_prefix(OUTPUTS).or(text.strip_prefix(INPUTS));
        let name = name.unwrap_or(text);
        let base = name.split('.').next().unwrap_or(name);
        let is_path = name != base && !text.starts_with('_');
        let mut near = None;
        if !self.report.is_full() {
            near = suggest::nearest(base, self.ids.iter().map(|id| &**id));
        }
        let message = format!("there is no node `{base}`");
        if is_path {
            let problem = Problem::error("unknown-input", message);
            let problem = match near {
                Some(_) => problem.did_you_mean(near),
                None => problem.help("what the run's input or the context has is read by an expression: `{{ run.input.a.b }}`, `{{ context.a.b }}`"),
            };
            return Err(field.tell(self.report, problem));
        }
        if near.is_some() {
            let message = format!("{message}: this is a key of the context, or of the run's input");
            let problem = Problem::warning("unknown-input", message).did_you_mean(near);
            field.tell(self.report, problem);
        }
        let key = Arc::from(text);
        Ok(InputRef::Context { key })
    }

    /// An input that is one `{{ expression }}`.
    fn input_expression(&mut self, field: &Field<'_>, text: &str) -> Checked<InputRef> {
        let trimmed = text.trim();
        let inner = trimmed
            .strip_prefix("{{")
            .and_then(|rest| rest.strip_suffix("}}"));
        let Some(inner) = inner else {
            let message = "an input is one `{{ expression }}`, or a name";
            let problem =
                Problem::error("bad-template", message).help("texts are made in `params`");
            return Err(field.tell(self.report, problem));
        };
        let blank = |text: &str| text.len() - text.trim_start().len();
        let start = blank(text) + "{{".len() + blank(inner);
        let compiled = Expression::compile(inner.trim(), &self.names(false));
        self.compiled(compiled, field, start, "bad-template")
            .map(InputRef::Expression)
    }

    /// The expression, or its problem told: `start` is where it begins in the field's text.
    pub(super) fn compiled(
        &mut self,
        compiled: Result<Expression, ExpressionError>,
        field: &Field<'_>,
        start: usize,
        code: &'static str,
    ) -> Checked<Expression> {
        compiled.map_err(|error| {
            let offset = start + error.offset;
            field.tell_at(self.report, offset, Problem::expression(code, error))
        })
    }
}

/// Parameters without the one that is evaluated for each item.
fn once<'v>(params: &'v Value, uses: Option<&str>) -> Cow<'v, Value> {
    let each = uses.and_then(each_param).map(|(name, _)| name);
    match (params, each) {
        (Value::Object(entries), Some(each)) if entries.contains_key(each) => {
            let mut entries = entries.clone();
            entries.remove(each);
            Cow::Owned(Value::Object(entries))
        }
        _ => Cow::Borrowed(params),
    }
}
