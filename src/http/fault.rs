//! What was wrong with a client's bytes. A fault never carries the client's bytes themselves, and
//! every fault ends the connection: after it nobody knows where the next request would begin.

use std::fmt;

/// A violation by the client: the status to answer with and the rule that was broken.
///
/// The connection must be closed after the answer (RFC 9112, section 9.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The status code of the answer, 400..=599.
    pub status: u16,
    /// What was wrong, and by which rule. Fit to be shown to the client.
    pub detail: &'static str,
}

impl Fault {
    /// 400 (RFC 9110, section 15.5.1): the bytes are not a request this server accepts.
    #[cold]
    pub const fn bad_request(detail: &'static str) -> Fault {
        Fault {
            status: 400,
            detail,
        }
    }

    /// 414 (RFC 9110, section 15.5.15): the request target is longer than
    /// [`MAX_TARGET`](crate::limits::MAX_TARGET).
    #[cold]
    pub const fn target_too_long() -> Fault {
        Fault {
            status: 414,
            detail: "the request target is longer than 8192 bytes",
        }
    }

    /// 417 (RFC 9110, section 10.1.1): an expectation other than `100-continue`.
    #[cold]
    pub const fn expectation_failed() -> Fault {
        Fault {
            status: 417,
            detail: "the only expectation this server meets is 100-continue (RFC 9110, section 10.1.1)",
        }
    }

    /// 431 (RFC 6585, section 5): the head or the trailer section is too large.
    #[cold]
    pub const fn fields_too_large(detail: &'static str) -> Fault {
        Fault {
            status: 431,
            detail,
        }
    }

    /// 501 (RFC 9110, section 15.6.2): a method or transfer coding that is not implemented.
    #[cold]
    pub const fn not_implemented(detail: &'static str) -> Fault {
        Fault {
            status: 501,
            detail,
        }
    }

    /// 505 (RFC 9110, section 15.6.6): a version other than HTTP/1.0 and HTTP/1.1.
    #[cold]
    pub const fn version_not_supported() -> Fault {
        Fault {
            status: 505,
            detail: "this server speaks HTTP/1.1 and HTTP/1.0 only",
        }
    }

    /// What the client should do about it, for the `action` member of the answer's body.
    pub const fn action(&self) -> &'static str {
        match self.status {
            414 => "Shorten the path or the query, or move the data into the request body.",
            417 => "Send the request without the Expect field.",
            431 => "Send fewer or shorter fields; large cookies are the usual cause.",
            501 => "Use a method and a transfer coding that this server implements.",
            505 => "Send the request as HTTP/1.1.",
            _ => "Correct the request and send it again on a new connection.",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.status, self.detail)
    }
}

impl std::error::Error for Fault {}

const _: () = assert!(
    crate::limits::MAX_TARGET == 8192,
    "the text of the 414 fault names the limit"
);
