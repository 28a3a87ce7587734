//! Whether a connection is in work, is in the middle of a request's headers,
//! or idles; and for how long.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// A connection's clocks. Times are milliseconds since it began, plus one: 0 is
/// "not running".
#[derive(Debug)]
pub(super) struct Activity {
    began: Instant,
    /// Requests that are being answered.
    in_work: AtomicU32,
    /// When the first byte after a request, or after the beginning, came.
    head_since: AtomicU64,
    /// When the last request was answered.
    idle_since: AtomicU64,
}

/// Why a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expired {
    /// No request for too long, or an answer that the peer does not read.
    Idle,
    /// Headers that do not end.
    Header,
}

/// A request in work, until dropped.
pub(super) struct InWork(Arc<Activity>);

impl Activity {
    pub const fn new(now: Instant) -> Self {
        Self {
            began: now,
            in_work: AtomicU32::new(0),
            head_since: AtomicU64::new(0),
            idle_since: AtomicU64::new(1),
        }
    }

    fn at(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.began).as_millis();
        u64::try_from(since).unwrap_or(u64::MAX - 1) + 1
    }

    /// Bytes arrived. While a request is in work they are its body's.
    pub fn received(&self, now: Instant) {
        if self.in_work.load(Ordering::Relaxed) == 0 && self.head_since.load(Ordering::Relaxed) == 0
        {
            self.head_since.store(self.at(now), Ordering::Relaxed);
        }
    }

    /// A request's headers are complete.
    pub fn begin(self: &Arc<Self>) -> InWork {
        self.in_work.fetch_add(1, Ordering::Relaxed);
        self.head_since.store(0, Ordering::Relaxed);
        InWork(Arc::clone(self))
    }

    fn end(&self, now: Instant) {
        self.idle_since.store(self.at(now), Ordering::Relaxed);
        self.in_work.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether the connection is to be closed.
    pub fn expired(&self, now: Instant, idle: Duration, header: Duration) -> Option<Expired> {
        if self.in_work.load(Ordering::Relaxed) > 0 {
            return None;
        }
        let now = self.at(now);
        let over =
            |since: u64, limit: Duration| Duration::from_millis(now.saturating_sub(since)) >= limit;
        match self.head_since.load(Ordering::Relaxed) {
            since if since > 0 && over(since, header) => Some(Expired::Header),
            _ if over(self.idle_since.load(Ordering::Relaxed), idle) => Some(Expired::Idle),
            _ => None,
        }
    }

    /// When to ask [`Activity::expired`] again. Nothing wakes the asker when a
    /// header begins, so it is half of that limit at most: a slow one is cut
    /// off after 1 to 1.5 times the limit.
    pub fn look_again(&self, now: Instant, idle: Duration, header: Duration) -> Instant {
        let idle_at = Duration::from_millis(self.idle_since.load(Ordering::Relaxed)) + idle;
        let left = (self.began + idle_at).saturating_duration_since(now);
        // In work, `left` may be nothing: then it is asked again in a while, too.
        let left = if self.in_work.load(Ordering::Relaxed) > 0 { header } else { left };
        now + left.clamp(Duration::from_millis(1), (header / 2).max(Duration::from_millis(1)))
    }
}

impl Drop for InWork {
    fn drop(&mut self) {
        self.0.end(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const IDLE: Duration = Duration::from_secs(75);
    const HEADER: Duration = Duration::from_secs(10);

    /// A connection, and the moment so many seconds after it began.
    fn begun() -> (Arc<Activity>, impl Fn(u64) -> Instant) {
        let began = Instant::now();
        (Arc::new(Activity::new(began)), move |seconds| began + Duration::from_secs(seconds))
    }

    fn expired(activity: &Activity, now: Instant) -> Option<Expired> {
        activity.expired(now, IDLE, HEADER)
    }

    #[test]
    fn a_connection_without_a_request_idles_out() {
        let (activity, at) = begun();
        assert_eq!(expired(&activity, at(74)), None);
        assert_eq!(expired(&activity, at(75)), Some(Expired::Idle));
    }

    #[test]
    fn headers_have_their_own_limit_from_their_first_byte_on() {
        let (activity, at) = begun();
        for second in 20..30 {
            activity.received(at(second));
            assert_eq!(expired(&activity, at(second)), None);
        }
        assert_eq!(expired(&activity, at(30)), Some(Expired::Header));
    }

    #[test]
    fn a_request_in_work_stops_both_clocks_and_its_end_starts_the_idle_one() {
        let (activity, at) = begun();
        activity.received(at(1));
        let request = activity.begin();
        assert_eq!(expired(&activity, at(1_000)), None);
        // The rest of its body.
        activity.received(at(1_000));
        assert_eq!(expired(&activity, at(1_100)), None);
        // Its drop would take the clock's now.
        std::mem::forget(request);
        activity.end(at(1_100));
        assert_eq!(expired(&activity, at(1_174)), None);
        assert_eq!(expired(&activity, at(1_175)), Some(Expired::Idle));
    }

    #[test]
    fn it_is_looked_at_in_time_and_not_without_pause() {
        let (activity, at) = begun();
        let look = |now: Instant| activity.look_again(now, IDLE, HEADER) - now;
        assert_eq!(look(at(0)), HEADER / 2);
        // The clock counts from 1 ms.
        assert_eq!(look(at(74)), SECOND + Duration::from_millis(1));
        assert_eq!(look(at(76)), Duration::from_millis(1));
        let _request = activity.begin();
        assert_eq!(look(at(76)), HEADER / 2);
    }
}
