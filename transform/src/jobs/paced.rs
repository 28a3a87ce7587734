//! Sessions faster than a person (`bot_reason` = `rate`), for the jobs that count what is in
//! `event_items`: an event by itself does not show it, so `is_bot` there does not say so.

use std::collections::BTreeSet;

use clickmill_schemas::Date;
use clickmill_schemas::tables::{SESSIONS, TableSpec};
use datafusion::prelude::SessionContext;

use super::JobContext;
use super::context::{files_in, table_of, widened};
use super::query::{dates, register_changed};
use crate::TransformError;
use crate::sessionize::LOOKBACK_DAYS;

const PACED: &str = "
CREATE VIEW paced AS SELECT session_id FROM paced_sessions WHERE bot_reason = 'rate'";

/// Registers the view `paced`, the ids of such sessions with events on `days`.
///
/// # Errors
/// [`TransformError`].
pub async fn register(
    context: &JobContext<'_>,
    job: &'static str,
    session: &SessionContext,
    days: &BTreeSet<Date>,
) -> Result<(), TransformError> {
    let fail = TransformError::job(job);
    let files = files_in(&context.current(&SESSIONS).await?, &widened(days, LOOKBACK_DAYS, 0));
    session.register_table("paced_sessions", table_of(&SESSIONS, files)).map_err(&fail)?;
    session.sql(PACED).await.map_err(&fail)?.collect().await.map_err(&fail)?;
    Ok(())
}

/// Days with events of a session that has become one since `table` was made, or is none any more.
///
/// # Errors
/// [`TransformError`].
pub async fn changed_days(
    context: &JobContext<'_>,
    job: &'static str,
    table: &'static TableSpec,
) -> Result<BTreeSet<Date>, TransformError> {
    let change = context.change_of(&SESSIONS, table).await?;
    if change.is_empty() {
        return Ok(BTreeSet::new());
    }
    let session = context.session();
    let (name, filter) = ("changed_paced", "WHERE bot_reason = 'rate'");
    register_changed(&session, job, name, &SESSIONS, &change, "session_id, dt", filter).await?;
    let began = dates(&session, job, "SELECT DISTINCT dt FROM changed_paced").await?;
    Ok(widened(&began, 0, LOOKBACK_DAYS))
}
