//! Downloads that are under way while what they read is replaced, removed and reaped.

use serde_json::Value;

use super::{content_path, path, remove, replace};
use crate::harness::client::id;
use crate::harness::connection::{Raw, request};
use crate::harness::content::{MIB, noise};
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    a_slow_reader_gets_the_bytes_it_began_with_or_a_broken_connection,
    a_reader_of_ranges_gets_the_bytes_it_asked_for,
    an_earlier_content_is_read_to_its_end_or_breaks_off,
);

/// More than what sockets and streams hold on the way.
const SIZE: usize = 24 * MIB;

/// A download of which only the head was read.
async fn begun(service: &Service, path: &str, lines: &str, status: u16) -> Raw {
    let token = service.token("acme", box_service::auth::Scope::ALL);
    let mut raw = Raw::open(service.address()).await;
    let lines = format!("connection: close\r\n{lines}");
    raw.send(request("GET", path, &token, &lines)).await;
    let (answered, _) = raw.head().await;
    assert_eq!(answered, status);
    raw
}

/// What is received is the beginning of these bytes, if not all of them.
async fn assert_never_others(mut raw: Raw, expected: &[u8]) {
    let received = raw.until_gone().await;
    assert!(received.len() <= expected.len());
    assert!(received == expected[..received.len()], "other bytes came");
}

/// Other bytes of the same length, then none at all, then not even the key.
async fn replace_and_remove(service: &Service, file: &Value) {
    let client = service.client("acme");
    replace(&client, file, vec![b'x'; SIZE]).await;
    service.settle().await;
    remove(&client, file).await;
    service.settle().await;
}

async fn a_slow_reader_gets_the_bytes_it_began_with_or_a_broken_connection(service: &Service) {
    let client = service.client("acme");
    let content = noise(SIZE);
    let file = client.upload("a", content.clone()).await;
    let mut slow = begun(service, &content_path(&file), "", 200).await;
    let beginning = slow.take(MIB).await;
    assert!(beginning == content[..MIB]);
    let untouched = begun(service, &content_path(&file), "", 200).await;
    replace(&client, &file, vec![b'x'; SIZE]).await;
    service.settle().await;
    let second = begun(service, &content_path(&file), "", 200).await;
    remove(&client, &file).await;
    service.settle().await;
    assert_never_others(slow, &content[MIB..]).await;
    assert_never_others(untouched, &content).await;
    assert_never_others(second, &vec![b'x'; SIZE]).await;
    service.assert_holds(0).await;
}

async fn a_reader_of_ranges_gets_the_bytes_it_asked_for(service: &Service) {
    let client = service.client("acme");
    let content = noise(SIZE);
    let file = client.upload("a", content.clone()).await;
    let range = "range: bytes=1000000-\r\n";
    let reader = begun(service, &content_path(&file), range, 206).await;
    replace_and_remove(service, &file).await;
    assert_never_others(reader, &content[1_000_000..]).await;
    service.assert_holds(0).await;
}

async fn an_earlier_content_is_read_to_its_end_or_breaks_off(service: &Service) {
    let client = service.client("acme");
    let content = noise(SIZE);
    let file = client.upload("a", content.clone()).await;
    let version = format!("{}/versions/1/content", path(&file));
    let reader = begun(service, &version, "", 200).await;
    replace_and_remove(service, &file).await;
    assert_never_others(reader, &content).await;
    // A new file is not mistaken for the one that was.
    let other = client.upload("a", vec![b'y'; SIZE]).await;
    assert_ne!(id(&other), id(&file));
    service.assert_holds(1).await;
}
