//! What the shop knows of its orders, held against what the tracker saw of them.

use std::collections::BTreeMap;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use datafusion::prelude::SessionContext;

use super::JOB;
use super::look::Found;
use crate::TransformError;

/// Bounds in percent, over the newest days with orders; one of them at least.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reconciliation {
    /// Orders that a purchase event names, of all: the least.
    pub at_least: Option<f64>,
    /// Orders whose event says another amount, of those with an event in their currency: the most.
    pub max_value_mismatch: Option<f64>,
    /// Orders whose event is in another currency, of those with an event: the most.
    pub max_currency_mismatch: Option<f64>,
    /// Purchases of orders that the shop does not know, of all purchases: the most.
    pub max_event_only: Option<f64>,
    /// Days with orders.
    pub days: u16,
}

/// Rows of `orders_enriched` by their `match_status`.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    matched: i64,
    value_mismatch: i64,
    currency_mismatch: i64,
    order_only: i64,
    event_only: i64,
}

/// A bound that was configured, and what was found of it.
struct Bound {
    /// As the configuration calls it.
    name: &'static str,
    allowed: f64,
    /// Percent; `None` where there is nothing that it is a share of.
    observed: Option<f64>,
    holds: bool,
}

impl Reconciliation {
    /// Looks at the table `whole`, an `orders_enriched`.
    pub(super) async fn look(&self, session: &SessionContext) -> Result<Found, TransformError> {
        let sql = format!(
            "WITH newest AS (SELECT DISTINCT dt FROM whole WHERE match_status <> 'event_only' \
             ORDER BY dt DESC LIMIT {}) \
             SELECT match_status, count(*) FROM whole LEFT SEMI JOIN newest ON whole.dt = newest.dt \
             GROUP BY match_status",
            self.days
        );
        let fail = TransformError::job(JOB);
        let batches = session.sql(&sql).await.map_err(&fail)?.collect().await.map_err(&fail)?;
        let mut rows: BTreeMap<&str, i64> = BTreeMap::new();
        for batch in &batches {
            let (status, count) = (batch.column(0), batch.column(1).as_primitive::<Int64Type>());
            let named = status.as_string::<i32>().iter().flatten().zip(count.values());
            rows.extend(named.map(|(status, count)| (status, *count)));
        }
        let of = |status: &str| rows.get(status).copied().unwrap_or(0);
        Ok(self.judge(Counts {
            matched: of("matched"),
            value_mismatch: of("value_mismatch"),
            currency_mismatch: of("currency_mismatch"),
            order_only: of("order_only"),
            event_only: of("event_only"),
        }))
    }

    fn judge(&self, counts: Counts) -> Found {
        let Counts { matched, value_mismatch, currency_mismatch, order_only, event_only } = counts;
        // Amounts in different currencies were not compared.
        let compared = matched + value_mismatch;
        let seen = compared + currency_mismatch;
        let (orders, purchases) = (seen + order_only, seen + event_only);
        let share = |part: i64, of: i64| (of > 0).then(|| 100.0 * part as f64 / of as f64);
        let most = |name, allowed: Option<f64>, observed: Option<f64>| {
            let holds = |allowed| observed.is_none_or(|observed| observed <= allowed);
            allowed.map(|allowed| Bound { name, allowed, observed, holds: holds(allowed) })
        };
        let seen_share = share(seen, orders);
        let bounds: Vec<Bound> = [
            self.at_least.map(|allowed| Bound {
                name: "percent",
                allowed,
                observed: seen_share,
                holds: seen_share.is_none_or(|seen| seen >= allowed),
            }),
            most("max_value_mismatch", self.max_value_mismatch, share(value_mismatch, compared)),
            most(
                "max_currency_mismatch",
                self.max_currency_mismatch,
                share(currency_mismatch, seen),
            ),
            most("max_event_only", self.max_event_only, share(event_only, purchases)),
        ]
        .into_iter()
        .flatten()
        .collect();
        let mut detail = format!(
            "{seen} of {orders} orders have a purchase event; of these {currency_mismatch} are in \
             another currency, and {value_mismatch} of the other {compared} say another amount; \
             {event_only} of {purchases} purchases have no order"
        );
        for bound in bounds.iter().filter(|bound| !bound.holds) {
            let observed = bound.observed.unwrap_or_default();
            detail += &format!("; {} = {} does not hold: {observed:.1}", bound.name, bound.allowed);
        }
        let told = bounds.iter().find(|bound| !bound.holds).or(bounds.first());
        Found {
            passed: bounds.iter().all(|bound| bound.holds),
            observed: told.and_then(|bound| bound.observed),
            allowed: told.map(|bound| bound.allowed),
            detail,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(of: [i64; 5]) -> Counts {
        let [matched, value_mismatch, currency_mismatch, order_only, event_only] = of;
        Counts { matched, value_mismatch, currency_mismatch, order_only, event_only }
    }

    #[test]
    fn each_bound_is_a_share_of_what_it_can_be_a_share_of() {
        // The second bound is by how much the first one fails.
        let all = Reconciliation {
            at_least: Some(100.0),
            max_value_mismatch: Some(0.0),
            max_currency_mismatch: Some(0.0),
            max_event_only: Some(0.0),
            days: 7,
        };
        for (rows, status, failing) in [
            ([9, 0, 0, 1, 0], "order_only", Some(("percent = 100", 90.0))),
            ([5, 5, 10, 0, 0], "value_mismatch", Some(("max_value_mismatch = 0", 50.0))),
            ([8, 0, 2, 0, 5], "currency_mismatch", Some(("max_currency_mismatch = 0", 20.0))),
            ([10, 0, 0, 0, 30], "event_only", Some(("max_event_only = 0", 75.0))),
            ([10, 0, 0, 0, 0], "matched", None),
            ([0; 5], "none", None),
        ] {
            let found = all.judge(counts(rows));
            assert_eq!(found.passed, failing.is_none(), "{status}: {found:?}");
            if let Some((bound, observed)) = failing {
                assert!(found.detail.contains(bound), "{status}: {found:?}");
                assert_eq!(found.observed, Some(observed), "{status}: {found:?}");
            }
        }
    }

    #[test]
    fn what_is_not_bound_is_told_and_fails_nothing() {
        let all_wrong = counts([0, 100, 0, 0, 50]);
        let seen = Reconciliation { at_least: Some(100.0), days: 7, ..Reconciliation::default() };
        let found = seen.judge(all_wrong);
        assert!(found.passed && found.observed == Some(100.0), "{found:?}");
        assert_eq!(
            found.detail,
            "100 of 100 orders have a purchase event; of these 0 are in another currency, and 100 \
             of the other 100 say another amount; 50 of 150 purchases have no order"
        );
        let bounded = Reconciliation { max_event_only: Some(33.0), ..seen };
        let found = bounded.judge(all_wrong);
        assert_eq!((found.passed, found.allowed), (false, Some(33.0)), "{found:?}");
    }
}
