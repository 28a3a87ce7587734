//! A worker's name that outlives its process.
//!
//! A worker that is killed leaves leases behind that others take when they have
//! expired. The same worker, started again under the same name, finds them to be its
//! own and reads on at once.
//!
//! # Why that is safe
//! The name stands in a file, and a process uses it only while it holds the file's lock,
//! which the kernel frees when the process ends, however it ends. So of two living processes on a
//! machine no two have one name: the second takes the next file. Were it otherwise (a
//! folder copied to another machine while both run, a network file system without
//! locks), both would read the same shards; of two commits of one shard one still loses at
//! the PUT, so nothing lands twice: it is a waste, and no harm.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::Path;

use uuid::Uuid;

/// Workers of one stream on one machine that can have a lasting name.
const MAX_NAMES: u32 = 64;

/// A name that is nobody else's as long as this lives.
#[derive(Debug)]
pub struct WorkerName {
    name: String,
    _lock: File,
}

impl WorkerName {
    /// Takes the first name in `folder` that no living worker of that stream and lake has; makes
    /// the folder and the name where there is none.
    ///
    /// # Errors
    /// Where the folder cannot be written, or [`MAX_NAMES`] workers have their names there.
    pub fn claim(folder: &Path, stream: &str, lake: &str) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let lake = Uuid::new_v5(&Uuid::NAMESPACE_URL, lake.as_bytes()).simple().to_string();
        for n in 0..MAX_NAMES {
            let path = folder.join(format!("{stream}-{}.{n}.worker", &lake[..8]));
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => continue,
                Err(TryLockError::Error(error)) => return Err(error),
            }
            let mut text = String::new();
            // Whatever else stands there is replaced.
            let read = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
            let name: Uuid = match read {
                Some(name) => name,
                None => {
                    let name = Uuid::new_v4();
                    file.set_len(0)?;
                    file.rewind()?;
                    file.write_all(format!("{name}\n").as_bytes())?;
                    name
                }
            };
            return Ok(Self { name: name.to_string(), _lock: file });
        }
        let text = format!("all {MAX_NAMES} names of workers are in use");
        Err(io::Error::new(io::ErrorKind::ResourceBusy, text))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_kept_for_its_worker_and_two_living_ones_have_two() {
        let folder = tempfile::tempdir().expect("temp");
        let state = folder.path().join("state");
        let claim = |stream, lake| WorkerName::claim(&state, stream, lake).expect("claims");
        let (one, two) = (claim("clicks", "s3://a"), claim("clicks", "s3://a"));
        let (first, second) = (one.as_str().to_owned(), two.as_str().to_owned());
        assert_ne!(first, second);
        for other in [claim("other", "s3://a"), claim("clicks", "s3://b")] {
            assert!(![&first, &second].contains(&&other.as_str().to_owned()));
        }
        drop(one);
        assert_eq!(claim("clicks", "s3://a").as_str(), first);
        drop(two);
    }

    #[test]
    fn a_file_that_holds_something_else_gets_a_name() {
        let folder = tempfile::tempdir().expect("temp");
        let name = WorkerName::claim(folder.path(), "s", "l").expect("claims").as_str().to_owned();
        let path = fs::read_dir(folder.path()).expect("reads").next().expect("one").expect("reads");
        fs::write(path.path(), b"\xff longer than a name is, and no text either").expect("writes");
        let claim =
            || WorkerName::claim(folder.path(), "s", "l").expect("claims").as_str().to_owned();
        let again = claim();
        assert_ne!(again, name);
        assert_eq!(claim(), again);
    }
}
