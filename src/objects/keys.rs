//! The names of things in the object store. Made here and nowhere else.
//!
//! ```text
//! {prefix}/{environment}/{tenant}/{yyyy}/{mm}/{object id}    an object
//! {prefix}/{environment}/tmp/{object id}.{epoch}             local store only: bytes on their way to a key
//! {prefix}/{environment}/.box-service                        the marker
//! ```
//!
//! A user's file name is never part of a key. The year and month are those of the object id
//! (UUIDv7), so that a key follows from its row and a row can be found from its key.

use crate::clock::Timestamp;
use crate::id::{ObjectId, Tenant};

/// Everything of ours in a store lies below this: `{prefix}/{environment}/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    base: String,
}

/// The key of one object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ObjectKey {
    id: ObjectId,
    path: String,
}

/// What a path below the root is the name of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    Marker,
    /// The key of an object.
    Object {
        tenant: Tenant,
        id: ObjectId,
    },
    /// A temporary name of the local store.
    Temporary {
        id: ObjectId,
    },
    /// Nothing that this service would write.
    Foreign,
}

const TMP: &str = "tmp";
const MARKER: &str = ".box-service";

impl Root {
    /// `prefix` may be empty; slashes at its ends do not count.
    pub fn new(prefix: &str, environment: &str) -> Self {
        let prefix = prefix.trim_matches('/');
        let base = if prefix.is_empty() {
            environment.to_owned()
        } else {
            format!("{prefix}/{environment}")
        };
        Self { base }
    }

    /// `{prefix}/{environment}/`, with the slash: listing it can't touch a neighbour whose name starts alike.
    pub fn listing_prefix(&self) -> String {
        format!("{}/", self.base)
    }

    /// For what is one in a bucket, whoever else has a part of it: `{environment}/{prefix}`.
    pub fn owner(&self) -> String {
        match self.base.rsplit_once('/') {
            None => self.base.clone(),
            Some((prefix, environment)) => format!("{environment}/{prefix}"),
        }
    }

    pub fn marker(&self) -> String {
        format!("{}/{MARKER}", self.base)
    }

    pub fn object(&self, tenant: &Tenant, id: ObjectId) -> ObjectKey {
        let made = Timestamp::from_micros(
            i64::try_from(id.unix_millis().unwrap_or(0))
                .unwrap_or(0)
                .saturating_mul(1_000),
        )
        .to_datetime();
        let path = format!(
            "{}/{tenant}/{:04}/{:02}/{id}",
            self.base,
            made.year(),
            u8::from(made.month())
        );
        ObjectKey { id, path }
    }

    pub(super) fn tmp_dir(&self) -> String {
        format!("{}/{TMP}", self.base)
    }

    pub(super) fn temporary(&self, id: ObjectId, epoch: i64) -> String {
        format!("{}/{TMP}/{id}.{epoch}", self.base)
    }

    /// Reads a path as this root would have written it; anything that differs by a byte is foreign.
    pub fn parse(&self, path: &str) -> Named {
        let Some(rest) = path
            .strip_prefix(&self.base)
            .and_then(|rest| rest.strip_prefix('/'))
        else {
            return Named::Foreign;
        };
        if rest == MARKER {
            return Named::Marker;
        }
        let parts: Vec<&str> = rest.split('/').collect();
        match parts.as_slice() {
            [TMP, name] => {
                let parsed = name
                    .split_once('.')
                    .and_then(|(id, epoch)| Some((id.parse().ok()?, epoch.parse::<i64>().ok()?)));
                match parsed {
                    Some((id, epoch)) if self.temporary(id, epoch) == path => {
                        Named::Temporary { id }
                    }
                    _ => Named::Foreign,
                }
            }
            [tenant, _year, _month, id] => match (tenant.parse(), id.parse()) {
                (Ok(tenant), Ok(id)) if self.object(&tenant, id).path == path => {
                    Named::Object { tenant, id }
                }
                _ => Named::Foreign,
            },
            _ => Named::Foreign,
        }
    }
}

impl ObjectKey {
    pub fn id(&self) -> ObjectId {
        self.id
    }

    pub fn path(&self) -> &str {
        &self.path
    }
}

impl std::fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_as_its_row_and_nothing_else_does() {
        let root = Root::new("/images/", "staging");
        let id: ObjectId = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        let tenant: Tenant = "acme".parse().unwrap();
        let key = root.object(&tenant, id);
        assert_eq!(
            key.path(),
            "images/staging/acme/2023/06/01890a5d-ac96-774b-bcce-b302099a8057"
        );
        assert_eq!(root.parse(key.path()), Named::Object { tenant, id });
        assert_eq!(root.parse(&root.temporary(id, 3)), Named::Temporary { id });
        assert_eq!(root.parse(&root.marker()), Named::Marker);
        for foreign in [
            "images/staging/acme/2023/07/01890a5d-ac96-774b-bcce-b302099a8057",
            "images/staging/acme/2023/06/01890A5D-ac96-774b-bcce-b302099a8057",
            "images/staging2/acme/2023/06/01890a5d-ac96-774b-bcce-b302099a8057",
            "images/staging/tmp/01890a5d-ac96-774b-bcce-b302099a8057.03",
            "images/staging/note.txt",
            "images/staging",
        ] {
            assert_eq!(root.parse(foreign), Named::Foreign, "{foreign}");
        }
    }

    #[test]
    fn a_tenant_called_tmp_has_keys_of_its_own() {
        let root = Root::new("", "development");
        let id = ObjectId::new(Timestamp::from_micros(1_700_000_000_000_000));
        let tenant: Tenant = "tmp".parse().unwrap();
        assert_eq!(
            root.parse(root.object(&tenant, id).path()),
            Named::Object { tenant, id }
        );
    }
}
