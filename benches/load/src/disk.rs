//! How fast the disk takes bytes when each MiB is synced.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

const BLOCK_BYTES: usize = 1024 * 1024;
const TIME: Duration = Duration::from_secs(3);

pub fn measure(folder: &Path) -> anyhow::Result<serde_json::Value> {
    let path = folder.join("disk-speed");
    let mut file = File::create(&path)?;
    // Nothing that a disk or its host could compress or deduplicate.
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut block = vec![0_u8; BLOCK_BYTES];
    let started = Instant::now();
    let mut written = 0_u64;
    while started.elapsed() < TIME {
        for word in block.chunks_exact_mut(64) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word[..8].copy_from_slice(&state.to_le_bytes());
        }
        file.write_all(&block)?;
        file.sync_data()?;
        written += BLOCK_BYTES as u64;
    }
    let seconds = started.elapsed().as_secs_f64();
    std::fs::remove_file(&path)?;
    Ok(serde_json::json!({ "bytes_a_second": written as f64 / seconds }))
}
