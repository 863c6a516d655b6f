//! Origins behind TLS: HTTP/2 where they offer it, and certificates that are not to be trusted.

use std::io::Write;

use hyper::Version;
use serde_json::json;

use super::{done, items, start};
use crate::harness::client::send;
use crate::harness::service::{Pair, Service};
use crate::harness::tls_origin::{Authority, Flaw, TlsOrigin};

const FLAWS: [Flaw; 5] = [
    Flaw::None,
    Flaw::Host,
    Flaw::Expired,
    Flaw::WantsClient,
    Flaw::Stranger,
];

/// A service that trusts this authority beside those of the system.
async fn trusting(authority: &Authority) -> Option<(Service, tempfile::NamedTempFile)> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(authority.pem().as_bytes()).unwrap();
    let settings = [
        super::OPEN[0],
        ("BOX_FETCH__CA_FILE", file.path().to_str().unwrap()),
    ];
    let service = Service::start_with(Pair::SqliteLocal, &settings).await?;
    Some((service, file))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_is_spoken_where_it_is_offered_on_one_connection() {
    let authority = Authority::new();
    let Some((service, _file)) = trusting(&authority).await else {
        return;
    };
    let client = service.client("acme");
    for (protocols, version) in [
        (&["h2", "http/1.1"][..], Version::HTTP_2),
        (&["http/1.1"], Version::HTTP_11),
        (&[], Version::HTTP_11),
    ] {
        let origin = TlsOrigin::start(&authority, protocols, Flaw::None).await;
        let url = |number: u32| format!("{}/{number}", origin.url);
        // Who comes first makes the connection, and the others find it.
        done(&service, &client, &start(&client, &[url(0)]).await).await;
        assert_eq!(origin.connections(), 1, "{protocols:?}");
        let urls: Vec<String> = (1..=40).map(url).collect();
        let import = done(&service, &client, &start(&client, &urls).await).await;
        assert_eq!(import["counts"]["done"], 40, "{protocols:?}");
        let seen = origin.seen();
        assert_eq!(seen.len(), 41);
        assert!(seen.iter().all(|(found, _)| *found == version), "{seen:?}");
        if version == Version::HTTP_2 {
            assert_eq!(origin.connections(), 1);
        }
        let found = items(&client, &import).await;
        let content = client.content(found[6]["file_id"].as_str().unwrap()).await;
        assert_eq!(content, b"/7");
    }
    service.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_to_be_trusted_is_not_fetched() {
    let authority = Authority::new();
    let Some((service, _file)) = trusting(&authority).await else {
        return;
    };
    let mut origins = Vec::new();
    // Signed by somebody whom nobody knows.
    let stranger = Authority::new();
    for flaw in FLAWS {
        let signed_by = if flaw == Flaw::Stranger {
            &stranger
        } else {
            &authority
        };
        origins.push(TlsOrigin::start(signed_by, &["h2", "http/1.1"], flaw).await);
    }
    let urls: Vec<String> = origins.iter().map(|origin| origin.url.clone()).collect();
    let client = service.client("acme");
    let import = done(&service, &client, &start(&client, &urls).await).await;
    let found = items(&client, &import).await;
    assert_eq!(found[0]["state"], "done", "{found:?}");
    for (item, flaw) in found.iter().zip(FLAWS).skip(1) {
        if flaw == Flaw::WantsClient {
            // Where it hung up before the request was on its way nobody is told why, and it is tried again.
            let error = item["error"]["type"].as_str().unwrap();
            assert!(["tls", "connect"].contains(&error), "{item}");
            continue;
        }
        assert_eq!(
            (&item["error"]["type"], &item["attempts"]),
            (&json!("tls"), &json!(1)),
            "{item}"
        );
    }
    assert!(origins[1..].iter().all(|origin| origin.seen().is_empty()));
    service.end().await;
}

/// Nothing but what was asked for is opened: without the file, the authority is a stranger.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_is_a_stranger_unless_configured() {
    let Some(service) = Service::start_with(Pair::SqliteLocal, &super::OPEN).await else {
        return;
    };
    let authority = Authority::new();
    let origin = TlsOrigin::start(&authority, &["h2"], Flaw::None).await;
    let client = service.client("acme");
    let body = json!({"items": [{"url": origin.url}]});
    let import = send(client.post("/v1/imports").json(&body)).await.json(202);
    let import = done(&service, &client, &import).await;
    assert_eq!(items(&client, &import).await[0]["error"]["type"], "tls");
    service.end().await;
}
