//! Ids: UUIDv7 (RFC 9562, section 5.7), so that they sort by the time they were made.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock::Timestamp;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, sqlx::Type)]
        #[serde(transparent)]
        #[sqlx(transparent)]
        pub struct $name(Uuid);

        impl $name {
            pub fn new(now: Timestamp) -> Self {
                Self(v7(now))
            }

            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            pub const fn as_uuid(&self) -> &Uuid {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        /// Only the hyphenated form of 36 characters, so that an id has one spelling (but for case).
        impl std::str::FromStr for $name {
            type Err = ();

            fn from_str(text: &str) -> Result<Self, ()> {
                if text.len() != 36 {
                    return Err(());
                }
                Uuid::try_parse(text).map(Self).map_err(|_| ())
            }
        }
    };
}

id!(
    /// A file, as users see it.
    FileId
);
id!(
    /// The bytes at one key of the object store, and the row that vouches for the key.
    ObjectId
);
id!(
    /// Something that happened.
    EventId
);
id!(
    /// A batch of URLs to fetch.
    ImportId
);
id!(
    /// A resumable or direct upload in progress.
    UploadId
);
id!(
    /// A process that fetches the items it has claimed.
    ClaimId
);

fn v7(now: Timestamp) -> Uuid {
    uuid::Builder::from_unix_timestamp_millis(now.as_unix_millis(), &rand::random()).into_uuid()
}

impl ObjectId {
    /// When the id was made, in milliseconds since 1970. None for an id that is not a UUIDv7.
    pub fn unix_millis(&self) -> Option<u64> {
        let (secs, nanos) = self
            .0
            .get_timestamp()
            .filter(|_| self.0.get_version_num() == 7)?
            .to_unix();
        Some(secs * 1_000 + u64::from(nanos) / 1_000_000)
    }
}

/// A tenant: the isolation boundary. 1 to 64 of `A-Z a-z 0-9 _ -`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, sqlx::Type)]
#[serde(transparent)]
#[sqlx(transparent)]
pub struct Tenant(String);

impl Tenant {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// In the row of bytes that can be anybody's, or nobody's.
    pub fn unknown() -> Self {
        Self("unknown".to_owned())
    }
}

impl std::str::FromStr for Tenant {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let legal = (1..=64).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if legal {
            Ok(Self(text.to_owned()))
        } else {
            Err(())
        }
    }
}

impl<'de> Deserialize<'de> for Tenant {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|()| {
            serde::de::Error::custom("a tenant has a name of 1 to 64 of A-Z, a-z, 0-9, _ and -")
        })
    }
}

impl std::fmt::Display for Tenant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_knows_when_it_was_made_and_has_one_spelling() {
        let id = ObjectId::new(Timestamp::from_micros(1_700_000_000_123_456));
        assert_eq!(id.unix_millis(), Some(1_700_000_000_123));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(
            id.as_uuid().simple().to_string().parse::<ObjectId>(),
            Err(())
        );
    }

    #[test]
    fn a_tenant_is_a_plain_word() {
        assert!("acme-2_X".parse::<Tenant>().is_ok());
        for bad in ["", "a/b", "a.b", "é", &"x".repeat(65)] {
            assert!(bad.parse::<Tenant>().is_err(), "{bad:?}");
        }
    }
}
