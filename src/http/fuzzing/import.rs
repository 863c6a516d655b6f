use super::super::imports::lines_in;
use super::take;

/// Of any body of an import: in one piece and in many it is read as the same items, or refused.
///
/// The input: the format and the length of the pieces in a byte each, then the body.
pub fn import(mut input: &[u8]) {
    let [format, step] = take(&mut input);
    let whole = lines_in(format, input, input.len().max(1));
    let pieces = lines_in(format, input, usize::from(step).max(1));
    assert_eq!(whole, pieces);
}
