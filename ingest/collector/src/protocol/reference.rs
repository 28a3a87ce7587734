//! `docs/protocols.md`'s table of fields, printed from the tables that the
//! decoders follow. What a decoder does by rules instead of tables (Segment's
//! all of it) stands here as rows written by hand.

use super::columns::{Fields, ItemFields};
use super::{ga4, native, snowplow};

/// Segment's and RudderStack's fields: where the column's value comes from.
const SEGMENT: &[(&str, &str)] = &[
    ("messageId", "event_id"),
    ("event, type, name", "event_name, source_event_name"),
    ("originalTimestamp, timestamp", "client_ts"),
    ("sentAt", "sent_ts"),
    ("userId", "user_id"),
    ("anonymousId", "anonymous_id"),
    ("context.device.id", "device_id"),
    ("context.sessionId", "client_session_id"),
    ("context.consent", "consent"),
    ("context.page.url, properties.url (page)", "page_url"),
    ("context.page.title, properties.title (page)", "page_title"),
    ("context.page.referrer, properties.referrer (page)", "referrer_url"),
    ("context.campaign.source", "utm_source"),
    ("context.campaign.medium", "utm_medium"),
    ("context.campaign.name", "utm_campaign"),
    ("context.campaign.term", "utm_term"),
    ("context.campaign.content", "utm_content"),
    ("context.userAgent", "user_agent"),
    ("context.screen.width", "screen_width"),
    ("context.screen.height", "screen_height"),
    ("context.locale", "language"),
    ("context.timezone", "timezone"),
    ("context.library.name, channel", "platform"),
    ("properties.order_id, properties.orderId", "order_id"),
    ("properties.checkout_id, properties.checkoutId", "checkout_id"),
    ("properties.cart_id, properties.cartId", "cart_id"),
    ("properties.currency", "currency"),
    ("properties.revenue", "revenue"),
    ("properties.total", "total"),
    ("properties.tax", "tax"),
    ("properties.shipping", "shipping"),
    ("properties.discount", "discount"),
    ("properties.coupon", "coupon"),
    ("properties.query (search)", "search_query"),
    ("properties.list_id", "list_id"),
    ("properties.promotion_id", "promotion_id"),
    ("properties.products, or the event's one product", "items"),
    ("products[].product_id, productId, id", "items.product_id"),
    ("products[].sku", "items.sku"),
    ("products[].name", "items.name"),
    ("products[].brand", "items.brand"),
    ("products[].category", "items.category"),
    ("products[].variant", "items.variant"),
    ("products[].price", "items.price"),
    ("products[].quantity", "items.quantity"),
    ("products[].coupon", "items.coupon"),
    ("products[].position", "items.position"),
];

const SNOWPLOW: &[(&str, &str)] = &[
    ("eid", "event_id"),
    ("e, se_ac, the schema's name, the action's type", "event_name, source_event_name"),
    ("ttm, dtm", "client_ts"),
    ("stm", "sent_ts"),
    ("p", "platform"),
    ("res", "screen_width, screen_height"),
    ("gdpr, consent_preferences", "consent"),
    ("site_search.terms", "search_query"),
    ("snowplow_ecommerce_action.name (lists)", "list_id"),
];

const GA4: &[(&str, &str)] = &[
    ("name, en", "event_name, source_event_name"),
    ("timestamp_micros", "client_ts"),
    ("consent, gcs, gcd", "consent"),
    ("sr, screen_resolution", "screen_width, screen_height"),
];

const NATIVE: &[(&str, &str)] = &[
    ("event_id", "event_id"),
    ("event_name, source_event_name", "event_name, source_event_name"),
    ("client_ts, event_ts", "client_ts"),
    ("sent_ts", "sent_ts"),
    ("consent", "consent"),
];

/// The whole table, in Markdown.
#[cfg_attr(not(test), allow(dead_code, reason = "the documentation's test prints it"))]
pub(crate) fn table() -> String {
    let mut rows = Rows::default();
    rows.plain("segment, rudderstack", "", SEGMENT);
    rows.plain("snowplow", "", SNOWPLOW);
    rows.fields("snowplow", "", snowplow::FIELDS);
    rows.fields("snowplow", "", snowplow::TRANSACTION);
    rows.fields("snowplow", "", snowplow::TRANSACTION_ITEM);
    for (entity, fields) in snowplow::entities::ENTITIES {
        rows.fields("snowplow", &format!("{entity}."), fields);
    }
    rows.items("snowplow", "product.", snowplow::entities::PRODUCT);
    rows.items("snowplow", "", snowplow::entities::LEGACY_ITEM);
    rows.plain("ga4", "", GA4);
    rows.fields("ga4", "", ga4::REQUEST);
    rows.fields("ga4", "", ga4::HIT);
    rows.fields("ga4", "params.", ga4::PARAMS);
    rows.fields("ga4", "campaign_details.", ga4::CAMPAIGN);
    rows.items("ga4", "items[].", ga4::ITEMS);
    rows.plain("native", "", NATIVE);
    rows.fields("native", "", native::FIELDS);
    rows.items("native", "items[].", native::ITEMS);
    let mut out = "| protocol | field | column |\n|---|---|---|\n".to_owned();
    out.push_str(&rows.0);
    out.push_str("\n| protocol | name as sent | event_name |\n|---|---|---|\n");
    let mut names = Rows::default();
    let as_sent = |prefix: &str, name: &str| format!("{prefix}{name}");
    for (prefix, protocol, list) in [
        ("action ", "snowplow", snowplow::entities::ACTIONS),
        ("", "snowplow", snowplow::entities::EVENTS),
        ("", "ga4", ga4::EVENTS),
    ] {
        for (sent, canonical) in list {
            names.row(protocol, &as_sent(prefix, sent), canonical);
        }
    }
    out.push_str(&names.0);
    out
}

#[derive(Default)]
struct Rows(String);

impl Rows {
    fn row(&mut self, protocol: &str, field: &str, column: &str) {
        self.0.push_str(&format!("| {protocol} | `{field}` | `{column}` |\n"));
    }

    fn plain(&mut self, protocol: &str, prefix: &str, rows: &[(&str, &str)]) {
        for (field, column) in rows {
            self.row(protocol, &format!("{prefix}{field}"), column);
        }
    }

    fn fields(&mut self, protocol: &str, prefix: &str, fields: Fields) {
        for (field, column) in fields {
            self.row(protocol, &format!("{prefix}{field}"), column.name());
        }
    }

    fn items(&mut self, protocol: &str, prefix: &str, fields: ItemFields) {
        for (field, column) in fields {
            let column = format!("items.{}", column.name());
            self.row(protocol, &format!("{prefix}{field}"), &column);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const BEGIN: &str = "<!-- fields: begin -->\n";
    const END: &str = "<!-- fields: end -->\n";

    #[test]
    fn the_documentation_has_the_tables_of_the_code() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/protocols.md");
        let document = std::fs::read_to_string(&path).expect("docs/protocols.md");
        let (before, rest) = document.split_once(BEGIN).expect("a begin mark");
        let (written, after) = rest.split_once(END).expect("an end mark");
        if std::env::var_os("CLICKMILL_BLESS").is_some() {
            let blessed = format!("{before}{BEGIN}{}{END}{after}", table());
            std::fs::write(&path, blessed).expect("writes");
            return;
        }
        assert_eq!(
            written,
            table(),
            "docs/protocols.md is stale: run the tests once with CLICKMILL_BLESS=1"
        );
    }

    #[test]
    fn every_canonical_name_in_the_tables_exists() {
        let lists = [snowplow::entities::ACTIONS, snowplow::entities::EVENTS, ga4::EVENTS].concat();
        for (_, canonical) in lists {
            assert!(clickmill_schemas::names::is_event_name(canonical), "{canonical}");
        }
    }
}
