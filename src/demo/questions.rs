//! The five questions that the report answers, each with one short statement.
//!
//! The statements run as they stand with `clickmill sql -c`.

use super::answer::Answer;

/// A question, how it is answered, and how its answer is drawn.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    pub title: &'static str,
    /// What the reader should know to read the answer.
    pub note: &'static str,
    pub sql: &'static str,
    pub chart: Chart,
}

/// How an answer is drawn.
#[derive(Clone, Copy, Debug)]
pub enum Chart {
    /// A bar for each row: label column, value column.
    Bars { label: &'static str, value: &'static str, unit: &'static str },
    /// A shaded cell for each pair: row column, column column, value column.
    Grid { row: &'static str, column: &'static str, value: &'static str, unit: &'static str },
    /// One bar, divided among the rows: label column, value column.
    Share { label: &'static str, value: &'static str },
}

/// A question with its answer.
pub struct Answered {
    pub question: Question,
    pub answer: Answer,
}

/// In the order of the report.
pub const QUESTIONS: &[Question] = &[
    Question {
        title: "Which categories sell best?",
        note: "Units and revenue come from the shop's orders, views from the tracker.",
        sql: "SELECT category, sum(views) AS views, sum(units) AS units, sum(revenue) AS revenue
FROM category_daily
GROUP BY category
ORDER BY revenue DESC
LIMIT 10",
        chart: Chart::Bars { label: "category", value: "revenue", unit: "EUR" },
    },
    Question {
        title: "How do sessions convert, by channel and device?",
        note: "Share of sessions with a purchase, without bots; groups of 20 sessions or more.",
        sql: "SELECT channel, coalesce(device_class, 'other') AS device, count(*) AS sessions,
       round(100.0 * sum(CASE WHEN has_purchase THEN 1 ELSE 0 END) / count(*), 1) AS percent
FROM sessions
WHERE NOT is_bot
GROUP BY channel, device
HAVING count(*) >= 20
ORDER BY percent DESC",
        chart: Chart::Grid { row: "channel", column: "device", value: "percent", unit: "%" },
    },
    Question {
        title: "What share of orders did the tracker see?",
        note: "order_only: an ad blocker hid the purchase. event_only: the staff's test orders. \
               value_mismatch: the office corrected the order afterwards.",
        sql: "SELECT match_status, count(*) AS orders,
       sum(coalesce(total, event_total)) AS revenue,
       round(100.0 * count(*) / sum(count(*)) OVER (), 1) AS percent
FROM orders_enriched
GROUP BY match_status
ORDER BY orders DESC",
        chart: Chart::Share { label: "match_status", value: "orders" },
    },
    Question {
        title: "Which searches find nothing?",
        note: "Searches that never showed a product, by how often they were tried.",
        sql: "SELECT search_query, count(*) AS searches, count(DISTINCT visitor_id) AS visitors
FROM events
WHERE event_name = 'search' AND NOT is_bot
GROUP BY search_query
HAVING max(coalesce(array_length(items), 0)) = 0
ORDER BY searches DESC
LIMIT 10",
        chart: Chart::Bars { label: "search_query", value: "searches", unit: "searches" },
    },
    Question {
        title: "Which products are looked at, but do not sell?",
        note: "Most viewed products without a single unit sold.",
        sql: "SELECT name, category, sum(views) AS views, sum(carts) AS carts, sum(units) AS units
FROM product_daily
GROUP BY product_id, name, category
HAVING sum(units) = 0
ORDER BY views DESC
LIMIT 10",
        chart: Chart::Bars { label: "name", value: "views", unit: "views" },
    },
];
