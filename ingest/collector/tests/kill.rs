//! kill -9 of a process under load, at random moments, hundreds of rounds on
//! one spool; then every acknowledged event is looked for.
//!
//! The process is this binary itself, started with a folder: four threads
//! append as fast as they can, small groups and large ones, and say on stdout
//! what was acknowledged. A round ends with SIGKILL after a random time.
//!
//! It fails as well where no kill hit a write: then it would have shown nothing.

use std::collections::HashSet;
use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clickmill_collector::sink::RecordKind;
use clickmill_collector::spool::{
    Entry, OverflowPolicy, Spool, SpoolOptions, SyncPolicy, read_all,
};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const FOLDER: &str = "CLICKMILL_KILL_TEST_FOLDER";
const MODE: &str = "CLICKMILL_KILL_TEST_MODE";
const ROUND: &str = "CLICKMILL_KILL_TEST_ROUND";

/// Rounds with a bound in time; a slow machine makes fewer of them, at least
/// the minimum.
const MAX_ROUNDS: u32 = 300;
const MIN_ROUNDS: u32 = 25;
const TIME: Duration = Duration::from_secs(45);
const THREADS: usize = 4;
/// Long lines make long writes: a kill tears one now and then (it is said, not asked for).
const PADDING: usize = 3_000;
/// Ends the id of an event that nobody waits for.
const TRACKED: &str = "-tracked";

fn main() -> ExitCode {
    let outcome = match std::env::var(FOLDER) {
        Ok(folder) => victim(Path::new(&folder)),
        Err(_) => [SyncPolicy::BeforeAnswer, SyncPolicy::Within(Duration::from_secs(1))]
            .into_iter()
            .try_for_each(rounds),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kill: {error}");
            ExitCode::FAILURE
        }
    }
}

fn options(sync: SyncPolicy) -> SpoolOptions {
    // Small segments: kills hit their beginnings and ends, too.
    SpoolOptions { segment_bytes: 4 * 1024 * 1024, sync, ..SpoolOptions::default() }
}

/// Text that does not compress, so that writes are as long as they look.
fn padding(seed: u64) -> String {
    let mut state = seed | 1;
    let letter = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b'A' + (state % 26) as u8)
    };
    (0..PADDING).map(letter).collect()
}

/// Appends until it is killed.
fn victim(folder: &Path) -> Outcome<()> {
    let sync = match std::env::var(MODE)?.as_str() {
        "fsync" => SyncPolicy::BeforeAnswer,
        _ => SyncPolicy::Within(Duration::from_secs(1)),
    };
    let round = std::env::var(ROUND)?;
    let spool = Arc::new(Spool::open(folder, options(sync))?);
    say("open")?;
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let (spool, round) = (Arc::clone(&spool), round.clone());
            std::thread::spawn(move || append(&spool, &round, thread))
        })
        .collect();
    for thread in threads {
        thread.join().map_err(|_| "a thread panicked")??;
    }
    Ok(())
}

fn append(spool: &Spool, round: &str, thread: usize) -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let padding = padding(thread as u64 + 7);
    for n in 0_u64.. {
        // From one event to a megabyte of them.
        let count = if n % 3 == 0 { 300 } else { 1 + n % 5 };
        let ids: Vec<String> = (0..count).map(|i| format!("{round}-{thread}-{n}-{i}")).collect();
        let line =
            |id: &String| format!("{{\"event_id\":\"{id}\",\"p\":\"{padding}\"}}").into_bytes();
        let entries = ids.iter().map(|id| Entry::Event(line(id))).collect();
        // Beside them what nobody is promised.
        spool
            .track(&line(&format!("{round}-{thread}-{n}{TRACKED}")), OverflowPolicy::DropNewest)?;
        let got = runtime.block_on(spool.append(entries))?;
        let seqs = got.first_wal_seq..got.next_wal_seq;
        let said: Vec<String> = seqs.zip(&ids).map(|(seq, id)| format!("{seq} {id}\n")).collect();
        say(said.concat().trim_end())?;
    }
    Ok(())
}

/// One write of whole lines: what is in the pipe outlives the process.
fn say(text: &str) -> Outcome<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(format!("{text}\n").as_bytes())?;
    Ok(stdout.flush()?)
}

/// One life of the victim; returns what it acknowledged.
fn life(folder: &Path, mode: &str, round: u32, lasts: Duration) -> Outcome<Vec<(i64, String)>> {
    let mut child = Command::new(std::env::current_exe()?)
        .env(FOLDER, folder)
        .env(MODE, mode)
        .env(ROUND, round.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()?;
    let stdout = child.stdout.take().ok_or("no stdout")?;
    let mut stdout = BufReader::new(stdout);
    let mut first = String::new();
    stdout.read_line(&mut first)?;
    if first != "open\n" {
        child.kill()?;
        child.wait()?;
        return Err(format!("round {round}: the spool did not open: {first:?}").into());
    }
    // Read beside it, or the pipe fills and the load stops.
    let reader = std::thread::spawn(move || -> std::io::Result<String> {
        let mut said = String::new();
        stdout.read_to_string(&mut said).map(|_| said)
    });
    std::thread::sleep(lasts);
    child.kill()?;
    child.wait()?;
    let said = reader.join().map_err(|_| "the reader panicked")??;
    let mut acknowledged = Vec::new();
    // A line that was cut by the kill was not received by anybody.
    for line in said.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        let (seq, id) = line.split_once(' ').ok_or("a line without a blank")?;
        acknowledged.push((seq.parse()?, id.to_owned()));
    }
    Ok(acknowledged)
}

fn rounds(sync: SyncPolicy) -> Outcome<()> {
    let mode = if sync == SyncPolicy::BeforeAnswer { "fsync" } else { "memory" };
    let folder = tempfile::tempdir()?;
    let started = Instant::now();
    let mut seed = std::process::id() as u64 | 1;
    let (mut total, mut torn, mut unanswered, mut round) = (0, 0_u32, 0_u32, 0);
    // What the spool of these rounds has to hold.
    let mut expected: Vec<(i64, String)> = Vec::new();
    let mut spool = PathBuf::new();
    while round < MAX_ROUNDS && (round < MIN_ROUNDS || started.elapsed() < TIME) {
        // A spool lives for a few rounds: what a round left is recovered by the next.
        if round % 10 == 0 {
            if round > 0 {
                std::fs::remove_dir_all(&spool)?;
            }
            spool = folder.path().join(round.to_string());
            expected.clear();
        }
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let acknowledged = life(&spool, mode, round, Duration::from_millis(5 + seed % 120))?;
        total += acknowledged.len();
        expected.extend(acknowledged);
        let contents = read_all(&spool)?;
        if contents.recovery.lost.len() + contents.recovery.uncertain.len() > 0 {
            return Err(format!("{mode}, round {round}: lost {:?}", contents.recovery).into());
        }
        torn += u32::from(contents.recovery.torn_bytes > 0);
        let (mut there, mut positions) = (HashSet::new(), HashSet::new());
        let mut promised_or_not = Vec::new();
        for record in contents.records.iter().filter(|r| r.kind == RecordKind::Event) {
            let line = std::str::from_utf8(&record.line)?;
            let id = line.split('"').nth(3).ok_or("no id")?;
            if !positions.insert(record.wal_seq) {
                return Err(
                    format!("{mode}, round {round}: wal_seq {} twice", record.wal_seq).into()
                );
            }
            if !id.ends_with(TRACKED) {
                promised_or_not.push(record.wal_seq);
            }
            there.insert((record.wal_seq, id.to_owned()));
        }
        if let Some((seq, id)) = expected.iter().find(|one| !there.contains(one)) {
            let what = format!("{id} (wal_seq {seq}) was acknowledged and is gone");
            return Err(format!("{mode}, round {round}: {what}").into());
        }
        let known: HashSet<i64> = expected.iter().map(|(seq, _)| *seq).collect();
        unanswered += u32::from(promised_or_not.iter().any(|seq| !known.contains(seq)));
        round += 1;
    }
    println!(
        "{mode}: {round} rounds in {:.0?}, {total} events acknowledged, each there; {torn} kills \
         tore a write, {unanswered} left records that nobody was promised",
        started.elapsed()
    );
    // Records that are there and were not promised: the kill came between write and answer.
    if unanswered == 0 {
        return Err(format!("{mode}: no kill hit a write: this run has shown nothing").into());
    }
    Ok(())
}
