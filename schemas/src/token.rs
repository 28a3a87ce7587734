//! The tokens of JSON (RFC 8259): where a string, a number, a whole value ends.

use crate::ScanError;

/// Where the string ends whose quote stands at `at`, and whether it has a backslash.
pub(crate) fn string(bytes: &[u8], mut at: usize) -> Result<(usize, bool), ScanError> {
    let mut escaped = false;
    at += 1;
    loop {
        at = special(bytes, at);
        let expected = match bytes.get(at) {
            Some(b'"') => return Ok((at + 1, escaped)),
            Some(b'\\') => {
                escaped = true;
                at = escape(bytes, at)?;
                continue;
            }
            Some(_) => "no control character inside of a string",
            None => "the string's end",
        };
        return Err(ScanError { at, expected });
    }
}

/// Where the escape ends whose backslash stands at `at`.
fn escape(bytes: &[u8], mut at: usize) -> Result<usize, ScanError> {
    at += 1;
    match bytes.get(at) {
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(at + 1),
        Some(b'u') => {
            at += 1;
            let digits = bytes.iter().skip(at).take(4);
            let digits = digits.take_while(|byte| byte.is_ascii_hexdigit()).count();
            match digits {
                4 => Ok(at + 4),
                _ => Err(ScanError { at: at + digits, expected: "four hexadecimal digits" }),
            }
        }
        _ => Err(ScanError { at, expected: "an escape" }),
    }
}

/// Where the number ends that starts at `at`.
pub(crate) fn number(bytes: &[u8], mut at: usize) -> Result<usize, ScanError> {
    let is = |at: usize, byte: u8| bytes.get(at) == Some(&byte);
    // One or more.
    let digits = |from: usize| {
        let found = bytes.iter().skip(from).take_while(|byte| byte.is_ascii_digit()).count();
        if found > 0 { Ok(from + found) } else { Err(ScanError { at: from, expected: "a digit" }) }
    };
    if is(at, b'-') {
        at += 1;
    }
    at = if is(at, b'0') { at + 1 } else { digits(at)? };
    if is(at, b'.') {
        at = digits(at + 1)?;
    }
    if is(at, b'e') || is(at, b'E') {
        at += 1;
        if is(at, b'+') || is(at, b'-') {
            at += 1;
        }
        at = digits(at)?;
    }
    Ok(at)
}

/// Where the value ends that starts at `at`. `None` where there is none, where white space
/// stands between its tokens, and where more than 64 containers are open at once.
pub(crate) fn compact_value(bytes: &[u8], mut at: usize) -> Option<usize> {
    // A bit for each container that is open, the innermost the lowest: an object's is set.
    let (mut objects, mut open) = (0_u64, 0_u32);
    loop {
        // A value begins here.
        match bytes.get(at)? {
            byte @ (b'{' | b'[') => {
                let is_object = *byte == b'{';
                let close = if is_object { b'}' } else { b']' };
                at += 1;
                if *bytes.get(at)? == close {
                    at += 1;
                } else if open == u64::BITS {
                    return None;
                } else {
                    objects = objects << 1 | u64::from(is_object);
                    open += 1;
                    if is_object {
                        at = compact_key(bytes, at)?;
                    }
                    continue;
                }
            }
            b'"' => at = string(bytes, at).ok()?.0,
            b'-' | b'0'..=b'9' => at = number(bytes, at).ok()?,
            b't' if bytes[at..].starts_with(b"true") => at += 4,
            b'f' if bytes[at..].starts_with(b"false") => at += 5,
            b'n' if bytes[at..].starts_with(b"null") => at += 4,
            _ => return None,
        }
        // It has ended: so may the containers around it.
        loop {
            if open == 0 {
                return Some(at);
            }
            let in_object = objects & 1 == 1;
            match (bytes.get(at)?, in_object) {
                (b',', _) => {
                    at += 1;
                    if in_object {
                        at = compact_key(bytes, at)?;
                    }
                    break;
                }
                (b'}', true) | (b']', false) => {
                    at += 1;
                    objects >>= 1;
                    open -= 1;
                }
                _ => return None,
            }
        }
    }
}

/// Where the value begins whose key stands at `at`.
fn compact_key(bytes: &[u8], at: usize) -> Option<usize> {
    if bytes.get(at) != Some(&b'"') {
        return None;
    }
    let (at, _) = string(bytes, at).ok()?;
    (bytes.get(at) == Some(&b':')).then_some(at + 1)
}

/// Where from `from` on the first byte stands that a JSON string cannot hold as
/// it is: a quote, a backslash, or one below 0x20. The length where none does.
///
/// Eight bytes at a time: a byte's high bit is set in `below` where the byte is
/// less than `limit` (Hacker's Delight, 6-1). Borrows reach upward only, so the
/// lowest bit that is set is right.
pub(crate) fn special(bytes: &[u8], from: usize) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let below = |word: u64, limit: u64| word.wrapping_sub(ONES * limit) & !word & HIGH;
    let mut at = from;
    while let Some(word) = bytes.get(at..).and_then(|rest| rest.first_chunk()) {
        let word = u64::from_le_bytes(*word);
        let quote = below(word ^ (ONES * u64::from(b'"')), 1);
        let backslash = below(word ^ (ONES * u64::from(b'\\')), 1);
        let found = below(word, 0x20) | quote | backslash;
        if found != 0 {
            return at + (found.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    let is_special = |byte: &u8| *byte < 0x20 || *byte == b'"' || *byte == b'\\';
    let rest = bytes.get(at..).unwrap_or_default();
    at + rest.iter().position(is_special).unwrap_or(rest.len())
}
