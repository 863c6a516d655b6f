//! A module uses only modules of its own row or of those above it in the table of `src/lib.rs`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Modules whose row may not use itself: they are strangers to each other.
const STRANGERS: u32 = 2;

#[test]
fn no_layer_knows_a_lower_one() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let table = fs::read_to_string(source.join("lib.rs")).unwrap();
    let rows = rows(&table);
    let mut faults = Vec::new();
    let mut seen = 0;
    for file in rust_files(&source) {
        let relative = file.strip_prefix(&source).unwrap().to_str().unwrap();
        let module = relative.split(['/', '.']).next().unwrap();
        if matches!(module, "lib" | "main") {
            continue;
        }
        let own = rows
            .get(module)
            .unwrap_or_else(|| panic!("{module} has no row in the table of src/lib.rs"));
        let text = fs::read_to_string(&file).unwrap();
        for used in used(&text) {
            seen += 1;
            let Some(row) = rows.get(used) else { continue };
            let stranger = *row == STRANGERS && *own == STRANGERS && used != module;
            if row > own || stranger {
                faults.push(format!("{relative} uses {used}"));
            }
        }
    }
    assert!(seen > 50, "only {seen} uses were found: is the test blind?");
    assert!(faults.is_empty(), "{faults:#?}");
}

/// The table `| row | modules | … |`: modules stand in backquotes in its second column.
fn rows(text: &str) -> BTreeMap<&str, u32> {
    let mut rows = BTreeMap::new();
    for line in text.lines() {
        let mut cells = line.trim_start_matches("//!").split('|').skip(1);
        let row = cells.next().and_then(|cell| cell.trim().parse().ok());
        if let (Some(row), Some(modules)) = (row, cells.next()) {
            for module in modules.split('`').skip(1).step_by(2) {
                rows.insert(module, row);
            }
        }
    }
    assert!(rows.len() > 8, "{rows:?}");
    rows
}

/// The first name behind every `crate::`.
fn used(text: &str) -> impl Iterator<Item = &str> {
    text.split("crate::").skip(1).map(|rest| {
        let end = rest
            .find(|c: char| !(c.is_alphanumeric() || c == '_'))
            .unwrap_or(rest.len());
        &rest[..end]
    })
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}
