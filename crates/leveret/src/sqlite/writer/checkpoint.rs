//! Copies the WAL into the file while the writer goes on.
//!
//! A thread with a connection of its own copies nearly all of it. The writer copies what it wrote meanwhile, between two transactions: only
//! then does the WAL begin anew, which it never would behind a writer that always has work.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
        mpsc::{Receiver, SyncSender, TryRecvError, sync_channel},
    },
    thread::JoinHandle,
};

use rusqlite::Connection;

use crate::sqlite::{DatabaseError, connection};

/// The WAL is copied whenever it is this many pages (4 MiB) longer: a short one makes a commit cheaper, by 9 % of a run that is alone.
const WAL_PAGES: u32 = (4 << 20) / connection::PAGE_BYTES;

/// The same (16 MiB) while large transactions come: they write the same pages again and again, which are then copied once.
const WAL_PAGES_BUSY: u32 = 4 * WAL_PAGES;

/// A transaction of so many pages is a large one; those of a run that is alone have five, and twenty at most.
const LARGE: u32 = 32;

/// What the last commits wrote, in pages.
#[derive(Default)]
struct Wal {
    /// The length after the last one.
    pages: AtomicU32,
    /// The length when it was last copied, or 0 once it began anew.
    copied: AtomicU32,
    /// The size of the largest commits, fading.
    size: AtomicU32,
}

impl Wal {
    fn committed(&self, pages: u32) {
        let before = self.pages.swap(pages, Ordering::Relaxed);
        if pages < before {
            self.copied.store(0, Ordering::Relaxed);
        }
        let size = self.size.load(Ordering::Relaxed);
        let size = (size - size.div_ceil(8)).max(pages.saturating_sub(before));
        self.size.store(size, Ordering::Relaxed);
    }

    fn is_long(&self) -> bool {
        let pages_max = match self.size.load(Ordering::Relaxed) {
            ..LARGE => WAL_PAGES,
            LARGE.. => WAL_PAGES_BUSY,
        };
        let copied = self.copied.load(Ordering::Relaxed);
        self.pages.load(Ordering::Relaxed) >= copied + pages_max
    }
}

pub(super) struct Checkpoints {
    wal: Arc<Wal>,
    /// The thread is copying.
    running: bool,
    /// `None` once the thread is to end.
    ask: Option<SyncSender<()>>,
    copied: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpoints {
    /// Takes over from SQLite, which would copy within a commit.
    pub(super) fn start(
        writer: &mut Connection,
        path: PathBuf,
    ) -> Result<Checkpoints, DatabaseError> {
        let wal = Arc::new(Wal::default());
        let written = wal.clone();
        writer.wal_hook(Some(move |_: &mut _, pages: i32| {
            written.committed(pages.unsigned_abs());
            Ok(())
        }))?;
        let (ask, asked) = sync_channel(1);
        let (done, copied) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("leveret-copy".to_owned())
            .spawn(move || copy_when_asked(&path, &asked, &done))
            .expect("the system starts a thread");
        Ok(Checkpoints {
            wal,
            running: false,
            ask: Some(ask),
            copied,
            thread: Some(thread),
        })
    }

    /// Whether there is something to do after the next transaction.
    pub(super) fn are_due(&self) -> bool {
        self.running || self.wal.is_long()
    }

    /// For the writer, when everybody knows how the last transaction ended.
    pub(super) fn after_commit(&mut self, writer: &Connection) {
        if self.running {
            match self.copied.try_recv() {
                Err(TryRecvError::Empty) => {}
                Ok(()) | Err(TryRecvError::Disconnected) => {
                    copy(writer);
                    self.running = false;
                    // It begins anew with the next commit, unless a reader is looking at it.
                    let pages = self.wal.pages.load(Ordering::Relaxed);
                    self.wal.copied.store(pages, Ordering::Relaxed);
                }
            }
        } else if self.wal.is_long() {
            self.running = true;
            if let Some(ask) = &self.ask {
                // If the thread is gone, the writer sees that after its next transaction and copies everything.
                let _ = ask.try_send(());
            }
        }
    }
}

impl Drop for Checkpoints {
    /// Waits for the thread: its connection must be gone before the file is closed.
    fn drop(&mut self) {
        self.ask = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that copies the WAL panicked");
        }
    }
}

fn copy_when_asked(path: &Path, asked: &Receiver<()>, done: &SyncSender<()>) {
    let mut connection = None;
    while asked.recv().is_ok() {
        if connection.is_none() {
            connection = connection::open_copier(path)
                .inspect_err(|error| {
                    tracing::warn!(error = error.chain(), "no thread copies the WAL");
                })
                .ok();
        }
        if let Some(connection) = &connection {
            copy(connection);
        }
        if done.send(()).is_err() {
            return;
        }
    }
}

/// Copies as much as readers allow. What could not be copied stays in the WAL, where it is as safe, and is copied the next time.
fn copy(connection: &Connection) {
    let copied = connection
        .prepare_cached("PRAGMA wal_checkpoint(PASSIVE)")
        .and_then(|mut statement| statement.query_row((), |_| Ok(())));
    if let Err(error) = copied {
        tracing::warn!(%error, "the WAL was not copied");
    }
}
