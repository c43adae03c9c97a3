//! The HTTP policy as a table: bytes, and the status they must be answered with. Data only, so that the
//! same table is replayed without a socket and against a real hub.

pub mod bodies;
pub mod heads;
pub mod limits;
pub mod smuggling;

/// One rule: its name, the bytes, and the status of the refusal; 0 where the bytes are exactly one
/// request, its body included.
pub type Vector = (&'static str, &'static [u8], u16);

/// A vector that is made when it is needed.
#[derive(Clone, Debug)]
pub struct Made {
    /// What it shows.
    pub name: String,
    /// What the client sends.
    pub bytes: Vec<u8>,
    /// The status of the refusal, or 0.
    pub status: u16,
}

/// Every vector there is.
pub fn all() -> Vec<Made> {
    let tables = [
        ("request line", heads::REQUEST_LINES),
        ("target", heads::TARGETS),
        ("host", heads::HOSTS),
        ("field line", heads::FIELD_LINES),
        ("content length", heads::CONTENT_LENGTHS),
        ("transfer encoding", heads::TRANSFER_ENCODINGS),
        ("smuggling", smuggling::SMUGGLING),
    ];
    let fixed = tables.iter().flat_map(|(group, table)| {
        table.iter().map(move |(name, bytes, status)| Made {
            name: format!("{group}: {name}"),
            bytes: bytes.to_vec(),
            status: *status,
        })
    });
    fixed.chain(bodies::all()).chain(limits::all()).collect()
}
