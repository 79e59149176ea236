//! Which messages came back. A returned message names its exchange and key, and is confirmed like any other: what it matches decides whether a
//! message counts as published.

use lapin::message::BasicReturnMessage;

use super::{link, publish::Outcome, wire};
use crate::broker::{BrokerError, Publication};

/// Marks the messages that came back as unroutable. A return that none of them explains makes every success of the chunk
/// [`BrokerError::Unavailable`]: one of them was returned.
///
/// Equal messages are one and the same to everybody, so it does not matter which of them a return takes. Brokers may change properties on the
/// way (RabbitMQ from 3.12 on), so that some returns equal nothing that was sent. They are matched after all others, by their id. What has
/// no id is matched by exchange and key alone, which concerns all messages that have both: any of them may be the one.
pub(super) fn attribute(
    returned: &[BasicReturnMessage],
    chunk: &[&Publication],
    outcomes: &mut [Outcome],
) {
    let mut rest: Vec<_> = returned.iter().collect();
    rest.retain(|returned| !take_one(is_equal, returned, chunk, outcomes));
    rest.retain(|returned| !take_one(has_same_id, returned, chunk, outcomes));
    rest.retain(|returned| !take_all(returned, chunk, outcomes));
    if let Some(returned) = rest.first() {
        tracing::warn!(
            exchange = returned.exchange.as_str(),
            routing_key = returned.routing_key.as_str(),
            "the broker returned a message that was not sent like that"
        );
        for outcome in outcomes.iter_mut().filter(|outcome| outcome.is_ok()) {
            *outcome = Err(link::lost_error());
        }
    }
}

/// Marks the first message that is the same; false if there is none.
fn take_one(
    same: fn(&BasicReturnMessage, &Publication) -> bool,
    returned: &BasicReturnMessage,
    chunk: &[&Publication],
    outcomes: &mut [Outcome],
) -> bool {
    let mut sent = chunk.iter().zip(outcomes);
    let found = sent.find(|(sent, outcome)| is_open(outcome) && same(returned, sent));
    found
        .map(|(sent, outcome)| *outcome = unroutable(sent))
        .is_some()
}

/// Marks all messages of the same exchange and key; false if there are none.
fn take_all(
    returned: &BasicReturnMessage,
    chunk: &[&Publication],
    outcomes: &mut [Outcome],
) -> bool {
    let sent = chunk.iter().zip(outcomes);
    let same = sent.filter(|(sent, outcome)| was_sent(outcome) && has_same_address(returned, sent));
    let marked = same.map(|(sent, outcome)| *outcome = unroutable(sent));
    marked.count() > 0
}

fn unroutable(publication: &Publication) -> Outcome {
    Err(BrokerError::Unroutable {
        exchange: publication.exchange.clone(),
        routing_key: publication.routing_key.clone(),
    })
}

/// Sent, and not yet known as unroutable.
fn is_open(outcome: &Outcome) -> bool {
    match outcome {
        Ok(()) => true,
        Err(error) => error.is_retryable(),
    }
}

fn was_sent(outcome: &Outcome) -> bool {
    is_open(outcome) || matches!(outcome, Err(BrokerError::Unroutable { .. }))
}

fn has_same_address(returned: &BasicReturnMessage, sent: &Publication) -> bool {
    returned.exchange.as_str() == &*sent.exchange
        && returned.routing_key.as_str() == &*sent.routing_key
}

fn has_same_id(returned: &BasicReturnMessage, sent: &Publication) -> bool {
    let id = returned.properties.message_id().as_ref();
    has_same_address(returned, sent)
        && id.is_some_and(|id| sent.message.message_id.as_deref() == Some(id.as_str()))
}

fn is_equal(returned: &BasicReturnMessage, sent: &Publication) -> bool {
    has_same_address(returned, sent)
        && returned.data == sent.message.body
        && wire::properties(&sent.message).is_ok_and(|properties| properties == returned.properties)
}

#[cfg(test)]
mod tests {
    use lapin::message::Delivery;

    use super::*;
    use crate::broker::Message;

    fn sent(queue: &str, id: &str, body: &str) -> Publication {
        let message = Message {
            message_id: (!id.is_empty()).then(|| id.into()),
            ..Message::json(body.to_owned())
        };
        Publication::to_queue(queue, message)
    }

    /// As the broker sends it back, with properties as they were sent or with others.
    fn returned(sent: &Publication, changed: bool) -> BasicReturnMessage {
        let mut properties = wire::properties(&sent.message).unwrap();
        if changed {
            properties = properties.with_app_id("interceptor".into());
        }
        let delivery = Delivery {
            properties,
            data: sent.message.body.to_vec(),
            ..Delivery::mock(1, "".into(), (&*sent.routing_key).into(), false, Vec::new())
        };
        BasicReturnMessage {
            delivery,
            reply_code: 312,
            reply_text: "NO_ROUTE".into(),
        }
    }

    /// What becomes of messages that were all confirmed: `o` published, `u` unroutable, `?` may be tried again.
    fn check(sent: &[Publication], returned: &[BasicReturnMessage], expect: &str) {
        let chunk: Vec<_> = sent.iter().collect();
        let mut outcomes = vec![Ok(()); sent.len()];
        attribute(returned, &chunk, &mut outcomes);
        let letter = |outcome: &Outcome| match outcome {
            Ok(()) => 'o',
            Err(BrokerError::Unroutable { .. }) => 'u',
            Err(BrokerError::Unavailable { .. }) => '?',
            Err(other) => panic!("{other:?}"),
        };
        assert_eq!(outcomes.iter().map(letter).collect::<String>(), expect);
    }

    #[test]
    fn equal_content_is_found_first() {
        let all = [
            sent("q", "1", "a"),
            sent("q", "1", "b"),
            sent("r", "1", "b"),
        ];
        check(&all, &[returned(&all[1], false)], "ouo");
        check(
            &all,
            &[returned(&all[0], true), returned(&all[0], false)],
            "uuo",
        );
    }

    #[test]
    fn changed_properties_are_found_by_id() {
        let all = [
            sent("q", "1", "a"),
            sent("q", "2", "a"),
            sent("r", "2", "a"),
        ];
        check(&all, &[returned(&all[1], true)], "ouo");
    }

    /// Without an id, any message with that key may be the one that came back.
    #[test]
    fn changed_properties_without_id_concern_the_whole_key() {
        let all = [sent("q", "", "a"), sent("q", "", "b"), sent("r", "", "a")];
        check(&all, &[returned(&all[1], true)], "uuo");
        check(
            &all,
            &[returned(&all[0], true), returned(&all[1], true)],
            "uuo",
        );
    }

    #[test]
    fn nothing_counts_as_published_beside_an_unknown_return() {
        let all = [sent("q", "1", "a"), sent("r", "2", "b")];
        let unknown = returned(&sent("elsewhere", "3", "c"), false);
        check(&all, &[unknown, returned(&all[0], false)], "u?");
    }

    /// It was never sent, so that it cannot be the one that came back.
    #[test]
    fn a_message_that_was_not_sent_takes_no_return() {
        let (large, small) = (sent("q", "", "large"), sent("q", "", "small"));
        let too_large = BrokerError::TooLarge {
            size_bytes: 2,
            max_bytes: 1,
        };
        let mut outcomes = vec![Err(too_large.clone()), Ok(())];
        attribute(&[returned(&small, true)], &[&large, &small], &mut outcomes);
        assert!(
            matches!(
                outcomes[..],
                [
                    Err(BrokerError::TooLarge { .. }),
                    Err(BrokerError::Unroutable { .. })
                ]
            ),
            "{outcomes:?}"
        );
    }
}
