//! The parts that are there, compared with those that an upload must have and those that its sender named.

use std::collections::BTreeMap;

use crc_fast::{CrcAlgorithm, checksum_combine};

use crate::error::{Error, Invalid, Kind, Result};
use crate::metadata::direct_parts::{Part, Written};
use crate::metadata::uploads::Upload;
use crate::objects::StoredPart;

use super::by_tus;
use super::parts::etag;

/// Faults told of one list of parts.
const MOST_FAULTS: usize = 100;

/// A part as its sender names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPart {
    pub number: u32,
    pub etag: String,
}

/// A part that is there.
pub(super) struct There {
    pub number: u32,
    pub size: u64,
    pub etag: String,
}

/// Of each number, the part that counts: the one that is named, or the last by its time. Stores that list
/// those as well that were replaced tell the time in seconds.
pub(super) fn that_count(
    parts: Vec<StoredPart>,
    named: Option<&[NamedPart]>,
) -> Result<Vec<There>> {
    let mut by_number: BTreeMap<u32, Vec<StoredPart>> = BTreeMap::new();
    for part in parts {
        by_number.entry(part.number).or_default().push(part);
    }
    let mut counting = Vec::new();
    for (number, mut parts) in by_number {
        let at = usize::try_from(number)
            .unwrap_or(usize::MAX)
            .saturating_sub(1);
        let named = named.and_then(|named| named.get(at));
        let is_named =
            |part: &StoredPart| named.is_some_and(|named| bare(&named.etag) == bare(&part.etag));
        if let Some(at) = parts.iter().position(is_named) {
            counting.push(There::from(parts.swap_remove(at)));
            continue;
        }
        let Some(last) = last(&parts) else { continue };
        let as_late = |part: &StoredPart| part.modified == last.modified && part.etag != last.etag;
        if named.is_none() && parts.iter().any(as_late) {
            return Err(Error::new(
                Kind::Conflict,
                format!(
                    "Part {number} came more than once, and the store does not tell which was the last: name all \
                     parts with their ETags."
                ),
            ));
        }
        counting.push(There::from(last.clone()));
    }
    Ok(counting)
}

fn last(parts: &[StoredPart]) -> Option<&StoredPart> {
    parts.iter().max_by_key(|part| part.modified)
}

/// Of each number, the part that was written to its end.
pub(super) fn chosen(parts: &[Part]) -> Vec<(Part, Written)> {
    let written = parts
        .iter()
        .filter_map(|part| Some((part.number, (*part, part.written?))));
    let by_number: BTreeMap<u32, (Part, Written)> = written.collect();
    by_number.into_values().collect()
}

/// Of all bytes: the SHA-256 where they came in one part, for it can't be put together.
pub(super) fn checksums(chosen: &[(Part, Written)]) -> (Option<[u8; 32]>, [u8; 8]) {
    let sha256 = match chosen {
        [(_, only)] => Some(only.sha256),
        _ => None,
    };
    let crc = chosen.iter().fold(0, |crc, (_, written)| {
        let next = u64::from_be_bytes(written.crc64nvme);
        checksum_combine(CrcAlgorithm::Crc64Nvme, crc, next, written.size)
    });
    (sha256, crc.to_be_bytes())
}

impl There {
    pub(super) fn of((part, written): &(Part, Written)) -> Self {
        Self {
            number: part.number,
            size: written.size,
            etag: etag(written),
        }
    }
}

impl From<StoredPart> for There {
    fn from(part: StoredPart) -> Self {
        Self {
            number: part.number,
            size: part.size,
            etag: part.etag,
        }
    }
}

/// The only part of an upload in one request has an ETag that says no more than that it came.
pub(super) fn without_etags(named: Vec<NamedPart>) -> Vec<NamedPart> {
    let without = |part: NamedPart| NamedPart {
        etag: String::new(),
        ..part
    };
    named.into_iter().map(without).collect()
}

/// Whether the parts are those of the upload, each of its size; and those that their sender named.
pub(super) fn are_all_there(
    upload: &Upload,
    there: &[There],
    named: Option<&[NamedPart]>,
) -> Result<()> {
    let parts = upload.parts().ok_or_else(by_tus)?;
    if let Some(named) = named {
        are_named(parts.count(), named)?;
    }
    let mut by_number: BTreeMap<u32, &There> =
        there.iter().map(|part| (part.number, part)).collect();
    let mut faults = Vec::new();
    for number in 1..=parts.count() {
        let length = parts.length(number).unwrap_or(0);
        let fault = match by_number.remove(&number) {
            None => "is not there".to_owned(),
            Some(part) if part.size != length => {
                format!("has {} bytes, and not {length}", part.size)
            }
            Some(part) => {
                let index = usize::try_from(number - 1).unwrap_or(usize::MAX);
                let named = named.and_then(|named| named.get(index));
                match named {
                    Some(named) if bare(&named.etag) != bare(&part.etag) => {
                        format!("has the ETag {}", part.etag)
                    }
                    _ => continue,
                }
            }
        };
        if faults.len() < MOST_FAULTS {
            faults.push(format!("part {number} {fault}"));
        }
    }
    if let Some((number, _)) = by_number.into_iter().next() {
        faults.push(format!("part {number} is none of the upload's"));
    }
    if faults.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        Kind::Conflict,
        format!("The bytes are not all there: {}.", faults.join("; ")),
    ))
}

/// Whether each part is named once, in order.
fn are_named(count: u32, named: &[NamedPart]) -> Result<()> {
    let mut invalid = Vec::new();
    for (index, (part, expected)) in named.iter().zip(1..=count).enumerate() {
        if part.number != expected && invalid.len() < MOST_FAULTS {
            invalid.push(Invalid {
                pointer: format!("/parts/{index}/number"),
                detail: format!("must be {expected}: all parts, in order"),
            });
        }
    }
    if u32::try_from(named.len()) != Ok(count) {
        invalid.push(Invalid {
            pointer: "/parts".to_owned(),
            detail: format!("must be all {count} parts"),
        });
    }
    if invalid.is_empty() {
        Ok(())
    } else {
        Err(Error::invalid_many(invalid))
    }
}

/// An ETag with its quotes or without.
fn bare(etag: &str) -> &str {
    etag.trim_matches('"')
}

#[cfg(test)]
mod tests {
    use crc_fast::Digest as Crc;
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::clock::Timestamp;

    fn stored(number: u32, etag: &str, at: i64) -> StoredPart {
        StoredPart {
            number,
            size: 5,
            etag: format!("\"{etag}\""),
            modified: Timestamp::from_micros(at),
        }
    }

    fn named(etags: &[&str]) -> Vec<NamedPart> {
        let named = etags.iter().zip(1..).map(|(etag, number)| NamedPart {
            number,
            etag: (*etag).to_owned(),
        });
        named.collect()
    }

    #[test]
    fn of_parts_that_were_replaced_the_one_counts_that_is_named_or_last() {
        let counting = |parts: &[StoredPart], named: Option<&[NamedPart]>| {
            let counting = that_count(parts.to_vec(), named).ok()?;
            Some(
                counting
                    .into_iter()
                    .map(|part| part.etag)
                    .collect::<Vec<_>>(),
            )
        };
        let told = |etags: &[&str]| {
            Some(
                etags
                    .iter()
                    .map(|etag| format!("\"{etag}\""))
                    .collect::<Vec<_>>(),
            )
        };
        let parts = [stored(1, "a", 2), stored(1, "b", 1), stored(2, "c", 1)];
        assert_eq!(counting(&parts, None), told(&["a", "c"]));
        assert_eq!(
            counting(&parts, Some(&named(&["b", "c"]))),
            told(&["b", "c"])
        );
        // Which is then refused: it is none of those that are there.
        assert_eq!(
            counting(&parts, Some(&named(&["x", "c"]))),
            told(&["a", "c"])
        );
        let same_time = [stored(1, "a", 1), stored(1, "b", 1)];
        assert_eq!(counting(&same_time, None), None);
        assert_eq!(counting(&same_time, Some(&named(&["b"]))), told(&["b"]));
        assert_eq!(
            counting(&[stored(1, "a", 1), stored(1, "a", 1)], None),
            told(&["a"])
        );
    }

    #[test]
    fn checksums_of_parts_add_up_to_that_of_the_whole() {
        let bytes: Vec<u8> = (0..10_000_u32).map(|i| i as u8).collect();
        let part = |number: u32, bytes: &[u8]| {
            let mut crc = Crc::new(CrcAlgorithm::Crc64Nvme);
            crc.update(bytes);
            let written = Written {
                size: bytes.len() as u64,
                sha256: Sha256::digest(bytes).into(),
                crc64nvme: crc.finalize().to_be_bytes(),
            };
            let part = Part {
                number,
                epoch: 1,
                position: 0,
                written: Some(written),
            };
            (part, written)
        };
        let whole = part(1, &bytes);
        assert_eq!(
            checksums(&[whole]),
            (Some(whole.1.sha256), whole.1.crc64nvme)
        );
        let parts = [
            part(1, &bytes[..1]),
            part(2, &bytes[1..9_000]),
            part(3, &bytes[9_000..]),
        ];
        assert_eq!(checksums(&parts), (None, whole.1.crc64nvme));
        assert_eq!(checksums(&[part(1, b"")]).1, [0; 8]);
    }
}
