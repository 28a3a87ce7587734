//! Takes IP addresses out of bodies before anything is decoded or stored.
//!
//! It works on text, so that a body that does not parse (and becomes a reject
//! with its bytes) is cleaned as well: the value of every key of [`KEYS`] that
//! looks like an address becomes `null`. An object's key is `"ip"` followed by
//! a colon; inside of a string its quotes would be escaped, so nothing else
//! matches.

use std::borrow::Cow;

/// Keys under which SDKs and servers send addresses; compared without case.
const KEYS: &[&str] = &[
    "ip",
    "ip_address",
    "ipaddress",
    "client_ip",
    "clientip",
    "remote_addr",
    "remote_ip",
    "x-forwarded-for",
    "x-real-ip",
    "user_ip",
    "ipv4",
    "ipv6",
];

/// `body` with the addresses replaced; borrowed where there are none.
pub(crate) fn without_addresses(body: &[u8]) -> Cow<'_, [u8]> {
    let mut out: Option<Vec<u8>> = None;
    let mut copied = 0;
    let mut at = 0;
    while let Some(open) = find(body, at, b'"') {
        let Some(close) = find(body, open + 1, b'"') else { break };
        at = close;
        if !is_key(&body[open + 1..close]) {
            continue;
        }
        let colon = skip_space(body, close + 1);
        if body.get(colon) != Some(&b':') {
            continue;
        }
        let start = skip_space(body, colon + 1);
        if body.get(start) != Some(&b'"') {
            continue;
        }
        // Cut short, the text goes up to the end.
        let end = find(body, start + 1, b'"').unwrap_or(body.len());
        if !looks_like_addresses(&body[start + 1..end]) {
            continue;
        }
        let out = out.get_or_insert_with(|| Vec::with_capacity(body.len()));
        out.extend_from_slice(&body[copied..start]);
        out.extend_from_slice(b"null");
        copied = (end + 1).min(body.len());
        at = copied;
    }
    match out {
        Some(mut out) => {
            out.extend_from_slice(&body[copied..]);
            Cow::Owned(out)
        }
        None => Cow::Borrowed(body),
    }
}

fn find(body: &[u8], from: usize, byte: u8) -> Option<usize> {
    body.get(from..)?.iter().position(|b| *b == byte).map(|at| from + at)
}

fn skip_space(body: &[u8], from: usize) -> usize {
    let spaces = body[from.min(body.len())..].iter().take_while(|b| b.is_ascii_whitespace());
    from + spaces.count()
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
    fn nothing_else_is_touched() {
        for body in [
            r#"{"ip":"patent","tip":"1.2.3.4","note":"\"ip\":\"1.2.3.4\""}"#,
            r#"{"a":"ip","b":["ip","1.2.3.4"],"ip":4}"#,
            r#"{"version":"1.2.3.4"}"#,
            "\"",
            "{\"ip\"",
            "",
        ] {
            assert!(matches!(without_addresses(body.as_bytes()), Cow::Borrowed(_)), "{body}");
        }
    }
}
