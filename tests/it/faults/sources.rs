//! No step of a store passes by its fault points.

use std::fs;
use std::path::Path;

fn source(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(path);
    fs::read_to_string(path).unwrap()
}

#[test]
fn the_local_store_touches_the_disk_in_one_module_only() {
    let text = source("objects/local.rs");
    for forbidden in [
        "fs::",
        "File::",
        "OpenOptions",
        "rustix",
        ".sync_all",
        "write_vectored",
    ] {
        let found = text
            .lines()
            .find(|line| line.contains(forbidden) && !line.starts_with("use std::fs::File;"));
        assert_eq!(found, None, "this belongs in objects/local/disk.rs");
    }
}

#[test]
fn s3_has_one_client_for_its_bucket() {
    let text = source("objects/s3.rs");
    assert_eq!(text.matches("ReqwestConnector::default()").count(), 1);
    assert_eq!(text.matches("points::between(").count(), 1);
    let s3 = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/objects/s3");
    let inner = fs::read_dir(s3.join("lifecycle")).unwrap();
    for module in fs::read_dir(s3).unwrap().chain(inner) {
        let path = module.unwrap().path();
        if path.is_dir() {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for client in ["ReqwestConnector", "reqwest::Client", "Client::builder"] {
            assert!(!text.contains(client), "{path:?} has a client of its own");
        }
    }
}

#[test]
fn the_database_has_one_way_in_for_reads_and_one_for_writes() {
    for (file, way, times) in [
        ("metadata.rs", "readers().acquire()", 1),
        ("metadata.rs", "pool.lease()", 1),
        // For a write, a check of the schema, and migrations.
        ("metadata/postgres.rs", "self.lease()", 1),
        ("metadata/postgres.rs", "pool.lease()", 1),
        ("metadata/postgres.rs", "pool.acquire()", 2),
        ("metadata/postgres.rs", ".begin()", 1),
    ] {
        assert_eq!(
            source(file).matches(way).count(),
            times,
            "{way} in {file}: a way past the fault points?"
        );
    }
}
