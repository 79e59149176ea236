//! An edge: its ends, and when and how it hands over.

use super::Reader;
use crate::{
    expr::Expression,
    parse::{diagnostics::Problem, fields::Field},
    workflow::Edge,
};

/// The fields of an edge.
pub(super) const KEYS: [&str; 5] = ["source", "target", "action", "condition", "transform"];

impl Reader<'_, '_, '_> {
    /// Reads an edge; `None` with a problem told.
    pub(super) fn edge(&mut self, field: &Field<'_>) -> Option<Edge> {
        if self.report.is_full() {
            return None;
        }
        let object = field.object(self.report, "an edge")?;
        field.warn_of_unknown(self.report, object, &KEYS);
        let source = self.end(field, "source", "unknown-source");
        let target = self.end(field, "target", "unknown-target");
        let action = self.optional_text(field, "action");
        let condition = self.expression(field, "condition");
        let transform = self.expression(field, "transform");
        Some(Edge {
            source: source?,
            target: target?,
            action: action?,
            condition: condition?,
            transform: transform?,
        })
    }

    fn end(&mut self, edge: &Field<'_>, key: &str, code: &'static str) -> Option<usize> {
        match edge.get(key) {
            Some(field) => self.node_named(&field, &format!("`{key}`"), code),
            None => {
                edge.tell_missing(self.report, "an edge", key);
                None
            }
        }
    }

    fn expression(&mut self, edge: &Field<'_>, key: &str) -> Option<Option<Expression>> {
        let Some(field) = edge.get(key) else {
            return Some(None);
        };
        let text = field.text(self.report, &format!("`{key}`"))?;
        let trimmed = text.trim();
        if trimmed.is_empty() {
            return Some(None);
        }
        if trimmed.starts_with("{{") && trimmed.ends_with("}}") {
            let problem = Problem::error(
                "bad-expression",
                format!("`{key}` is an expression already"),
            )
            .help("leave `{{` and `}}` out");
            field.tell(self.report, problem);
            return None;
        }
        let start = text.len() - text.trim_start().len();
        let compiled = Expression::compile(trimmed, &self.names(true));
        self.compiled(compiled, &field, start, "bad-expression")
            .map(Some)
    }
}
