//! The SQL of lists and counts, the same for SQLite and PostgreSQL: the table `listed` has a row for each field of a document with a state, and
//! one for no field, in the order of lists.

use std::{fmt::Write, sync::Arc};

use super::{DocumentsError, Fields, Order, Query, cursor::Cursor};

/// A statement and its parameters.
#[derive(Debug)]
pub(super) struct ListSql<'a> {
    pub(super) sql: String,
    pub(super) texts: Vec<&'a str>,
    pub(super) numbers: Vec<i64>,
}

/// The field and value under which all documents of a kind are listed.
pub(super) const ALL: (&str, &str) = ("", "");

/// Finds the documents of a page and one more: id, version, time, state. Parameters are the texts, then the numbers.
pub(super) fn page<'a>(query: &'a Query, after: Option<&'a Cursor>, mark: char) -> ListSql<'a> {
    let (than, direction) = match query.order {
        Order::Newest => ('<', "DESC"),
        Order::Oldest => ('>', "ASC"),
    };
    let mut list = matching(&query.kind, &query.filter, mark);
    if let Some(after) = after {
        list.texts.push(&after.id);
        list.numbers.push(after.created_at.0);
    }
    list.numbers.push(i64::from(query.limit) + 1);
    let (texts, all) = (list.texts.len(), list.texts.len() + list.numbers.len());
    let mut sql = format!(
        "SELECT d.id, d.version, d.created_at_ms, d.state
         FROM (SELECT l.created_at_ms, l.id {}",
        list.sql
    );
    if after.is_some() {
        let _ = write!(
            sql,
            " AND (l.created_at_ms, l.id) {than} ({mark}{}, {mark}{texts})",
            texts + 1
        );
    }
    let _ = write!(
        sql,
        " ORDER BY l.created_at_ms {direction}, l.id {direction} LIMIT {mark}{all}) AS p
         JOIN documents AS d ON d.kind = {mark}1 AND d.id = p.id
         ORDER BY p.created_at_ms {direction}, p.id {direction}"
    );
    ListSql { sql, ..list }
}

/// Counts documents. Parameters are the texts.
pub(super) fn count<'a>(
    kind: &'a str,
    filter: &'a [(Arc<str>, Arc<str>)],
    mark: char,
) -> ListSql<'a> {
    let list = matching(kind, filter, mark);
    ListSql {
        sql: format!("SELECT count(*) {}", list.sql),
        ..list
    }
}

fn matching<'a>(kind: &'a str, filter: &'a [(Arc<str>, Arc<str>)], mark: char) -> ListSql<'a> {
    let mut pairs = filter.iter().map(|(field, value)| (&**field, &**value));
    let (field, value) = pairs.next().unwrap_or(ALL);
    let mut sql = format!(
        "FROM listed AS l WHERE l.kind = {mark}1 AND l.field = {mark}2 AND l.value = {mark}3"
    );
    let mut texts = vec![kind, field, value];
    for (field, value) in pairs {
        let at = texts.len();
        let _ = write!(
            sql,
            " AND EXISTS (SELECT 1 FROM listed AS f WHERE f.kind = {mark}1 AND f.field = {mark}{}
                AND f.value = {mark}{} AND f.created_at_ms = l.created_at_ms AND f.id = l.id)",
            at + 1,
            at + 2
        );
        texts.extend([field, value]);
    }
    ListSql {
        sql,
        texts,
        numbers: Vec::new(),
    }
}

/// Fields as they are stored.
pub(super) fn fields_text(fields: &Fields) -> String {
    serde_json::to_string(fields).expect("texts print")
}

pub(super) fn parse_fields(text: &str) -> Result<Fields, DocumentsError> {
    serde_json::from_str(text).map_err(|error| DocumentsError::Refused {
        detail: format!("a document's fields cannot be read: {error}"),
    })
}

/// Under what a document is listed.
pub(super) fn entries(fields: Option<&Fields>) -> impl Iterator<Item = (&str, &str)> + Clone {
    let all = fields.map(|_| ALL);
    let each = fields.into_iter().flatten();
    all.into_iter()
        .chain(each.map(|(field, value)| (&**field, &**value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values are parameters, in the order of their numbers.
    #[test]
    fn values_are_parameters() {
        let pair = |field: &str, value: &str| (field.into(), value.into());
        let query = Query {
            kind: "order".into(),
            filter: vec![pair("status", "'new'"), pair("user_id", "u1")],
            order: Order::Newest,
            after: None,
            limit: 20,
        };
        let cursor: Cursor = "17:a".parse().unwrap();
        let list = page(&query, Some(&cursor), '$');
        assert_eq!(
            list.texts,
            ["order", "status", "'new'", "user_id", "u1", "a"]
        );
        assert_eq!(list.numbers, [17, 21]);
        let words: Vec<&str> = list.sql.split_whitespace().collect();
        insta::assert_snapshot!(words.join(" "), @"SELECT d.id, d.version, d.created_at_ms, d.state FROM (SELECT l.created_at_ms, l.id FROM listed AS l WHERE l.kind = $1 AND l.field = $2 AND l.value = $3 AND EXISTS (SELECT 1 FROM listed AS f WHERE f.kind = $1 AND f.field = $4 AND f.value = $5 AND f.created_at_ms = l.created_at_ms AND f.id = l.id) AND (l.created_at_ms, l.id) < ($7, $6) ORDER BY l.created_at_ms DESC, l.id DESC LIMIT $8) AS p JOIN documents AS d ON d.kind = $1 AND d.id = p.id ORDER BY p.created_at_ms DESC, p.id DESC");
    }
}
