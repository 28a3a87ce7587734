//! What a landing chain is of.

use std::fmt;
use std::str::FromStr;

use object_store::path::Path;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::DELIVERY;
use crate::LakeError;

/// Longest part of a source's name: stream and shard names have at most 128.
const MAX_PART: usize = 192;

/// The chain of rejects that were landed again as events.
pub const REJECTS: &str = "replay/rejects";

/// Where records come from, in an order that never changes. Its text names the
/// chain's folder: `collector/<id>`, `kinesis/<stream>-<creation>/<shard>`, `import/<id>`,
/// `firehose/<name>`, `replay/rejects`, `replay/<stream>-<creation>-<shard>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    text: String,
}

impl Source {
    /// The spool of a collector; positions are `wal_seq`.
    ///
    /// # Errors
    /// [`LakeError::Source`] where the id cannot stand in a path.
    pub fn collector(collector_id: &str) -> Result<Self, LakeError> {
        format!("collector/{collector_id}").parse()
    }

    /// A shard of a stream; positions are sequence numbers. `created` is the
    /// stream's creation in whole seconds since the epoch: a stream that is
    /// deleted and made again under its name is another source.
    ///
    /// # Errors
    /// [`LakeError::Source`] where a name cannot stand in a path.
    pub fn kinesis(stream: &str, created: i64, shard: &str) -> Result<Self, LakeError> {
        format!("kinesis/{stream}-{created}/{shard}").parse()
    }

    /// One import; positions are its own.
    ///
    /// # Errors
    /// [`LakeError::Source`] where the id cannot stand in a path.
    pub fn import(id: &str) -> Result<Self, LakeError> {
        format!("import/{id}").parse()
    }

    /// What Firehose landed at one location; positions count the objects taken.
    ///
    /// # Errors
    /// [`LakeError::Source`] where the name cannot stand in a path.
    pub fn firehose(name: &str) -> Result<Self, LakeError> {
        format!("firehose/{name}").parse()
    }

    /// A shard of a stream, landed once more; positions are a count of lines.
    ///
    /// # Errors
    /// [`LakeError::Source`] where a name cannot stand in a path.
    pub fn replay(stream: &str, created: i64, shard: &str) -> Result<Self, LakeError> {
        format!("replay/{stream}-{created}-{shard}").parse()
    }

    /// True for what was landed before, from its stream: [`Source::replay`].
    #[must_use]
    pub fn is_stream_replay(&self) -> bool {
        self.kind() == "replay" && self.text != REJECTS
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The last part of its text: a shard's id, a collector's, an import's.
    #[must_use]
    pub fn leaf(&self) -> &str {
        self.text.rsplit('/').next().unwrap_or_default()
    }

    /// `collector`, `kinesis`, `import`, `firehose` or `replay`.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.text.split('/').next().unwrap_or_default()
    }

    /// The start of its data objects' names: the collector's id, `<stream>-<creation>-<shard>`,
    /// `import-<id>`, `firehose-<name>`.
    #[must_use]
    pub fn stem(&self) -> String {
        let (kind, rest) = self.text.split_once('/').unwrap_or_default();
        let rest = rest.replace('/', "-");
        if matches!(kind, "import" | "firehose" | "replay") {
            format!("{kind}-{rest}")
        } else {
            rest
        }
    }

    /// The folder of its chain.
    #[must_use]
    pub fn folder(&self) -> Path {
        Path::from(format!("{DELIVERY}/{}", self.text))
    }

    /// Parts that a kind's text has after the kind.
    pub(super) fn depth(kind: &str) -> Option<usize> {
        match kind {
            "collector" | "import" | "firehose" | "replay" => Some(1),
            "kinesis" => Some(2),
            _ => None,
        }
    }
}

impl FromStr for Source {
    type Err = LakeError;

    fn from_str(text: &str) -> Result<Self, LakeError> {
        let wrong = |reason| LakeError::Source { text: text.chars().take(200).collect(), reason };
        let mut parts = text.split('/');
        let depth = parts.next().and_then(Self::depth).ok_or_else(|| {
            wrong("it must start with collector/, kinesis/, import/, firehose/ or replay/")
        })?;
        let rest: Vec<&str> = parts.collect();
        if rest.len() != depth {
            return Err(wrong("it has too few or too many parts between slashes"));
        }
        for part in rest {
            let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
            if part.is_empty() || part.len() > MAX_PART || part.starts_with('.') {
                return Err(wrong("a part is empty, too long or starts with a dot"));
            }
            if !part.bytes().all(known) {
                return Err(wrong("only letters, digits, `.`, `_` and `-` are allowed"));
            }
        }
        Ok(Self { text: text.to_owned() })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Source {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_four_kinds_have_their_text_and_stem() {
        let kinesis = Source::kinesis("clicks", 1_795_455_600, "shardId-0").expect("valid");
        assert_eq!(kinesis.to_string(), "kinesis/clicks-1795455600/shardId-0");
        assert_eq!(kinesis.stem(), "clicks-1795455600-shardId-0");
        assert_eq!(
            kinesis.folder().as_ref(),
            "_clickmill/delivery/kinesis/clicks-1795455600/shardId-0"
        );
        assert_eq!(Source::collector("c-1").expect("valid").stem(), "c-1");
        assert_eq!(Source::import("f00").expect("valid").stem(), "import-f00");
        assert_eq!(Source::firehose("clicks").expect("valid").stem(), "firehose-clicks");
    }

    #[test]
    fn a_hostile_name_is_refused() {
        for text in [
            "",
            "collector",
            "collector/",
            "collector/a/b",
            "collector/..",
            "collector/a%2Fb",
            "kinesis/a",
            "firehose/a/b",
            "files/a",
            "import/ü",
            "import/a b",
        ] {
            assert!(text.parse::<Source>().is_err(), "{text}");
        }
    }
}
