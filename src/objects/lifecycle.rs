//! Rules that a bucket carries out by itself, by its own clock: what the service wants it to have, and what
//! would change.

use std::fmt;

/// A rule of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketRule {
    /// Of `A-Z a-z 0-9 _ - :`; each once.
    pub name: String,
    /// Of keys, below our root; may be empty.
    pub prefix: String,
    pub action: BucketAction,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BucketAction {
    /// Multipart uploads are ended so long after they were begun.
    AbortUploads { days: u32 },
    /// Objects are moved to another storage class so long after they were written.
    Transition { days: u32, storage_class: String },
}

impl fmt::Display for BucketAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AbortUploads { days } => {
                write!(f, "ends multipart uploads after {days} days")
            }
            Self::Transition {
                days,
                storage_class,
            } => write!(f, "moves objects to {storage_class} after {days} days"),
        }
    }
}

/// What is to become of a bucket's rules.
#[derive(Clone, Debug)]
pub struct BucketPlan {
    /// Each in a line of its own: `- ` what goes, `+ ` what comes.
    pub changes: Vec<String>,
    /// Ids of the rules that are not ours, and of ours that are as they should be.
    pub others: Vec<String>,
    pub kept: Vec<String>,
    pub(super) document: BucketDocument,
}

/// The bucket's whole configuration as it is to be. None: it is to have none.
#[derive(Clone, Debug, Default)]
pub(super) struct BucketDocument {
    pub text: Option<String>,
    /// Of the configuration as a whole, beside its text: as it was read.
    pub minimum_size: Option<String>,
}
