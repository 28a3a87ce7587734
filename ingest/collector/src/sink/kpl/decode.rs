#[cfg(feature = "aws")]
use super::digest::md5_of_all;
use super::{DIGEST_BYTES, MAGIC, md5_of};

/// Bits of a varint's byte that count, and the most such bytes in 64 bits.
const VARINT_BITS: u32 = 7;
const MAX_VARINT_BYTES: usize = 10;

/// A decoded aggregate. Everything in it borrows from the record's bytes.
#[derive(Clone, Debug)]
pub struct Aggregated<'a> {
    body: &'a [u8],
    partition_keys: Vec<&'a [u8]>,
    hash_keys: Vec<&'a [u8]>,
    len: usize,
}

/// A record inside an aggregate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserRecord<'a> {
    /// Its partition key; `None` where the aggregate names one that its table
    /// does not have. The data is good all the same.
    pub partition_key: Option<&'a [u8]>,
    /// Its explicit hash key, in decimal; `None` where it has none.
    pub explicit_hash_key: Option<&'a [u8]>,
    /// What the producer put.
    pub data: &'a [u8],
}

/// The records of an aggregate, in the order in which they were added.
#[derive(Clone, Debug)]
pub struct UserRecords<'d, 'a> {
    aggregate: &'d Aggregated<'a>,
    rest: Fields<'a>,
}

/// The user records inside a Kinesis record's data; `None` where it is no
/// aggregate, or a damaged one: then the data is to be taken as it is.
#[must_use]
pub fn decode(data: &[u8]) -> Option<Aggregated<'_>> {
    let (body, digest) = frame(data)?;
    if md5_of(body) == digest { parse(body) } else { None }
}

/// [`decode`] of each, in their order, in less time: the MD5s of several are
/// computed side by side. With the feature `aws` only.
#[cfg(feature = "aws")]
#[must_use]
pub fn decode_all<'a>(data: &[&'a [u8]]) -> Vec<Option<Aggregated<'a>>> {
    let frames: Vec<_> = data.iter().map(|data| frame(data)).collect();
    let bodies: Vec<&[u8]> = frames.iter().flatten().map(|(body, _)| *body).collect();
    let mut digests = md5_of_all(&bodies).into_iter();
    let decoded = frames.into_iter().map(|frame| {
        let (body, digest) = frame?;
        if digests.next()? == digest { parse(body) } else { None }
    });
    decoded.collect()
}

/// The protobuf's bytes and their MD5.
fn frame(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = data.strip_prefix(&MAGIC)?;
    rest.split_at_checked(rest.len().checked_sub(DIGEST_BYTES)?)
}

fn parse(body: &[u8]) -> Option<Aggregated<'_>> {
    let mut aggregate =
        Aggregated { body, partition_keys: Vec::new(), hash_keys: Vec::new(), len: 0 };
    // The whole is checked here, so that the iteration later cannot fail half-way.
    for field in Fields(body) {
        match field? {
            (1, Value::Bytes(key)) => aggregate.partition_keys.push(key),
            (2, Value::Bytes(key)) => aggregate.hash_keys.push(key),
            (3, Value::Bytes(record)) => {
                Indexed::parse(record)?;
                aggregate.len += 1;
            }
            (1..=3, _) => return None,
            // A field of a later version.
            _ => {}
        }
    }
    (aggregate.len > 0).then_some(aggregate)
}

impl<'a> Aggregated<'a> {
    /// How many records it holds, at least one.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "it is never empty")]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Its records.
    #[must_use]
    pub const fn records(&self) -> UserRecords<'_, 'a> {
        UserRecords { aggregate: self, rest: Fields(self.body) }
    }
}

impl<'a> Iterator for UserRecords<'_, 'a> {
    type Item = UserRecord<'a>;

    fn next(&mut self) -> Option<UserRecord<'a>> {
        loop {
            let (field, value) = self.rest.next()??;
            if let (3, Value::Bytes(record)) = (field, value) {
                let Indexed { partition_key, hash_key, data } = Indexed::parse(record)?;
                let find = |table: &[&'a [u8]], index: Option<u64>| {
                    table.get(usize::try_from(index?).ok()?).copied()
                };
                return Some(UserRecord {
                    partition_key: find(&self.aggregate.partition_keys, partition_key),
                    explicit_hash_key: find(&self.aggregate.hash_keys, hash_key),
                    data,
                });
            }
        }
    }
}

/// A `Record` message. Of a field that stands there twice the last one counts,
/// as protobuf has it.
struct Indexed<'a> {
    partition_key: Option<u64>,
    hash_key: Option<u64>,
    data: &'a [u8],
}

impl<'a> Indexed<'a> {
    fn parse(record: &'a [u8]) -> Option<Self> {
        let (mut partition_key, mut hash_key, mut data) = (None, None, None);
        for field in Fields(record) {
            match field? {
                (1, Value::Number(index)) => partition_key = Some(index),
                (2, Value::Number(index)) => hash_key = Some(index),
                (3, Value::Bytes(bytes)) => data = Some(bytes),
                (1..=3, _) => return None,
                // Tags, and fields of a later version.
                _ => {}
            }
        }
        Some(Self { partition_key, hash_key, data: data? })
    }
}

#[derive(Clone, Copy, Debug)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Fixed 32 or 64 bits, which this message does not use.
    Fixed,
}

/// The fields of a message: number and value, or `None` once where it does not parse.
#[derive(Clone, Copy, Debug)]
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u64, Value<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u64, Value<'a>)> {
        const FIXED_64: usize = 8;
        const FIXED_32: usize = 4;
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Number(self.varint()?),
            1 => self.take(FIXED_64).map(|_| Value::Fixed)?,
            2 => {
                let len = usize::try_from(self.varint()?).ok()?;
                Value::Bytes(self.take(len)?)
            }
            5 => self.take(FIXED_32).map(|_| Value::Fixed)?,
            // Groups, long out of use, and what is no wire type.
            _ => return None,
        };
        match tag >> 3 {
            0 => None,
            number => Some((number, value)),
        }
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for (at, byte) in self.0.iter().take(MAX_VARINT_BYTES).enumerate() {
            let bits = u64::from(byte & 0x7F);
            let shift = VARINT_BITS * at as u32;
            // The tenth byte holds one bit.
            if (bits << shift) >> shift != bits {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                self.0 = &self.0[at + 1..];
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }
}
