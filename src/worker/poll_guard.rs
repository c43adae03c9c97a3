//! Whether the calling thread is inside the poll of an async handler, where blocking would stop the
//! very task that brings what is waited for.

use std::cell::Cell;

thread_local! {
    static POLLING: Cell<bool> = const { Cell::new(false) };
}

/// Whether the calling thread polls an async handler.
pub(crate) fn is_polling() -> bool {
    POLLING.get()
}

/// Marks the thread until dropped.
#[cfg(feature = "tokio")]
pub(crate) struct Polling {
    before: bool,
}

#[cfg(feature = "tokio")]
impl Polling {
    pub(crate) fn begin() -> Polling {
        Polling {
            before: POLLING.replace(true),
        }
    }
}

#[cfg(feature = "tokio")]
impl Drop for Polling {
    fn drop(&mut self) {
        POLLING.set(self.before);
    }
}
