//! A delivery's [`State`] in Prometheus' text exposition format 0.0.4.

use std::fmt::{Display, Write as _};

use clickmill_schemas::Timestamp;

use super::monitor::{SIZE_CLASSES, State};

impl State {
    /// The document for one scrape. Each sample has the label `stream`.
    #[must_use]
    pub fn prometheus(&self, stream: &str) -> String {
        let mut text = Text { stream, out: String::new() };
        let millis = self.shards.iter().filter_map(|(shard, state)| {
            state.millis_behind_now().map(|millis| ([("shard", shard.as_str())], millis))
        });
        text.family(
            "clickmill_deliver_shard_millis_behind_latest",
            "gauge",
            "How far reading is behind a shard's newest record: by its last page, and since.",
            millis,
        );
        let now = Timestamp::now();
        let held = self.shards.iter();
        text.family(
            "clickmill_deliver_shard_uncommitted_age_milliseconds",
            "gauge",
            "How long ago the oldest record arrived that was read and has not landed; 0 without one.",
            held.map(|(shard, state)| ([("shard", shard.as_str())], state.held_millis(now))),
        );
        text.family(
            "clickmill_deliver_shard_uncommitted_records",
            "gauge",
            "Records of the stream that were read and have not landed.",
            self.shards
                .iter()
                .map(|(shard, state)| ([("shard", shard.as_str())], state.held_records)),
        );
        text.family(
            "clickmill_deliver_shard_records_total",
            "counter",
            "Records of the stream read of a shard since this worker took it.",
            self.shards.iter().map(|(shard, state)| ([("shard", shard.as_str())], state.records)),
        );
        text.one(
            "clickmill_deliver_records_total",
            "counter",
            "Records of the stream that were read.",
            self.records,
        );
        text.one("clickmill_deliver_read_bytes_total", "counter", "Their bytes.", self.bytes);
        text.one(
            "clickmill_deliver_subscriptions_total",
            "counter",
            "Subscriptions to shards that Kinesis took, renewals among them.",
            self.subscriptions,
        );
        text.one(
            "clickmill_deliver_held_bytes",
            "gauge",
            "Memory of what was read and is not committed yet.",
            self.held_bytes,
        );
        text.one("clickmill_deliver_commits_total", "counter", "Commits made.", self.commits);
        text.one(
            "clickmill_deliver_lost_races_total",
            "counter",
            "Commits that another worker was first with.",
            self.lost_races,
        );
        text.one(
            "clickmill_deliver_possible_losses_total",
            "counter",
            "Shards with records that may have been trimmed before they were read.",
            self.possible_losses,
        );
        text.family(
            "clickmill_deliver_retries_total",
            "counter",
            "Requests that failed and were tried again.",
            self.retries.iter().map(|(operation, count)| ([("operation", *operation)], *count)),
        );
        text.family(
            "clickmill_deliver_lines_total",
            "counter",
            "Lines landed.",
            self.landed.iter().map(|(kind, landed)| ([("kind", kind.name())], landed.lines)),
        );
        text.sizes(self);
        text.one(
            "clickmill_deliver_leases_held",
            "gauge",
            "Shards that this worker reads.",
            self.shards.len(),
        );
        text.one(
            "clickmill_deliver_shards_readable",
            "gauge",
            "Shards of the stream that may be read now, by any worker.",
            self.readable,
        );
        text.one(
            "clickmill_deliver_workers",
            "gauge",
            "Workers that live, this one among them; without leases always 1.",
            self.workers,
        );
        text.out
    }
}

/// A document that is being written. Writing to a `String` does not fail.
struct Text<'a> {
    stream: &'a str,
    out: String,
}

impl Text<'_> {
    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help, [([], value)]);
    }

    fn family<'l, const N: usize, V: Display>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        samples: impl IntoIterator<Item = ([(&'l str, &'l str); N], V)>,
    ) {
        self.head(name, kind, help);
        for (labels, value) in samples {
            self.sample(name, &labels, value);
        }
    }

    /// Objects by size: a histogram for each kind.
    fn sizes(&mut self, state: &State) {
        const NAME: &str = "clickmill_deliver_object_bytes";
        self.head(NAME, "histogram", "Sizes of landed objects, as stored.");
        for (kind, landed) in &state.landed {
            let mut count = 0;
            for (class, objects) in landed.sizes.iter().enumerate() {
                count += objects;
                let most = SIZE_CLASSES.get(class).map_or("+Inf".to_owned(), u64::to_string);
                let labels = [("kind", kind.name()), ("le", most.as_str())];
                self.sample(&format!("{NAME}_bucket"), &labels, count);
            }
            self.sample(&format!("{NAME}_sum"), &[("kind", kind.name())], landed.bytes);
            self.sample(&format!("{NAME}_count"), &[("kind", kind.name())], count);
        }
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// Streams, shards and operations have no character that a label would have to escape.
    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let _ = write!(self.out, "{name}{{stream=\"{}\"", self.stream);
        for (label, text) in labels {
            let _ = write!(self.out, ",{label}=\"{text}\"");
        }
        let _ = writeln!(self.out, "}} {value}");
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use clickmill_lake::raw::RawKind;

    use super::super::monitor::{Landed, ShardState};
    use super::*;

    #[test]
    fn lag_grows_where_no_page_comes() {
        let read = |seconds_ago| ShardState {
            millis_behind: Some(1_500),
            read_at: Instant::now().checked_sub(Duration::from_secs(seconds_ago)),
            ..ShardState::default()
        };
        assert_eq!(read(5).millis_behind_now(), Some(1_500));
        let late = read(60).millis_behind_now().expect("known");
        assert!((61_500..63_000).contains(&late), "{late}");
        assert_eq!(ShardState::default().millis_behind_now(), None);
    }

    #[test]
    fn the_document_is_as_the_format_says() {
        let shard = ShardState {
            millis_behind: Some(1_500),
            records: 7,
            bytes: 700,
            ..ShardState::default()
        };
        let mut sizes = [0; SIZE_CLASSES.len() + 1];
        (sizes[0], sizes[8]) = (2, 1);
        let landed = Landed { objects: 3, lines: 9, bytes: 200_000_000, sizes };
        let state = State {
            shards: [
                ("shardId-0".to_owned(), shard),
                ("shardId-1".to_owned(), ShardState::default()),
            ]
            .into(),
            retries: [("GetRecords", 4)].into(),
            landed: [(RawKind::Events, landed)].into(),
            workers: 2,
            ..State::default()
        };
        let text = state.prometheus("clicks");
        for expected in [
            "# TYPE clickmill_deliver_shard_millis_behind_latest gauge\n\
             clickmill_deliver_shard_millis_behind_latest{stream=\"clicks\",shard=\"shardId-0\"} 1500\n#",
            "clickmill_deliver_shard_records_total{stream=\"clicks\",shard=\"shardId-1\"} 0\n",
            "clickmill_deliver_retries_total{stream=\"clicks\",operation=\"GetRecords\"} 4\n",
            "clickmill_deliver_object_bytes_bucket{stream=\"clicks\",kind=\"events\",le=\"4096\"} 2\n",
            "clickmill_deliver_object_bytes_bucket{stream=\"clicks\",kind=\"events\",le=\"134217728\"} 2\n",
            "clickmill_deliver_object_bytes_bucket{stream=\"clicks\",kind=\"events\",le=\"+Inf\"} 3\n\
             clickmill_deliver_object_bytes_sum{stream=\"clicks\",kind=\"events\"} 200000000\n\
             clickmill_deliver_object_bytes_count{stream=\"clicks\",kind=\"events\"} 3\n",
            "clickmill_deliver_leases_held{stream=\"clicks\"} 2\n",
            "clickmill_deliver_workers{stream=\"clicks\"} 2\n",
        ] {
            assert!(text.contains(expected), "{expected}\nis not in\n{text}");
        }
        assert_eq!(text.matches("# HELP").count(), text.matches("# TYPE").count());
    }
}
