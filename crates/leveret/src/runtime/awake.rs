//! Keeps the CPUs awake while steps are committed.
//!
//! A commit waits for the disk twice, and its CPU has nothing to do meanwhile. A virtual one halts, and its host takes tens of microseconds to
//! wake it up: a quarter of the time of a run that is alone. Linux lets a process say what it needs: while `/dev/cpu_dma_latency` is held
//! open with a zero written to it, idle CPUs poll for work ("PM Quality of Service Interface" in the kernel's documentation).
//!
//! It is done where virtual CPUs halt at once: under the idle driver `haltpoll`, which a kernel takes if its host says that the CPUs are its own.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

const DEVICE: &str = "/dev/cpu_dma_latency";

/// Names what makes idle CPUs halt.
const IDLE_DRIVER: &str = "/sys/devices/system/cpu/cpuidle/current_driver";

/// Nothing is held this long after the last commit.
const LINGER: Duration = Duration::from_millis(2);

/// Holds the device while it is [used](Awake::used), on a thread of its own.
#[derive(Debug)]
pub(crate) struct Awake {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    uses: AtomicU64,
    /// Set by the first use after a pause, cleared by the thread when it lets go.
    wanted: AtomicBool,
    ended: AtomicBool,
}

impl Awake {
    /// `None` where it would not help, or is not allowed: elsewhere than on a virtual CPU that halts at once, and without the right to write
    /// to the device, which root has.
    pub(crate) fn start() -> Option<Awake> {
        let driver = fs::read_to_string(IDLE_DRIVER).ok()?;
        if driver.trim() != "haltpoll" {
            return None;
        }
        let device = PathBuf::from(DEVICE);
        File::options().write(true).open(&device).ok()?;
        Some(Awake::holding(device))
    }

    fn holding(device: PathBuf) -> Awake {
        let shared = Arc::new(Shared::default());
        let of_thread = shared.clone();
        let thread = thread::Builder::new()
            .name("leveret-awake".to_owned())
            .spawn(move || of_thread.hold_while_used(&device))
            .expect("the system starts a thread");
        Awake {
            shared,
            thread: Some(thread),
        }
    }

    /// Now is a time to be awake. Takes a few nanoseconds; the first after a pause wakes the thread.
    pub(crate) fn used(&self) {
        self.shared.uses.fetch_add(1, Ordering::Relaxed);
        if !self.shared.wanted.load(Ordering::Relaxed)
            && !self.shared.wanted.swap(true, Ordering::AcqRel)
        {
            self.unpark();
        }
    }

    fn unpark(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        self.unpark();
        // It only ever sleeps.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Shared {
    fn hold_while_used(&self, device: &Path) {
        while !self.ended.load(Ordering::Acquire) {
            if !self.wanted.load(Ordering::Acquire) {
                thread::park();
                continue;
            }
            let _held = match hold(device) {
                Ok(file) => file,
                Err(error) => {
                    tracing::debug!(%error, "the CPUs cannot be kept awake");
                    return;
                }
            };
            loop {
                let before = self.uses.load(Ordering::Relaxed);
                thread::park_timeout(LINGER);
                let unused = self.uses.load(Ordering::Relaxed) == before;
                if unused || self.ended.load(Ordering::Acquire) {
                    break;
                }
            }
            self.wanted.store(false, Ordering::Release);
        }
    }
}

fn hold(device: &Path) -> io::Result<File> {
    let mut file = File::options().write(true).open(device)?;
    // The latency that is wanted, in microseconds.
    file.write_all(&0_i32.to_ne_bytes())?;
    Ok(file)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::time::Instant;

    use super::*;

    /// Whether this process has the file open.
    fn is_open(path: &Path) -> bool {
        let files = fs::read_dir("/proc/self/fd").expect("Linux has it");
        files
            .flatten()
            .any(|file| fs::read_link(file.path()).is_ok_and(|target| target == path))
    }

    fn until(what: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !what() {
            assert!(Instant::now() < deadline, "in vain");
            thread::yield_now();
        }
    }

    #[test]
    fn holds_the_device_while_it_is_used() {
        let path = std::env::temp_dir().join(format!("leveret-awake-{}", std::process::id()));
        fs::write(&path, "").expect("writes");
        let path = path.canonicalize().expect("is there");
        let awake = Awake::holding(path.clone());
        let held = || {
            awake.used();
            is_open(&path)
        };
        for _ in 0..2 {
            until(held);
            until(|| !is_open(&path));
        }
        assert_eq!(fs::read(&path).expect("is there"), 0_i32.to_ne_bytes());
        until(held);
        drop(awake);
        assert!(!is_open(&path));
        fs::remove_file(&path).expect("is there");
    }
}
