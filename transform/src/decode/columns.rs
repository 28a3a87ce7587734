//! Events as Arrow columns, in the order of the `events` table.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use clickmill_lake::columns::Columns;
use clickmill_lake::schema::arrow_schema;
use clickmill_schemas::Event;
use clickmill_schemas::tables::EVENTS;

use super::agents::Agents;
use super::channels::{ChannelRules, Traffic};
use super::enrich::{Campaign, LATE_AFTER, language, parameters, split_url};
use super::hash;

/// Column that tells the rows of a batch apart: object and line. Not stored.
pub const ROW_COLUMN: &str = "__row";
/// Column that tells rows of the table, read as context, from new ones. Not stored.
pub const OLD_COLUMN: &str = "__old";

/// The `events` schema and the two working columns.
#[must_use]
pub fn staged_schema() -> SchemaRef {
    let mut fields: Vec<_> = arrow_schema(&EVENTS).fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new(ROW_COLUMN, DataType::Int64, true)));
    fields.push(Arc::new(Field::new(OLD_COLUMN, DataType::Boolean, false)));
    Arc::new(Schema::new(fields))
}

/// Builds batches of [`staged_schema`].
pub struct EventColumns {
    columns: Columns,
    agents: Agents,
    channels: Arc<ChannelRules>,
}

/// Filled in by sessionizing: NULL here.
const SESSION_COLUMNS: &[&str] = &["session_id", "session_seq"];

/// What a row is, beyond its event.
#[derive(Clone, Copy)]
pub struct RowId(pub i64);

impl EventColumns {
    /// Empty builders.
    #[must_use]
    pub fn new(channels: Arc<ChannelRules>) -> Self {
        let columns = Columns::new(staged_schema(), SESSION_COLUMNS);
        Self { columns, agents: Agents::default(), channels }
    }

    /// Rows since the last [`Self::finish`].
    #[must_use]
    pub fn rows(&self) -> usize {
        self.columns.rows()
    }

    /// Appends an event; answers its content hash.
    pub fn append(&mut self, event: &Event<'_>, row: RowId) -> i64 {
        let page = event.page_url.as_deref().map(split_url).unwrap_or_default();
        let query = page.query.map(parameters).unwrap_or_default();
        let referrer = event.referrer_url.as_deref().map(split_url).unwrap_or_default();
        let campaign = Campaign::of(event, &query);
        let channels = Arc::clone(&self.channels);
        let channel = channels.channel(&Traffic {
            source: campaign.source,
            medium: campaign.medium,
            campaign: campaign.campaign,
            click_id_type: campaign.click_id_type,
            page_host: page.host.as_deref(),
            referrer_host: referrer.host.as_deref(),
        });
        let agent = self.agents.get(event.user_agent.as_deref());
        let content_hash = hash::content(event);
        let late = event.event_ts().saturating_add(LATE_AFTER) < event.received_ts();

        let columns = &mut self.columns;
        columns.begin_row();
        // The order of the `events` table; `finish` checks that no column was left out.
        columns.text(Some(&event.event_id));
        columns.text(Some(&event.event_name));
        columns.text(Some(&event.source_protocol));
        columns.text(event.source_event_name.as_deref());
        columns.text(Some(&event.app_id));
        columns.text(event.platform.as_deref());
        columns.instant(Some(event.event_ts()));
        columns.text(event.event_ts_reason().map(|reason| reason.code()));
        columns.instant(event.client_ts());
        columns.instant(event.sent_ts());
        columns.instant(Some(event.received_ts()));
        columns.int64(event.clock_skew_ms());
        columns.bool(late);
        columns.text(event.visitor_id());
        columns.text(event.user_id.as_deref());
        columns.text(event.anonymous_id.as_deref());
        columns.text(event.network_id.as_deref());
        columns.text(event.device_id.as_deref());
        columns.text(event.client_session_id.as_deref());
        columns.skip(); // session_id
        columns.skip(); // session_seq
        columns.text(event.consent.as_ref().map(|json| json.get()));
        columns.text(event.page_url.as_deref());
        columns.text(page.host.as_deref());
        columns.text(page.path);
        columns.map(&query);
        columns.text(event.page_title.as_deref());
        columns.text(event.referrer_url.as_deref());
        columns.text(referrer.host.as_deref());
        columns.text(campaign.source);
        columns.text(campaign.medium);
        columns.text(campaign.campaign);
        columns.text(campaign.term);
        columns.text(campaign.content);
        columns.text(campaign.click_id);
        columns.text(campaign.click_id_type);
        columns.text(Some(channel));
        columns.int32(Some(channels.version()));
        columns.text(event.user_agent.as_deref());
        columns.text(agent.browser.as_deref());
        columns.text(agent.browser_version.as_deref());
        columns.text(agent.os.as_deref());
        columns.text(agent.os_version.as_deref());
        columns.text(agent.device_class);
        columns.int32(event.screen_width);
        columns.int32(event.screen_height);
        columns.text(event.language.as_deref().and_then(language).as_deref());
        columns.text(event.timezone.as_deref());
        columns.text(event.ip_truncated.as_deref());
        columns.text(event.country.as_deref());
        columns.text(event.region.as_deref());
        columns.text(event.city.as_deref());
        columns.bool(agent.bot_reason.is_some());
        columns.text(agent.bot_reason);
        columns.text(Some(event.validation.as_deref().unwrap_or("ok")));
        columns.text(event.order_id.as_deref());
        columns.text(event.checkout_id.as_deref());
        columns.text(event.cart_id.as_deref());
        columns.text(event.currency.as_deref());
        columns.money(event.revenue);
        columns.money(event.total);
        columns.money(event.tax);
        columns.money(event.shipping);
        columns.money(event.discount);
        columns.text(event.coupon.as_deref());
        columns.text(event.search_query.as_deref());
        columns.text(event.list_id.as_deref());
        columns.text(event.promotion_id.as_deref());
        columns.items(&event.items);
        columns.text(event.properties.as_ref().map(|json| json.get()));
        columns.text(event.context.as_ref().map(|json| json.get()));
        columns.text(event.collector_id.as_deref());
        columns.int64(event.wal_seq);
        columns.text(event.shard_id.as_deref());
        columns.text(event.sequence_number.as_deref());
        columns.int64(Some(content_hash));
        columns.date(event.event_ts());
        columns.int64(Some(row.0));
        columns.bool(false);
        content_hash
    }

    /// The rows so far as a batch; the builders are empty again.
    ///
    /// # Errors
    /// [`ArrowError`] where `append` and the table disagree about the columns.
    pub fn finish(&mut self) -> Result<RecordBatch, ArrowError> {
        self.columns.finish()
    }
}
