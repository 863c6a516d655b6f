//! What is claimed of everything that strangers' bytes go through first, for any bytes. Each function
//! here panics where a claim does not hold.
//!
//! `fuzz/` looks for such bytes; the tests below hold on to what it found on its way. Nothing of
//! this is in a normal build.

mod cursor;
mod filters;
mod host;
mod import;
mod jwks;
mod jwt;
mod link;
mod merge_patch;
mod multipart;
mod range;

pub use cursor::cursor;
pub use filters::filters;
pub use host::host;
pub use import::import;
pub use jwks::jwks;
pub use jwt::jwt;
pub use link::link;
pub use merge_patch::merge_patch;
pub use multipart::multipart;
pub use range::range;

use sha2::{Digest, Sha256};

/// Takes the first N bytes off; zeros stand in for what is not there.
fn take<const N: usize>(input: &mut &[u8]) -> [u8; N] {
    let mut taken = [0; N];
    let (head, rest) = input.split_at(input.len().min(N));
    taken[..head.len()].copy_from_slice(head);
    *input = rest;
    taken
}

/// What stands before the first `separator`, and behind it; nothing where there is none.
fn split(input: &[u8], separator: u8) -> (&[u8], &[u8]) {
    match input.iter().position(|byte| *byte == separator) {
        Some(at) => (&input[..at], &input[at + 1..]),
        None => (input, &[]),
    }
}

/// HMAC-SHA-256 (RFC 2104), from nothing that the service verifies with.
fn hmac(secret: &[u8], text: &[u8]) -> [u8; 32] {
    let mut key = [0; 64];
    if secret.len() > key.len() {
        key[..32].copy_from_slice(&Sha256::digest(secret));
    } else {
        key[..secret.len()].copy_from_slice(secret);
    }
    let padded = |with: u8| key.map(|byte| byte ^ with);
    let inner = Sha256::new()
        .chain_update(padded(0x36))
        .chain_update(text)
        .finalize();
    Sha256::new()
        .chain_update(padded(0x5c))
        .chain_update(inner)
        .finalize()
        .into()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// Each input of the corpus, and how many there were.
    fn replay(target: &str, check: impl Fn(&[u8])) {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("fuzz/corpus")
            .join(target);
        let mut count = 0;
        for entry in std::fs::read_dir(&corpus).unwrap() {
            let path = entry.unwrap().path();
            let input = std::fs::read(&path).unwrap();
            // Names the input, should the check panic.
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&input)));
            assert!(result.is_ok(), "the claim breaks on {}", path.display());
            count += 1;
        }
        assert!(count > 0, "{} is empty", corpus.display());
    }

    macro_rules! corpora {
        ($($target:ident)*) => {
            $(
                #[test]
                fn $target() {
                    replay(stringify!($target), super::$target);
                }
            )*
        };
    }

    corpora!(cursor filters host import jwks jwt link merge_patch multipart range);
}
