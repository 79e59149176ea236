//! Messages that are published again say so.
//!
//! A broker may hand out a message before it has confirmed it, and lose it when it crashes. Then part of what the message asks for is done, and
//! what should follow is lost with the delivery that would have come again. Whoever published it publishes it again, since nobody confirmed it.
//! So it is no mere copy, which somebody else sees to: whoever gets it looks at what is done and takes up what is left.

use super::{Header, Message, Publication};

/// On what may have been published before: true. Stored in queues: the name does not change.
pub const HEADER_AGAIN: &str = "x-leveret-again";

impl Message {
    /// Whether it may have been published before, as whoever published it says.
    pub fn is_again(&self) -> bool {
        self.headers.get(HEADER_AGAIN) == Some(&Header::Bool(true))
    }
}

impl Publication {
    /// Says that it may have been published before.
    #[must_use]
    pub fn again(mut self) -> Publication {
        let headers = &mut self.message.headers;
        headers.insert(HEADER_AGAIN.to_owned(), Header::Bool(true));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_true_says_so() {
        let once = Publication::to_queue("q", Message::json("1"));
        assert!(!once.message.is_again());
        let mut again = once.again().again();
        assert!(again.message.is_again());
        assert_eq!(again.message.headers.len(), 1);
        for other in [Header::Bool(false), Header::Text("true".to_owned())] {
            again.message.headers.insert(HEADER_AGAIN.to_owned(), other);
            assert!(!again.message.is_again());
        }
    }
}
