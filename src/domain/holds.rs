//! Holds: what keeps a file from being deleted and from being replaced, until a time comes
//! (`retention_until`) or until it is lifted (`legal_hold`). Who takes a content away asks here, with the
//! file locked.

use serde_json::{Map, Value, json};

use crate::clock::Timestamp;
use crate::error::{Error, Kind, Result};

use super::files::File;

/// Why a file must stay as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    Legal,
    Until(Timestamp),
}

impl Hold {
    /// None: it may go.
    pub(super) fn of(file: &File, now: Timestamp) -> Option<Self> {
        if file.legal_hold {
            return Some(Self::Legal);
        }
        let until = file.retention_until.filter(|until| *until > now);
        until.map(Self::Until)
    }

    pub(super) fn refusal(self) -> Error {
        match self {
            Self::Legal => Error::new(
                Kind::Conflict,
                "The file is under a legal hold: until it is lifted it can be neither deleted nor replaced.",
            ),
            Self::Until(until) => Error::new(
                Kind::Conflict,
                format!(
                    "The file is retained: until {until} it can be neither deleted nor replaced."
                ),
            ),
        }
    }
}

/// # Errors
/// `Conflict` for what is held.
pub(super) fn may_go(file: &File, now: Timestamp) -> Result<()> {
    Hold::of(file, now).map_or(Ok(()), |hold| Err(hold.refusal()))
}

/// Whether a change of a file ends a hold that is in force, or brings its end nearer.
pub(super) fn is_lifted(file: &File, changed: &File, now: Timestamp) -> bool {
    let retained = file.retention_until.filter(|until| *until > now);
    let sooner = |until| changed.retention_until.is_none_or(|new| new < until);
    (file.legal_hold && !changed.legal_hold) || retained.is_some_and(sooner)
}

/// For the event of a file that was made: the holds that it came with; null where it has none.
pub(super) fn told(file: &File) -> Value {
    let mut told = Map::new();
    if let Some(until) = file.retention_until {
        told.insert("retention_until".to_owned(), json!(until));
    }
    if file.legal_hold {
        told.insert("legal_hold".to_owned(), json!(true));
    }
    if told.is_empty() {
        Value::Null
    } else {
        Value::Object(told)
    }
}
