//! The file of a Unix socket that this process listens on.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, open};

use super::listen::lock_directory;

/// Removed when dropped, unless another has put its own in its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// The file itself: while it is held, no other has its number.
    file: File,
}

impl SocketFile {
    /// The file that a listener has just made at `path`.
    ///
    /// # Errors
    /// It is not there, or cannot be looked at.
    pub fn made_at(path: &Path) -> io::Result<SocketFile> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(SocketFile {
            path: path.to_owned(),
            file: open(path, flags, Mode::empty())?.into(),
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Nobody who starts meanwhile can replace it between the look and the removal. Without the lock
        // the chance of that is small, and a file left behind is in nobody's way.
        let _lock = lock_directory(&self.path);
        let found = std::fs::symlink_metadata(&self.path);
        let (Ok(found), Ok(own)) = (found, self.file.metadata()) else {
            return;
        };
        if (found.dev(), found.ino()) == (own.dev(), own.ino()) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
