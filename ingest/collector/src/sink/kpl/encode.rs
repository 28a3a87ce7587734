use std::collections::HashMap;

use super::{DIGEST_BYTES, MAGIC, md5_of};

// Protobuf tags: field number << 3 | wire type (0 varint, 2 length-delimited).
const PARTITION_KEY: u8 = 1 << 3 | 2;
const HASH_KEY: u8 = 2 << 3 | 2;
const RECORD: u8 = 3 << 3 | 2;
const PARTITION_KEY_INDEX: u8 = 1 << 3;
const HASH_KEY_INDEX: u8 = 2 << 3;
const DATA: u8 = 3 << 3 | 2;

/// Builds one aggregated record.
#[derive(Clone, Debug)]
pub struct Aggregate {
    hash_key: String,
    key_indexes: HashMap<String, u64>,
    /// The encoded fields 1.
    key_table: Vec<u8>,
    /// The encoded fields 3.
    records: Vec<u8>,
    len: usize,
}

impl Aggregate {
    /// An empty one, to be put with `hash_key` as its explicit hash key; every
    /// record inside carries the same.
    #[must_use]
    pub fn new(hash_key: u128) -> Self {
        Self {
            hash_key: hash_key.to_string(),
            key_indexes: HashMap::new(),
            key_table: Vec::new(),
            records: Vec::new(),
            len: 0,
        }
    }

    /// User records in it.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// True before the first record.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of the encoded aggregate.
    #[must_use]
    pub fn size(&self) -> usize {
        let fixed = MAGIC.len() + delimited(self.hash_key.len()) + DIGEST_BYTES;
        fixed + self.key_table.len() + self.records.len()
    }

    /// Bytes of the encoded aggregate if this record were in it, too.
    #[must_use]
    pub fn size_with(&self, partition_key: &str, data: &[u8]) -> usize {
        let (key, index) = match self.key_indexes.get(partition_key) {
            Some(index) => (0, *index),
            None => (delimited(partition_key.len()), self.key_indexes.len() as u64),
        };
        self.size() + key + delimited(record_len(index, data.len()))
    }

    /// Adds a user record.
    pub fn push(&mut self, partition_key: &str, data: &[u8]) {
        let index = match self.key_indexes.get(partition_key) {
            Some(index) => *index,
            None => {
                let index = self.key_indexes.len() as u64;
                self.key_indexes.insert(partition_key.to_owned(), index);
                put_delimited(&mut self.key_table, PARTITION_KEY, partition_key.as_bytes());
                index
            }
        };
        let records = &mut self.records;
        records.push(RECORD);
        put_varint(records, record_len(index, data.len()) as u64);
        records.push(PARTITION_KEY_INDEX);
        put_varint(records, index);
        records.push(HASH_KEY_INDEX);
        put_varint(records, 0);
        put_delimited(records, DATA, data);
        self.len += 1;
    }

    /// The record's data.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.size());
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&self.key_table);
        put_delimited(&mut out, HASH_KEY, self.hash_key.as_bytes());
        out.extend_from_slice(&self.records);
        let digest = md5_of(&out[MAGIC.len()..]);
        out.extend_from_slice(&digest);
        out
    }
}

/// Bytes of a `Record` message: its key's index, hash key index 0, its data.
fn record_len(key_index: u64, data_len: usize) -> usize {
    1 + varint_len(key_index) + 1 + varint_len(0) + delimited(data_len)
}

/// Bytes of a length-delimited field, its one-byte tag included.
fn delimited(len: usize) -> usize {
    1 + varint_len(len as u64) + len
}

fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros()).div_ceil(7) as usize
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_delimited(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    out.push(tag);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}
