//! Takes IP addresses out of bodies and query strings before anything is
//! decoded or stored.
//!
//! It works on text, so that input that does not parse (and becomes a reject
//! with its bytes) is cleaned as well:
//!
//! - In JSON, the value of every key of [`KEYS`] that looks like an address
//!   becomes `null`. An object's key is `"ip"` followed by a colon; inside of a
//!   string its quotes would be escaped, so nothing else matches.
//! - In a query string, and in lines of that form, such a value becomes empty.
//!   Of a key like `ep.ip` or `context.ip` the last part counts.
//! - Snowplow's [`EMBEDDED`] values are JSON inside of the text, as a string or
//!   in base64: they are cleaned inside, and written again if that changed them.

use std::borrow::Cow;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Keys under which SDKs and servers send addresses; compared without case.
/// `uip` and `_uip` are Google's, `ip` is also Snowplow's.
const KEYS: &[&str] = &[
    "ip",
    "ip_address",
    "ipaddress",
    "ip_override",
    "client_ip",
    "clientip",
    "remote_addr",
    "remote_ip",
    "forwarded",
    "x-forwarded-for",
    "x-real-ip",
    "cf-connecting-ip",
    "true-client-ip",
    "user_ip",
    "user_ipaddress",
    "uip",
    "_uip",
    "ipv4",
    "ipv6",
];

/// Bytes of the longest of [`KEYS`] and [`EMBEDDED`].
const LONGEST_KEY: usize = 16;

/// Snowplow's parameters that hold JSON, and whether it is in base64.
const EMBEDDED: &[(&str, Encoding)] = &[
    ("ue_pr", Encoding::Text),
    ("co", Encoding::Text),
    ("ue_px", Encoding::Base64),
    ("cx", Encoding::Base64),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Text,
    Base64,
}

/// Trackers pad or do not, and some leave stray bits.
const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true)
    .with_encode_padding(false);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);

/// base64 of either alphabet, padded or not.
pub(crate) fn decode_base64(text: &[u8]) -> Option<Vec<u8>> {
    URL_SAFE.decode(text).or_else(|_| STANDARD.decode(text)).ok()
}

/// `body` with the addresses replaced; borrowed where there are none.
pub(crate) fn without_addresses(body: &[u8]) -> Cow<'_, [u8]> {
    let first = body.iter().find(|b| !b.is_ascii_whitespace());
    match first {
        // Google's further events: `en=..&ep.x=..`, one a line.
        Some(first) if !matches!(first, b'{' | b'[' | b'"') && body.contains(&b'=') => {
            match std::str::from_utf8(body) {
                Ok(text) => match lines_without_addresses(text) {
                    Cow::Borrowed(_) => json_without_addresses(body),
                    Cow::Owned(text) => {
                        Cow::Owned(json_without_addresses(text.as_bytes()).into_owned())
                    }
                },
                Err(_) => json_without_addresses(body),
            }
        }
        _ => json_without_addresses(body),
    }
}

fn lines_without_addresses(text: &str) -> Cow<'_, str> {
    if text.split('\n').all(|line| matches!(query_without_addresses(line), Cow::Borrowed(_))) {
        return Cow::Borrowed(text);
    }
    let lines: Vec<Cow<'_, str>> = text.split('\n').map(query_without_addresses).collect();
    Cow::Owned(lines.join("\n"))
}

/// A query string with the addresses' values empty.
pub(crate) fn query_without_addresses(query: &str) -> Cow<'_, str> {
    let mut changed = false;
    let pairs: Vec<Cow<'_, str>> = query
        .split('&')
        .map(|pair| match clean_pair(pair) {
            Some(clean) => {
                changed = true;
                Cow::Owned(clean)
            }
            None => Cow::Borrowed(pair),
        })
        .collect();
    if changed { Cow::Owned(pairs.join("&")) } else { Cow::Borrowed(query) }
}

/// `key=value` where it has to change.
fn clean_pair(pair: &str) -> Option<String> {
    let (raw_key, _) = pair.split_once('=')?;
    let (key, value) = form_urlencoded::parse(pair.as_bytes()).next()?;
    let last = key.rsplit('.').next().unwrap_or_default();
    if is_key(last.as_bytes()) && looks_like_addresses(value.trim().as_bytes()) {
        return Some(format!("{raw_key}="));
    }
    let clean = clean_embedded(&key, value.as_bytes())?;
    let mut out = format!("{raw_key}=");
    out.extend(form_urlencoded::byte_serialize(&clean));
    Some(out)
}

/// An embedded value where it has to change.
fn clean_embedded(key: &str, value: &[u8]) -> Option<Vec<u8>> {
    let (_, encoding) = EMBEDDED.iter().find(|(name, _)| *name == key)?;
    match encoding {
        Encoding::Text => match json_without_addresses(value) {
            Cow::Owned(clean) => Some(clean),
            Cow::Borrowed(_) => None,
        },
        Encoding::Base64 => {
            // Cut short, whole groups of four still decode.
            let inner =
                decode_base64(value).or_else(|| decode_base64(&value[..value.len() & !3]))?;
            match json_without_addresses(&inner) {
                Cow::Owned(clean) => Some(URL_SAFE.encode(clean).into_bytes()),
                Cow::Borrowed(_) => None,
            }
        }
    }
}

fn json_without_addresses(body: &[u8]) -> Cow<'_, [u8]> {
    let mut out: Option<Vec<u8>> = None;
    let mut copied = 0;
    for colon in memchr::memchr_iter(b':', body) {
        if colon < copied {
            continue;
        }
        let Some(name) = name_before(&body[..colon]) else { continue };
        let embedded = EMBEDDED.iter().any(|(key, _)| key.as_bytes() == name);
        if !embedded && !is_key(name) {
            continue;
        }
        let start = skip_space(body, colon + 1);
        if body.get(start) != Some(&b'"') {
            continue;
        }
        // Cut short, the text goes up to the end.
        let end = string_end(body, start + 1);
        let text = &body[start + 1..end];
        let replacement = if embedded {
            let key = std::str::from_utf8(name).unwrap_or_default();
            let Some(clean) = clean_embedded(key, &unescape(text)) else { continue };
            // A string always serialises.
            serde_json::to_string(&String::from_utf8_lossy(&clean)).unwrap_or_default()
        } else if looks_like_addresses(&unescape(text)) {
            "null".to_owned()
        } else {
            continue;
        };
        let out = out.get_or_insert_with(|| Vec::with_capacity(body.len()));
        out.extend_from_slice(&body[copied..start]);
        out.extend_from_slice(replacement.as_bytes());
        copied = (end + 1).min(body.len());
    }
    match out {
        Some(mut out) => {
            out.extend_from_slice(&body[copied..]);
            Cow::Owned(out)
        }
        None => Cow::Borrowed(body),
    }
}

/// Where the string that begins at `from` ends: its quote, or the end.
fn string_end(body: &[u8], from: usize) -> usize {
    let mut at = from;
    while let Some(byte) = body.get(at) {
        match byte {
            b'"' => return at,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    body.len()
}

/// A string's text; of one that is cut short or not valid, as much as can be
/// told: the usual escapes alone.
fn unescape(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.contains(&b'\\') {
        return Cow::Borrowed(text);
    }
    let quoted = [b"\"", text, b"\""].concat();
    if let Ok(whole) = serde_json::from_slice::<String>(&quoted) {
        return Cow::Owned(whole.into_bytes());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match (byte, bytes.as_slice().first()) {
            (b'\\', Some(next @ (b'"' | b'\\' | b'/'))) => {
                out.push(*next);
                bytes.next();
            }
            // Cut in the middle of an escape.
            (b'\\', None) => {}
            _ => out.push(*byte),
        }
    }
    Cow::Owned(out)
}

/// The text between the last two quotes, where the second one, and perhaps
/// space, ends `before`; nothing where it cannot be one of [`KEYS`] or [`EMBEDDED`].
fn name_before(before: &[u8]) -> Option<&[u8]> {
    let quoted = before.trim_ascii_end().strip_suffix(b"\"")?;
    let from = quoted.len().saturating_sub(LONGEST_KEY + 1);
    let open = quoted[from..].iter().rposition(|byte| *byte == b'"')?;
    let name = &quoted[from + open + 1..];
    may_be_key(name).then_some(name)
}

fn skip_space(body: &[u8], from: usize) -> usize {
    let spaces = body[from.min(body.len())..].iter().take_while(|b| b.is_ascii_whitespace());
    from + spaces.count()
}

/// What begins and ends like one of [`KEYS`] or [`EMBEDDED`], whatever its case:
/// most names of a body do not.
fn may_be_key(name: &[u8]) -> bool {
    let [first, .., last] = name else { return false };
    let lower = (first | 0x20, last | 0x20);
    // `_` with that bit set is 0x7f.
    matches!(lower.0, b'i' | b'c' | b'r' | b'f' | b'x' | b't' | b'u' | 0x7f)
        && matches!(lower.1, b'p' | b's' | b'e' | b'r' | b'd' | b'4' | b'6' | b'o' | b'x')
}

fn is_key(name: &[u8]) -> bool {
    KEYS.iter().any(|key| key.as_bytes().eq_ignore_ascii_case(name))
}

/// One address or a list of them (`X-Forwarded-For`), ports and brackets
/// included; also a part of one, since a body may be cut short.
fn looks_like_addresses(text: &[u8]) -> bool {
    text.iter().any(|b| matches!(b, b'.' | b':'))
        && text.iter().all(|b| {
            b.is_ascii_hexdigit()
                || matches!(b, b'.' | b':' | b',' | b' ' | b'[' | b']' | b'%' | b'/')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clean(body: &str) -> String {
        String::from_utf8(without_addresses(body.as_bytes()).into_owned()).expect("utf8")
    }

    #[test]
    fn addresses_become_null_wherever_they_stand() {
        assert_eq!(
            clean(
                r#"{"ip":"192.0.2.7","context":{ "IP" : "2001:db8::1" ,"a":[{"ip":"192.0.2.1, 10.0.0.1"}]}}"#
            ),
            r#"{"ip":null,"context":{ "IP" : null ,"a":[{"ip":null}]}}"#
        );
        assert_eq!(clean(r#"{"context":{"ip":"192.0."#), r#"{"context":{"ip":null"#);
    }

    #[test]
    fn every_key_passes_the_first_look() {
        for key in KEYS.iter().copied().chain(EMBEDDED.iter().map(|(key, _)| *key)) {
            assert!(key.len() <= LONGEST_KEY, "{key}");
            assert!(may_be_key(key.as_bytes()), "{key}");
            assert!(may_be_key(key.to_ascii_uppercase().as_bytes()), "{key}");
        }
        assert!(!may_be_key(b"") && !may_be_key(b"p") && !may_be_key(b"properties!"));
    }

    #[test]
    fn nothing_else_is_touched() {
        for body in [
            r#"{"ip":"patent","tip":"1.2.3.4","note":"\"ip\":\"1.2.3.4\""}"#,
            r#"{"a":"ip","b":["ip","1.2.3.4"],"ip":4}"#,
            r#"{"version":"1.2.3.4"}"#,
            r#"{"co":"[]","cx":"???","ue_px":"e30"}"#,
            "en=a&ip=patent&v=1.2.3.4",
            "\"",
            "{\"ip\"",
            "",
        ] {
            assert!(matches!(without_addresses(body.as_bytes()), Cow::Borrowed(_)), "{body}");
        }
    }

    #[test]
    fn query_strings_lose_the_value() {
        for (query, expected) in [
            ("e=pv&ip=192.0.2.7&aid=a", "e=pv&ip=&aid=a"),
            ("uip=2001%3Adb8%3A%3A1", "uip="),
            ("_uip=192.0.2.7&ep.ip=192.0.2.7&up.client_ip=192.0.2.7", "_uip=&ep.ip=&up.client_ip="),
            ("ip=%31%39%32.0.2.7", "ip="),
            ("X-Forwarded-For=192.0.2.7,+10.0.0.1", "X-Forwarded-For="),
        ] {
            assert_eq!(query_without_addresses(query), expected);
            assert_eq!(clean(query), expected);
        }
        assert_eq!(clean("en=a\nen=b&uip=192.0.2.7\nen=c"), "en=a\nen=b&uip=\nen=c");
    }

    #[test]
    fn json_inside_of_json_or_base64_is_cleaned_inside() {
        assert_eq!(
            clean(r#"{"data":[{"co":"{\"ip\":\"192.0.2.7\",\"n\":\"\\\"\"}"}]}"#),
            r#"{"data":[{"co":"{\"ip\":null,\"n\":\"\\\"\"}"}]}"#
        );
        // Base64 of {"ip":"192.0.2.7"} and {"ip":null}, by coreutils.
        assert_eq!(clean(r#"{"cx":"eyJpcCI6IjE5Mi4wLjIuNyJ9"}"#), r#"{"cx":"eyJpcCI6bnVsbH0"}"#);
        assert_eq!(
            query_without_addresses("e=ue&ue_px=eyJpcCI6IjE5Mi4wLjIuNyJ9"),
            "e=ue&ue_px=eyJpcCI6bnVsbH0"
        );
        // Cut short: {"ip":"192.0.2
        assert!(!clean(r#"{"cx":"eyJpcCI6IjE5Mi4wLjIu"#).contains("MTky"));
        assert_eq!(clean(r#"{"cx":"eyJpcCI6IjE5Mi4wLjIu"#), r#"{"cx":"eyJpcCI6bnVsbA""#);
        assert_eq!(clean(r#"{"co":"{\"ip\":\"192.0."#), r#"{"co":"{\"ip\":null""#);
    }
}
