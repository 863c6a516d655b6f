//! The collector is away, or does not take what it is sent: nobody who asks for a file notices.

use super::*;

/// What is left at the end has a second, as it is configured here; the rest is for a busy machine.
const STOPS_WITHIN: Duration = Duration::from_secs(8);

const QUICK: [(&str, &str); 2] = [
    ("BOX_TELEMETRY__TIMEOUT", "1s"),
    ("BOX_TELEMETRY__QUEUE", "8"),
];

async fn counter(client: &Client, name: &str) -> u64 {
    let page = send(client.get("/metrics")).await.text();
    let line = page.lines().find(|line| line.starts_with(name));
    let value = line
        .unwrap_or_else(|| panic!("no {name} in {page}"))
        .rsplit(' ')
        .next();
    value.unwrap().parse().unwrap()
}

const DROPPED: &str = r#"box_telemetry_dropped_total{signal="spans"}"#;
const EXPORTED: &str = r#"box_telemetry_exported_total{signal="spans"}"#;

async fn goes_on(binary: &Binary, running: Logged) {
    let client = binary.client("admin files:read files:write");
    let began = Instant::now();
    for _ in 0..50 {
        let file = client.upload("a", "content").await;
        assert_eq!(client.content(id(&file)).await, b"content");
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(20), "it took {took:?}");
    // Eight wait, and a batch is under way.
    until("what is lost is counted", || async {
        counter(&client, DROPPED).await > 0
    })
    .await;
    assert_eq!(counter(&client, EXPORTED).await, 0);
    let began = Instant::now();
    let log = running.stop().await;
    let took = began.elapsed();
    assert!(took < STOPS_WITHIN, "it took {took:?}: {log}");
    // Said once for each signal, however long it lasts.
    let told = log
        .matches("the collector does not take what it is sent")
        .count();
    assert!(told <= 2, "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_a_collector_that_is_down() {
    let settings = [
        QUICK[0],
        QUICK[1],
        ("BOX_TELEMETRY__ENDPOINT", "http://127.0.0.1:1"),
    ];
    let Some((binary, _collector)) = observed(Pair::SqliteLocal, &settings).await else {
        return;
    };
    let running = binary.start_logged().await;
    goes_on(&binary, running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_a_collector_that_says_nothing() {
    let Some((binary, collector)) = observed(Pair::SqliteLocal, &QUICK).await else {
        return;
    };
    collector.answers(None);
    let running = binary.start_logged().await;
    goes_on(&binary, running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_is_counted_and_what_may_pass_is_sent_again() {
    let Some((binary, collector)) = observed(Pair::SqliteLocal, &QUICK[..1]).await else {
        return;
    };
    collector.answers(Some(400));
    let running = binary.start_logged().await;
    let client = binary.client("admin files:write");
    client.upload("refused", "content").await;
    until("it is refused", || async {
        counter(&client, DROPPED).await > 0
    })
    .await;
    let dropped = counter(&client, DROPPED).await;

    collector.answers(Some(503));
    let before = collector.received().bodies.len();
    client.upload("delayed", "content").await;
    until("it was tried", || {
        std::future::ready(collector.received().bodies.len() > before)
    })
    .await;
    collector.answers(Some(200));
    until("it is sent again", || async {
        counter(&client, EXPORTED).await > 0
    })
    .await;
    let spans = collector.received().spans;
    let uploads = spans.iter().filter(|span| span.name == "POST /v1/files");
    assert_eq!(uploads.count(), 1, "{spans:#?}");
    assert_eq!(counter(&client, DROPPED).await, dropped);
    let log = running.stop().await;
    for told in [
        "the collector does not take what it is sent",
        "the collector takes what it is sent again",
    ] {
        assert_eq!(log.matches(told).count(), 1, "{log}");
    }
    // What hands over does not make more of it.
    let received = collector.received();
    assert!(received.records.is_empty(), "{:?}", received.records);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_hands_over_what_is_left() {
    let Some((binary, collector)) = observed(Pair::SqliteLocal, &[]).await else {
        return;
    };
    let running = binary.start_logged().await;
    let client = binary.client("files:write");
    client.upload("a", "content").await;
    // At once: before it was gathered.
    running.stop().await;
    let spans = collector.received().spans;
    assert!(
        spans.iter().any(|span| span.name == "POST /v1/files"),
        "{spans:#?}"
    );
}
