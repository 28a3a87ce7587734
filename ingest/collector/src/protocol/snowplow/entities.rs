//! Snowplow's self-describing events and entities: the vocabulary of its
//! e-commerce plugin, sessions, searches and consent.
//!
//! Fields are those of the schemas in iglu-central, `com.snowplowanalytics.snowplow`
//! and `com.snowplowanalytics.snowplow.ecommerce`. The version does not matter.

use std::borrow::Cow;

use clickmill_schemas::{Event, Item, Json, ObjectBuilder, RawJson};

use crate::protocol::columns::{
    Column, Fields, ItemColumn, ItemFields, Numbers, take, take_currency, take_item,
};
use crate::protocol::json::{Object, elements, text};
use crate::protocol::segment::event_name;

/// `type` of `snowplow_ecommerce_action`, and its canonical name.
pub(crate) const ACTIONS: &[(&str, &str)] = &[
    ("add_to_cart", "add_to_cart"),
    ("remove_from_cart", "remove_from_cart"),
    ("product_view", "product_view"),
    ("list_click", "product_click"),
    ("list_view", "product_list_view"),
    ("promo_click", "promotion_click"),
    ("promo_view", "promotion_view"),
    ("checkout_step", "checkout_step"),
    ("transaction", "purchase"),
    ("refund", "refund"),
    ("trns_error", "transaction_error"),
];

/// Self-describing events that have a canonical name.
pub(crate) const EVENTS: &[(&str, &str)] = &[
    ("screen_view", "screen_view"),
    ("site_search", "search"),
    ("add_to_cart", "add_to_cart"),
    ("remove_from_cart", "remove_from_cart"),
    ("page_ping", "page_ping"),
];

/// Entities whose fields have columns, by the schema's name.
pub(crate) const ENTITIES: &[(&str, Fields)] = &[
    ("cart", &[("cart_id", Column::CartId), ("currency", Column::Currency)]),
    (
        "transaction",
        &[
            ("transaction_id", Column::OrderId),
            ("revenue", Column::Revenue),
            ("currency", Column::Currency),
            ("tax", Column::Tax),
            ("shipping", Column::Shipping),
            ("discount_code", Column::Coupon),
            ("discount_amount", Column::Discount),
        ],
    ),
    (
        "refund",
        &[
            ("transaction_id", Column::OrderId),
            ("refund_amount", Column::Total),
            ("currency", Column::Currency),
        ],
    ),
    ("promotion", &[("id", Column::PromotionId)]),
    ("checkout_step", &[("coupon_code", Column::Coupon)]),
    ("user", &[("id", Column::UserId)]),
    ("client_session", &[("sessionId", Column::ClientSessionId), ("userId", Column::AnonymousId)]),
];

/// The entity `product`, and the products of older carts.
pub(crate) const PRODUCT: ItemFields = &[
    ("id", ItemColumn::ProductId),
    ("sku", ItemColumn::Sku),
    ("name", ItemColumn::Name),
    ("brand", ItemColumn::Brand),
    ("category", ItemColumn::Category),
    ("variant", ItemColumn::Variant),
    ("price", ItemColumn::Price),
    ("unitPrice", ItemColumn::Price),
    ("quantity", ItemColumn::Quantity),
    ("position", ItemColumn::Position),
];

/// An item of a legacy transaction (`e=ti`).
pub(crate) const LEGACY_ITEM: ItemFields = &[
    ("ti_sk", ItemColumn::Sku),
    ("ti_nm", ItemColumn::Name),
    ("ti_ca", ItemColumn::Category),
    ("ti_pr", ItemColumn::Price),
    ("ti_qu", ItemColumn::Quantity),
];

const ECOMMERCE: &str = "com.snowplowanalytics.snowplow.ecommerce";
const SNOWPLOW: &str = "com.snowplowanalytics.snowplow";

/// The vendor and name in `iglu:vendor/name/jsonschema/1-0-0`.
fn parse_schema(schema: &str) -> (&str, &str) {
    let rest = schema.strip_prefix("iglu:").unwrap_or(schema);
    let mut parts = rest.split('/');
    let vendor = parts.next().unwrap_or_default();
    (vendor, parts.next().unwrap_or(vendor))
}

/// Names the event and takes its data's columns; what is left, joined to
/// `others`, is its properties.
pub(super) fn take_event<'a>(
    event: &mut Event<'a>,
    schema: &str,
    mut data: Object<'a>,
    others: Object<'a>,
) -> Object<'a> {
    let (vendor, name) = parse_schema(schema);
    event.source_event_name =
        Some(if name.is_empty() { "unstruct" } else { name }.to_owned().into());
    match (vendor, name) {
        (ECOMMERCE, "snowplow_ecommerce_action") => {
            let kind = data.text("type").unwrap_or_default();
            if let Some((_, canonical)) = ACTIONS.iter().find(|(action, _)| *action == kind) {
                event.event_name = (*canonical).into();
                event.source_event_name = Some(kind);
                data.remove("type");
            }
            if matches!(&*event.event_name, "product_click" | "product_list_view") {
                event.list_id = data.take_text("name");
            }
        }
        (SNOWPLOW, _) => {
            let known = EVENTS.iter().find(|(known, _)| *known == name);
            event.event_name = known.map_or("custom", |(_, canonical)| *canonical).into();
            match &*event.event_name {
                "search" => event.search_query = search_terms(&data),
                "add_to_cart" | "remove_from_cart" => {
                    take_currency(event, "currency", &mut data);
                    let item = take_item(PRODUCT, &mut data, Numbers::Json);
                    if item != Item::default() {
                        event.items.push(item);
                    }
                }
                _ => {}
            }
        }
        _ => event.event_name = event_name(name).into(),
    }
    data.merge_missing(&others);
    data
}

/// `terms` is a list: as one text it is not what was sent, so it stays as well.
fn search_terms(data: &Object<'_>) -> Option<Cow<'static, str>> {
    let terms = elements(data.get("terms")?)?;
    let terms: Vec<Cow<'_, str>> = terms.iter().filter_map(text).collect();
    (!terms.is_empty()).then(|| terms.join(" ").into())
}

/// Takes the columns of all entities; what is left of them, with their schemas.
pub(super) fn take_all<'a>(
    event: &mut Event<'a>,
    contexts: &'a str,
    kind: &str,
) -> Vec<RawJson<'a>> {
    // It was read once, when the request was opened.
    let Ok(json) = Json::parse(contexts) else { return Vec::new() };
    let Some(sent) = Object::of(&json).and_then(|outer| outer.get("data").and_then(elements))
    else {
        return vec![RawJson::from_json(&json)];
    };
    let mut kept = Vec::new();
    for entity in sent {
        let parsed = Object::of(&entity);
        let schema = parsed.as_ref().and_then(|entity| entity.text("schema"));
        let data = parsed.as_ref().and_then(|entity| entity.get("data")).and_then(Object::of);
        let (Some(schema), Some(mut data)) = (schema, data) else {
            kept.push(RawJson::from_json(&entity));
            continue;
        };
        take_entity(event, &schema, &mut data, kind);
        if !data.is_empty() {
            let mut out = ObjectBuilder::default();
            out.text("schema", &schema);
            out.raw("data", &data.to_raw());
            kept.push(out.finish());
        }
    }
    kept
}

fn take_entity<'a>(event: &mut Event<'a>, schema: &str, data: &mut Object<'a>, kind: &str) {
    let (vendor, name) = parse_schema(schema);
    match (vendor, name) {
        (ECOMMERCE, "product") if kind == "ue" => {
            let mut rest = data.clone();
            let item = take_item(PRODUCT, &mut rest, Numbers::Json);
            if item != Item::default() {
                event.items.push(item);
            }
            take_currency(event, "currency", &mut rest);
            // Kept whole where an item's column does not hold all of it: parts
            // of a product without its id would belong to nobody.
            if rest.is_empty() {
                *data = rest;
            }
        }
        // Another transaction than the event's own stands in an error.
        (ECOMMERCE, "transaction_error") => {}
        (SNOWPLOW, "gdpr" | "consent_preferences") if event.consent.is_none() => {
            event.consent = Some(data.to_raw());
            *data = Object::default();
        }
        (ECOMMERCE | SNOWPLOW, name) => {
            let owner = if name == "client_session" { SNOWPLOW } else { ECOMMERCE };
            let known = ENTITIES.iter().find(|(known, _)| *known == name && owner == vendor);
            if let Some((_, fields)) = known {
                take(event, fields, data, Numbers::Json);
            }
        }
        _ => {}
    }
}

/// The item of a legacy transaction.
pub(super) fn take_legacy_item<'a>(event: &mut Event<'a>, params: &mut Object<'a>) {
    let item = take_item(LEGACY_ITEM, params, Numbers::Text);
    if item != Item::default() {
        event.items.push(item);
    }
}
