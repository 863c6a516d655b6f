//! `[lifecycle]`: files that go by rules, and what S3 is asked to do by itself.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::id::Tenant;

use super::leaf::{self, Leaf, unlike};
use super::limits::ContentTypePattern;
use super::{Trash, Violation, positive, short, tables};

const RULES: &str = "lifecycle.rules";
const TRANSITIONS: &str = "lifecycle.transitions";

const DAY: Duration = Duration::from_secs(86_400);

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lifecycle {
    /// The time between two rounds of the rules; above 0.
    #[serde(with = "leaf")]
    pub interval: Duration,
    /// In this order; each `name` once.
    #[serde(deserialize_with = "tables::deserialize")]
    pub rules: Vec<LifecycleRule>,
    /// S3 ends multipart uploads that are older; in whole days. None: it does not.
    #[serde(with = "leaf")]
    pub abort_uploads_after: Option<Duration>,
    /// Each `name` once.
    #[serde(deserialize_with = "tables::deserialize")]
    pub transitions: Vec<Transition>,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(3_600),
            rules: Vec::new(),
            abort_uploads_after: Some(DAY * 7),
            transitions: Vec::new(),
        }
    }
}

/// `[[lifecycle.rules]]`: files that all of it is true of go, so long after they were last changed. One of
/// `trash_after` and `expire_after` is there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LifecycleRule {
    /// In events and reports.
    #[serde(with = "leaf")]
    pub name: String,
    /// None: of each tenant.
    #[serde(with = "leaf", default)]
    pub tenant: Option<Tenant>,
    /// The first bytes of the name.
    #[serde(with = "leaf", default)]
    pub prefix: Option<String>,
    /// As a whole, parameters included, or `image/*`.
    #[serde(with = "leaf", default)]
    pub content_type: Option<String>,
    /// What the file's metadata must contain; empty: anything.
    #[serde(default)]
    pub metadata: serde_json::Map<String, Value>,
    #[serde(with = "leaf", default)]
    pub trash_after: Option<Duration>,
    #[serde(with = "leaf", default)]
    pub expire_after: Option<Duration>,
}

/// `[[lifecycle.transitions]]`: objects that S3 moves to another storage class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transition {
    #[serde(with = "leaf")]
    pub name: String,
    /// Of their keys, below the environment: `acme/` are a tenant's, `acme/2026/` its of one year. None: all.
    #[serde(with = "leaf", default)]
    pub prefix: Option<String>,
    /// After they were written; in whole days.
    #[serde(with = "leaf")]
    pub after: Duration,
    #[serde(with = "leaf")]
    pub storage_class: StorageClass,
}

/// Those from which an object is read at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageClass {
    StandardIa,
    OnezoneIa,
    IntelligentTiering,
    GlacierIr,
}

impl StorageClass {
    const ALL: [Self; 4] = [
        Self::StandardIa,
        Self::OnezoneIa,
        Self::IntelligentTiering,
        Self::GlacierIr,
    ];

    /// As S3 spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::StandardIa => "STANDARD_IA",
            Self::OnezoneIa => "ONEZONE_IA",
            Self::IntelligentTiering => "INTELLIGENT_TIERING",
            Self::GlacierIr => "GLACIER_IR",
        }
    }

    /// S3 takes nothing into it that is younger.
    fn youngest(self) -> Duration {
        match self {
            Self::StandardIa | Self::OnezoneIa => DAY * 30,
            Self::IntelligentTiering | Self::GlacierIr => DAY,
        }
    }
}

impl Leaf for StorageClass {
    const EXPECTED: &'static str = "a storage class that is read at once: STANDARD_IA, ONEZONE_IA, INTELLIGENT_TIERING or GLACIER_IR (what is in GLACIER or DEEP_ARCHIVE can't be read, and its files neither)";

    fn parse(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|class| class.as_str() == text);
        found.ok_or_else(|| unlike::<Self>(text))
    }

    fn show(&self) -> Value {
        Value::String(self.as_str().to_owned())
    }
}

impl Leaf for Tenant {
    const EXPECTED: &'static str = "a tenant (1 to 64 of A-Z a-z 0-9 _ -)";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|()| unlike::<Self>(text))
    }

    fn show(&self) -> Value {
        Value::String(self.as_str().to_owned())
    }
}

impl Lifecycle {
    pub(super) fn check(&self, trash: &Trash) -> Result<(), Violation> {
        positive("lifecycle.interval", self.interval)?;
        if let Some(after) = self.abort_uploads_after {
            whole_days(after)
                .map_err(|problem| Violation::new("lifecycle.abort_uploads_after", problem))?;
        }
        let rules = self.rules.iter();
        let rules = rules.map(|rule| (rule.name.as_str(), rule.check(trash)));
        each(RULES, rules)?;
        let transitions = self.transitions.iter();
        each(
            TRANSITIONS,
            transitions.map(|transition| (transition.name.as_str(), transition.check())),
        )
    }
}

/// Each has a name of its own, and nothing is wrong with it.
fn each<'a>(
    key: &'static str,
    tables: impl Iterator<Item = (&'a str, Result<(), String>)>,
) -> Result<(), Violation> {
    let mut names = Vec::new();
    for (index, (name, checked)) in tables.enumerate() {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let problem = if !(1..=64).contains(&name.len()) || !name.chars().all(plain) {
            Err("name must have 1 to 64 of A-Z a-z 0-9 _ -".to_owned())
        } else if names.contains(&name) {
            Err(format!("the name {name:?} is there twice"))
        } else {
            checked
        };
        problem.map_err(|problem| Violation::new(key, format!("[{index}]: {problem}")))?;
        names.push(name);
    }
    Ok(())
}

impl LifecycleRule {
    fn check(&self, trash: &Trash) -> Result<(), String> {
        match (self.trash_after, self.expire_after) {
            (Some(_), Some(_)) | (None, None) => {
                return Err(
                    "must have one of trash_after and expire_after (what is in the trash goes after trash.keep)"
                        .to_owned(),
                );
            }
            (Some(_), None) if trash.keep.is_zero() => {
                return Err("there is no trash (trash.keep is 0): use expire_after".to_owned());
            }
            (Some(after), None) | (None, Some(after)) if after.is_zero() => {
                return Err("trash_after and expire_after must be more than 0".to_owned());
            }
            _ => {}
        }
        if let Some(text) = &self.content_type {
            let essence = text.split(';').next().unwrap_or_default();
            let pattern = ContentTypePattern::read(essence);
            if pattern.is_none_or(|pattern| pattern.to_string() != essence) {
                return Err(format!(
                    "content_type: expected a content type in lower case, such as image/png or image/*, found {text:?}"
                ));
            }
        }
        Ok(())
    }
}

impl Transition {
    fn check(&self) -> Result<(), String> {
        whole_days(self.after).map_err(|problem| format!("after {problem}"))?;
        let youngest = self.storage_class.youngest();
        if self.after < youngest {
            let class = self.storage_class.as_str();
            return Err(format!(
                "after must be at least {} for {class}",
                short(youngest)
            ));
        }
        match &self.prefix {
            Some(prefix) if prefix.starts_with('/') => Err(
                "prefix must not begin with a slash: it stands below the environment".to_owned(),
            ),
            _ => Ok(()),
        }
    }
}

fn whole_days(duration: Duration) -> Result<(), String> {
    if duration >= DAY && duration.as_millis().is_multiple_of(DAY.as_millis()) {
        Ok(())
    } else {
        Err("must be a number of whole days, such as 7d: S3 counts no less".to_owned())
    }
}
