//! Do the tables say what databases hold that are read live: PostgreSQL, MariaDB, and DynamoDB?
//!
//! They need the servers of `tests/servers.py`. Expected answers are those of the
//! database itself, or stand here.

mod cursors;
mod database;
mod dynamo;
mod hung;
mod keys;
mod mariadb;
mod postgresql;
mod secured;

/// True where the servers of `tests/servers.py` are up; false only where the user asked to skip.
fn has_servers(variable: &str) -> bool {
    if std::env::var(variable).is_ok() {
        return true;
    }
    assert!(
        std::env::var("CLICKMILL_SKIP_SERVERS").is_ok_and(|value| value == "1"),
        "no {variable}: run `python3 tests/servers.py run -- cargo test ...`, \
         or set CLICKMILL_SKIP_SERVERS=1 to leave these tests out"
    );
    eprintln!("skipped: no {variable}");
    false
}

/// A configuration that lives as long as the test.
fn forever(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}
