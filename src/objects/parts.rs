//! How large the parts of an object are: arithmetic, with S3's limits.

const MIB: u64 = 1024 * 1024;

/// The size of parts as long as nothing asks for larger ones: S3's least is 5 MiB.
const SMALLEST_PART: u64 = 8 * MIB;
/// S3's own limit is 10,000; what is left over is for uploads that outgrow what they declared.
const PLANNED_PARTS: u64 = 9_000;
pub(super) const MOST_PARTS: u64 = 10_000;
/// S3's own limit on a part.
const LARGEST_PART: u64 = 5 * 1024 * MIB;
/// Without a declared size: so many parts of the smallest size (17.5 GiB), and then twice the size
/// each time that so many more were written.
const PARTS_BEFORE_GROWTH: u64 = 2_250;
const PARTS_UNTIL_DOUBLE: u64 = 750;

/// The size in bytes of a part, by its number from 1: every part before the last one has it.
///
/// All of a part is held in memory until it is sent. So parts stay at 8 MiB for as long as they can
/// and 9,000 of them still hold 5 TiB: with a declared size, all have the least size that
/// suffices for it; without, they grow (and with them the memory that a writer takes) in steps.
pub(super) fn part_size(number: u64, declared: Option<u64>) -> u64 {
    let size = match declared {
        Some(declared) => declared.div_ceil(PLANNED_PARTS).next_multiple_of(MIB),
        None => {
            let grown = number
                .saturating_sub(PARTS_BEFORE_GROWTH)
                .div_ceil(PARTS_UNTIL_DOUBLE);
            SMALLEST_PART << grown.min(10)
        }
    };
    size.clamp(SMALLEST_PART, LARGEST_PART)
}

/// How an object of a known size is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// In bytes, in all.
    size: u64,
    /// Of every part but the last, which has what is left.
    part_size: u64,
}

impl Parts {
    /// The smallest that S3 takes of so many bytes: what is lost on its way is sent again by the part.
    pub fn of(size: u64) -> Self {
        Self::sized(size, part_size(1, Some(size)))
    }

    /// All in one.
    pub fn whole(size: u64) -> Self {
        Self::sized(size, size)
    }

    pub fn sized(size: u64, part_size: u64) -> Self {
        Self {
            size,
            part_size: part_size.max(1),
        }
    }

    pub fn part_size(&self) -> u64 {
        self.part_size
    }

    /// One at least: nothing is a part without bytes.
    pub fn count(&self) -> u32 {
        let count = self.size.div_ceil(self.part_size).max(1);
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Where the part begins, in bytes; None where there is no such part. The first has the number 1.
    pub fn position(&self, number: u32) -> Option<u64> {
        let before = u64::from(number.checked_sub(1)?);
        (number <= self.count()).then(|| before.saturating_mul(self.part_size))
    }

    /// In bytes.
    pub fn length(&self, number: u32) -> Option<u64> {
        let position = self.position(number)?;
        Some(self.part_size.min(self.size - position))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIB: u64 = 1024 * 1024 * MIB;

    #[test]
    fn parts_of_unknown_uploads_start_small_and_reach_5_tib() {
        let sizes: Vec<u64> = (1..=PLANNED_PARTS)
            .map(|number| part_size(number, None))
            .collect();
        assert!(sizes.iter().sum::<u64>() >= 5 * TIB);
        assert!(sizes.is_sorted());
        assert!(
            sizes
                .iter()
                .all(|size| (5 * MIB..=5 * 1024 * MIB).contains(size))
        );
        assert!(sizes[..2_250].iter().all(|size| *size == 8 * MIB));
        assert_eq!(sizes[2_250], 16 * MIB);
        assert_eq!(sizes[8_999], 4_096 * MIB);
        for number in [MOST_PARTS, u64::MAX] {
            assert!(part_size(number, None) <= 5 * 1024 * MIB);
        }
        // What a writer holds stays in proportion to what it was sent: three parts are at most
        // a 250th of that.
        let mut before = 0;
        for size in sizes {
            assert!(size == 8 * MIB || size * 750 <= before);
            before += size;
        }
    }

    #[test]
    fn parts_of_declared_uploads_have_one_size_that_suffices() {
        for declared in [
            0,
            1,
            8 * MIB,
            8 * MIB * 9_000,
            8 * MIB * 9_000 + 1,
            TIB,
            5 * TIB - 1,
            5 * TIB,
        ] {
            let size = part_size(1, Some(declared));
            assert!((8 * MIB..=5 * 1024 * MIB).contains(&size), "{declared}");
            assert!(size * PLANNED_PARTS >= declared, "{declared}");
            assert_eq!(size, part_size(9_999, Some(declared)));
            assert!(
                size == 8 * MIB || (size - MIB) * PLANNED_PARTS < declared,
                "{declared}"
            );
        }
        assert_eq!(part_size(1, Some(5 * TIB)), 583 * MIB);
        assert_eq!(part_size(1, Some(u64::MAX)), 5 * 1024 * MIB);
    }

    #[test]
    fn parts_cover_all_bytes_once_up_to_5_tib() {
        let sizes = [
            0,
            1,
            8 * MIB - 1,
            8 * MIB,
            8 * MIB + 1,
            100 * MIB + 1,
            8 * MIB * 9_000,
            TIB,
            5 * TIB,
        ];
        for size in sizes {
            for parts in [Parts::of(size), Parts::whole(size)] {
                let mut at = 0;
                for number in 1..=parts.count() {
                    assert_eq!(parts.position(number), Some(at), "{size} {number}");
                    let length = parts.length(number).unwrap();
                    let last = number == parts.count();
                    assert!(length == parts.part_size() || last, "{size} {number}");
                    assert!(length > 0 || size == 0, "{size} {number}");
                    at += length;
                }
                assert_eq!(at, size);
                for none in [0, parts.count() + 1, u32::MAX] {
                    assert_eq!(parts.length(none), None, "{size} {none}");
                }
            }
            let parts = Parts::of(size);
            assert!(u64::from(parts.count()) <= PLANNED_PARTS);
            assert!((5 * MIB..=LARGEST_PART).contains(&parts.part_size()));
        }
        let parts = Parts::of(TIB);
        assert_eq!((parts.part_size(), parts.count()), (117 * MIB, 8_963));
        assert_eq!(parts.length(8_963), Some(22 * MIB));
        let parts = Parts::of(5 * TIB);
        assert_eq!((parts.part_size(), parts.count()), (583 * MIB, 8_993));
    }
}
