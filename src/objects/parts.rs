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
}
