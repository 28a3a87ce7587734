//! MD5 of several aggregates at once.
//!
//! MD5 is one long chain of additions, so a core that takes one message apart
//! waits most of the time. The chains of several messages do not depend on each
//! other: written over arrays, the compiler gives each a lane of a vector.
//! Source: RFC 1321.

use super::DIGEST_BYTES;

/// Messages that go side by side; of 32 bits each, a vector of every x86-64 and ARMv8.
const LANES: usize = 4;
const BLOCK: usize = 64;
/// What a message's end takes at least: the bit behind it, and its length in bits.
const LENGTH_BYTES: usize = 8;

/// A word of each message.
type Words<const N: usize> = [u32; N];

const START: [u32; 4] = [0x6745_2301, 0xEFCD_AB89, 0x98BA_DCFE, 0x1032_5476];

/// Of each round the four rotations that its steps take in turn.
const ROTATIONS: [[u32; 4]; 4] =
    [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];

/// The integer parts of 2^32 |sin(i)|, i from 1, in radians.
#[rustfmt::skip]
const SINES: [u32; 64] = [
    0xd76aa478, 0xe8c7b756, 0x242070db, 0xc1bdceee, 0xf57c0faf, 0x4787c62a, 0xa8304613, 0xfd469501,
    0x698098d8, 0x8b44f7af, 0xffff5bb1, 0x895cd7be, 0x6b901122, 0xfd987193, 0xa679438e, 0x49b40821,
    0xf61e2562, 0xc040b340, 0x265e5a51, 0xe9b6c7aa, 0xd62f105d, 0x02441453, 0xd8a1e681, 0xe7d3fbc8,
    0x21e1cde6, 0xc33707d6, 0xf4d50d87, 0x455a14ed, 0xa9e3e905, 0xfcefa3f8, 0x676f02d9, 0x8d2a4c8a,
    0xfffa3942, 0x8771f681, 0x6d9d6122, 0xfde5380c, 0xa4beea44, 0x4bdecfa9, 0xf6bb4b60, 0xbebfbc70,
    0x289b7ec6, 0xeaa127fa, 0xd4ef3085, 0x04881d05, 0xd9d4d039, 0xe6db99e5, 0x1fa27cf8, 0xc4ac5665,
    0xf4292244, 0x432aff97, 0xab9423a7, 0xfc93a039, 0x655b59c3, 0x8f0ccc92, 0xffeff47d, 0x85845dd1,
    0x6fa87e4f, 0xfe2ce6e0, 0xa3014314, 0x4e0811a1, 0xf7537e82, 0xbd3af235, 0x2ad7d2bb, 0xeb86d391,
];

/// The MD5 of each message, in their order.
pub(super) fn md5_of_all(messages: &[&[u8]]) -> Vec<[u8; DIGEST_BYTES]> {
    let mut digests = vec![[0; DIGEST_BYTES]; messages.len()];
    // Neighbours in length end together, so few lanes run empty.
    let mut order: Vec<usize> = (0..messages.len()).collect();
    order.sort_unstable_by_key(|&at| messages[at].len());
    let (groups, rest) = order.as_chunks::<LANES>();
    for group in groups {
        let digested = digest(group.map(|at| messages[at]));
        for (&at, digest) in group.iter().zip(digested) {
            digests[at] = digest;
        }
    }
    for &at in rest {
        [digests[at]] = digest([messages[at]]);
    }
    digests
}

fn digest<const N: usize>(messages: [&[u8]; N]) -> [[u8; DIGEST_BYTES]; N] {
    let blocks = messages.map(|message| message.as_chunks::<BLOCK>());
    let shared = blocks.iter().map(|(whole, _)| whole.len()).min().unwrap_or(0);
    let mut state = START.map(|word| [word; N]);
    for at in 0..shared {
        compress(&mut state, std::array::from_fn(|lane| &blocks[lane].0[at]));
    }
    std::array::from_fn(|lane| {
        let (whole, rest) = blocks[lane];
        let mut state = state.map(|words| [words[lane]]);
        for block in &whole[shared..] {
            compress(&mut state, [block]);
        }
        finish(&mut state, rest, messages[lane].len());
        let mut digest = [0; DIGEST_BYTES];
        for (bytes, [word]) in digest.as_chunks_mut::<4>().0.iter_mut().zip(state) {
            *bytes = word.to_le_bytes();
        }
        digest
    })
}

/// The end of a message of `len` bytes, of which `rest` fill no block.
fn finish(state: &mut [Words<1>; 4], rest: &[u8], len: usize) {
    let mut end = [0; 2 * BLOCK];
    end[..rest.len()].copy_from_slice(rest);
    end[rest.len()] = 0x80;
    let blocks = (rest.len() + 1 + LENGTH_BYTES).div_ceil(BLOCK);
    let length = (len as u64).wrapping_mul(8).to_le_bytes();
    end[blocks * BLOCK - LENGTH_BYTES..blocks * BLOCK].copy_from_slice(&length);
    for block in &end.as_chunks::<BLOCK>().0[..blocks] {
        compress(state, [block]);
    }
}

#[inline(always)]
fn each<const N: usize>(of: impl Fn(usize) -> u32) -> Words<N> {
    std::array::from_fn(of)
}

/// One step: `a` becomes `b + ((a + mixed + word + sine) <<< rotation)`.
#[inline(always)]
fn step<const N: usize>(
    state: &mut [Words<N>; 4],
    mixed: Words<N>,
    word: Words<N>,
    sine: u32,
    rotation: u32,
) {
    let [a, b, c, d] = *state;
    let next = each(|lane| {
        let sum = a[lane].wrapping_add(mixed[lane]).wrapping_add(word[lane]).wrapping_add(sine);
        b[lane].wrapping_add(sum.rotate_left(rotation))
    });
    *state = [d, next, b, c];
}

fn compress<const N: usize>(state: &mut [Words<N>; 4], blocks: [&[u8; BLOCK]; N]) {
    let words: [Words<N>; 16] = std::array::from_fn(|at| {
        each(|lane| {
            let bytes = blocks[lane].as_chunks::<4>().0[at];
            u32::from_le_bytes(bytes)
        })
    });
    let before = *state;
    for at in 0..16 {
        let [_, b, c, d] = *state;
        let mixed = each(|lane| d[lane] ^ (b[lane] & (c[lane] ^ d[lane])));
        step(state, mixed, words[at], SINES[at], ROTATIONS[0][at % 4]);
    }
    for at in 0..16 {
        let [_, b, c, d] = *state;
        let mixed = each(|lane| c[lane] ^ (d[lane] & (b[lane] ^ c[lane])));
        step(state, mixed, words[(5 * at + 1) % 16], SINES[16 + at], ROTATIONS[1][at % 4]);
    }
    for at in 0..16 {
        let [_, b, c, d] = *state;
        let mixed = each(|lane| b[lane] ^ c[lane] ^ d[lane]);
        step(state, mixed, words[(3 * at + 5) % 16], SINES[32 + at], ROTATIONS[2][at % 4]);
    }
    for at in 0..16 {
        let [_, b, c, d] = *state;
        let mixed = each(|lane| c[lane] ^ (b[lane] | !d[lane]));
        step(state, mixed, words[(7 * at) % 16], SINES[48 + at], ROTATIONS[3][at % 4]);
    }
    for (words, before) in state.iter_mut().zip(before) {
        *words = each(|lane| words[lane].wrapping_add(before[lane]));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against the `md-5` crate, whatever lengths stand side by side.
        #[test]
        fn digests_are_those_of_another_implementation(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..400), 0..12),
        ) {
            use md5::Digest as _;
            let slices: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
            let expected: Vec<[u8; DIGEST_BYTES]> =
                slices.iter().map(|message| md5::Md5::digest(message).into()).collect();
            prop_assert_eq!(md5_of_all(&slices), expected);
        }
    }
}
