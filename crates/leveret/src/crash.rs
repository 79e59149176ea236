//! Crash points: named places where a process can be made to end as by `kill -9`, so that tests show what a crash means exactly there.
//!
//! They are compiled in by the feature `crash-points`; without it they are nothing. A binary [arms](arm) one of them, from what its tests tell it;
//! none is armed by itself.
//!
//! The process ends by SIGKILL: nothing is flushed, no destructor runs, no connection is closed in good order.

use std::fmt;

/// Whether crash points are compiled in.
pub const COMPILED: bool = cfg!(feature = "crash-points");

macro_rules! points {
    ($($(#[doc = $doc:literal])* $variant:ident = $name:literal,)*) => {
        /// A place to crash at. The names stay: tests of other programs arm them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Point {
            $($(#[doc = $doc])* $variant,)*
        }

        impl Point {
            /// All of them.
            pub const ALL: &[Point] = &[$(Point::$variant,)*];

            /// Its name.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Point::$variant => $name,)*
                }
            }
        }
    };
}

points! {
    /// A service has decided; nothing of it is in the database.
    ServiceBeforeCommit = "service.before-commit",
    /// What a service has decided is durable; nothing was published.
    ServiceAfterCommit = "service.after-commit",
    /// A service is about to hand messages of its outbox to the broker.
    RelayBeforePublish = "relay.before-publish",
    /// The broker has them; the outbox has them still.
    RelayAfterPublish = "relay.after-publish",
    /// An intent is here; what it asks for was not called.
    EffectBeforeCall = "effect.before-call",
    /// The call has ended; what came of it is nowhere but in this process.
    EffectAfterCall = "effect.after-call",
    /// All that follows from a delivery is done; the broker has no ack. Of every consumer.
    BrokerBeforeAck = "broker.before-ack",
    /// A heart has writes; its log has not.
    HeartBeforeCommit = "heart.before-commit",
    /// A heart's log has the writes; nobody knows.
    HeartAfterCommit = "heart.after-commit",
    /// A heart is about to broadcast writes.
    HeartBeforePublish = "heart.before-publish",
    /// The broker has the writes; the heart counts them as unpublished.
    HeartAfterPublish = "heart.after-publish",
    /// A node has writes; its database has not.
    NodeBeforeCommit = "node.before-commit",
    /// A node's database has the writes; nobody knows.
    NodeAfterCommit = "node.after-commit",
    /// A node is about to report to its heart what it applied.
    NodeBeforeReport = "node.before-report",
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why no crash point is armed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ArmError {
    /// There are none in this build.
    #[error("this program is built without crash points (feature `crash-points`)")]
    NotCompiled,
    /// One is armed already.
    #[error("a crash point is armed already")]
    Armed,
    /// No point, or no count.
    #[error("`{0}` is no crash point: NAME or NAME:N, with one of these names: {names}", names = names())]
    Unknown(String),
}

fn names() -> String {
    let names: Vec<_> = Point::ALL.iter().map(|point| point.name()).collect();
    names.join(", ")
}

/// Arms a point, once in the life of a process. `at` is its name, or `name:n` for the process to end when it is reached for the `n`th time.
pub fn arm(at: &str) -> Result<(), ArmError> {
    if !COMPILED {
        return Err(ArmError::NotCompiled);
    }
    let (point, times) = parse(at).ok_or_else(|| ArmError::Unknown(at.to_owned()))?;
    armed::set(point, times)
}

fn parse(at: &str) -> Option<(Point, u32)> {
    let (name, times) = match at.split_once(':') {
        Some((name, times)) => (name, times.parse().ok().filter(|times| *times > 0)?),
        None => (at, 1),
    };
    let point = Point::ALL.iter().find(|point| point.name() == name)?;
    Some((*point, times))
}

/// Says that a point is reached. The process ends here if it is armed for that.
#[inline]
pub(crate) fn reached(point: Point) {
    armed::reached(point);
}

#[cfg(feature = "crash-points")]
mod armed {
    use std::sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    };

    use super::{ArmError, Point};

    /// The point, and how often it has yet to be reached.
    static ARMED: OnceLock<(Point, AtomicU32)> = OnceLock::new();

    pub(super) fn set(point: Point, times: u32) -> Result<(), ArmError> {
        let armed = ARMED.set((point, AtomicU32::new(times)));
        armed.map_err(|_| ArmError::Armed)
    }

    pub(super) fn reached(point: Point) {
        let Some((armed, times)) = ARMED.get() else {
            return;
        };
        if *armed == point && times.fetch_sub(1, Ordering::Relaxed) == 1 {
            end();
        }
    }

    /// The kernel takes the process away before this thread goes on.
    fn end() -> ! {
        use rustix::process::{Signal, getpid, kill_process};
        let killed = kill_process(getpid(), Signal::KILL);
        panic!("a process may kill itself: {killed:?}");
    }
}

#[cfg(not(feature = "crash-points"))]
mod armed {
    use super::{ArmError, Point};

    pub(super) fn set(_: Point, _: u32) -> Result<(), ArmError> {
        Err(ArmError::NotCompiled)
    }

    #[inline]
    pub(super) fn reached(_: Point) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_named_with_its_count_or_without() {
        for point in Point::ALL {
            assert_eq!(parse(point.name()), Some((*point, 1)));
            assert_eq!(parse(&format!("{point}:7")), Some((*point, 7)));
        }
        for mistake in [
            "",
            ":1",
            "service",
            "service.before-commit:",
            "service.before-commit:0",
        ] {
            assert_eq!(parse(mistake), None, "{mistake}");
        }
    }

    /// Each name stands for one point, and each point for a place in the library.
    #[test]
    fn every_point_is_somewhere() {
        let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut all = String::new();
        read(&source, &mut all);
        for point in Point::ALL {
            let place = format!("crash::reached(Point::{point:?})");
            assert!(all.contains(&place), "nowhere: {place}");
            let named = Point::ALL
                .iter()
                .filter(|other| other.name() == point.name());
            assert_eq!(named.count(), 1, "{point}");
        }
    }

    fn read(directory: &std::path::Path, all: &mut String) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                read(&path, all);
            } else if path.extension().is_some_and(|kind| kind == "rs") {
                all.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }
}
