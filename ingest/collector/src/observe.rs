//! What a collector does with each event besides storing it: it names the
//! application of its own events, checks all against the tracking plan, and
//! shows them to [`crate::tail`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use clickmill_schemas::Event;

use crate::collector::{Collector, TrackError};
use crate::commerce::IntoEvent;
use crate::metrics::Metrics;
use crate::plan::{OK, Plan};
use crate::server::DEFAULT_APP_ID;
use crate::spool::Appended;
use crate::tail::{Tail, TailError, TailFilter, TailReader};

#[derive(Debug)]
pub(crate) struct Observer {
    app_id: String,
    /// Looked at without the lock.
    planned: AtomicBool,
    plan: RwLock<Option<Arc<Plan>>>,
    pub tail: Tail,
}

impl Default for Observer {
    fn default() -> Self {
        Self {
            app_id: DEFAULT_APP_ID.to_owned(),
            planned: AtomicBool::new(false),
            plan: RwLock::default(),
            tail: Tail::default(),
        }
    }
}

impl Observer {
    pub fn set_app_id(&mut self, app_id: String) {
        self.app_id = app_id;
    }

    pub fn set_plan(&self, plan: Option<Plan>) {
        let mut held = self.plan.write().unwrap_or_else(PoisonError::into_inner);
        self.planned.store(plan.is_some(), Ordering::Release);
        *held = plan.map(Arc::new);
    }

    fn plan(&self) -> Option<Arc<Plan>> {
        if !self.planned.load(Ordering::Acquire) {
            return None;
        }
        self.plan.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The value of `validation`, where there is a plan.
    pub fn validate(&self, event: &Event<'_>, metrics: &Metrics) -> Option<String> {
        let plan = self.plan()?;
        match plan.check(event) {
            Ok(()) => Some(OK.to_owned()),
            Err(violation) => {
                let outcome = violation.to_string();
                metrics.plan_violations.with([plan.name_of(event), &outcome]).inc();
                Some(outcome)
            }
        }
    }

    /// Copies of lines for [`Observer::show`]; none where nobody looks.
    pub fn copies<'l>(&self, lines: impl IntoIterator<Item = &'l [u8]>) -> Vec<Bytes> {
        if self.tail.is_watched() {
            lines.into_iter().map(Bytes::copy_from_slice).collect()
        } else {
            Vec::new()
        }
    }

    pub fn show(&self, lines: Vec<Bytes>) {
        if !lines.is_empty() {
            self.tail.publish(lines);
        }
    }
}

impl Collector {
    /// The application of events that [`Collector::record`] and
    /// [`PageViews`](crate::layer::PageViews) make.
    #[must_use]
    pub fn app_id(&self) -> &str {
        &self.observer().app_id
    }

    /// As [`Collector::track`], of one of [`crate::commerce`]: `event` of this
    /// collector's application. Never blocks; on disk soon.
    ///
    /// # Errors
    /// As [`Collector::track`].
    pub fn record<'a>(&'a self, event: impl IntoEvent<'a>) -> Result<(), TrackError> {
        self.track(&event.into_event(self.app_id()))
    }

    /// As [`Collector::track_durable`], of one of [`crate::commerce`]: on disk
    /// when it returns. What an order deserves.
    ///
    /// # Errors
    /// As [`Collector::track_durable`].
    pub async fn record_durable<'a>(
        &'a self,
        event: impl IntoEvent<'a>,
    ) -> Result<Appended, TrackError> {
        let event = event.into_event(self.app_id());
        self.track_durable(&event).await
    }

    /// Takes another tracking plan, or none, from the next event on.
    pub fn set_plan(&self, plan: Option<Plan>) {
        self.observer().set_plan(plan);
    }

    /// The tracking plan in use.
    #[must_use]
    pub fn plan(&self) -> Option<Arc<Plan>> {
        self.observer().plan()
    }

    /// Ends every [`Collector::tail`], now and from now on; [`Collector::shutdown`]
    /// does so, too. For a server that waits for its open requests before that.
    pub fn close_tails(&self) {
        self.observer().tail.close();
    }

    /// Shows events and rejects as they are taken; see [`crate::tail`]. They
    /// are visitors' data: who may see them is the caller's to decide.
    ///
    /// # Errors
    /// [`TailError`]: too many readers, or the collector is stopping.
    pub fn tail(&self, filter: TailFilter) -> Result<TailReader, TailError> {
        self.observer().tail.subscribe(filter)
    }
}
