//! What queries may hold in memory where nobody says otherwise.

use sysinfo::{MemoryRefreshKind, RefreshKind, System};

/// A smaller limit than this makes sorts of wide rows fail, where without one they would fit.
const LEAST: usize = 512 << 20;

/// Half of the machine's memory, or of what its container may take; the rest is for decoding,
/// for files that are being written, and for others. Never less than sorts need ([`LEAST`]).
/// `None` where the machine does not tell.
pub fn default_limit() -> Option<usize> {
    let memory = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(memory);
    let container = system.cgroup_limits().map(|limits| limits.total_memory);
    let total = container.filter(|bytes| *bytes > 0).unwrap_or_else(|| system.total_memory());
    usize::try_from(total / 2).ok().filter(|bytes| *bytes > 0).map(|bytes| bytes.max(LEAST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_less_than_the_machine_has() {
        let limit = default_limit().expect("the machine tells");
        let told = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let total =
            told.lines().next().and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
        let total: usize = total.map_or(usize::MAX, |kib: usize| kib * 1024);
        assert!(limit >= LEAST && limit <= LEAST.max(total / 2), "{limit} of {total}");
    }
}
