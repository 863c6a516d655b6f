//! The state of a SHA-256 that goes on with the next request, on whatever replica.

use sha2::Sha256;
use sha2::digest::common::hazmat::SerializableState;

use crate::error::{Error, Result};

/// The crate's own form: the test below fails where another version has another one.
pub(super) fn frozen(hasher: &Sha256) -> Vec<u8> {
    hasher.serialize().to_vec()
}

pub(super) fn thawed(state: &[u8]) -> Result<Sha256> {
    let state = state
        .try_into()
        .map_err(|_| Error::internal("the state of a hash has another length"))?;
    Sha256::deserialize(state).map_err(|_| Error::internal("the state of a hash can't be read"))
}

#[cfg(test)]
mod tests {
    use sha2::Digest;

    use super::*;

    /// What replicas of another version have recorded must be read, and they what is recorded here.
    #[test]
    fn the_recorded_state_of_a_hash_is_of_one_form() {
        let bytes: Vec<u8> = (0..67).collect();
        let state = frozen(&Sha256::new_with_prefix(&bytes));
        assert_eq!(hex::encode(&state), RECORDED);
        let mut hasher = thawed(&state).unwrap();
        hasher.update(b"more");
        let whole = [&bytes[..], b"more"].concat();
        assert_eq!(hasher.finalize(), Sha256::digest(whole));
        assert!(thawed(&state[1..]).is_err());
    }

    /// The state after the first block (FIPS 180-4, section 6.2), little-endian; the count of blocks; how
    /// much of the next one there is, and that.
    const RECORDED: &str = concat!(
        "dfa299fc7a2af48880d1b97ba2c6cd335f755602509a5b9d31cca944a784be5a",
        "0100000000000000",
        "03404142000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000",
    );
}
