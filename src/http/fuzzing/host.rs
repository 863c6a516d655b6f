use std::net::{IpAddr, Ipv4Addr};

use url::{Host, Url};

use crate::fetch::Policy;
use crate::fetch::address::is_public;

/// Of any text: where it passes as a URL to fetch, it is of http or https and without credentials, its
/// host is a public address or a name that nobody reads as an address, and what is sent on (the URL as
/// the parser writes it) is read as the same.
pub fn host(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let policy = Policy::default();
    let Ok(url) = Url::parse(text) else {
        return;
    };
    if policy.check(&url).is_err() {
        return;
    }
    assert!(matches!(url.scheme(), "http" | "https"), "{url}");
    assert!(
        url.username().is_empty() && url.password().is_none(),
        "{url}"
    );
    match url.host() {
        Some(Host::Ipv4(address)) => assert!(is_public(address.into()), "{url}"),
        Some(Host::Ipv6(address)) => assert!(is_public(address.into()), "{url}"),
        Some(Host::Domain(name)) => {
            assert!(!name.is_empty(), "{url}");
            assert!(name.parse::<IpAddr>().is_err(), "{url}");
            assert_eq!(as_old_libraries_read(name), None, "{url}");
        }
        None => panic!("{url} has no host"),
    }
    let again = Url::parse(url.as_str()).expect("what the parser wrote can be read");
    assert_eq!(again.host(), url.host(), "{url}");
    assert_eq!(
        again.port_or_known_default(),
        url.port_or_known_default(),
        "{url}"
    );
    assert_eq!(policy.check(&again), Ok(()), "{url}");
}

/// As `inet_aton` does: one to four numbers, decimal, octal or hexadecimal, the last of which fills what
/// is left.
fn as_old_libraries_read(name: &str) -> Option<Ipv4Addr> {
    let parts: Vec<&str> = name.split('.').collect();
    if parts.len() > 4 {
        return None;
    }
    let mut address: u64 = 0;
    for (index, part) in parts.iter().enumerate() {
        let number = number(part)?;
        let rest = 4 - index;
        let last = index + 1 == parts.len();
        let most = if last { (1 << (8 * rest)) - 1 } else { 255 };
        if number > most {
            return None;
        }
        address |= if last {
            number
        } else {
            number << (8 * (rest - 1))
        };
    }
    u32::try_from(address).ok().map(Ipv4Addr::from_bits)
}

fn number(text: &str) -> Option<u64> {
    let hex = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    // Rust would read a sign, too; they want a digit.
    if !hex
        .unwrap_or(text)
        .starts_with(|c: char| c.is_ascii_hexdigit())
    {
        return None;
    }
    match hex {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None if text.len() > 1 && text.starts_with('0') => u64::from_str_radix(text, 8).ok(),
        None => text.parse().ok(),
    }
}
