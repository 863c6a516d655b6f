//! Names in an archive: no two alike, none that is a folder too, and none that leads elsewhere on
//! the system of whoever unpacks it.

use std::collections::{HashMap, HashSet};

use super::Member;

/// Gives every member a name of its own. The first of equal ones keeps it.
pub(super) fn make_unique(members: &mut [Member]) {
    for member in &mut *members {
        member.name = safe(&member.name);
    }
    let mut folders = HashSet::new();
    let mut all = HashSet::new();
    for member in &*members {
        all.insert(member.name.clone());
        for (slash, _) in member.name.match_indices('/') {
            let folder = &member.name[..slash];
            if !folders.contains(folder) {
                folders.insert(folder.to_owned());
            }
        }
    }
    let mut used: HashSet<String> = HashSet::new();
    let mut last: HashMap<String, u32> = HashMap::new();
    for member in members {
        if !folders.contains(&member.name) && used.insert(member.name.clone()) {
            continue;
        }
        let number = last.entry(member.name.clone()).or_insert(1);
        loop {
            *number += 1;
            let name = numbered(&member.name, *number);
            // What another member is called anyway stays its name.
            if !all.contains(&name) && !folders.contains(&name) && used.insert(name.clone()) {
                member.name = name;
                break;
            }
        }
    }
}

/// A file's name has no `..` and no slash at its ends. What is left is what Windows takes for these:
/// backslashes, drives, and segments of dots and spaces, which it shortens.
fn safe(name: &str) -> String {
    let name = name.replace('\\', "_");
    let mut segments: Vec<String> = name
        .split('/')
        .map(|segment| {
            if segment.chars().all(|c| matches!(c, '.' | ' ')) {
                segment.replace('.', "_")
            } else {
                segment.to_owned()
            }
        })
        .collect();
    if let Some(first) = segments.first_mut()
        && let [drive, b':', ..] = first.as_bytes()
        && drive.is_ascii_alphabetic()
    {
        first.replace_range(1..2, "_");
    }
    segments.join("/")
}

/// `a/b (2).txt` for `a/b.txt`.
fn numbered(name: &str, number: u32) -> String {
    let start = name.rfind('/').map_or(0, |slash| slash + 1);
    // A dot at the beginning of a name begins no extension.
    match name[start..].rfind('.').filter(|dot| *dot > 0) {
        Some(dot) => {
            let (stem, extension) = name.split_at(start + dot);
            format!("{stem} ({number}){extension}")
        }
        None => format!("{name} ({number})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::id::ObjectId;

    fn made(names: &[&str]) -> Vec<String> {
        let mut members: Vec<Member> = names
            .iter()
            .map(|name| Member {
                name: (*name).to_owned(),
                object_id: ObjectId::from_uuid(uuid::Uuid::nil()),
                size: 0,
                at: Timestamp::from_micros(0),
            })
            .collect();
        make_unique(&mut members);
        members.into_iter().map(|member| member.name).collect()
    }

    #[test]
    fn equal_names_are_numbered_before_their_extension() {
        assert_eq!(
            made(&["a.txt", "a.txt", "b/a.txt", "a.txt", ".rc", ".rc", "x", "x"]),
            [
                "a.txt",
                "a (2).txt",
                "b/a.txt",
                "a (3).txt",
                ".rc",
                ".rc (2)",
                "x",
                "x (2)"
            ]
        );
    }

    #[test]
    fn a_number_takes_nobody_elses_name() {
        assert_eq!(
            made(&["a.txt", "a.txt", "a (2).txt", "a (2).txt"]),
            ["a.txt", "a (3).txt", "a (2).txt", "a (2) (2).txt"]
        );
    }

    #[test]
    fn what_is_a_folder_is_no_file() {
        assert_eq!(
            made(&["a", "a/b", "a/b/c", "a (2)"]),
            ["a (3)", "a/b (2)", "a/b/c", "a (2)"]
        );
    }

    #[test]
    fn no_name_leads_elsewhere() {
        for (name, safe) in [
            ("..\\..\\x", ".._.._x"),
            ("\\\\host\\x", "__host_x"),
            ("C:/x", "C_/x"),
            ("c:x", "c_x"),
            ("a/C:x", "a/C:x"),
            ("12:30", "12:30"),
            (".. /x", "__ /x"),
            ("a/.../x", "a/___/x"),
            ("a/ /x", "a/ /x"),
            ("a../x", "a../x"),
            ("ä/日本.txt", "ä/日本.txt"),
        ] {
            assert_eq!(made(&[name]), [safe], "{name}");
        }
    }

    #[test]
    fn names_that_become_equal_are_told_apart() {
        assert_eq!(made(&["a\\b", "a_b"]), ["a_b", "a_b (2)"]);
    }
}
