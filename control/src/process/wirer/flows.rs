//! The files in which the workers' flows are, so that they outlive the dataplane.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use dataplane::flow::FlowRegion;

/// Opens a file for each worker, long enough for so many flows. Each time anew: the lock by which a dataplane has a file is the
/// open file's, and goes with that dataplane.
pub(super) fn open(directory: &Path, workers: usize, flows: usize) -> io::Result<Vec<File>> {
    let length = FlowRegion::file_length(flows);
    (0..workers)
        .map(|worker| {
            let path = directory.join(format!("worker-{worker}"));
            let open =
                || OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
            let mut file = open()?;
            if file.metadata()?.len() != length {
                // Another capacity: nothing in it can be read. A new file, since another process may still have the old one.
                std::fs::remove_file(&path)?;
                file = open()?;
                file.set_len(length)?;
            }
            Ok(file)
        })
        .collect()
}
