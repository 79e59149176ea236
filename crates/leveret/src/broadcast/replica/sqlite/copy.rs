//! Copies of the whole database: taking one while writes go on, and putting one in the place of all contents.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use rusqlite::{
    Connection,
    backup::{Backup, StepResult},
};
use sha2::{Digest, Sha256};

use super::{
    super::{ReplicaError, Snapshot, Standing},
    apply::fault,
    open, own,
};

/// Pages that are copied in one go.
const PAGES_A_STEP: i32 = 512;

/// Bytes that are read in one go.
const CHUNK_BYTES: usize = 1 << 20;

/// Copies what the reader sees to a file at this path. The reader holds one snapshot all along: writers go on, and the copy is of one position.
/// The file is there with all its contents, durable, or not at all.
pub(super) fn take(reader: &Connection, to: &Path) -> Result<Snapshot, ReplicaError> {
    let part = beside(to, ".part");
    remove(&part)?;
    let copied = copy(reader, &part);
    let ended = reader.execute_batch("ROLLBACK");
    let standing = copied?;
    ended.map_err(|error| fault(&error))?;
    let (digest, size_bytes) = settle(&part)?;
    fs::rename(&part, to).map_err(|error| io_fault(to, &error))?;
    sync_directory(to)?;
    Ok(Snapshot {
        path: to.to_owned(),
        position: standing.position,
        cluster: standing.cluster,
        digest,
        size_bytes,
    })
}

fn copy(reader: &Connection, part: &Path) -> Result<Standing, ReplicaError> {
    let copied = || -> rusqlite::Result<Option<Standing>> {
        reader.execute_batch("BEGIN")?;
        let standing = own::standing(reader)?;
        let mut target = Connection::open(part)?;
        // It is synced as a whole when it is complete.
        target.execute_batch("PRAGMA synchronous=OFF;")?;
        let backup = Backup::new(reader, &mut target)?;
        while backup.step(PAGES_A_STEP)? != StepResult::Done {}
        drop(backup);
        let closed = target.close();
        closed.map_err(|(_, error)| error)?;
        Ok(standing)
    };
    let standing = copied().map_err(|error| fault(&error))?;
    standing.ok_or_else(|| bad("it is no replica"))
}

/// Makes a checked copy of a snapshot beside the database, which belongs to this replica already.
pub(super) fn prepare(
    snapshot: &Snapshot,
    database: &Path,
    database_id: &Arc<str>,
) -> Result<PathBuf, ReplicaError> {
    let part = beside(database, ".restoring");
    remove_database(&part)?;
    fs::copy(&snapshot.path, &part).map_err(|error| io_fault(&snapshot.path, &error))?;
    let (digest, size_bytes) = settle(&part)?;
    if digest != snapshot.digest || size_bytes != snapshot.size_bytes {
        remove(&part)?;
        return Err(bad("its digest is another one"));
    }
    let claimed = claim(&part, snapshot, database_id);
    if claimed.is_err() {
        remove_database(&part)?;
    }
    claimed.map(|()| part)
}

/// Makes an empty database beside the one that is there, of the same replica and cluster.
pub(super) fn prepare_empty(database: &Path, standing: &Standing) -> Result<PathBuf, ReplicaError> {
    let part = beside(database, ".restoring");
    remove_database(&part)?;
    let made = || -> rusqlite::Result<()> {
        let connection = open::writer(&part)?;
        own::prepare(&connection)?;
        let empty = Standing {
            position: leveret_core::broadcast::Position::default(),
            hash: 0,
            ..standing.clone()
        };
        own::put_standing(&connection, &empty)?;
        single_file(connection)
    };
    made().map_err(|error| fault(&error))?;
    settle(&part)?;
    Ok(part)
}

fn claim(part: &Path, snapshot: &Snapshot, database_id: &Arc<str>) -> Result<(), ReplicaError> {
    let connection = open::writer(part).map_err(|error| bad(&error.to_string()))?;
    let sound: rusqlite::Result<String> =
        connection.query_row("PRAGMA quick_check(1)", (), |row| row.get(0));
    match sound {
        Ok(sound) if sound == "ok" => {}
        Ok(broken) => return Err(bad(&broken)),
        Err(error) => return Err(bad(&error.to_string())),
    }
    let standing = own::standing(&connection).map_err(|error| bad(&error.to_string()))?;
    let mut standing = standing.ok_or_else(|| bad("it is no replica"))?;
    if standing.position != snapshot.position || standing.cluster != snapshot.cluster {
        return Err(bad("it is of another position or cluster than it says"));
    }
    standing.database_id = database_id.clone();
    own::put_standing(&connection, &standing)
        .and_then(|()| single_file(connection))
        .map_err(|error| fault(&error))?;
    settle(part)?;
    Ok(())
}

/// Closes it such that the file alone has all.
fn single_file(connection: Connection) -> rusqlite::Result<()> {
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(()))?;
    connection.close().map_err(|(_, error)| error)
}

/// Puts the prepared file in the place of the database, which nobody has open. A crash leaves one or the other, whole.
pub(super) fn swap(part: &Path, database: &Path) -> Result<(), ReplicaError> {
    // A WAL that stayed behind would be read into the new file: first the old one takes it in.
    let closed = open::writer(database).and_then(single_file);
    closed.map_err(|error| fault(&error))?;
    let wal = beside(database, "-wal");
    if fs::metadata(&wal).is_ok_and(|wal| wal.len() > 0) {
        return Err(ReplicaError::LocalFault {
            detail: format!("another program has {} open", database.display()),
        });
    }
    remove(&wal)?;
    remove(&beside(database, "-shm"))?;
    fs::rename(part, database).map_err(|error| io_fault(database, &error))?;
    sync_directory(database)
}

/// Removes what a crash during a restore left.
pub(super) fn clean_up(database: &Path) -> Result<(), ReplicaError> {
    remove_database(&beside(database, ".restoring"))
}

fn remove_database(path: &Path) -> Result<(), ReplicaError> {
    remove(path)?;
    remove(&beside(path, "-wal"))?;
    remove(&beside(path, "-shm"))
}

/// Makes a file durable, and tells its digest and size.
fn settle(path: &Path) -> Result<([u8; 32], u64), ReplicaError> {
    let digested = || -> io::Result<([u8; 32], u64)> {
        let mut file = File::options().read(true).write(true).open(path)?;
        file.sync_all()?;
        let mut sha = Sha256::new();
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut size = 0;
        loop {
            let read = file.read(&mut chunk)?;
            if read == 0 {
                return Ok((sha.finalize().into(), size));
            }
            size += read as u64;
            sha.update(&chunk[..read]);
        }
    };
    digested().map_err(|error| io_fault(path, &error))
}

fn sync_directory(path: &Path) -> Result<(), ReplicaError> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(|error| io_fault(directory, &error))
}

fn remove(path: &Path) -> Result<(), ReplicaError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_fault(path, &error)),
        _ => Ok(()),
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn io_fault(path: &Path, error: &io::Error) -> ReplicaError {
    ReplicaError::LocalFault {
        detail: format!("{}: {error}", path.display()),
    }
}

fn bad(detail: &str) -> ReplicaError {
    ReplicaError::BadSnapshot {
        detail: detail.to_owned(),
    }
}
