//! `clickmill demo`: a simulated shop drives the whole pipeline, and the result
//! is held against the simulator's own log.
//!
//! ```text
//! shop (seeded) -> HTTP -> collector -> [Kinesis -> delivery ->] raw zone -+
//!      |                                                                   +-> ETL -> tables -> check, report
//!      +-> RDS snapshot export, DynamoDB export --------------------------+
//! ```
//!
//! Every part but the shop is the production one. It all happens in one
//! process and one lake; what the demo keeps for itself is under
//! `_clickmill/demo/`.

mod answer;
mod charts;
mod check;
mod drive;
mod pipeline;
mod progress;
mod questions;
mod report;
mod report_html;
mod report_terminal;
mod shop;
mod state;
mod truth;

use anyhow::Context as _;
use clickmill_lake::Lake;
use clickmill_query::Session;
use tokio::sync::mpsc;

pub use pipeline::Stream;
pub use state::{Refused, WINDOW_DAYS};

use drive::Driver;
use pipeline::Pipeline;
use progress::Progress;
use report::Report;
use shop::Shop;
use state::{Run, State};
use truth::{Entry, Ledger};

/// Log entries between the clients and the writer of the log.
const LOG_QUEUE: usize = 4_096;
/// Where the page is written in the lake.
const HTML: &str = "_clickmill/demo/report.html";

/// What the user asked for.
pub struct Options {
    /// As the user wrote it.
    pub lake: String,
    pub visitors: u64,
    pub days: i64,
    pub seed: Option<u64>,
    pub stream: Stream,
    /// How the user calls this program, for the commands in the report.
    pub program: String,
}

/// What came of it.
pub struct Outcome {
    /// The terminal's report.
    pub text: String,
    /// False where the tables do not agree with the log.
    pub passed: bool,
}

/// Runs the whole pipeline over the lake's next days.
///
/// # Errors
/// [`Refused`] where the user asked for what cannot be; else whatever part failed.
pub async fn run(options: Options) -> anyhow::Result<Outcome> {
    let lake = Lake::open(&options.lake).await?;
    let mut state = open_state(&lake, options.seed).await?;
    let run = state.next(state::today(), options.days, options.visitors)?;
    eprintln!(
        "Simulating {} to {} (run {}) into {}",
        state::date(run.first_day),
        state::date(run.first_day + run.days - 1),
        run.run,
        lake.url()
    );
    let mut progress = Progress::new();

    progress.stage("starting the collector");
    let shop = state.shop(&lake).await?;
    if run.run == 1 {
        // The catalog as the shop opened, so that the first facts find their prices.
        shop::export_dynamodb::write(&shop, &lake, run.first_day * shop::DAY_MS).await?;
    }
    let pipeline = Pipeline::start(&lake, options.stream).await?;
    progress.stage("clicks over HTTP");
    let shop = clicks(shop, &run, &pipeline, &lake, &progress).await?;
    progress.stage("delivering the last clicks");
    pipeline.finish().await?;

    progress.stage("exporting orders and catalog");
    shop::export_rds::write(&shop, &lake, run.end_ms()).await?;
    shop::export_dynamodb::write(&shop, &lake, run.end_ms()).await?;
    state.save(&lake, run.clone(), &shop).await?;

    progress.stage("ETL");
    let notices = pipeline::transform(&lake).await?;

    progress.stage("checking against the simulator's log");
    let session = Session::open(&lake).await?;
    let ledger = Ledger::read(&lake).await?;
    let outcome = check::check(&session, &ledger, &shop, pipeline::APP_ID).await?;
    progress.stage("answering questions");
    let findings = report::find(&session).await?;
    progress.end();
    for notice in notices {
        eprintln!("note: {notice}");
    }

    let local = lake.local_path().map(|root| root.join(HTML));
    let report = Report {
        lake: lake.url().to_string(),
        lake_argument: options.lake,
        program: options.program,
        run: run.run,
        first_date: state::date(run.first_day),
        last_date: state::date(run.first_day + run.days - 1),
        visitors: run.visitors,
        seed: state.seed,
        stages: progress.stages,
        input: report::input(&ledger),
        findings,
        outcome,
        html: local.map_or_else(|| format!("{}{HTML}", lake.url()), |p| p.display().to_string()),
    };
    state::write(&lake, HTML, report_html::render(&report).into_bytes()).await?;
    Ok(Outcome { text: report_terminal::render(&report), passed: report.outcome.passed() })
}

async fn open_state(lake: &Lake, seed: Option<u64>) -> anyhow::Result<State> {
    match (State::load(lake).await?, seed) {
        (Some(state), Some(seed)) if state.seed != seed => Err(Refused(format!(
            "the shop of this lake was started with --seed {}: leave --seed out to continue it, or \
             start another shop with a new --lake",
            state.seed
        ))
        .into()),
        (Some(state), _) => Ok(state),
        (None, seed) => Ok(State::new(seed.unwrap_or(state::DEFAULT_SEED))),
    }
}

/// Simulates each day and sends its clicks while the next day is simulated;
/// returns the shop as the last day leaves it.
async fn clicks(
    shop: Shop,
    run: &Run,
    pipeline: &Pipeline,
    lake: &Lake,
    progress: &Progress,
) -> anyhow::Result<Shop> {
    let driver = Driver::new(pipeline.base_url(), pipeline::WRITE_KEY)?;
    let (log, entries) = mpsc::channel(LOG_QUEUE);
    let writing = tokio::spawn(write_log(lake.clone(), run.run, entries));
    let plan = std::sync::Arc::new(shop.plan(run.run, run.first_day, run.days, run.visitors));
    let simulate = |mut shop: Shop, day: i64| {
        let plan = std::sync::Arc::clone(&plan);
        tokio::task::spawn_blocking(move || {
            let requests = shop.day(&plan, day);
            (shop, requests)
        })
    };
    let last_day = run.first_day + run.days - 1;
    let (mut number, mut events) = (1, 0);
    let mut simulated = simulate(shop, run.first_day);
    for day in run.first_day.. {
        let (shop, requests) = simulated.await.context("the simulation stopped")?;
        events += requests.iter().map(|request| request.messages.len() as u64).sum::<u64>();
        let sent = requests.len() as u64;
        progress.show(&format!("{}  {} events", state::date(day), answer::count(events)));
        if day == last_day {
            driver.send_all(requests, number, &log).await?;
            drop(log);
            writing.await.context("the demo's log stopped")??;
            return Ok(shop);
        }
        simulated = simulate(shop, day + 1);
        driver.send_all(requests, number, &log).await?;
        number += sent;
    }
    anyhow::bail!("a run without days")
}

async fn write_log(lake: Lake, run: u64, mut entries: mpsc::Receiver<Entry>) -> anyhow::Result<()> {
    let mut writer = truth::Writer::new(&lake, run);
    while let Some(entry) = entries.recv().await {
        writer.append(&entry).await?;
    }
    writer.finish().await
}
