//! What no filter can mean.

use super::page;
use crate::harness::client::{id, send};
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    every_invalid_value_is_pointed_at,
    unknown_and_repeated_filters_are_refused,
    what_can_be_no_name_is_no_fault_of_the_service,
);

async fn every_invalid_value_is_pointed_at(service: &Service) {
    let client = service.client("acme");
    for (parameter, values) in [
        (
            "min_size",
            &[
                "",
                "x",
                "-1",
                "1.5",
                "1e3",
                "0x10",
                "99999999999999999999",
                "%00",
            ][..],
        ),
        (
            "max_size",
            &["", "x", "-1", "1.5", "1KiB", "99999999999999999999"],
        ),
        (
            "created_after",
            &[
                "",
                "x",
                "2026-01-31",
                "2026-02-30T00:00:00Z",
                "2026-01-31T00:00:00",
                "0",
            ],
        ),
        (
            "created_before",
            &[
                "",
                "now",
                "2026-01-31",
                "2026-13-01T00:00:00Z",
                "1769860800",
            ],
        ),
        ("sha256", &["", "x", "0123", "%00"]),
        ("content_type", &["", "x", "*", "image/", "/png", "%00"]),
        ("trashed", &["", "1", "yes", "TRUE", "null"]),
        (
            "sort",
            &["", "x", "Size", "--size", "size,name", "sha256", "id"],
        ),
        ("limit", &["", "0", "1001", "-1", "x"]),
        ("cursor", &["", "x", "%00"]),
        ("name", &["%ff"]),
        ("prefix", &["%ff"]),
    ] {
        for value in values {
            let path = format!("/v1/files?{parameter}={value}");
            let answer = send(client.get(&path)).await;
            assert_eq!(answer.status, 422, "{path} {}", answer.text());
            answer.invalid(&[&format!("/{parameter}")]);
        }
    }
    let almost = "0".repeat(63);
    for value in [format!("{almost}g"), format!("{almost}00"), almost] {
        let path = format!("/v1/files?sha256={value}");
        send(client.get(&path)).await.invalid(&["/sha256"]);
    }
}

async fn unknown_and_repeated_filters_are_refused(service: &Service) {
    let client = service.client("acme");
    for (query, pointer) in [
        ("size=1", "/size"),
        ("created_at=2026-01-31T00:00:00Z", "/created_at"),
        ("metadata.a=1", "/metadata.a"),
        ("Min_size=1", "/Min_size"),
        ("updated_after=2026-01-31T00:00:00Z", "/updated_after"),
        ("min_size=1&min_size=1", "/min_size"),
        ("metadata=%7B%7D&metadata=%7B%7D", "/metadata"),
        ("sort=name&sort=size", "/sort"),
    ] {
        let answer = send(client.get(&format!("/v1/files?{query}"))).await;
        answer.invalid(&[pointer]);
    }
}

async fn what_can_be_no_name_is_no_fault_of_the_service(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "x").await;
    let long = "n".repeat(1025);
    for name in ["", "/", "a/", "%00", "a%00", "%0a", "..", &long] {
        for parameter in ["name", "prefix"] {
            let path = format!("/v1/files?{parameter}={name}");
            let answer = send(client.get(&path)).await;
            if answer.status == 422 {
                answer.invalid(&[&format!("/{parameter}")]);
            } else if parameter == "name" || !name.is_empty() {
                assert_eq!(answer.json(200)["items"].as_array().unwrap().len(), 0);
            }
        }
    }
    // Bounds that leave nothing between them find nothing, or are said to be wrong.
    for query in [
        "min_size=2&max_size=1",
        "created_after=2027-01-01T00:00:00Z&created_before=2026-01-01T00:00:00Z",
    ] {
        let answer = send(client.get(&format!("/v1/files?{query}"))).await;
        if answer.status != 422 {
            assert_eq!(answer.json(200)["items"].as_array().unwrap().len(), 0);
        }
    }
    assert_eq!(id(&page(&client, "").await.items[0]), id(&file));
}
