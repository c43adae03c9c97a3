//! The file of a Unix socket that this process listens on.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::listen::lock_directory;

/// Removed when dropped, unless another has put its own in its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl SocketFile {
    /// The file that a listener has just made at `path`.
    ///
    /// # Errors
    /// It is not there, or cannot be looked at.
    pub fn made_at(path: &Path) -> io::Result<SocketFile> {
        Ok(SocketFile {
            path: path.to_owned(),
            identity: identity(path)?,
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Nobody who starts meanwhile can replace it between the look and the removal. Without the lock
        // the chance of that is small, and a file left behind is in nobody's way.
        let _lock = lock_directory(&self.path);
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = std::fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}
