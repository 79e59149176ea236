//! What is expected of sagas.

use std::{fmt, sync::Arc, time::Duration};

use leveret_core::event::Event;

type Patience = Arc<dyn Fn(&Event) -> Duration + Send + Sync>;
type Reason = Arc<dyn Fn(&Event) -> String + Send + Sync>;

/// After events of some types, one of others has to follow within a time; else the saga is stuck.
#[derive(Clone)]
pub struct Expectation {
    /// Its name, stored with sagas: it never changes.
    pub(super) name: &'static str,
    /// One of each of these has to have happened.
    pub(super) after: Vec<&'static str>,
    /// Any of these fulfils it, whenever it came.
    pub(super) one_of: Vec<&'static str>,
    /// Each of these begins its time anew.
    pub(super) restarted_by: Vec<&'static str>,
    /// From the last event that it is expected after.
    pub(super) within: Patience,
    /// Why the saga is stuck when it is overdue.
    pub(super) reason: Reason,
    /// Whether it is expected of a saga that has ended, too.
    pub(super) outlives_end: bool,
}

impl fmt::Debug for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Expectation")
            .field("name", &self.name)
            .field("after", &self.after)
            .field("one_of", &self.one_of)
            .finish_non_exhaustive()
    }
}

impl Expectation {
    /// After `after`, one of `one_of` within a time; else the saga is stuck for this reason.
    pub fn new(
        name: &'static str,
        after: &'static str,
        one_of: &[&'static str],
        within: Duration,
        reason: &str,
    ) -> Expectation {
        let reason = reason.to_owned();
        Expectation {
            name,
            after: vec![after],
            one_of: one_of.to_vec(),
            restarted_by: Vec::new(),
            within: Arc::new(move |_| within),
            reason: Arc::new(move |_| reason.clone()),
            outlives_end: false,
        }
    }

    /// Only when an event of this type has happened, too.
    #[must_use]
    pub fn and_after(mut self, event_type: &'static str) -> Expectation {
        self.after.push(event_type);
        self
    }

    /// Each event of these types begins the time anew.
    #[must_use]
    pub fn restarted_by(mut self, event_types: &[&'static str]) -> Expectation {
        self.restarted_by.extend(event_types);
        self
    }

    /// The time depends on the event that it is expected after.
    #[must_use]
    pub fn within(
        mut self,
        within: impl Fn(&Event) -> Duration + Send + Sync + 'static,
    ) -> Expectation {
        self.within = Arc::new(within);
        self
    }

    /// The reason depends on the event that it is expected after.
    #[must_use]
    pub fn because(
        mut self,
        reason: impl Fn(&Event) -> String + Send + Sync + 'static,
    ) -> Expectation {
        self.reason = Arc::new(reason);
        self
    }

    /// It is expected of a saga that has ended, too.
    #[must_use]
    pub fn outlives_the_end(mut self) -> Expectation {
        self.outlives_end = true;
        self
    }
}

/// What is expected of sagas, and what ends them.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    pub(super) expectations: Vec<Expectation>,
    /// Types, and what an end by one of them is called.
    pub(super) ends: Vec<(&'static str, &'static str)>,
}

impl Rules {
    /// None: a saga runs for ever, and is never stuck.
    pub fn new() -> Rules {
        Rules::default()
    }

    /// With something that is expected.
    ///
    /// # Panics
    /// When there is one of that name: a mistake in the program.
    #[must_use]
    pub fn expect(mut self, expectation: Expectation) -> Rules {
        let name = expectation.name;
        let known = self.expectations.iter().any(|known| known.name == name);
        assert!(!known, "'{name}' is expected twice");
        self.expectations.push(expectation);
        self
    }

    /// An event of this type ends a saga; the end is called so. Of several, the one that was declared first counts.
    #[must_use]
    pub fn end(mut self, event_type: &'static str, called: &'static str) -> Rules {
        self.ends.push((event_type, called));
        self
    }
}
