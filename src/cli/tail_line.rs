//! A line of `clickmill tail`: from the wire to at most 80 characters.
//!
//! Text comes from clients: what a terminal could take for a command is
//! replaced before it is printed.

use clickmill_schemas::{Event, Reject, Timestamp, WireRecord};

/// A line is no longer than this.
const WIDTH: usize = 80;
const PROTOCOL: usize = 8;
const NAME: usize = 18;
const VISITOR: usize = 9;
/// Below the names: what the plan or the decoder says.
const INDENT: usize = 18;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Colours {
    None,
    Ansi,
}

/// What a line of the answer is.
pub enum Shown<'l> {
    /// A sign of life.
    Nothing,
    /// Something about the tail itself.
    Note(String),
    Record(Box<WireRecord<'l>>),
}

/// Reads a line of the answer.
pub fn read(line: &[u8]) -> Shown<'_> {
    if line.iter().all(u8::is_ascii_whitespace) {
        return Shown::Nothing;
    }
    match WireRecord::decode(line) {
        Ok(record) => Shown::Record(Box::new(record)),
        Err(error) => {
            let note: serde_json::Value = serde_json::from_slice(line).unwrap_or_default();
            if let Some(start) = note.get("tail_start") {
                let collector = start["collector_id"].as_str().unwrap_or("?");
                return Shown::Note(match start["plan"].as_str() {
                    Some(plan) => {
                        format!(
                            "watching collector {}, tracking plan {}",
                            clean(collector),
                            clean(plan)
                        )
                    }
                    None => format!("watching collector {}", clean(collector)),
                });
            }
            if let Some(lost) = note["tail_lost"].as_u64() {
                return Shown::Note(format!("{lost} lines lost: this reader is too slow"));
            }
            Shown::Note(format!("a line that does not decode: {error}"))
        }
    }
}

/// The lines that a record is shown as.
pub fn lines(record: &WireRecord<'_>, colours: Colours) -> Vec<String> {
    match record {
        WireRecord::Event(event) => event_lines(event, colours),
        WireRecord::Reject(reject) => reject_lines(reject, colours),
        WireRecord::Heartbeat(_) => Vec::new(),
    }
}

fn event_lines(event: &Event<'_>, colours: Colours) -> Vec<String> {
    let name = match event.source_event_name.as_deref() {
        Some(own) if event.event_name == "custom" => own,
        _ => &event.event_name,
    };
    let head = head(event.received_ts(), &event.source_protocol);
    let visitor = column(event.visitor_id().unwrap_or("-"), VISITOR);
    let about = about(event);
    let used = head.chars().count() + NAME + 1 + VISITOR + 1;
    let line = format!(
        "{head}{} {visitor} {}",
        colours.paint("36", &column(name, NAME)),
        cut(&about, WIDTH - used)
    );
    let mut lines = vec![line.trim_end().to_owned()];
    if let Some(outcome) = event.validation.as_deref().filter(|outcome| *outcome != "ok") {
        let text = cut(&format!("! plan: {}", clean(outcome)), WIDTH - INDENT);
        lines.push(format!("{}{}", " ".repeat(INDENT), colours.paint("33", &text)));
    }
    lines
}

fn reject_lines(reject: &Reject<'_>, colours: Colours) -> Vec<String> {
    let head = head(reject.received_ts, &reject.protocol);
    let what = format!("REJECT {} {}", reject.reason.code(), clean(&reject.origin));
    let what = cut(&what, WIDTH - head.chars().count());
    let mut lines = vec![format!("{head}{}", colours.paint("31", &what))];
    let detail: Vec<char> = clean(&reject.detail).chars().collect();
    for part in detail.chunks(WIDTH - INDENT).take(3) {
        let part: String = part.iter().collect();
        lines.push(format!("{}{}", " ".repeat(INDENT), part.trim()));
    }
    lines
}

/// `17:40:00 segment  `.
fn head(at: Timestamp, protocol: &str) -> String {
    let at = at.to_string();
    // RFC 3339 of a fixed width.
    let time = at.get(11..19).unwrap_or(&at);
    format!("{time} {} ", column(protocol, PROTOCOL))
}

/// What an event is about, the most telling first.
fn about(event: &Event<'_>) -> String {
    let mut parts = Vec::new();
    parts.extend(event.order_id.as_deref().map(str::to_owned));
    if let Some(amount) = event.total.or(event.revenue) {
        parts.push(format!("{amount} {}", event.currency.as_deref().unwrap_or("")));
    }
    parts.extend(event.search_query.as_deref().map(|query| format!("\"{query}\"")));
    match event.items.as_slice() {
        [] => {}
        [one] => parts.extend(
            one.product_id
                .as_deref()
                .or(one.sku.as_deref())
                .or(one.name.as_deref())
                .map(str::to_owned),
        ),
        many => parts.push(format!("{} items", many.len())),
    }
    parts.extend(event.promotion_id.as_deref().map(str::to_owned));
    parts.extend(event.list_id.as_deref().map(str::to_owned));
    if parts.is_empty() {
        let url = event.page_url.as_deref();
        parts.extend(url.map(|url| path(url).to_owned()));
    }
    clean(&parts.join(" "))
}

/// A URL without its host.
fn path(url: &str) -> &str {
    let Some((_, rest)) = url.split_once("://") else { return url };
    rest.find('/').map_or("/", |at| &rest[at..])
}

/// Exactly so wide.
fn column(text: &str, width: usize) -> String {
    let text = cut(&clean(text), width);
    format!("{text:<width$}")
}

/// At most so wide, and an ellipsis where something is missing.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// Without control characters and those that turn the direction of writing.
fn clean(text: &str) -> String {
    let turns = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if c.is_control() || turns(c) { '\u{fffd}' } else { c }).collect()
}

impl Colours {
    fn paint(self, code: &str, text: &str) -> String {
        match self {
            Self::None => text.to_owned(),
            Self::Ansi => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
        }
    }
}

#[cfg(test)]
mod tests {
    use clickmill_schemas::{EventTime, Item, Money, RejectReason};

    use super::*;

    fn event(change: impl FnOnce(&mut Event<'static>)) -> WireRecord<'static> {
        let at = Timestamp::parse("2026-11-23T17:40:00Z").expect("a time");
        let time = EventTime::resolve(None, None, at);
        let mut event = Event::new("e1", "page_view", "segment", "shop", time);
        change(&mut event);
        WireRecord::Event(Box::new(event))
    }

    fn reject(detail: &'static str) -> WireRecord<'static> {
        WireRecord::Reject(Reject {
            reject_id: "r1".into(),
            received_ts: Timestamp::parse("2026-11-23T17:40:00Z").expect("a time"),
            protocol: "rudderstack".into(),
            reason: RejectReason::Malformed,
            detail: detail.into(),
            origin: "/v1/batch".into(),
            app_id: None,
            bytes_base64: "".into(),
            collector_id: None,
            wal_seq: None,
            shard_id: None,
            sequence_number: None,
        })
    }

    fn plain(record: &WireRecord<'_>) -> Vec<String> {
        lines(record, Colours::None)
    }

    #[test]
    fn an_event_is_one_line_and_a_violation_another() {
        let page = event(|event| {
            event.anonymous_id = Some("3f0c1a2b-77".into());
            event.page_url = Some("https://shop.example/tea?utm_source=mail".into());
        });
        assert_eq!(
            plain(&page),
            ["17:40:00 segment  page_view          3f0c1a2b… /tea?utm_source=mail"]
        );
        let purchase = event(|event| {
            event.event_name = "purchase".into();
            event.user_id = Some("c-7".into());
            event.order_id = Some("A-1001".into());
            event.total = Money::parse("31.80").ok();
            event.currency = Some("EUR".into());
            event.items = vec![Item::default(), Item::default()];
            event.validation = Some("missing_property:items.price".into());
        });
        assert_eq!(
            plain(&purchase),
            [
                "17:40:00 segment  purchase           c-7       A-1001 31.8 EUR 2 items",
                "                  ! plan: missing_property:items.price",
            ]
        );
        let fine = event(|event| event.validation = Some("ok".into()));
        assert_eq!(plain(&fine), ["17:40:00 segment  page_view          -"]);
    }

    #[test]
    fn a_reject_says_why_and_where() {
        assert_eq!(
            plain(&reject("expected value at line 1 column 2")),
            [
                "17:40:00 rudders… REJECT malformed /v1/batch",
                "                  expected value at line 1 column 2",
            ]
        );
    }

    #[test]
    fn no_line_is_wider_than_the_terminal_and_none_commands_it() {
        let long: &'static str = Box::leak("Ünïcödé \u{1b}[2J\r\n\u{202e}x".repeat(40).into());
        let wide = event(|event| {
            event.event_name = "custom".into();
            event.source_event_name = Some(long.into());
            event.source_protocol = long.into();
            event.anonymous_id = Some(long.into());
            event.order_id = Some(long.into());
            event.validation = Some(long.into());
        });
        for record in [wide, reject(long)] {
            for line in plain(&record) {
                assert!(line.chars().count() <= WIDTH, "{line}");
                assert!(!line.chars().any(char::is_control), "{line:?}");
                assert!(!line.contains('\u{202e}'));
            }
        }
    }

    #[test]
    fn notes_are_told_from_records() {
        let note = |line: &str| match read(line.as_bytes()) {
            Shown::Note(note) => note,
            Shown::Nothing => "nothing".to_owned(),
            Shown::Record(_) => "a record".to_owned(),
        };
        assert_eq!(
            note(r#"{"tail_start":{"collector_id":"c1","plan":"2026-11"}}"#),
            "watching collector c1, tracking plan 2026-11"
        );
        assert_eq!(
            note(r#"{"tail_start":{"collector_id":"c1","plan":null}}"#),
            "watching collector c1"
        );
        assert_eq!(note(r#"{"tail_lost":7}"#), "7 lines lost: this reader is too slow");
        assert_eq!(note(""), "nothing");
        let WireRecord::Event(event) = event(|_| ()) else { panic!("an event") };
        assert_eq!(note(&event.encode()), "a record");
    }
}
