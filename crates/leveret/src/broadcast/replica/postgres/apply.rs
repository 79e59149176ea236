//! Applying writes: one transaction for many, each in a savepoint, with their outcomes and the position.

use std::{collections::HashMap, pin::pin, sync::Arc};

use futures_util::TryStreamExt;
use leveret_core::broadcast::{
    Logged, Outcome, Portable, Position, Statement, StatementResult, Value, Verb, portable, rolled,
};
use tokio_postgres::{Client, types::Type};

use super::{
    super::{Applied, ReplicaError, Standing, check_order, size_of},
    fault::{Undone, described, fault, outcome, undone},
    own,
    values::{Argument, is_known, values},
};
use crate::postgres::{Lease, Pool};

/// What the statements of a write return together: 1 MiB. Part of what nodes must agree on.
const RETURNED_BYTES_MAX: usize = 1 << 20;

/// Statements that a connection keeps compiled.
const STATEMENTS_MAX: usize = 512;

/// A statement that was compiled once.
struct Known {
    portable: Portable,
    compiled: tokio_postgres::Statement,
}

/// The side of a replica that writes.
pub(super) struct Applier {
    pool: Pool,
    /// None after a fault, and while a call is under way: one that is dropped in the middle takes its connection along, and the server rolls
    /// back.
    session: Option<Session>,
}

/// A connection that has the database for itself.
struct Session {
    lease: Lease,
    known: HashMap<String, Arc<Known>>,
    /// The write under way has changed the schema.
    has_changed_schema: bool,
    /// Whether a column holds rounded numbers.
    is_rounding: Option<bool>,
}

impl Applier {
    pub(super) fn new(pool: Pool) -> Applier {
        Applier {
            pool,
            session: None,
        }
    }

    async fn take(&mut self) -> Result<Session, ReplicaError> {
        match self.session.take() {
            Some(session) if !session.lease.client().is_closed() => Ok(session),
            _ => Session::open(&self.pool).await,
        }
    }

    /// Applies writes that follow the position.
    pub(super) async fn apply(
        &mut self,
        writes: &[Logged],
    ) -> Result<(Vec<Applied>, Standing), ReplicaError> {
        let mut session = self.take().await?;
        let done = session.apply(writes).await;
        if done.is_ok() {
            self.session = Some(session);
        }
        done
    }

    /// Where the database stands.
    pub(super) async fn standing(&mut self) -> Result<Standing, ReplicaError> {
        let session = self.take().await?;
        let client = session.lease.client();
        let mut standing = own::standing(client).await.map_err(|error| fault(&error))?;
        standing.has_tables = own::has_users_contents(client)
            .await
            .map_err(|error| fault(&error))?;
        self.session = Some(session);
        Ok(standing)
    }

    /// Makes the database one of this cluster.
    pub(super) async fn adopt(
        &mut self,
        cluster: &str,
        seed: bool,
    ) -> Result<Standing, ReplicaError> {
        let mut session = self.take().await?;
        let mut standing = session.begin().await?;
        match &standing.cluster {
            Some(known) if **known == *cluster => {}
            Some(known) => {
                return Err(ReplicaError::OtherCluster {
                    other: known.to_string(),
                });
            }
            None => {
                let has = own::has_users_contents(session.lease.client()).await;
                if has.map_err(|error| fault(&error))? && !seed {
                    return Err(ReplicaError::NotEmpty);
                }
                standing.cluster = Some(cluster.into());
            }
        }
        session.commit(&standing).await?;
        self.session = Some(session);
        Ok(standing)
    }

    /// Removes all that users have.
    pub(super) async fn clear(&mut self) -> Result<Standing, ReplicaError> {
        let mut session = self.take().await?;
        let mut standing = session.begin().await?;
        let client = session.lease.client();
        let relations = client.query(own::USERS_RELATIONS, &[]).await;
        for relation in relations.map_err(|error| fault(&error))? {
            let (name, kind): (String, String) = (relation.get(0), relation.get(1));
            let kind = match kind.as_str() {
                "v" => "VIEW",
                "m" => "MATERIALIZED VIEW",
                "S" => "SEQUENCE",
                "f" => "FOREIGN TABLE",
                _ => "TABLE",
            };
            let drop = format!(
                "DROP {kind} IF EXISTS {} CASCADE",
                crate::postgres::quoted(&name)
            );
            client
                .batch_execute(&drop)
                .await
                .map_err(|error| fault(&error))?;
        }
        let forgotten = client.batch_execute("DELETE FROM _leveret_outcomes").await;
        forgotten.map_err(|error| fault(&error))?;
        standing.position = Position::default();
        standing.hash = 0;
        session.commit(&standing).await?;
        session.forget();
        self.session = Some(session);
        Ok(standing)
    }

    pub(super) fn close(&mut self) {
        self.session = None;
    }
}

/// What is left of a write's budget, and where it is.
struct At<'a> {
    place: usize,
    bytes_left: &'a mut usize,
}

impl Session {
    async fn open(pool: &Pool) -> Result<Session, ReplicaError> {
        let lease = pool.lease().await?;
        super::claim(lease.client()).await?;
        Ok(Session {
            lease,
            known: HashMap::new(),
            has_changed_schema: false,
            is_rounding: None,
        })
    }

    fn forget(&mut self) {
        self.known.clear();
        self.is_rounding = None;
    }

    /// Begins a transaction that nobody else writes beside. If the session is dropped before its commit, the server rolls back.
    async fn begin(&mut self) -> Result<Standing, ReplicaError> {
        self.lease.set_in_transaction(true);
        let client = self.lease.client();
        let begun = client.batch_execute("BEGIN").await;
        begun.map_err(|error| fault(&error))?;
        own::locked(client).await.map_err(|error| fault(&error))
    }

    async fn commit(&mut self, standing: &Standing) -> Result<(), ReplicaError> {
        let client = self.lease.client();
        let put = own::put_standing(client, standing).await;
        put.map_err(|error| fault(&error))?;
        let committed = client.batch_execute("COMMIT").await;
        committed.map_err(|error| fault(&error))?;
        self.lease.set_in_transaction(false);
        Ok(())
    }

    async fn apply(&mut self, writes: &[Logged]) -> Result<(Vec<Applied>, Standing), ReplicaError> {
        let mut standing = self.begin().await?;
        check_order(standing.position, writes)?;
        let mut applied = Vec::with_capacity(writes.len());
        let mut ended = "";
        for logged in writes {
            let begun = format!(
                "{ended} SAVEPOINT leveret; SET LOCAL leveret.now = '{}'",
                logged.write.at
            );
            let client = self.lease.client();
            client
                .batch_execute(&begun)
                .await
                .map_err(|error| fault(&error))?;
            self.has_changed_schema = false;
            let outcome = match self.write(logged).await {
                Ok(results) => {
                    ended = "RELEASE leveret;";
                    Outcome::Done(results)
                }
                Err(Undone::Outcome(error)) => {
                    ended = "ROLLBACK TO leveret; RELEASE leveret;";
                    if self.has_changed_schema {
                        // What was learnt of a schema that is rolled back is forgotten.
                        self.forget();
                    }
                    Outcome::Failed(error)
                }
                Err(Undone::Fault(detail)) => return Err(ReplicaError::LocalFault { detail }),
            };
            standing.position = logged.position;
            standing.hash = rolled(standing.hash, logged.position, &outcome);
            applied.push(Applied {
                position: logged.position,
                outcome,
                hash: standing.hash,
            });
        }
        let client = self.lease.client();
        client
            .batch_execute(ended)
            .await
            .map_err(|error| fault(&error))?;
        own::record(client, &applied).await?;
        self.commit(&standing).await?;
        Ok((applied, standing))
    }

    async fn write(&mut self, logged: &Logged) -> Result<Vec<StatementResult>, Undone> {
        let mut bytes_left = RETURNED_BYTES_MAX;
        let mut results = Vec::with_capacity(logged.write.statements.len());
        for (place, statement) in logged.write.statements.iter().enumerate() {
            let at = At {
                place,
                bytes_left: &mut bytes_left,
            };
            results.push(self.run(statement, at).await?);
        }
        Ok(results)
    }

    async fn run(&mut self, statement: &Statement, at: At<'_>) -> Result<StatementResult, Undone> {
        let place = at.place;
        let known = self.know(&statement.sql, place).await?;
        if let Some(sum) = &known.portable.unordered
            && self.is_rounding().await?
        {
            let message = format!(
                "{sum}() of numbers that are rounded depends on the order of rows: give it an ORDER BY of its own"
            );
            return Err(outcome(place, REFUSED, message));
        }
        let arguments = arguments(&known.compiled, &statement.args)
            .map_err(|message| outcome(place, MISFIT, message))?;
        let client = self.lease.client();
        let ran = client.query_raw(&known.compiled, &arguments).await;
        let mut rows = pin!(ran.map_err(|error| undone(&error, place))?);
        let mut returned = Vec::new();
        while let Some(row) = rows
            .try_next()
            .await
            .map_err(|error| undone(&error, place))?
        {
            let row = values(&row).map_err(|error| Undone::Fault(described(&error)))?;
            let size = row.iter().map(size_of).sum();
            let Some(left) = at.bytes_left.checked_sub(size) else {
                let message = format!("the write returns more than {RETURNED_BYTES_MAX} bytes");
                return Err(outcome(place, TOO_BIG, message));
            };
            *at.bytes_left = left;
            returned.push(row);
        }
        let changed = rows.rows_affected().unwrap_or(0);
        if known.portable.verb == Verb::Schema {
            self.has_changed_schema = true;
            self.forget();
            return Ok(StatementResult::default());
        }
        let columns = known.compiled.columns().iter();
        let columns: Vec<String> = columns.map(|column| column.name().to_owned()).collect();
        let mut result = StatementResult {
            rows_affected: changed,
            ..StatementResult::default()
        };
        if !columns.is_empty() {
            // The order of rows is that of the file, which differs from node to node.
            returned.sort_by(|one, other| compare(one, other));
            (result.columns, result.rows) = (Some(columns), Some(returned));
        }
        Ok(result)
    }

    async fn know(&mut self, sql: &str, place: usize) -> Result<Arc<Known>, Undone> {
        if let Some(known) = self.known.get(sql) {
            return Ok(known.clone());
        }
        let portable = portable(sql).map_err(|refusal| outcome(place, REFUSED, refusal))?;
        let compiled = self.lease.client().prepare(&portable.sql).await;
        let compiled = compiled.map_err(|error| undone(&error, place))?;
        if let Some(column) = compiled
            .columns()
            .iter()
            .find(|column| !is_known(column.type_()))
        {
            let message = format!(
                "{} of type {} cannot be returned: cast it to text",
                column.name(),
                column.type_()
            );
            return Err(outcome(place, REFUSED, message));
        }
        if self.known.len() >= STATEMENTS_MAX {
            self.known.clear();
        }
        let known = Arc::new(Known { portable, compiled });
        self.known.insert(sql.to_owned(), known.clone());
        Ok(known)
    }

    async fn is_rounding(&mut self) -> Result<bool, Undone> {
        if let Some(is_rounding) = self.is_rounding {
            return Ok(is_rounding);
        }
        let found = is_rounding(self.lease.client()).await;
        let found = found.map_err(|error| Undone::Fault(described(&error)))?;
        self.is_rounding = Some(found);
        Ok(found)
    }
}

/// What is refused by name.
const REFUSED: &str = "POSTGRES_AUTH";
/// More or fewer arguments than parameters, or one that does not fit.
const MISFIT: &str = "POSTGRES_RANGE";
/// More is returned than may be.
const TOO_BIG: &str = "POSTGRES_TOOBIG";

async fn is_rounding(client: &Client) -> Result<bool, tokio_postgres::Error> {
    let found = client
        .query_one(
            "SELECT EXISTS (
                 SELECT FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
                 WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema()) AND a.attnum > 0 AND NOT a.attisdropped
                     AND a.atttypid IN ('float4'::regtype, 'float8'::regtype)
             )",
            &[],
        )
        .await?;
    found.try_get(0)
}

/// The arguments for the parameters that the statement has.
pub(super) fn arguments(
    compiled: &tokio_postgres::Statement,
    given: &[Value],
) -> Result<Vec<Argument>, String> {
    let parameters: &[Type] = compiled.params();
    if parameters.len() != given.len() {
        let (has, given) = (parameters.len(), given.len());
        return Err(format!(
            "the statement has {has} parameters, given are {given}"
        ));
    }
    let pairs = given.iter().zip(parameters);
    pairs
        .map(|(value, parameter)| Argument::new(value, parameter))
        .collect()
}

/// An order of rows that follows from their values alone.
fn compare(one: &[Value], other: &[Value]) -> std::cmp::Ordering {
    let pairs = one.iter().zip(other);
    let mut ordered = pairs.map(|(one, other)| match (one, other) {
        (Value::Integer(one), Value::Integer(other)) => one.cmp(other),
        (Value::Real(one), Value::Real(other)) => one.total_cmp(other),
        (Value::Text(one), Value::Text(other)) => one.cmp(other),
        (Value::Blob(one), Value::Blob(other)) => one.cmp(other),
        (one, other) => rank(one).cmp(&rank(other)),
    });
    ordered
        .find(|ordering| ordering.is_ne())
        .unwrap_or(std::cmp::Ordering::Equal)
}

fn rank(value: &Value) -> u8 {
    match value {
        Value::Null => 0,
        Value::Integer(_) => 1,
        Value::Real(_) => 2,
        Value::Text(_) => 3,
        Value::Blob(_) => 4,
    }
}
