//! MD5 of several aggregates at once.
//!
//! MD5 is one long chain of additions, so a core that takes one message apart
//! waits most of the time. The chains of several messages do not depend on each
//! other: each has a lane of a vector.
//! Source: RFC 1321.

use wide::u32x8;

use super::{DIGEST_BYTES, md5_of};

const LANES: usize = 8;
const BLOCK: usize = 64;
/// What a message's end takes at least: the bit behind it, and its length in bits.
const LENGTH_BYTES: usize = 8;

const START: [u32; 4] = [0x6745_2301, 0xEFCD_AB89, 0x98BA_DCFE, 0x1032_5476];

/// The integer parts of 2^32 |sin(i)|, i from 1, in radians.
#[rustfmt::skip]
const SINES: [u32; 64] = [
    0xd76a_a478, 0xe8c7_b756, 0x2420_70db, 0xc1bd_ceee, 0xf57c_0faf, 0x4787_c62a, 0xa830_4613, 0xfd46_9501,
    0x6980_98d8, 0x8b44_f7af, 0xffff_5bb1, 0x895c_d7be, 0x6b90_1122, 0xfd98_7193, 0xa679_438e, 0x49b4_0821,
    0xf61e_2562, 0xc040_b340, 0x265e_5a51, 0xe9b6_c7aa, 0xd62f_105d, 0x0244_1453, 0xd8a1_e681, 0xe7d3_fbc8,
    0x21e1_cde6, 0xc337_07d6, 0xf4d5_0d87, 0x455a_14ed, 0xa9e3_e905, 0xfcef_a3f8, 0x676f_02d9, 0x8d2a_4c8a,
    0xfffa_3942, 0x8771_f681, 0x6d9d_6122, 0xfde5_380c, 0xa4be_ea44, 0x4bde_cfa9, 0xf6bb_4b60, 0xbebf_bc70,
    0x289b_7ec6, 0xeaa1_27fa, 0xd4ef_3085, 0x0488_1d05, 0xd9d4_d039, 0xe6db_99e5, 0x1fa2_7cf8, 0xc4ac_5665,
    0xf429_2244, 0x432a_ff97, 0xab94_23a7, 0xfc93_a039, 0x655b_59c3, 0x8f0c_cc92, 0xffef_f47d, 0x8584_5dd1,
    0x6fa8_7e4f, 0xfe2c_e6e0, 0xa301_4314, 0x4e08_11a1, 0xf753_7e82, 0xbd3a_f235, 0x2ad7_d2bb, 0xeb86_d391,
];

/// The same word of one message or of [`LANES`].
trait Words: Copy {
    fn all(word: u32) -> Self;
    fn plus(self, other: Self) -> Self;
    fn and(self, other: Self) -> Self;
    fn or(self, other: Self) -> Self;
    fn xor(self, other: Self) -> Self;
    fn rotated<const LEFT: i32, const RIGHT: i32>(self) -> Self;
}

impl Words for u32 {
    #[inline(always)]
    fn all(word: u32) -> Self {
        word
    }

    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        self.wrapping_add(other)
    }

    #[inline(always)]
    fn and(self, other: Self) -> Self {
        self & other
    }

    #[inline(always)]
    fn or(self, other: Self) -> Self {
        self | other
    }

    #[inline(always)]
    fn xor(self, other: Self) -> Self {
        self ^ other
    }

    #[inline(always)]
    fn rotated<const LEFT: i32, const RIGHT: i32>(self) -> Self {
        self.rotate_left(LEFT as u32)
    }
}

impl Words for u32x8 {
    #[inline(always)]
    fn all(word: u32) -> Self {
        Self::splat(word)
    }

    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        self + other
    }

    #[inline(always)]
    fn and(self, other: Self) -> Self {
        self & other
    }

    #[inline(always)]
    fn or(self, other: Self) -> Self {
        self | other
    }

    #[inline(always)]
    fn xor(self, other: Self) -> Self {
        self ^ other
    }

    #[inline(always)]
    fn rotated<const LEFT: i32, const RIGHT: i32>(self) -> Self {
        (self << LEFT) | (self >> RIGHT)
    }
}

/// The MD5 of each message, in their order.
pub(super) fn md5_of_all(messages: &[&[u8]]) -> Vec<[u8; DIGEST_BYTES]> {
    let mut digests = vec![[0; DIGEST_BYTES]; messages.len()];
    // Neighbours in length end together, so few lanes run empty.
    let mut order: Vec<usize> = (0..messages.len()).collect();
    order.sort_unstable_by_key(|&at| messages[at].len());
    for group in order.chunks(LANES) {
        match group {
            [at] => digests[*at] = md5_of(messages[*at]),
            _ => side_by_side(messages, group, &mut digests),
        }
    }
    digests
}

/// Of the messages of `group`, at most as many as there are lanes.
fn side_by_side(messages: &[&[u8]], group: &[usize], digests: &mut [[u8; DIGEST_BYTES]]) {
    // Lanes without a message of their own do the last one's work again.
    let blocks: [_; LANES] =
        std::array::from_fn(|lane| messages[group[lane.min(group.len() - 1)]].as_chunks::<BLOCK>());
    let shared = blocks.iter().map(|(whole, _)| whole.len()).min().unwrap_or(0);
    let mut state = START.map(u32x8::splat);
    for at in 0..shared {
        state = compressed(state, |word| words_of(&blocks, at, word));
    }
    let state = state.map(u32x8::to_array);
    for (lane, (&at, (whole, rest))) in group.iter().zip(&blocks).enumerate() {
        let mut state = state.map(|words| words[lane]);
        for block in &whole[shared..] {
            state = compressed(state, |word| word_of(block, word));
        }
        state = ended(state, rest, messages[at].len());
        for (bytes, word) in digests[at].as_chunks_mut::<4>().0.iter_mut().zip(state) {
            *bytes = word.to_le_bytes();
        }
    }
}

/// Of the block `at` of each.
#[inline(always)]
fn words_of(blocks: &[(&[[u8; BLOCK]], &[u8]); LANES], at: usize, word: usize) -> u32x8 {
    u32x8::new(std::array::from_fn(|lane| word_of(&blocks[lane].0[at], word)))
}

/// The end of a message of `len` bytes, of which `rest` fill no block.
fn ended(mut state: [u32; 4], rest: &[u8], len: usize) -> [u32; 4] {
    let mut end = [0; 2 * BLOCK];
    end[..rest.len()].copy_from_slice(rest);
    end[rest.len()] = 0x80;
    let bytes = (rest.len() + 1 + LENGTH_BYTES).next_multiple_of(BLOCK);
    let length = (len as u64).wrapping_mul(8).to_le_bytes();
    end[bytes - LENGTH_BYTES..bytes].copy_from_slice(&length);
    for block in end[..bytes].as_chunks::<BLOCK>().0 {
        state = compressed(state, |word| word_of(block, word));
    }
    state
}

#[inline(always)]
fn word_of(block: &[u8; BLOCK], word: usize) -> u32 {
    u32::from_le_bytes(block.as_chunks::<4>().0[word])
}

/// Four steps with the rotations of a round, the first of which is the `$at`th of all: `a`
/// becomes `b + ((a + mixed + word + sine) <<< rotation)`, and the four change places.
macro_rules! steps {
    ($state:ident, $words:ident, $at:expr, $mixed:expr, $word:expr,
     $r0:literal $r1:literal $r2:literal $r3:literal) => {{
        let [mut a, mut b, mut c, mut d] = $state;
        a = step::<W, $r0, { 32 - $r0 }>(
            [a, b, c, d],
            $mixed(b, c, d),
            $words[$word($at) % 16],
            $at,
        );
        d = step::<W, $r1, { 32 - $r1 }>(
            [d, a, b, c],
            $mixed(a, b, c),
            $words[$word($at + 1) % 16],
            $at + 1,
        );
        c = step::<W, $r2, { 32 - $r2 }>(
            [c, d, a, b],
            $mixed(d, a, b),
            $words[$word($at + 2) % 16],
            $at + 2,
        );
        b = step::<W, $r3, { 32 - $r3 }>(
            [b, c, d, a],
            $mixed(c, d, a),
            $words[$word($at + 3) % 16],
            $at + 3,
        );
        $state = [a, b, c, d];
    }};
}

#[inline(always)]
fn step<W: Words, const LEFT: i32, const RIGHT: i32>(
    [a, b, _, _]: [W; 4],
    mixed: W,
    word: W,
    at: usize,
) -> W {
    let sum = a.plus(mixed).plus(word).plus(W::all(SINES[at]));
    b.plus(sum.rotated::<LEFT, RIGHT>())
}

fn compressed<W: Words>(before: [W; 4], word: impl Fn(usize) -> W) -> [W; 4] {
    let words: [W; 16] = std::array::from_fn(word);
    let mut state = before;
    let mix = |b: W, c: W, d: W| d.xor(b.and(c.xor(d)));
    for at in (0..16).step_by(4) {
        steps!(state, words, at, mix, |at| at, 7 12 17 22);
    }
    let mix = |b: W, c: W, d: W| c.xor(d.and(b.xor(c)));
    for at in (16..32).step_by(4) {
        steps!(state, words, at, mix, |at| 5 * at + 1, 5 9 14 20);
    }
    let mix = |b: W, c: W, d: W| b.xor(c).xor(d);
    for at in (32..48).step_by(4) {
        steps!(state, words, at, mix, |at| 3 * at + 5, 4 11 16 23);
    }
    let mix = |b: W, c: W, d: W| c.xor(b.or(d.xor(W::all(u32::MAX))));
    for at in (48..64).step_by(4) {
        steps!(state, words, at, mix, |at| 7 * at, 6 10 15 21);
    }
    std::array::from_fn(|at| state[at].plus(before[at]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against the `md-5` crate, whatever lengths stand side by side.
        #[test]
        fn digests_are_those_of_another_implementation(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..400), 0..20),
        ) {
            use md5::Digest as _;
            let slices: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
            let expected: Vec<[u8; DIGEST_BYTES]> =
                slices.iter().map(|message| md5::Md5::digest(message).into()).collect();
            prop_assert_eq!(md5_of_all(&slices), expected);
        }
    }
}
