//! How many of something there are at the same time for each of many keys: connections of an
//! address, uploads of a tenant. Only keys that hold a place take memory.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

type Taken<K> = Arc<Mutex<HashMap<K, u32>>>;

/// Cheap to clone; clones count together.
#[derive(Debug)]
pub struct Places<K: Eq + Hash> {
    taken: Taken<K>,
    /// For each key; 0: any number.
    most: u32,
}

/// One place, for as long as it lives. None in it where places are not counted.
#[derive(Debug)]
#[must_use = "the place is given back when this is dropped"]
pub struct Place<K: Eq + Hash>(Option<(Taken<K>, K)>);

impl<K: Eq + Hash> Clone for Places<K> {
    fn clone(&self) -> Self {
        Self {
            taken: self.taken.clone(),
            most: self.most,
        }
    }
}

impl<K: Eq + Hash + Clone> Places<K> {
    pub fn new(most: u32) -> Self {
        Self {
            taken: Arc::default(),
            most,
        }
    }

    /// None while all places of this key are taken.
    pub fn take(&self, key: &K) -> Option<Place<K>> {
        if self.most == 0 {
            return Some(Place::uncounted());
        }
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(key.clone()).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Place(Some((self.taken.clone(), key.clone()))))
    }
}

impl<K: Eq + Hash> Place<K> {
    /// For who is exempt.
    pub fn uncounted() -> Self {
        Self(None)
    }
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let Some((taken, key)) = &self.0 else { return };
        let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(key) {
            *count -= 1;
            if *count == 0 {
                taken.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_its_places_and_gets_them_back() {
        let places = Places::new(2);
        let first = places.take(&"a").unwrap();
        let _second = places.clone().take(&"a").unwrap();
        assert!(places.take(&"a").is_none());
        let other = places.take(&"b");
        assert!(other.is_some());
        drop(first);
        let third = places.take(&"a");
        assert!(third.is_some() && places.take(&"a").is_none());
    }

    #[test]
    fn who_holds_nothing_takes_no_memory() {
        let places = Places::new(1);
        for key in 0..1_000 {
            drop(places.take(&key));
            // One that was refused leaves nothing either.
            let held = places.take(&key);
            assert!(places.take(&key).is_none());
            drop(held);
        }
        assert!(places.taken.lock().unwrap().is_empty());
    }

    #[test]
    fn zero_is_no_bound() {
        let places = Places::new(0);
        let held: Vec<_> = (0..100).map(|_| places.take(&1)).collect();
        assert!(held.iter().all(Option::is_some));
        assert!(places.taken.lock().unwrap().is_empty());
    }
}
