//! An edge: its ends, and when and how it hands over.

use super::Reader;
use crate::{
    expr::{Expression, Names},
    parse::{
        diagnostics::Problem,
        fields::{Checked, Field, Told},
        keys,
    },
    workflow::Edge,
};

impl Reader<'_, '_, '_> {
    /// Reads an edge.
    pub(super) fn edge(&mut self, field: &Field<'_>) -> Checked<Edge> {
        if self.report.is_full() {
            return Err(Told);
        }
        let object = field.object(self.report, "an edge")?;
        field.warn_of_unknown(self.report, object, &keys::EDGE);
        let source = self.end(field, "source", "unknown-source");
        let target = self.end(field, "target", "unknown-target");
        self.ends = source
            .as_ref()
            .ok()
            .copied()
            .zip(target.as_ref().ok().copied());
        // A scatter hands over the items.
        let is_per_item = |&ix: &usize| self.in_batch[ix] || self.scatters.contains(&ix);
        self.per_item = source.as_ref().is_ok_and(is_per_item);
        let on_failure = self.on_failure(field);
        let action = self.optional_text(field, "action");
        let condition = self.expression(field, "condition", |reader| reader.names(true));
        let transform = self.expression(field, "transform", |reader| reader.names(true));
        Ok(Edge {
            source: source?,
            target: target?,
            on_failure: on_failure?,
            action: action?,
            condition: condition?,
            transform: transform?,
        })
    }

    /// Whether the edge is for failures: such a one decides nothing more.
    fn on_failure(&mut self, edge: &Field<'_>) -> Checked<bool> {
        let field = edge.get("on");
        let Some(field) = field.filter(|field| field.value.as_str() != Some("")) else {
            return Ok(false);
        };
        if field.text(self.report, "`on`")? != "failure" {
            let problem = Problem::error("bad-value", "`on` is `failure`")
                .help("an edge for results of one action has the `action`");
            return Err(field.tell(self.report, problem));
        }
        let further = ["action", "condition"].into_iter();
        let mut further = further.filter_map(|key| Some((key, edge.get(key)?)));
        let Some((key, field)) = further.find(|(_, field)| field.value.as_str() != Some("")) else {
            return Ok(true);
        };
        let message = format!("an edge on failure has no `{key}`");
        let problem = Problem::error("bad-value", message)
            .help("it is always taken then; let a `switch` behind it decide by `input.code`");
        Err(field.tell(self.report, problem))
    }

    fn end(&mut self, edge: &Field<'_>, key: &str, code: &'static str) -> Checked<usize> {
        let Some(field) = edge.get(key) else {
            return Err(edge.tell_missing(self.report, "an edge", key));
        };
        self.node_named(&field, &format!("`{key}`"), code)
    }

    /// A field that is an expression without braces, if it is there and not empty; `names` says what it may name.
    pub(super) fn expression(
        &mut self,
        of: &Field<'_>,
        key: &str,
        names: impl FnOnce(&Self) -> Names<'_>,
    ) -> Checked<Option<Expression>> {
        let Some(field) = of.get(key) else {
            return Ok(None);
        };
        let text = field.text(self.report, &format!("`{key}`"))?;
        let trimmed = text.trim();
        if trimmed.is_empty() {
            return Ok(None);
        }
        if trimmed.starts_with("{{") && trimmed.ends_with("}}") {
            let message = format!("`{key}` is an expression already");
            let problem = Problem::error("bad-expression", message).help("leave `{{` and `}}` out");
            return Err(field.tell(self.report, problem));
        }
        let start = text.len() - text.trim_start().len();
        let compiled = Expression::compile(trimmed, &names(self));
        self.compiled(compiled, &field, start, "bad-expression")
            .map(Some)
    }
}
