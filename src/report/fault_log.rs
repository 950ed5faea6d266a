//! The file that has every fault: one JSON object a line, with the fields that the report has.
//!
//! Owns the file, and the first error of writing it. The run goes on without the file.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::client::fault::FaultyConnection;

/// A file of faults that is being written.
#[derive(Debug)]
pub struct FaultLog {
    path: PathBuf,
    file: BufWriter<File>,
    /// How writing went until now. Behind an error nothing more is written.
    written: io::Result<()>,
}

impl FaultLog {
    /// Creates the file, or empties it.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn create(path: &Path) -> anyhow::Result<FaultLog> {
        let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(FaultLog { path: path.to_owned(), file: BufWriter::new(file), written: Ok(()) })
    }

    /// Takes a fault, which is in the file after the next [`flush`](FaultLog::flush) at the latest.
    pub fn add(&mut self, faulty: &FaultyConnection) {
        if self.written.is_ok() {
            let line = serde_json::to_writer(&mut self.file, faulty).map_err(io::Error::from);
            self.written = line.and_then(|()| self.file.write_all(b"\n"));
        }
    }

    /// Writes what was taken.
    pub fn flush(&mut self) {
        if self.written.is_ok() {
            self.written = self.file.flush();
        }
    }

    /// Writes the rest.
    ///
    /// # Errors
    /// Not everything could be written.
    pub fn finish(mut self) -> anyhow::Result<()> {
        self.flush();
        self.written.with_context(|| format!("cannot write {}", self.path.display()))
    }
}
