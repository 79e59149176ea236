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

/// The WAL is copied whenever it is this many pages (4 MiB) longer: often enough that it is short, which makes a commit cheaper (9 % of a run
/// that is alone, against 16 MiB), and seldom enough that a page written many times is copied once.
const WAL_PAGES: u32 = (4 << 20) / connection::PAGE_BYTES;

pub(super) struct Checkpoints {
    /// The length of the WAL after the last commit.
    pages: Arc<AtomicU32>,
    pages_before: u32,
    due: u32,
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
        let pages = Arc::new(AtomicU32::new(0));
        let length = pages.clone();
        writer.wal_hook(Some(move |_: &mut _, pages: i32| {
            length.store(pages.unsigned_abs(), Ordering::Relaxed);
            Ok(())
        }))?;
        let (ask, asked) = sync_channel(1);
        let (done, copied) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("leveret-copy".to_owned())
            .spawn(move || copy_when_asked(&path, &asked, &done))
            .expect("the system starts a thread");
        Ok(Checkpoints {
            pages,
            pages_before: 0,
            due: WAL_PAGES,
            running: false,
            ask: Some(ask),
            copied,
            thread: Some(thread),
        })
    }

    /// Whether there is something to do after the next transaction.
    pub(super) fn are_due(&self) -> bool {
        self.running || self.pages.load(Ordering::Relaxed) >= self.due
    }

    /// For the writer, when everybody knows how the last transaction ended.
    pub(super) fn after_commit(&mut self, writer: &Connection) {
        let pages = self.pages.load(Ordering::Relaxed);
        if pages < self.pages_before {
            self.due = WAL_PAGES;
        }
        self.pages_before = pages;
        if self.running {
            match self.copied.try_recv() {
                Err(TryRecvError::Empty) => {}
                Ok(()) | Err(TryRecvError::Disconnected) => {
                    copy(writer);
                    self.running = false;
                    // It stays long if a reader is looking at it.
                    self.due = pages + WAL_PAGES;
                }
            }
        } else if pages >= self.due {
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
