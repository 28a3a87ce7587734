//! When a shard is subscribed to, and from where on: without clocks and requests of its own.
//!
//! Kinesis ends a subscription after five minutes, and may break it off before. The next
//! one goes on after the last event that came whole. Two subscriptions of a consumer to a
//! shard must be [`APART`]; then the later one takes over.

use std::time::{Duration, Instant};

use super::Position;

/// Within this time of a subscription another one of the same consumer is refused.
/// Source: SubscribeToShard, Kinesis API Reference.
pub(super) const APART: Duration = Duration::from_secs(5);
/// A subscription without an event for this long is taken for dead: Kinesis sends one every few
/// seconds, with no records if need be.
pub(super) const MAX_SILENCE: Duration = Duration::from_secs(35);

/// See the module's head.
#[derive(Debug)]
pub(super) struct Renewal {
    position: Position,
    is_open: bool,
    /// No subscription before this.
    not_before: Option<Instant>,
    /// How long was listened without an event.
    silence: Duration,
}

/// What to do now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing before so much time went by.
    Wait(Duration),
    Subscribe,
    /// Take what comes by the open subscription.
    Receive,
}

/// Whether an event may be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Judged {
    Good,
    /// The shard is closed, and this is its last event.
    Last,
    /// Without a place to go on from; the subscription is of no use any more.
    Broken,
}

impl Renewal {
    pub fn new(position: Position) -> Self {
        Self { position, is_open: false, not_before: None, silence: Duration::ZERO }
    }

    /// Where the next subscription starts.
    pub fn position(&self) -> &Position {
        &self.position
    }

    pub fn next(&self, now: Instant) -> Next {
        if self.is_open {
            return Next::Receive;
        }
        match self.not_before.map(|time| time.saturating_duration_since(now)) {
            Some(wait) if !wait.is_zero() => Next::Wait(wait),
            _ => Next::Subscribe,
        }
    }

    /// Kinesis took the subscription.
    pub fn opened(&mut self, now: Instant) {
        self.is_open = true;
        self.silence = Duration::ZERO;
        self.not_before = Some(now + APART);
    }

    /// An event came whole, with that ContinuationSequenceNumber and so many ChildShards.
    pub fn event(&mut self, continuation: &str, children: usize) -> Judged {
        self.silence = Duration::ZERO;
        if !continuation.is_empty() {
            self.position = Position::After(continuation.to_owned());
        }
        match (continuation.is_empty(), children) {
            (_, 1..) => {
                self.is_open = false;
                Judged::Last
            }
            (false, 0) => Judged::Good,
            (true, 0) => {
                self.is_open = false;
                Judged::Broken
            }
        }
    }

    /// Listened for so long, and nothing came. True where the subscription is dead.
    pub fn nothing(&mut self, waited: Duration) -> bool {
        self.silence += waited;
        let is_dead = self.silence >= MAX_SILENCE;
        self.is_open &= !is_dead;
        is_dead
    }

    /// The subscription ended or broke off.
    pub fn ended(&mut self) {
        self.is_open = false;
    }

    /// Another subscription of the same consumer has the shard, or had it a moment ago.
    pub fn taken(&mut self, now: Instant) {
        self.is_open = false;
        self.not_before = Some(now + APART);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn after(number: &str) -> Position {
        Position::After(number.to_owned())
    }

    #[test]
    fn a_subscription_that_ends_after_five_minutes_is_renewed_at_once_from_its_continuation() {
        let start = Instant::now();
        let mut renewal = Renewal::new(Position::Oldest);
        assert_eq!(renewal.next(start), Next::Subscribe);
        assert_eq!(renewal.position(), &Position::Oldest);
        renewal.opened(start);
        assert_eq!(renewal.next(start), Next::Receive);
        assert_eq!(renewal.event("7", 0), Judged::Good);
        // An event without records goes on, too: nothing up to there has to be looked at again.
        assert_eq!(renewal.event("9", 0), Judged::Good);
        renewal.ended();
        assert_eq!(renewal.next(start + 300 * SECOND), Next::Subscribe);
        assert_eq!(renewal.position(), &after("9"));
    }

    #[test]
    fn one_that_breaks_off_early_is_renewed_once_kinesis_takes_it_from_the_last_whole_event() {
        let start = Instant::now();
        let mut renewal = Renewal::new(after("3"));
        renewal.opened(start);
        renewal.ended();
        assert_eq!(renewal.position(), &after("3"), "nothing came: nothing is passed over");
        assert_eq!(renewal.next(start + SECOND), Next::Wait(4 * SECOND));
        assert_eq!(renewal.next(start + 5 * SECOND), Next::Subscribe);
    }

    #[test]
    fn one_that_another_took_over_waits_until_it_may_take_it_back() {
        let start = Instant::now();
        let mut renewal = Renewal::new(Position::Oldest);
        renewal.taken(start);
        assert_eq!(renewal.next(start), Next::Wait(APART), "refused at the start");
        let later = start + 60 * SECOND;
        renewal.opened(later);
        renewal.event("5", 0);
        renewal.taken(later + 60 * SECOND);
        assert_eq!(renewal.next(later + 61 * SECOND), Next::Wait(4 * SECOND));
        assert_eq!(renewal.next(later + 65 * SECOND), Next::Subscribe);
        assert_eq!(renewal.position(), &after("5"));
    }

    #[test]
    fn silence_counts_while_it_is_listened_to_and_ends_the_subscription() {
        let start = Instant::now();
        let mut renewal = Renewal::new(Position::Oldest);
        renewal.opened(start);
        assert!(!renewal.nothing(MAX_SILENCE - SECOND));
        renewal.event("1", 0);
        assert!(!renewal.nothing(MAX_SILENCE - SECOND), "an event came between");
        // An hour in which nobody listened, since memory was full: no silence.
        assert_eq!(renewal.next(start + 3_600 * SECOND), Next::Receive);
        assert!(renewal.nothing(SECOND));
        assert_eq!(renewal.next(start + 3_600 * SECOND), Next::Subscribe);
    }

    #[test]
    fn child_shards_alone_end_a_shard() {
        let mut renewal = Renewal::new(Position::Oldest);
        renewal.opened(Instant::now());
        assert_eq!(renewal.event("8", 0), Judged::Good);
        assert_eq!(renewal.event("", 0), Judged::Broken, "no end without children: read it again");
        assert_eq!(renewal.position(), &after("8"));
        for continuation in ["", "8"] {
            assert_eq!(renewal.event(continuation, 2), Judged::Last, "{continuation:?}");
        }
    }
}
