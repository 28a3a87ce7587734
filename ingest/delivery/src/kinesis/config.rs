//! What a delivery is told: names, cuts, pace, retries.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use aws_config::SdkConfig;
use clickmill_lake::raw::RawFormat;
use clickmill_schemas::{Date, Timestamp};
use serde::{Deserialize, Deserializer, de};

use super::lease::{DEFAULT_LEASE, LeasePolicy, MIN_LEASE};
use super::memory::{DEFAULT_MEMORY, MIN_MEMORY};

/// Wait between two GetRecords of one shard: the quota is 5 a second, shared with other readers.
/// Source: Kinesis Data Streams, Quotas and limits.
pub const MIN_POLL: Duration = Duration::from_millis(210);

/// What a shard gives all its readers by GetRecords each second: 2 MB, and after a page of 10 MB
/// nothing for five seconds. Source: GetRecords, Kinesis API Reference.
pub const SHARD_READ_RATE: u64 = 2 << 20;

/// Records that one GetRecords may ask for. Source: GetRecords, Kinesis API Reference.
pub const MAX_PAGE_RECORDS: i32 = 10_000;

/// Objects are cut near this size, as stored, where a shard brings enough within `max_age`.
pub const DEFAULT_TARGET: u64 = 64 << 20;

/// The section `[deliver]` of `clickmill.toml`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeliverSettings {
    /// Commit at the latest this long after the first record of it was read.
    pub max_age_seconds: Option<u64>,
    /// Commit when nothing more has come for this long.
    pub idle_seconds: Option<u64>,
    /// Commit when the objects have about this size, as stored.
    pub target_megabytes: Option<u64>,
    /// What the whole process may hold of the stream in memory.
    #[serde(default, deserialize_with = "enough_memory")]
    pub memory_megabytes: Option<u64>,
    /// Wait between two reads of a shard that has nothing more.
    pub poll_milliseconds: Option<u64>,
    /// The folder that keeps this worker's name: started again, it reads on at once.
    pub state: Option<PathBuf>,
    /// How raw objects of events are stored: `json` or `parquet`.
    pub format: Option<RawFormat>,
    /// How workers on one stream share its shards: `lake`, `dynamodb=TABLE` or `none`.
    /// See [`Leases::new`]: [`DeliverConfig::with_settings`] leaves it to the caller.
    pub leases: Option<LeaseSetting>,
    /// How records come: `polling`, or `fan_out=CONSUMER`.
    /// See [`Retrieval::new`]: [`DeliverConfig::with_settings`] leaves it to the caller.
    pub retrieval_mode: Option<RetrievalMode>,
    /// A worker that shows no sign of life for this long loses its shards to others.
    pub lease_seconds: Option<u64>,
}

fn enough_memory<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let least = MIN_MEMORY >> 20;
    match u64::deserialize(deserializer)? {
        megabytes if megabytes < least => Err(de::Error::custom(format!(
            "{megabytes} is too little, an answer of Kinesis may take 40; give {least} or more"
        ))),
        megabytes => Ok(Some(megabytes)),
    }
}

/// Where the delivery of a stream begins that this lake has nothing of yet. Later
/// starts go on from the checkpoints, whatever they are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Begin {
    /// `trim_horizon`: at the oldest record that the stream has.
    #[default]
    TrimHorizon,
    /// `latest`: with what arrives from now on, by this machine's clock.
    Latest,
    /// With what arrived at that time or later, by Kinesis' clock, in milliseconds.
    At(Timestamp),
}

impl Begin {
    /// The time from which on records are delivered; `None`: all.
    #[must_use]
    pub fn time(self, now: Timestamp) -> Option<Timestamp> {
        match self {
            Self::TrimHorizon => None,
            Self::Latest => Some(now),
            Self::At(time) => Some(time),
        }
    }
}

impl FromStr for Begin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "trim_horizon" => Ok(Self::TrimHorizon),
            "latest" => Ok(Self::Latest),
            _ => {
                let date = Date::parse(text).map(Date::midnight);
                let time = date.or_else(|_| Timestamp::parse(text)).map_err(|error| {
                    format!(
                        "`{text}` is neither trim_horizon nor latest nor a time as 2026-11-23 or \
                         2026-11-23T17:40:00Z: {error}"
                    )
                })?;
                if time > Timestamp::now() {
                    return Err(format!(
                        "{text} is yet to come; give latest, or a time before now"
                    ));
                }
                Ok(Self::At(time))
            }
        }
    }
}

/// Where the workers of a stream say which shards they read, as a user writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseSetting {
    /// `lake`
    Lake,
    /// `dynamodb=TABLE`
    DynamoDb(String),
    /// `none`
    None,
}

impl FromStr for LeaseSetting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("dynamodb=")) {
            ("lake", _) => Ok(Self::Lake),
            ("none", _) => Ok(Self::None),
            (_, Some(table)) if !table.is_empty() => Ok(Self::DynamoDb(table.to_owned())),
            _ => Err(format!("`{text}` is no place for leases; give lake, dynamodb=TABLE or none")),
        }
    }
}

impl<'de> Deserialize<'de> for LeaseSetting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Where the workers of a stream say which shards they read.
#[derive(Clone, Debug)]
pub enum Leases {
    /// In the lake, by conditional PUT.
    Lake,
    /// In a table of the KCL's layout, which is created where it does not exist.
    DynamoDb {
        /// Without retries of its own, as [`super::lease_client`] makes it.
        client: aws_sdk_dynamodb::Client,
        /// The table's name.
        table: String,
    },
    /// Nowhere: this worker reads every shard, whoever else does.
    None,
}

impl Leases {
    /// Makes the client that the setting needs.
    #[must_use]
    pub fn new(setting: &LeaseSetting, config: &SdkConfig) -> Self {
        match setting {
            LeaseSetting::Lake => Self::Lake,
            LeaseSetting::None => Self::None,
            LeaseSetting::DynamoDb(table) => {
                Self::DynamoDb { client: super::lease_client(config), table: table.clone() }
            }
        }
    }
}

/// How records come from the stream, as a user writes it, by the KCL's names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RetrievalMode {
    /// `polling`
    Polling,
    /// `fan_out=CONSUMER`
    FanOut(String),
}

impl FromStr for RetrievalMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // Source: RegisterStreamConsumer, Kinesis API Reference.
        let is_name = |name: &&str| {
            (1..=128).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        };
        match (text, text.strip_prefix("fan_out=").filter(is_name)) {
            ("polling", _) => Ok(Self::Polling),
            (_, Some(consumer)) => Ok(Self::FanOut(consumer.to_owned())),
            _ => Err(format!(
                "`{text}` is no way to read; give polling or fan_out=CONSUMER, a name of up to 128 \
                 letters, digits and _.-"
            )),
        }
    }
}

impl<'de> Deserialize<'de> for RetrievalMode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// How records come from the stream.
#[derive(Clone, Debug)]
pub enum Retrieval {
    /// By GetRecords: all readers of a shard share 2 MB/s and 5 requests a second.
    Polling,
    /// By enhanced fan-out: SubscribeToShard, 2 MB/s a shard for this consumer alone.
    FanOut {
        /// Its name; it is registered where it does not exist.
        consumer: String,
        /// What the clients of its subscriptions are made of.
        aws: Box<SdkConfig>,
    },
}

impl Retrieval {
    /// What the mode needs.
    #[must_use]
    pub fn new(mode: &RetrievalMode, aws: &SdkConfig) -> Self {
        match mode {
            RetrievalMode::Polling => Self::Polling,
            RetrievalMode::FanOut(consumer) => {
                Self::FanOut { consumer: consumer.clone(), aws: Box::new(aws.clone()) }
            }
        }
    }
}

/// One delivery.
#[derive(Clone, Debug)]
pub struct DeliverConfig {
    /// The stream's name.
    pub stream: String,
    /// Where to begin a stream that this lake has nothing of.
    pub from: Begin,
    /// When to end.
    pub until: Until,
    /// When to commit; looked at after each page.
    pub cut: CutPolicy,
    /// How raw objects of events are stored.
    pub format: RawFormat,
    /// Bytes of the stream that the process may have in memory, at least [`MIN_MEMORY`].
    pub memory: u64,
    /// Records asked for at once, at most [`MAX_PAGE_RECORDS`].
    pub page_records: i32,
    /// Wait between two reads of a shard that has nothing more; at least [`MIN_POLL`].
    pub poll: Duration,
    /// Bytes that a shard gives its readers by GetRecords each second: after a page it refuses
    /// until they are due.
    pub read_rate: u64,
    /// Wait between two looks at the stream's shards.
    pub discover: Duration,
    /// How records come.
    pub retrieval: Retrieval,
    /// How workers share the shards.
    pub leases: Leases,
    /// How long a lease lasts.
    pub lease: LeasePolicy,
    /// This worker's name among the others, which no other may have meanwhile: see
    /// [`super::WorkerName`]. `None`: one of its own for each start.
    pub worker: Option<String>,
    /// How to go about failures.
    pub retry: RetryPolicy,
}

/// When a delivery ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// When it is cancelled.
    Cancelled,
    /// When every shard has been read to its end as of now.
    CaughtUp,
}

/// When what was read is committed. The clock may decide: the commit chain does not care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutPolicy {
    /// The objects have this many bytes, as they would be stored.
    pub target_bytes: u64,
    /// This long after the first record was read.
    pub max_age: Duration,
    /// This long after the last record of any shard was read, where the last object is `max_age`
    /// old: a trickle of single records then makes no more commits than a steady flow.
    pub idle: Duration,
}

/// What was read of a shard and not committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gathered {
    /// Lines of it.
    pub lines: u64,
    /// What they would take in the store.
    pub stored_bytes: u64,
    /// Since the first of it was read.
    pub since_first: Duration,
    /// Since the last record of any shard was read.
    pub since_last: Duration,
    /// Since the last object was written, of any shard; `None`: there was none yet.
    pub since_commit: Option<Duration>,
}

/// Exponential backoff with full jitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Upper end of the first wait.
    pub base: Duration,
    /// Upper end of every wait.
    pub cap: Duration,
    /// Failures in a row before giving up; `None`: never.
    pub max_attempts: Option<u32>,
}

impl DeliverConfig {
    /// The defaults: a record is in the raw zone within 20 s, or 5 s after a
    /// pause.
    /// Who stays up shares the shards with others; who is to catch up and end reads all
    /// of them, so that everything is there when it ends.
    #[must_use]
    pub fn new(stream: impl Into<String>, until: Until) -> Self {
        let (max_attempts, leases) = match until {
            Until::Cancelled => (None, Leases::Lake),
            Until::CaughtUp => (Some(10), Leases::None),
        };
        Self {
            stream: stream.into(),
            from: Begin::default(),
            until,
            cut: CutPolicy {
                target_bytes: DEFAULT_TARGET,
                max_age: Duration::from_secs(20),
                idle: Duration::from_secs(5),
            },
            format: RawFormat::default(),
            memory: DEFAULT_MEMORY,
            page_records: MAX_PAGE_RECORDS,
            poll: Duration::from_secs(1),
            read_rate: SHARD_READ_RATE,
            discover: Duration::from_secs(30),
            retrieval: Retrieval::Polling,
            leases,
            lease: LeasePolicy { expiry: DEFAULT_LEASE },
            worker: None,
            retry: RetryPolicy {
                base: Duration::from_millis(500),
                cap: Duration::from_secs(20),
                max_attempts,
            },
        }
    }

    /// Lays the file's section over it.
    #[must_use]
    pub fn with_settings(mut self, settings: &DeliverSettings) -> Self {
        let seconds = |value: Option<u64>, default| value.map_or(default, Duration::from_secs);
        self.cut.max_age = seconds(settings.max_age_seconds, self.cut.max_age);
        self.cut.idle = seconds(settings.idle_seconds, self.cut.idle);
        let megabytes = |value: Option<u64>, default| {
            value.map_or(default, |megabytes| megabytes.saturating_mul(1 << 20))
        };
        self.cut.target_bytes = megabytes(settings.target_megabytes, self.cut.target_bytes);
        self.format = settings.format.unwrap_or(self.format);
        self.memory = megabytes(settings.memory_megabytes, self.memory).max(MIN_MEMORY);
        if let Some(milliseconds) = settings.poll_milliseconds {
            self.poll = Duration::from_millis(milliseconds).max(MIN_POLL);
        }
        self.lease.expiry = seconds(settings.lease_seconds, self.lease.expiry).max(MIN_LEASE);
        self
    }
}

impl DeliverConfig {
    /// How long a shard's quota makes its readers wait after a page of so many bytes.
    pub(super) fn pace(&self, bytes: usize) -> Duration {
        Duration::from_secs_f64(bytes as f64 / self.read_rate.max(1) as f64)
    }
}

impl CutPolicy {
    /// Decides over what was gathered.
    #[must_use]
    pub fn is_due(&self, gathered: &Gathered) -> bool {
        let Gathered { lines, stored_bytes, since_first, since_last, since_commit } = *gathered;
        let rested = since_commit.is_none_or(|since| since >= self.max_age);
        lines > 0
            && (stored_bytes >= self.target_bytes
                || since_first >= self.max_age
                || (since_last >= self.idle && rested))
    }
}

impl RetryPolicy {
    /// The wait after the `attempt`th failure in a row (from 1), by a `random` number.
    #[must_use]
    pub fn wait(&self, attempt: u32, random: u64) -> Duration {
        let doubled = self.base.saturating_mul(1 << attempt.saturating_sub(1).min(16));
        let longest = u64::try_from(doubled.min(self.cap).as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(random % longest.max(1))
    }

    /// True where the `attempt`th failure in a row is the last allowed.
    #[must_use]
    pub fn is_exhausted(&self, attempt: u32) -> bool {
        self.max_attempts.is_some_and(|most| attempt >= most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_is_due_by_size_age_or_idleness_and_never_when_empty() {
        let cut = DeliverConfig::new("s", Until::Cancelled).cut;
        let second = Duration::from_secs;
        let due = |lines, stored_bytes, first, last, commit: Option<u64>| {
            cut.is_due(&Gathered {
                lines,
                stored_bytes,
                since_first: second(first),
                since_last: second(last),
                since_commit: commit.map(second),
            })
        };
        assert!(!due(0, 0, 3_600, 3_600, None));
        assert!(!due(1, 1, 19, 4, None));
        assert!(due(1, 1, 20, 0, Some(1)));
        assert!(due(1, 64 << 20, 0, 0, Some(0)));
        assert!(!due(1, (64 << 20) - 1, 0, 0, Some(0)));
        // What comes after a rest is committed soon, a trickle with the age of its first record.
        assert!(due(1, 1, 5, 5, None) && due(1, 1, 5, 5, Some(20)));
        assert!(!due(1, 1, 5, 5, Some(19)));
    }

    #[test]
    fn leases_are_shared_by_who_stays_up_and_last_as_the_file_says() {
        let up = DeliverConfig::new("s", Until::Cancelled);
        assert!(matches!(up.leases, Leases::Lake), "{:?}", up.leases);
        assert_eq!(up.lease.expiry, DEFAULT_LEASE);
        assert!(matches!(DeliverConfig::new("s", Until::CaughtUp).leases, Leases::None));
        let file = "leases = \"dynamodb=clicks\"\nlease_seconds = 0";
        let settings: DeliverSettings = toml::from_str(file).expect("reads");
        assert_eq!(settings.leases, Some(LeaseSetting::DynamoDb("clicks".to_owned())));
        assert_eq!(up.with_settings(&settings).lease.expiry, MIN_LEASE);
        for wrong in ["zookeeper", "dynamodb=", "dynamodb", ""] {
            assert!(wrong.parse::<LeaseSetting>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_consumer_has_a_name_that_kinesis_takes() {
        assert_eq!("polling".parse(), Ok(RetrievalMode::Polling));
        let settings: DeliverSettings =
            toml::from_str("retrieval_mode = \"fan_out=clicks-lake_1.a\"").expect("reads");
        let fan_out = RetrievalMode::FanOut("clicks-lake_1.a".to_owned());
        assert_eq!(settings.retrieval_mode, Some(fan_out));
        let (longest, longer) = ("n".repeat(128), "n".repeat(129));
        assert!(format!("fan_out={longest}").parse::<RetrievalMode>().is_ok());
        for wrong in
            ["", "fan_out", "fan_out=", "fan_out=a b", "FAN_OUT=a", &format!("fan_out={longer}")]
        {
            assert!(wrong.parse::<RetrievalMode>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn beginnings_are_read_and_none_is_yet_to_come() {
        let at = |text| Timestamp::parse(text).expect(text);
        assert_eq!("trim_horizon".parse(), Ok(Begin::TrimHorizon));
        assert_eq!("latest".parse(), Ok(Begin::Latest));
        let time = "2025-11-23T18:40:00+01:00";
        assert_eq!(time.parse(), Ok(Begin::At(at("2025-11-23T17:40:00Z"))));
        assert_eq!("2025-11-23".parse(), Ok(Begin::At(at("2025-11-23T00:00:00Z"))));
        for wrong in ["", "TRIM_HORIZON", "yesterday", "2025-11-23T10:00", "9000-01-01T00:00:00Z"] {
            assert!(wrong.parse::<Begin>().is_err(), "{wrong}");
        }
        let now = at("2026-11-23T17:40:00Z");
        assert_eq!(Begin::TrimHorizon.time(now), None);
        assert_eq!(Begin::Latest.time(now), Some(now));
    }

    #[test]
    fn waits_grow_to_the_cap_and_end_where_they_must() {
        let retry = DeliverConfig::new("s", Until::CaughtUp).retry;
        for (attempt, longest) in
            [(1, 500), (2, 1_000), (6, 16_000), (7, 20_000), (4_000_000, 20_000)]
        {
            assert_eq!(retry.wait(attempt, longest - 1).as_millis(), u128::from(longest - 1));
            assert_eq!(retry.wait(attempt, longest), Duration::ZERO);
        }
        assert!(!retry.is_exhausted(9) && retry.is_exhausted(10));
        assert!(!DeliverConfig::new("s", Until::Cancelled).retry.is_exhausted(u32::MAX));
    }
}
