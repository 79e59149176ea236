//! What can be asked of documents, checked before a database sees it, the same for all adapters.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{
    Commit, DocumentsError, FIELD_BYTES_MAX, FIELD_VALUES_MAX, Fields, Handled, KEY_BYTES_MAX,
    KIND_BYTES_MAX, Key, Kind, NAME_BYTES_MAX, NewState, Outgoing, PAGE_MAX, Parked, Put, Query,
};

type Checked = Result<(), DocumentsError>;

fn invalid<T>(detail: impl Into<String>) -> Result<T, DocumentsError> {
    Err(DocumentsError::Invalid {
        detail: detail.into(),
    })
}

/// The kinds that are declared.
#[derive(Clone, Debug, Default)]
pub(super) struct Kinds(HashMap<Arc<str>, HashSet<Arc<str>>>);

impl Kinds {
    pub(super) fn new(kinds: &[Kind]) -> Result<Kinds, DocumentsError> {
        let mut known = HashMap::new();
        for kind in kinds {
            for name in std::iter::once(&kind.name).chain(&kind.fields) {
                if !is_kind_name(name) {
                    return invalid(format!(
                        "'{}' cannot name a kind or field: 1 to {KIND_BYTES_MAX} letters, digits, '_' and '-'",
                        name.escape_debug()
                    ));
                }
            }
            let fields = kind.fields.iter().cloned().collect();
            if known.insert(kind.name.clone(), fields).is_some() {
                return invalid(format!("the kind '{}' is declared twice", kind.name));
            }
        }
        Ok(Kinds(known))
    }

    fn fields_of(&self, kind: &str) -> Result<&HashSet<Arc<str>>, DocumentsError> {
        match self.0.get(kind) {
            Some(fields) => Ok(fields),
            None => invalid(format!("no kind '{}' is declared", kind.escape_debug())),
        }
    }

    pub(super) fn check_keys(&self, keys: &[Key]) -> Checked {
        keys.iter().try_for_each(|key| self.check_key(key))
    }

    fn check_key(&self, key: &Key) -> Checked {
        self.fields_of(&key.kind)?;
        check_id(key)
    }

    pub(super) fn check_filter(&self, kind: &str, filter: &[(Arc<str>, Arc<str>)]) -> Checked {
        let fields = self.fields_of(kind)?;
        filter.iter().try_for_each(|(field, value)| {
            check_declared(fields, kind, field)?;
            check_value(field, value)
        })
    }

    pub(super) fn check_query(&self, query: &Query) -> Checked {
        if !(1..=PAGE_MAX).contains(&query.limit) {
            return invalid(format!("a page has 1 to {PAGE_MAX} documents"));
        }
        self.check_filter(&query.kind, &query.filter)
    }

    /// Checks that the commits can be, and that none touches what another one does.
    pub(super) fn check_batch(&self, batch: &[Commit], documents_max: usize) -> Checked {
        let (mut put, mut handled) = (HashSet::new(), HashSet::new());
        for commit in batch {
            if commit.put.len() > documents_max {
                return invalid(format!(
                    "a commit takes {documents_max} documents at most here"
                ));
            }
            for one in &commit.put {
                self.check_put(one)?;
                if !put.insert(&one.key) {
                    return invalid(format!("{} is put twice in one batch", key_shown(&one.key)));
                }
            }
            for one in &commit.handled {
                check_handled(one)?;
                if !handled.insert(one) {
                    let id = shown(&one.message_id);
                    return invalid(format!("message '{id}' is handled twice in one batch"));
                }
            }
            check_rest(commit)?;
        }
        Ok(())
    }

    fn check_put(&self, put: &Put) -> Checked {
        self.check_key(&put.key)?;
        if put.version <= put.expected || i64::try_from(put.version).is_err() {
            return invalid(format!(
                "version {} cannot follow {} of {}",
                put.version,
                put.expected,
                key_shown(&put.key)
            ));
        }
        match &put.state {
            NewState::Set(_, fields) => {
                check_fields(self.fields_of(&put.key.kind)?, &put.key.kind, fields)
            }
            NewState::Keep | NewState::Remove => Ok(()),
        }
    }
}

/// Whether a document can have this id.
pub(in crate::service) fn check_id(key: &Key) -> Checked {
    if key.id.is_empty() || key.id.len() > KEY_BYTES_MAX || key.id.contains(char::is_control) {
        return invalid(format!(
            "'{}' cannot be the id of a document: 1 to {KEY_BYTES_MAX} bytes without control characters",
            shown(&key.id)
        ));
    }
    Ok(())
}

/// Whether what comes from a message can be stored: a commit that cannot takes the whole batch with it.
pub(in crate::service) fn check_values(commit: &Commit) -> Checked {
    commit.handled.iter().try_for_each(check_handled)?;
    commit.publish.iter().try_for_each(check_outgoing)?;
    commit.put.iter().try_for_each(|put| match &put.state {
        NewState::Set(_, fields) if fields.len() > FIELD_VALUES_MAX => invalid(format!(
            "a document has {} values of fields, more than {FIELD_VALUES_MAX}",
            fields.len()
        )),
        NewState::Set(_, fields) => fields
            .iter()
            .try_for_each(|(field, value)| check_value(field, value)),
        NewState::Keep | NewState::Remove => Ok(()),
    })
}

fn check_fields(declared: &HashSet<Arc<str>>, kind: &str, fields: &Fields) -> Checked {
    fields.iter().try_for_each(|(field, value)| {
        check_declared(declared, kind, field)?;
        check_value(field, value)
    })
}

fn check_declared(declared: &HashSet<Arc<str>>, kind: &str, field: &str) -> Checked {
    if declared.contains(field) {
        return Ok(());
    }
    invalid(format!(
        "the kind '{kind}' declares no field '{}'",
        shown(field)
    ))
}

fn check_value(field: &str, value: &str) -> Checked {
    if value.len() > FIELD_BYTES_MAX || value.contains('\0') {
        return invalid(format!(
            "'{}' cannot be the value of '{field}': {FIELD_BYTES_MAX} bytes at most, without the character 0",
            shown(value)
        ));
    }
    Ok(())
}

/// All of a commit but its documents and the messages that it handles.
fn check_rest(commit: &Commit) -> Checked {
    commit.publish.iter().try_for_each(check_outgoing)?;
    for change in &commit.deadlines {
        let (key, name) = change.whose();
        check_is_put(commit, key)?;
        check_name("a deadline", name)?;
    }
    for parked in &commit.park {
        check_is_put(commit, &parked.key)?;
        check_parked(parked)?;
    }
    for (key, handled) in &commit.unpark {
        check_is_put(commit, key)?;
        check_handled(handled)?;
    }
    Ok(())
}

fn check_is_put(commit: &Commit, key: &Key) -> Checked {
    if commit.put.iter().any(|put| put.key == *key) {
        return Ok(());
    }
    invalid(format!(
        "a commit that changes what belongs to {} must put it",
        key_shown(key)
    ))
}

pub(in crate::service) fn check_handled(handled: &Handled) -> Checked {
    check_name("a consumer", &handled.consumer)?;
    check_name("a message", &handled.message_id)
}

fn check_parked(parked: &Parked) -> Checked {
    check_handled(&parked.handled)?;
    check_name("a queue", &parked.queue)?;
    if i64::try_from(parked.order).is_err() {
        return invalid(format!("{} is too large an order", parked.order));
    }
    Ok(())
}

pub(in crate::service) fn check_outgoing(outgoing: &Outgoing) -> Checked {
    check_name("a lane", &outgoing.lane)?;
    check_text("an exchange", &outgoing.publication.exchange)?;
    check_text("a routing key", &outgoing.publication.routing_key)
}

fn check_name(what: &str, name: &str) -> Checked {
    if name.is_empty() {
        return invalid(format!("the name of {what} cannot be empty"));
    }
    check_text(what, name)
}

fn check_text(what: &str, name: &str) -> Checked {
    if name.len() > NAME_BYTES_MAX || name.contains('\0') {
        return invalid(format!(
            "'{}' cannot name {what}: {NAME_BYTES_MAX} bytes at most, without the character 0",
            shown(name)
        ));
    }
    Ok(())
}

fn key_shown(key: &Key) -> String {
    format!("{} '{}'", key.kind, shown(&key.id))
}

/// So much of a name that a message stays short.
fn shown(name: &str) -> String {
    name.chars().take(50).flat_map(char::escape_debug).collect()
}

fn is_kind_name(name: &str) -> bool {
    (1..=KIND_BYTES_MAX).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}
