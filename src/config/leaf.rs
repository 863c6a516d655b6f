//! How one value is read: from its own TOML type, and from text, which is all that an
//! environment variable can hold. Every key of every section goes through here
//! (`#[serde(with = "leaf")]`), so that no key works in a file and fails as a variable.

use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};
use serde_json::Value;
use url::Url;

/// The TOML type that a key takes beside text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Native {
    Text,
    Bool,
    Integer,
    /// Whole numbers too.
    Fraction,
    List,
}

pub(crate) trait Leaf: Sized {
    /// Completes "expected …".
    const EXPECTED: &'static str;
    const NATIVE: Native = Native::Text;

    /// # Errors
    /// What is wrong, as the end of a sentence that began with the key. It never repeats a secret.
    fn parse(text: &str) -> Result<Self, String>;

    fn parse_list(_items: &[String]) -> Result<Self, String> {
        Err(wrong_type::<Self>("a list"))
    }

    /// The value as it is shown to people: short, and masked where it is secret.
    fn show(&self) -> Value;
}

/// "expected …, found …", for a text that isn't one.
pub(crate) fn unlike<T: Leaf>(text: &str) -> String {
    // What may be a URL with credentials in it must not reach a log.
    if text.contains('@') {
        return format!("expected {}", T::EXPECTED);
    }
    let shown: String = text.chars().take(80).collect();
    format!("expected {}, found {shown:?}", T::EXPECTED)
}

fn wrong_type<T: Leaf>(found: &str) -> String {
    format!("expected {}, found {found}", T::EXPECTED)
}

pub(crate) fn serialize<T: Leaf, S: Serializer>(
    value: &T,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    value.show().serialize(serializer)
}

pub(crate) fn deserialize<'de, T: Leaf, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    deserializer.deserialize_any(LeafVisitor(PhantomData))
}

struct LeafVisitor<T>(PhantomData<T>);

impl<T: Leaf> LeafVisitor<T> {
    fn native<E: de::Error>(native: Native, text: &str, found: &str) -> Result<T, E> {
        let whole = native == Native::Integer && T::NATIVE == Native::Fraction;
        if T::NATIVE == native || whole {
            T::parse(text).map_err(E::custom)
        } else {
            Err(E::custom(wrong_type::<T>(found)))
        }
    }
}

impl<'de, T: Leaf> Visitor<'de> for LeafVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        T::parse(text).map_err(E::custom)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<T, E> {
        Self::native(Native::Bool, &value.to_string(), "a boolean")
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<T, E> {
        Self::native(Native::Integer, &value.to_string(), "a number")
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<T, E> {
        Self::native(Native::Integer, &value.to_string(), "a number")
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<T, E> {
        let found = "a number with a fraction";
        Self::native(Native::Fraction, &value.to_string(), found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<T, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element::<Item>()? {
            items.push(item.0);
        }
        T::parse_list(&items).map_err(de::Error::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, _table: A) -> Result<T, A::Error> {
        Err(de::Error::custom(wrong_type::<T>("a table or a date")))
    }
}

/// One item of a list: text, or a number as it is written.
struct Item(String);

impl<'de> de::Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(untagged, expecting = "expected text or a whole number")]
        enum Written {
            Number(u64),
            Text(#[serde(deserialize_with = "deserialize")] String),
        }
        Ok(match Written::deserialize(deserializer)? {
            Written::Number(number) => Self(number.to_string()),
            Written::Text(text) => Self(text),
        })
    }
}

/// An empty text leaves the key unset: templates of environments can't always leave a variable out.
impl<T: Leaf> Leaf for Option<T> {
    const EXPECTED: &'static str = T::EXPECTED;
    const NATIVE: Native = T::NATIVE;

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            Ok(None)
        } else {
            T::parse(text).map(Some)
        }
    }

    fn show(&self) -> Value {
        self.as_ref().map_or(Value::Null, Leaf::show)
    }
}

impl<T: Leaf> Leaf for Vec<T> {
    const EXPECTED: &'static str = "a list";
    const NATIVE: Native = Native::List;

    fn parse(text: &str) -> Result<Self, String> {
        text.split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(T::parse)
            .collect()
    }

    fn parse_list(items: &[String]) -> Result<Self, String> {
        items.iter().map(|item| T::parse(item)).collect()
    }

    fn show(&self) -> Value {
        self.iter().map(Leaf::show).collect()
    }
}

impl Leaf for bool {
    const EXPECTED: &'static str = "true or false";
    const NATIVE: Native = Native::Bool;

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| unlike::<Self>(text))
    }

    fn show(&self) -> Value {
        Value::Bool(*self)
    }
}

impl Leaf for u16 {
    const EXPECTED: &'static str = "a whole number from 0 to 65535";
    const NATIVE: Native = Native::Integer;

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| unlike::<Self>(text))
    }

    fn show(&self) -> Value {
        Value::from(*self)
    }
}

impl Leaf for u32 {
    const EXPECTED: &'static str = "a whole number from 0 to 4294967295";
    const NATIVE: Native = Native::Integer;

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| unlike::<Self>(text))
    }

    fn show(&self) -> Value {
        Value::from(*self)
    }
}

impl Leaf for u64 {
    const EXPECTED: &'static str = "a whole number from 0 to 18446744073709551615";
    const NATIVE: Native = Native::Integer;

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| unlike::<Self>(text))
    }

    fn show(&self) -> Value {
        Value::from(*self)
    }
}

impl Leaf for String {
    const EXPECTED: &'static str = "text without control characters";

    fn parse(text: &str) -> Result<Self, String> {
        if text.chars().any(char::is_control) {
            return Err(unlike::<Self>(text));
        }
        Ok(text.to_owned())
    }

    fn show(&self) -> Value {
        Value::String(self.clone())
    }
}

impl Leaf for PathBuf {
    const EXPECTED: &'static str = "a path";

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.chars().any(char::is_control) {
            return Err(unlike::<Self>(text));
        }
        Ok(text.into())
    }

    fn show(&self) -> Value {
        Value::String(self.display().to_string())
    }
}

impl Leaf for SocketAddr {
    const EXPECTED: &'static str = "an IP address and a port, such as 127.0.0.1:8080 or [::]:8080";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| unlike::<Self>(text))
    }

    fn show(&self) -> Value {
        Value::String(self.to_string())
    }
}

/// A base below which paths are joined: its path always ends with a slash.
impl Leaf for Url {
    const EXPECTED: &'static str = "an http or https URL, such as https://files.example.com";

    fn parse(text: &str) -> Result<Self, String> {
        let mut url = http_url(text)?;
        if !url.path().ends_with('/') {
            let path = format!("{}/", url.path());
            url.set_path(&path);
        }
        Ok(url)
    }

    fn show(&self) -> Value {
        Value::String(self.as_str().trim_end_matches('/').to_owned())
    }
}

/// An http or https URL without credentials, query and fragment.
pub(crate) fn http_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|_| unlike::<Url>(text))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(unlike::<Url>(text));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a URL here must not hold credentials".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("a URL here must not have a query or a fragment".to_owned());
    }
    Ok(url)
}
