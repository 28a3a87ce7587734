//! SQL functions for what clients send as JSON text.
//!
//! They read what a tracker put beside the columns, where every shop has its
//! own names for the same thing; text that is no JSON has none of it.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringArray};
use arrow::datatypes::DataType;
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::logical_expr::{ColumnarValue, Volatility, create_udf};
use datafusion::prelude::SessionContext;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// Names under which trackers send how many results a search had, as [`plain`] spells them, in
/// the order in which they are asked.
const RESULT_COUNTS: &[&str] = &[
    "results",
    "resultcount",
    "resultscount",
    "numberofresults",
    "numresults",
    "totalresults",
    "searchresults",
    "searchresultscount",
    "resultsfound",
    "nbhits",
    "numhits",
    "hits",
    "hitscount",
    "totalhits",
    "numfound",
];
/// Names under which trackers send the results themselves. Those that fit are in the event's
/// items; a list without any stays here.
const RESULT_LISTS: &[&str] = &["products", "items"];
/// Names under which trackers send the hash of a mail address.
const EMAIL_HASHES: &[&str] =
    &["email_hash", "emailHash", "hashed_email", "email_sha256", "sha256_email_address"];

/// Registers `result_count(properties)` and `email_hash(properties, context)`.
pub fn register(session: &SessionContext) {
    session.register_udf(create_udf(
        "result_count",
        vec![DataType::Utf8],
        DataType::Int64,
        Volatility::Immutable,
        Arc::new(|arguments| {
            let [properties] = texts(arguments)?;
            let counts: Int64Array =
                properties.as_string::<i32>().iter().map(|text| result_count(text?)).collect();
            Ok(ColumnarValue::Array(Arc::new(counts)))
        }),
    ));
    session.register_udf(create_udf(
        "email_hash",
        vec![DataType::Utf8, DataType::Utf8],
        DataType::Utf8,
        Volatility::Immutable,
        Arc::new(|arguments| {
            let [properties, context] = texts(arguments)?;
            let (properties, context) = (properties.as_string::<i32>(), context.as_string::<i32>());
            let hashes: StringArray = properties
                .iter()
                .zip(context.iter())
                .map(|(properties, context)| {
                    properties.and_then(email_hash).or_else(|| context.and_then(email_hash))
                })
                .collect();
            Ok(ColumnarValue::Array(Arc::new(hashes)))
        }),
    ));
}

fn texts<const N: usize>(arguments: &[ColumnarValue]) -> Result<[ArrayRef; N], DataFusionError> {
    let rows = arguments.iter().find_map(|argument| match argument {
        ColumnarValue::Array(array) => Some(array.len()),
        ColumnarValue::Scalar(_) => None,
    });
    let arrays: Result<Vec<ArrayRef>, DataFusionError> = arguments
        .iter()
        .map(|argument| match argument {
            ColumnarValue::Array(array) => Ok(Arc::clone(array)),
            ColumnarValue::Scalar(ScalarValue::Null) => {
                ScalarValue::Utf8(None).to_array_of_size(rows.unwrap_or(1))
            }
            ColumnarValue::Scalar(value) => value.to_array_of_size(rows.unwrap_or(1)),
        })
        .collect();
    arrays?.try_into().map_err(|_| {
        DataFusionError::Internal(format!("a function of {N} texts got other arguments"))
    })
}

/// How many results a search says it had, by a number or by a list of them.
fn result_count(properties: &str) -> Option<i64> {
    let Ok(Value::Object(properties)) = serde_json::from_str(properties) else { return None };
    let count = |value: &Value| match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.trim().parse().ok(),
        Value::Array(list) => i64::try_from(list.len()).ok(),
        _ => None,
    };
    let sent: Vec<(String, i64)> =
        properties.iter().filter_map(|(name, value)| Some((plain(name), count(value)?))).collect();
    let of = |wanted: &&str| sent.iter().find(|(name, _)| name == *wanted).map(|(_, count)| *count);
    RESULT_COUNTS.iter().chain(RESULT_LISTS).find_map(of)
}

/// A name without the marks between its words: `total_results`, `totalResults`, `Total Results`.
fn plain(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// The hash of a mail address, at the top or among `traits`: as sent, in lower
/// case, or of an address that was sent in the clear its SHA-256 in hex, trimmed
/// and in lower case as advertising networks want it.
fn email_hash(json: &str) -> Option<String> {
    let Ok(Value::Object(sent)) = serde_json::from_str(json) else { return None };
    let within = |object: &serde_json::Map<String, Value>| {
        let text = |name: &str| Some(object.get(name)?.as_str()?.trim().to_ascii_lowercase());
        let hash = EMAIL_HASHES.iter().find_map(|name| text(name));
        hash.filter(|hash| !hash.is_empty()).or_else(|| {
            let address = text("email").filter(|address| address.contains('@'))?;
            let digest = Sha256::digest(address.as_bytes());
            Some(digest.iter().map(|byte| format!("{byte:02x}")).collect())
        })
    };
    within(&sent).or_else(|| within(sent.get("traits")?.as_object()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_says_how_much_it_found_in_many_ways() {
        for (properties, count) in [
            (r#"{"results": 0}"#, Some(0)),
            (r#"{"result_count":"12"}"#, Some(12)),
            (r#"{"results":[1,2],"num_results":2}"#, Some(2)),
            (r#"{"products":[]}"#, Some(0)),
            (r#"{"products":[],"total_results":"40"}"#, Some(40)),
            (r#"{"items":[{}]}"#, Some(1)),
            (r#"{"totalResults":0}"#, Some(0)),
            (r#"{"Number of Results":"7","items":[]}"#, Some(7)),
            (r#"{"nbHits":3}"#, Some(3)),
            (r#"{"hits":[]}"#, Some(0)),
            (r#"{"total":0}"#, None),
            (r#"{"products":null,"results":true}"#, None),
            (r#"{"query":"results"}"#, None),
            ("[0]", None),
            ("", None),
        ] {
            assert_eq!(result_count(properties), count, "{properties}");
        }
    }

    #[test]
    fn a_mail_address_is_hashed_where_it_was_sent_in_the_clear() {
        // printf 'ann@shop.example' | sha256sum
        let hash = "6a0bf011a1fc1e9a8add1728704b8ddb5d9d2701ae295a65452d9f1f1cf91be5";
        let ann = email_hash(r#"{"traits":{"email":" Ann@Shop.example "}}"#);
        assert_eq!(ann.as_deref(), Some(hash));
        assert_eq!(ann, email_hash(r#"{"email":"ann@shop.example"}"#));
        assert_eq!(email_hash(r#"{"traits":{"email_hash":"AB12"}}"#).as_deref(), Some("ab12"));
        assert_eq!(email_hash(r#"{"email":"nobody"}"#), None);
        assert_eq!(email_hash(r#"{"traits":{"plan":"x"}}"#), None);
    }
}
