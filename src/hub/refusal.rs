//! Why the hub does not take a registration, and whether it may later.

use crate::control::FieldError;

/// Why a registration is not taken.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// As it is it never will be: what is wrong with it.
    Wrong(FieldError),
    /// Not now: what there is no room for, or what has to wait. The same may be taken later.
    Full(FieldError),
}

impl From<FieldError> for Refusal {
    fn from(error: FieldError) -> Refusal {
        Refusal::Wrong(error)
    }
}

impl Refusal {
    /// There is no room for another name.
    pub fn full(detail: String) -> Refusal {
        Refusal::Full(FieldError {
            field: "name".into(),
            detail,
        })
    }
}
