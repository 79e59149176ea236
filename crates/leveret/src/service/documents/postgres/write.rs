//! The second round trip of a batch: what the good commits say, as columns.

use std::collections::{BTreeMap, HashMap, HashSet};

use leveret_core::time::Timestamp;
use tokio_postgres::{Client, Error, Row, Statement, types::ToSql};

use super::{commit::Found, error::Failure, now_ms, outbox::Term};
use crate::{
    broker::properties,
    postgres::Lease,
    service::documents::{
        Claimed, Commit, Committed, DeadlineChange, Fields, Key, NewState, Outgoing, OutgoingId,
        Put,
        lists::{entries, fields_text},
    },
};

const TAKE_BACK: &str = "
    DELETE FROM inbox AS i USING unnest($1::text[], $2::text[]) AS n (consumer, message_id)
    WHERE i.consumer = n.consumer AND i.message_id = n.message_id";

/// Fails when another transaction made one of them meanwhile.
const INSERT: &str = "
    INSERT INTO documents (kind, id, version, created_at_ms, state, fields)
    SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::text[])";

const UPDATE: &str = "
    UPDATE documents AS d
    SET version = n.version, created_at_ms = n.created_at_ms, state = n.state, fields = n.fields
    FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::text[])
      AS n (kind, id, version, created_at_ms, state, fields)
    WHERE d.kind = n.kind AND d.id = n.id";

const KEEP: &str = "
    UPDATE documents AS d SET version = n.version
    FROM unnest($1::text[], $2::text[], $3::bigint[]) AS n (kind, id, version)
    WHERE d.kind = n.kind AND d.id = n.id";

const UNLIST: &str = "
    DELETE FROM listed AS l
    USING unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[]) AS n (kind, field, value, created_at_ms, id)
    WHERE l.kind = n.kind AND l.field = n.field AND l.value = n.value AND l.created_at_ms = n.created_at_ms
      AND l.id = n.id";

const LIST: &str = "
    INSERT INTO listed (kind, field, value, created_at_ms, id)
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[])";

const CANCEL: &str = "
    DELETE FROM deadlines AS d USING unnest($1::text[], $2::text[], $3::text[]) AS n (kind, id, name)
    WHERE d.kind = n.kind AND d.id = n.id AND d.name = n.name";

const SET: &str = "
    INSERT INTO deadlines (kind, id, name, at_ms, claimable_at_ms)
    SELECT n.kind, n.id, n.name, n.at_ms, n.at_ms
    FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) AS n (kind, id, name, at_ms)
    ON CONFLICT (kind, id, name) DO UPDATE SET at_ms = excluded.at_ms, claimable_at_ms = excluded.at_ms, holder = NULL";

const UNPARK: &str = "
    DELETE FROM parked AS p
    USING unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS n (kind, id, consumer, message_id)
    WHERE p.kind = n.kind AND p.id = n.id AND p.consumer = n.consumer AND p.message_id = n.message_id";

const PARK: &str = "
    INSERT INTO parked (kind, id, consumer, message_id, position, at_ms, queue, properties, body)
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::text[], $8::text[],
                         $9::bytea[])
    ON CONFLICT (kind, id, consumer, message_id) DO NOTHING";

/// Numbers are given in the order of the columns. `$9` says which are claimed, `$10` for how long, `$11` by whom.
pub(in crate::service) const PUBLISH: &str = concat!(
    "
    INSERT INTO outgoing (lane, created_at_ms, must_route, copied, exchange, routing_key, properties, body, claimable_at_ms, holder)
    SELECT n.lane, n.created_at_ms, n.must_route, n.copied, n.exchange, n.routing_key, n.properties, n.body,
           CASE WHEN n.held THEN ",
    now_ms!(),
    " + $10 END, CASE WHEN n.held THEN $11::integer END
    FROM unnest($1::text[], $2::bigint[], $3::bool[], $4::bool[], $5::text[], $6::text[], $7::text[], $8::bytea[], $9::bool[])
         WITH ORDINALITY
      AS n (lane, created_at_ms, must_route, copied, exchange, routing_key, properties, body, held, place)
    ORDER BY n.place
    RETURNING number"
);

macro_rules! statements {
    ($($name:ident = $sql:ident),* $(,)?) => {
        /// What the second round trip is made of.
        pub(super) struct Statements {
            $($name: Statement),*
        }

        impl Statements {
            /// Prepares them, once for each connection.
            pub(super) async fn prepare(lease: &mut Lease) -> Result<Statements, Failure> {
                Ok(Statements {
                    $($name: lease.statement($sql).await?),*
                })
            }
        }
    };
}

statements![
    take_back = TAKE_BACK,
    insert = INSERT,
    update = UPDATE,
    keep = KEEP,
    unlist = UNLIST,
    list = LIST,
    cancel = CANCEL,
    set = SET,
    unpark = UNPARK,
    park = PARK,
    publish = PUBLISH,
];

type Texts<'a> = Vec<&'a str>;
type Params<'p> = Vec<&'p (dyn ToSql + Sync)>;

/// Writes what the commits without an answer say, and takes back what the others left in the inbox. Returns what each of the former claimed.
pub(super) async fn write(
    lease: &mut Lease,
    statements: &Statements,
    batch: &[Commit],
    answers: &[Option<Committed>],
    mut found: Found<'_>,
    now: Timestamp,
    term: Term,
) -> Result<Vec<Vec<Claimed>>, Failure> {
    let good = || {
        let commits = batch.iter().zip(answers);
        commits.filter_map(|(commit, answer)| answer.is_none().then_some(commit))
    };
    let refused = batch
        .iter()
        .zip(answers)
        .filter(|(_, answer)| answer.is_some());
    let (taken_consumers, taken_messages): (Texts<'_>, Texts<'_>) = refused
        .flat_map(|(commit, _)| &commit.handled)
        .filter(|handled| !found.repeated.contains(handled))
        .map(|handled| (&*handled.consumer, &*handled.message_id))
        .unzip();
    let mut outgoing = Outgoings::new(std::mem::take(&mut found.occupied));
    for commit in good() {
        outgoing.add(&commit.publish, now);
    }
    let documents = Documents::of(good(), &found, now);
    let deadlines = Deadlines::of(good());
    let unparked = Parted::unparked(good());
    let parked = Parted::parked(good());

    let client = lease.client();
    let publish = outgoing.params(&term);
    let (_, _, _, _, _, _, _, _, _, _, numbers, ()) = tokio::try_join!(
        biased;
        run(client, &statements.take_back, taken_messages.len(), vec![&taken_consumers, &taken_messages]),
        run(client, &statements.insert, documents.insert.len(), documents.insert.params()),
        run(client, &statements.update, documents.update.len(), documents.update.params()),
        run(client, &statements.keep, documents.keep.len(), documents.keep.params()[..3].to_vec()),
        run(client, &statements.unlist, documents.unlist.len(), documents.unlist.params()),
        run(client, &statements.list, documents.list.len(), documents.list.params()),
        run(client, &statements.cancel, deadlines.cancel.len(), deadlines.cancel.params()[..3].to_vec()),
        run(client, &statements.set, deadlines.set.len(), deadlines.set.params()),
        run(client, &statements.unpark, unparked.len(), unparked.params()[..4].to_vec()),
        run(client, &statements.park, parked.len(), parked.params()),
        run(client, &statements.publish, outgoing.len(), publish),
        client.batch_execute("COMMIT"),
    )?;
    lease.set_in_transaction(false);
    let mut numbers = numbers.iter().map(|row| row.try_get::<_, i64>(0));
    let mut held = outgoing.held.iter();
    let mut all = Vec::new();
    for commit in good() {
        let mut claimed = Vec::new();
        for one in &commit.publish {
            let number = numbers.next().transpose()?;
            let number = number.ok_or_else(|| Failure::corrupt("number", &"there is none"))?;
            if held.next() == Some(&true) {
                claimed.push(Claimed {
                    id: OutgoingId::new(number as u64, &one.lane),
                    outgoing: one.clone(),
                    created_at: now,
                });
            }
        }
        all.push(claimed);
    }
    Ok(all)
}

/// Runs a statement over so many rows, if there are any.
async fn run(
    client: &Client,
    statement: &Statement,
    rows: usize,
    params: Params<'_>,
) -> Result<Vec<Row>, Error> {
    if rows == 0 {
        return Ok(Vec::new());
    }
    client.query(statement, &params).await
}

/// Documents and where lists find them.
#[derive(Default)]
struct Documents<'a> {
    insert: Rows<'a>,
    update: Rows<'a>,
    keep: Rows<'a>,
    unlist: Listed<'a>,
    list: Listed<'a>,
}

impl<'a> Documents<'a> {
    fn of(
        commits: impl Iterator<Item = &'a Commit>,
        found: &'a Found<'_>,
        now: Timestamp,
    ) -> Documents<'a> {
        let mut put: Vec<&Put> = commits.flat_map(|commit| &commit.put).collect();
        put.sort_unstable_by_key(|put| &put.key);
        let mut documents = Documents::default();
        for put in put {
            documents.put(put, found, now);
        }
        documents
    }

    fn put(&mut self, put: &'a Put, found: &'a Found<'_>, now: Timestamp) {
        let stored = found.documents.get(&put.key);
        let (state, fields) = match &put.state {
            NewState::Keep if stored.is_some() => {
                self.keep.push(put, None, None, None);
                return;
            }
            NewState::Keep | NewState::Remove => (None, None),
            NewState::Set(state, fields) => (Some(state.text()), Some(fields)),
        };
        let before = stored.and_then(|stored| stored.created_at);
        let created_at = before.or(state.map(|_| now.0));
        let rows = match stored {
            Some(_) => &mut self.update,
            None => &mut self.insert,
        };
        rows.push(put, created_at, state, fields);
        let old = stored.and_then(|stored| stored.fields.as_ref());
        if let Some(created_at) = created_at.filter(|_| old != fields) {
            self.unlist.push(&put.key, created_at, old, fields);
            self.list.push(&put.key, created_at, fields, old);
        }
    }
}

#[derive(Default)]
struct Rows<'a> {
    kinds: Texts<'a>,
    ids: Texts<'a>,
    versions: Vec<i64>,
    created: Vec<Option<i64>>,
    states: Vec<Option<&'a str>>,
    fields: Vec<Option<String>>,
}

impl<'a> Rows<'a> {
    fn push(
        &mut self,
        put: &'a Put,
        created_at: Option<i64>,
        state: Option<&'a str>,
        fields: Option<&Fields>,
    ) {
        self.kinds.push(&put.key.kind);
        self.ids.push(&put.key.id);
        self.versions.push(put.version as i64);
        self.created.push(created_at);
        self.states.push(state);
        self.fields.push(fields.map(fields_text));
    }

    fn len(&self) -> usize {
        self.ids.len()
    }

    fn params(&self) -> Params<'_> {
        vec![
            &self.kinds,
            &self.ids,
            &self.versions,
            &self.created,
            &self.states,
            &self.fields,
        ]
    }
}

#[derive(Default)]
struct Listed<'a> {
    kinds: Texts<'a>,
    fields: Texts<'a>,
    values: Texts<'a>,
    created: Vec<i64>,
    ids: Texts<'a>,
}

impl<'a> Listed<'a> {
    /// Where a document is listed under these fields and not under the others.
    fn push(
        &mut self,
        key: &'a Key,
        created_at: i64,
        fields: Option<&'a Fields>,
        others: Option<&Fields>,
    ) {
        for (field, value) in entries(fields) {
            if !entries(others).any(|entry| entry == (field, value)) {
                self.kinds.push(&key.kind);
                self.fields.push(field);
                self.values.push(value);
                self.created.push(created_at);
                self.ids.push(&key.id);
            }
        }
    }

    fn len(&self) -> usize {
        self.ids.len()
    }

    fn params(&self) -> Params<'_> {
        vec![
            &self.kinds,
            &self.fields,
            &self.values,
            &self.created,
            &self.ids,
        ]
    }
}

/// The last change of each deadline.
#[derive(Default)]
struct Deadlines<'a> {
    set: Named<'a>,
    cancel: Named<'a>,
}

#[derive(Default)]
struct Named<'a> {
    kinds: Texts<'a>,
    ids: Texts<'a>,
    names: Texts<'a>,
    times: Vec<i64>,
}

impl<'a> Deadlines<'a> {
    fn of(commits: impl Iterator<Item = &'a Commit>) -> Deadlines<'a> {
        let changes = commits.flat_map(|commit| &commit.deadlines);
        let last: BTreeMap<_, _> = changes.map(|change| (change.whose(), change)).collect();
        let mut deadlines = Deadlines::default();
        for ((key, name), change) in last {
            let (named, at) = match change {
                DeadlineChange::Set { at, .. } => (&mut deadlines.set, at.0),
                DeadlineChange::Cancel { .. } => (&mut deadlines.cancel, 0),
            };
            named.kinds.push(&key.kind);
            named.ids.push(&key.id);
            named.names.push(name);
            named.times.push(at);
        }
        deadlines
    }
}

impl Named<'_> {
    fn len(&self) -> usize {
        self.ids.len()
    }

    fn params(&self) -> Params<'_> {
        vec![&self.kinds, &self.ids, &self.names, &self.times]
    }
}

/// Messages parked for documents.
#[derive(Default)]
struct Parted<'a> {
    kinds: Texts<'a>,
    ids: Texts<'a>,
    consumers: Texts<'a>,
    messages: Texts<'a>,
    positions: Vec<i64>,
    times: Vec<i64>,
    queues: Texts<'a>,
    properties: Vec<Option<String>>,
    bodies: Vec<&'a [u8]>,
}

impl<'a> Parted<'a> {
    fn unparked(commits: impl Iterator<Item = &'a Commit>) -> Parted<'a> {
        let mut columns = Parted::default();
        for (key, handled) in commits.flat_map(|commit| &commit.unpark) {
            columns.push(key, &handled.consumer, &handled.message_id);
        }
        columns
    }

    /// In the order of their arrival; a copy that came later is left out by the database.
    fn parked(commits: impl Iterator<Item = &'a Commit>) -> Parted<'a> {
        let mut columns = Parted::default();
        for parked in commits.flat_map(|commit| &commit.park) {
            let handled = &parked.handled;
            columns.push(&parked.key, &handled.consumer, &handled.message_id);
            columns.positions.push(parked.order as i64);
            columns.times.push(parked.at.0);
            columns.queues.push(&parked.queue);
            columns
                .properties
                .push(properties::to_text(&parked.message));
            columns.bodies.push(&parked.message.body);
        }
        columns
    }

    fn push(&mut self, key: &'a Key, consumer: &'a str, message_id: &'a str) {
        self.kinds.push(&key.kind);
        self.ids.push(&key.id);
        self.consumers.push(consumer);
        self.messages.push(message_id);
    }

    fn len(&self) -> usize {
        self.ids.len()
    }

    fn params(&self) -> Params<'_> {
        vec![
            &self.kinds,
            &self.ids,
            &self.consumers,
            &self.messages,
            &self.positions,
            &self.times,
            &self.queues,
            &self.properties,
            &self.bodies,
        ]
    }
}

/// Outgoing messages, and which of them their committer holds: those of lanes that were free.
pub(in crate::service) struct Outgoings<'a> {
    occupied: HashSet<String>,
    lanes: Texts<'a>,
    created: Vec<i64>,
    must_route: Vec<bool>,
    copied: Vec<bool>,
    exchanges: Texts<'a>,
    routing_keys: Texts<'a>,
    properties: Vec<Option<String>>,
    bodies: Vec<&'a [u8]>,
    held: Vec<bool>,
}

impl<'a> Outgoings<'a> {
    /// None yet; these lanes have messages.
    pub(in crate::service) fn new(occupied: HashSet<String>) -> Outgoings<'a> {
        Outgoings {
            occupied,
            lanes: Vec::new(),
            created: Vec::new(),
            must_route: Vec::new(),
            copied: Vec::new(),
            exchanges: Vec::new(),
            routing_keys: Vec::new(),
            properties: Vec::new(),
            bodies: Vec::new(),
            held: Vec::new(),
        }
    }

    /// Adds those of one commit.
    pub(in crate::service) fn add(&mut self, publish: &'a [Outgoing], now: Timestamp) {
        let mut free: HashMap<&str, bool> = HashMap::new();
        for one in publish {
            let free = free
                .entry(&one.lane)
                .or_insert_with(|| self.occupied.insert(one.lane.to_string()));
            let publication = &one.publication;
            self.held.push(*free);
            self.lanes.push(&one.lane);
            self.created.push(now.0);
            self.must_route.push(one.must_route);
            self.copied.push(publication.copied);
            self.exchanges.push(&publication.exchange);
            self.routing_keys.push(&publication.routing_key);
            self.properties
                .push(properties::to_text(&publication.message));
            self.bodies.push(&publication.message.body);
        }
    }

    fn len(&self) -> usize {
        self.lanes.len()
    }

    pub(in crate::service) fn params<'p>(&'p self, term: &'p Term) -> Params<'p> {
        vec![
            &self.lanes,
            &self.created,
            &self.must_route,
            &self.copied,
            &self.exchanges,
            &self.routing_keys,
            &self.properties,
            &self.bodies,
            &self.held,
            &term.lease_ms,
            &term.holder,
        ]
    }
}
