//! A bucket's lifecycle as S3 writes it: taken apart only as far as to find whose each rule is.

use quick_xml::Reader;
use quick_xml::escape::escape;
use quick_xml::events::Event;
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::objects::lifecycle::{BucketAction, BucketDocument, BucketPlan, BucketRule};

const ROOT: &str = "LifecycleConfiguration";
const RULE: &str = "Rule";

/// What a bucket without rules begins with.
const EMPTY: &str = r#"<LifecycleConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"></LifecycleConfiguration>"#;

pub(super) struct Document {
    text: String,
    rules: Vec<Found>,
    /// Where the last tag of the whole begins.
    end: usize,
}

/// A rule, where it stands in the text.
struct Found {
    from: usize,
    to: usize,
    id: String,
}

/// What is looked at of a rule that may be anybody's.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Signed {
    #[serde(rename = "ID", default)]
    id: String,
    /// Above the filter: as rules were written before there were filters.
    prefix: Option<serde::de::IgnoredAny>,
}

/// A rule as we write them. One that has more was changed by somebody, and is written anew.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Ours {
    #[serde(rename = "ID")]
    id: String,
    prefix: Option<String>,
    filter: Option<FilterOfOurs>,
    status: String,
    abort_incomplete_multipart_upload: Option<Abort>,
    transition: Option<Move>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct FilterOfOurs {
    prefix: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Abort {
    days_after_initiation: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Move {
    days: u32,
    storage_class: String,
}

impl Default for Document {
    fn default() -> Self {
        let end = EMPTY.rfind("</").unwrap_or(EMPTY.len());
        Self {
            text: EMPTY.to_owned(),
            rules: Vec::new(),
            end,
        }
    }
}

impl Document {
    /// # Errors
    /// `Unavailable` for what is no lifecycle: then nothing must be written over it.
    pub(super) fn read(text: &str) -> Result<Self> {
        let mut reader = Reader::from_str(text);
        let mut rules = Vec::new();
        let mut is_open = false;
        loop {
            let from = position(&reader)?;
            match reader.read_event().map_err(Error::unavailable)? {
                Event::Start(tag) if !is_open && tag.name().as_ref() == ROOT => is_open = true,
                Event::Empty(tag) if !is_open && tag.name().as_ref() == ROOT => {
                    return Ok(Self::default());
                }
                Event::Start(tag) if is_open && tag.name().as_ref() == RULE => {
                    let tag = tag.to_end().into_owned();
                    reader.read_to_end(tag.name()).map_err(Error::unavailable)?;
                    let to = position(&reader)?;
                    let rule: Signed = text
                        .get(from..to)
                        .ok_or_else(|| unreadable("a rule ends nowhere"))
                        .and_then(|rule| {
                            quick_xml::de::from_str(rule).map_err(Error::unavailable)
                        })?;
                    rules.push(Found {
                        from,
                        to,
                        id: rule.id,
                    });
                }
                // Whatever else there is stays where it is.
                Event::Start(tag) if is_open => {
                    let tag = tag.to_end().into_owned();
                    reader.read_to_end(tag.name()).map_err(Error::unavailable)?;
                }
                Event::End(_) if is_open => {
                    return Ok(Self {
                        text: text.to_owned(),
                        rules,
                        end: from,
                    });
                }
                Event::Eof | Event::Start(_) | Event::Empty(_) | Event::End(_) if !is_open => {
                    return Err(unreadable("it begins with another element"));
                }
                Event::Eof => return Err(unreadable("it breaks off")),
                _ => {}
            }
        }
    }

    fn rule(&self, found: &Found) -> &str {
        &self.text[found.from..found.to]
    }

    /// Rules of others that have their prefix above a filter: S3 takes either all rules of a bucket like that,
    /// or none.
    fn has_old_prefixes(&self, owner: &str) -> bool {
        let others = self
            .rules
            .iter()
            .filter(|found| !found.id.starts_with(owner));
        let mut read = others.filter_map(|found| quick_xml::de::from_str(self.rule(found)).ok());
        read.any(|rule: Signed| rule.prefix.is_some())
    }

    /// What is to change so that the rules under ids that begin with `owner` are those wanted.
    pub(super) fn plan(&self, owner: &str, root: &str, wanted: &[BucketRule]) -> BucketPlan {
        let old_prefixes = self.has_old_prefixes(owner);
        let mut plan = BucketPlan {
            changes: Vec::new(),
            others: Vec::new(),
            kept: Vec::new(),
            document: BucketDocument::default(),
        };
        let mut missing: Vec<(String, String, &BucketRule)> = wanted
            .iter()
            .map(|rule| {
                let id = format!("{owner}{}", rule.name);
                (id, format!("{root}{}", rule.prefix), rule)
            })
            .collect();
        let mut text = String::new();
        let mut copied = 0;
        for found in &self.rules {
            if !found.id.starts_with(owner) {
                plan.others.push(found.id.clone());
                continue;
            }
            let is = known(self.rule(found), old_prefixes);
            let same = missing.iter().position(|(id, prefix, rule)| {
                is.as_ref()
                    .is_some_and(|is| is.0 == *id && is.1 == *prefix && is.2 == rule.action)
            });
            if let Some(same) = same {
                plan.kept.push(found.id.clone());
                missing.remove(same);
                continue;
            }
            plan.changes.push(match is {
                Some((id, prefix, action)) => format!("- {id}: {action}, below {prefix}"),
                None => format!("- {}: not as we write it", found.id),
            });
            text.push_str(&self.text[copied..found.from]);
            copied = found.to;
        }
        text.push_str(&self.text[copied..self.end]);
        for (id, prefix, rule) in missing {
            let action = &rule.action;
            plan.changes
                .push(format!("+ {id}: {action}, below {prefix}"));
            text.push_str(&written(&id, &prefix, action, old_prefixes));
            plan.kept.push(id);
        }
        text.push_str(&self.text[self.end..]);
        if !plan.others.is_empty() || !plan.kept.is_empty() {
            plan.document.text = Some(text);
        }
        plan
    }
}

/// Id, prefix and action of a rule that is as we write them.
fn known(rule: &str, old_prefixes: bool) -> Option<(String, String, BucketAction)> {
    let ours: Ours = quick_xml::de::from_str(rule).ok()?;
    let prefix = match (ours.prefix, ours.filter) {
        (Some(prefix), None) if old_prefixes => prefix,
        (None, Some(filter)) if !old_prefixes => filter.prefix.unwrap_or_default(),
        _ => return None,
    };
    let action = match (ours.abort_incomplete_multipart_upload, ours.transition) {
        (Some(abort), None) => BucketAction::AbortUploads {
            days: abort.days_after_initiation,
        },
        (None, Some(to)) => BucketAction::Transition {
            days: to.days,
            storage_class: to.storage_class,
        },
        _ => return None,
    };
    (ours.status == "Enabled").then_some((ours.id, prefix, action))
}

fn written(id: &str, prefix: &str, action: &BucketAction, old_prefixes: bool) -> String {
    let prefix = format!("<Prefix>{}</Prefix>", escape(prefix));
    let prefix = if old_prefixes {
        prefix
    } else {
        format!("<Filter>{prefix}</Filter>")
    };
    let action = match action {
        BucketAction::AbortUploads { days } => format!(
            "<AbortIncompleteMultipartUpload><DaysAfterInitiation>{days}</DaysAfterInitiation></AbortIncompleteMultipartUpload>"
        ),
        BucketAction::Transition {
            days,
            storage_class,
        } => format!(
            "<Transition><Days>{days}</Days><StorageClass>{}</StorageClass></Transition>",
            escape(storage_class)
        ),
    };
    let id = escape(id);
    format!("<Rule><ID>{id}</ID>{prefix}<Status>Enabled</Status>{action}</Rule>")
}

fn position(reader: &Reader<&[u8]>) -> Result<usize> {
    usize::try_from(reader.buffer_position()).map_err(Error::internal)
}

fn unreadable(why: &str) -> Error {
    Error::unavailable(format!("the bucket's lifecycle can't be read: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the S3 user guide, "Examples of S3 Lifecycle configurations", with ids, and one rule of ours.
    const GUIDE: &str = r#"<LifecycleConfiguration>
  <Rule>
    <ID>Transition and Expiration Rule</ID>
    <Filter>
       <Prefix>tax/</Prefix>
    </Filter>
    <Status>Enabled</Status>
    <Transition>
      <Days>365</Days>
      <StorageClass>GLACIER</StorageClass>
    </Transition>
    <Expiration>
      <Days>3650</Days>
    </Expiration>
  </Rule>
  <Rule>
    <ID>box:a</ID>
    <Status>Enabled</Status>
    <Filter><Prefix>files/</Prefix></Filter>
    <AbortIncompleteMultipartUpload><DaysAfterInitiation>7</DaysAfterInitiation></AbortIncompleteMultipartUpload>
  </Rule>
  <Rule>
    <Filter>
      <And>
        <Prefix>tax/</Prefix>
        <Tag><Key>key1</Key><Value>value1</Value></Tag>
        <ObjectSizeGreaterThan>500</ObjectSizeGreaterThan>
      </And>
    </Filter>
    <Status>Disabled</Status>
    <NoncurrentVersionTransition>
      <NoncurrentDays>30</NoncurrentDays><StorageClass>STANDARD_IA</StorageClass><NewerNoncurrentVersions>5</NewerNoncurrentVersions>
    </NoncurrentVersionTransition>
  </Rule>
</LifecycleConfiguration>"#;

    fn abort(name: &str, days: u32) -> BucketRule {
        BucketRule {
            name: name.to_owned(),
            prefix: String::new(),
            action: BucketAction::AbortUploads { days },
        }
    }

    fn planned(text: &str, wanted: &[BucketRule]) -> BucketPlan {
        Document::read(text).unwrap().plan("box:", "files/", wanted)
    }

    fn text(plan: &BucketPlan) -> &str {
        plan.document.text.as_deref().unwrap()
    }

    #[test]
    fn what_is_there_already_is_no_change() {
        let plan = planned(GUIDE, &[abort("a", 7)]);
        assert_eq!(plan.changes, [""; 0]);
        assert_eq!(plan.kept, ["box:a"]);
        assert_eq!(plan.others, ["Transition and Expiration Rule", ""]);
        assert_eq!(text(&plan), GUIDE);
    }

    #[test]
    fn only_ours_are_taken_away_and_replaced() {
        let plan = planned(GUIDE, &[]);
        assert_eq!(
            plan.changes,
            ["- box:a: ends multipart uploads after 7 days, below files/"]
        );
        let (from, to) = (
            GUIDE.find("<Rule>\n    <ID>box:a").unwrap(),
            GUIDE.rfind("<Rule>").unwrap(),
        );
        let rest = GUIDE.replace(GUIDE[from..to].trim_end(), "");
        assert_eq!(text(&plan), rest);

        let cold = BucketRule {
            name: "<cold>".to_owned(),
            prefix: "a&b/".to_owned(),
            action: BucketAction::Transition {
                days: 30,
                storage_class: "GLACIER_IR".to_owned(),
            },
        };
        let wanted = [abort("a", 8), cold];
        let plan = planned(GUIDE, &wanted);
        assert_eq!(plan.changes.len(), 3, "{:?}", plan.changes);
        assert!(text(&plan).starts_with(rest.trim_end_matches("</LifecycleConfiguration>")));
        assert!(
            text(&plan)
                .contains("<ID>box:&lt;cold&gt;</ID><Filter><Prefix>files/a&amp;b/</Prefix>")
        );
        // Read again, it is what was wanted.
        let again = planned(text(&plan), &wanted);
        assert_eq!((again.changes.len(), again.kept.len()), (0, 2));
        assert_eq!(text(&again), text(&plan));
    }

    /// S3 does not take rules with a prefix beside rules with a filter.
    #[test]
    fn ours_are_written_as_those_of_others_are() {
        let old = "<LifecycleConfiguration><Rule><ID>x</ID><Prefix>logs/</Prefix><Status>Enabled</Status>\
                   <Expiration><Days>1</Days></Expiration></Rule></LifecycleConfiguration>";
        let plan = planned(old, &[abort("a", 7)]);
        assert!(text(&plan).contains("<ID>box:a</ID><Prefix>files/</Prefix><Status>"));
        let again = planned(text(&plan), &[abort("a", 7)]);
        assert_eq!(again.changes, [""; 0]);
        // With the other's rule gone, ours is written anew.
        let alone = text(&plan).replace(&old[24..old.len() - 25], "");
        let anew = planned(&alone, &[abort("a", 7)]);
        assert_eq!(anew.changes.len(), 2, "{:?}", anew.changes);
        assert!(text(&anew).contains("<Filter><Prefix>files/</Prefix></Filter>"));
    }

    #[test]
    fn one_of_ours_that_was_changed_is_written_anew() {
        for change in [
            (
                "<Status>Enabled</Status>\n    <Filter><Prefix>files/",
                "<Status>Disabled</Status>\n    <Filter><Prefix>files/",
            ),
            ("<Prefix>files/</Prefix>", "<Prefix>other/</Prefix>"),
            (
                "<DaysAfterInitiation>7</DaysAfterInitiation>",
                "<DaysAfterInitiation>6</DaysAfterInitiation>",
            ),
            (
                "</AbortIncompleteMultipartUpload>",
                "</AbortIncompleteMultipartUpload><Expiration><Days>1</Days></Expiration>",
            ),
        ] {
            assert!(GUIDE.contains(change.0), "{change:?}");
            let plan = planned(&GUIDE.replace(change.0, change.1), &[abort("a", 7)]);
            assert_eq!(plan.changes.len(), 2, "{change:?}: {:?}", plan.changes);
            assert!(!text(&plan).contains("<Days>1</Days>"));
            assert_eq!(plan.others.len(), 2);
        }
    }

    #[test]
    fn without_any_rule_there_is_no_document() {
        for empty in [
            EMPTY,
            "<LifecycleConfiguration/>",
            "<?xml version='1.0'?>\n<LifecycleConfiguration>\n</LifecycleConfiguration>",
        ] {
            let plan = planned(empty, &[]);
            assert!(plan.document.text.is_none() && plan.changes.is_empty());
            let plan = planned(empty, &[abort("a", 1)]);
            assert!(
                text(&plan).contains("<Rule>")
                    && text(&plan).ends_with("</LifecycleConfiguration>")
            );
        }
    }

    #[test]
    fn what_is_no_lifecycle_is_refused() {
        for text in [
            "",
            "<Error/>",
            "<Error></Error>",
            "nothing",
            "<LifecycleConfiguration>",
            "<LifecycleConfiguration><Rule>",
            "<LifecycleConfiguration><Rule></LifecycleConfiguration>",
        ] {
            assert!(Document::read(text).is_err(), "{text}");
        }
    }
}
