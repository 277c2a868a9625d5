//! A file that someone else writes and that should be small.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

/// Reads it.
///
/// # Errors
/// What is wrong with it, to be said after its name: it cannot be read, or has more than `most` bytes.
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>, String> {
    let unreadable = |error: io::Error| format!("cannot be read: {error}");
    // Looked at before it is opened, which for a pipe would wait for a writer.
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err("is not a file".to_owned());
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > most {
        return Err(format!("is larger than {most} bytes"));
    }
    Ok(bytes)
}
