//! State machines: which state may follow which, declared once, asked everywhere, drawn by a test.
//!
//! ```
//! use leveret_core::machine::{Arrival, Machine};
//!
//! #[derive(Clone, Copy, Debug, PartialEq)]
//! enum Light { Red, Green, Broken }
//!
//! const LIGHT: Machine<Light> = Machine::new(&[
//!     (Light::Red, Light::Green),
//!     (Light::Green, Light::Red),
//!     (Light::Green, Light::Broken),
//! ]);
//! assert!(LIGHT.allows(Light::Red, Light::Green));
//! assert_eq!(LIGHT.arrival(Light::Red, Light::Broken), Arrival::Early);
//! assert_eq!(LIGHT.arrival(Light::Broken, Light::Red), Arrival::Stale);
//! ```

use std::fmt::{Debug, Write};

/// Legal transitions. Staying where one is is none of them.
#[derive(Clone, Copy, Debug)]
pub struct Machine<S: 'static> {
    transitions: &'static [(S, S)],
}

/// When a message comes that wants a transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The transition is legal now.
    Next,
    /// It is not, but may become so: a path leads from here to where it is.
    Early,
    /// It is not and never will be, or it has been made: the state is past it.
    Stale,
}

impl<S: Copy + PartialEq + Debug> Machine<S> {
    /// A machine with these transitions, from and to.
    pub const fn new(transitions: &'static [(S, S)]) -> Machine<S> {
        Machine { transitions }
    }

    /// Its transitions.
    pub const fn transitions(&self) -> &'static [(S, S)] {
        self.transitions
    }

    /// Whether a transition is legal.
    pub fn allows(&self, from: S, to: S) -> bool {
        self.transitions.contains(&(from, to))
    }

    /// Where one can go from here.
    pub fn next(&self, from: S) -> impl Iterator<Item = S> {
        let from_here = move |&&(source, _): &&(S, S)| source == from;
        self.transitions.iter().filter(from_here).map(|&(_, to)| to)
    }

    /// Whether nothing leads on from here.
    pub fn is_final(&self, state: S) -> bool {
        self.next(state).next().is_none()
    }

    /// Whether any path leads from one state to another, of one transition at least.
    pub fn reaches(&self, from: S, to: S) -> bool {
        let mut seen: Vec<S> = self.next(from).collect();
        let mut at = 0;
        while let Some(&state) = seen.get(at) {
            if state == to {
                return true;
            }
            for next in self.next(state) {
                if !seen.contains(&next) {
                    seen.push(next);
                }
            }
            at += 1;
        }
        false
    }

    /// What a message means now that wants the state to become `to`.
    pub fn arrival(&self, from: S, to: S) -> Arrival {
        if self.allows(from, to) {
            Arrival::Next
        } else if from != to && self.reaches(from, to) {
            Arrival::Early
        } else {
            Arrival::Stale
        }
    }

    /// The machine as a Mermaid `stateDiagram-v2`; states are shown by `name`.
    pub fn mermaid(&self, initial: &[S], name: impl Fn(S) -> &'static str) -> String {
        let mut chart = String::from("stateDiagram-v2\n");
        for &state in initial {
            let _ = writeln!(chart, "    [*] --> {}", name(state));
        }
        for &(from, to) in self.transitions {
            let _ = writeln!(chart, "    {} --> {}", name(from), name(to));
        }
        let mut ends: Vec<S> = Vec::new();
        for &(_, to) in self.transitions {
            if self.is_final(to) && !ends.contains(&to) {
                ends.push(to);
                let _ = writeln!(chart, "    {} --> [*]", name(to));
            }
        }
        chart
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Door {
        Open,
        Closed,
        Locked,
        Gone,
    }

    use Door::{Closed, Gone, Locked, Open};

    const DOOR: Machine<Door> = Machine::new(&[
        (Open, Closed),
        (Closed, Open),
        (Closed, Locked),
        (Locked, Closed),
        (Open, Gone),
    ]);

    #[test]
    fn arrivals() {
        let check = |from, to, expected| assert_eq!(DOOR.arrival(from, to), expected, "{from:?}");
        check(Open, Closed, Arrival::Next);
        check(Open, Locked, Arrival::Early);
        check(Locked, Gone, Arrival::Early);
        check(Gone, Open, Arrival::Stale);
        check(Open, Open, Arrival::Stale);
    }

    #[test]
    fn ends() {
        assert!(DOOR.is_final(Gone));
        assert!(!DOOR.is_final(Locked));
        assert!(DOOR.reaches(Open, Open));
        assert!(!DOOR.reaches(Gone, Gone));
    }

    #[test]
    fn drawn() {
        let name = |state| match state {
            Open => "OPEN",
            Closed => "CLOSED",
            Locked => "LOCKED",
            Gone => "GONE",
        };
        insta::assert_snapshot!(DOOR.mermaid(&[Open], name), @r"
        stateDiagram-v2
            [*] --> OPEN
            OPEN --> CLOSED
            CLOSED --> OPEN
            CLOSED --> LOCKED
            LOCKED --> CLOSED
            OPEN --> GONE
            GONE --> [*]
        ");
    }
}
