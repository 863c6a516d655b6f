//! A database and a store belong to each other and to one environment; a service that is configured
//! for another one refuses to start.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use box_service::app::App;

use crate::harness::client::{id, send};
use crate::harness::database::{Database, Kind};
use crate::harness::service::{Pair, Service, config, laid_over, on_every_pair, secrets};

on_every_pair!(
    another_environment_refuses_the_database,
    another_database_refuses_the_store,
    a_store_without_its_marker_is_refused,
    a_second_service_over_the_same_pair_starts,
    what_is_refused_leaves_no_trace,
    a_store_that_was_emptied_is_refused,
    services_that_start_at_once_agree,
    a_first_start_that_was_cut_off_leaves_nothing,
    two_services_serve_each_others_files,
    environments_in_one_bucket_are_strangers,
);

/// Why a service with these variables, laid over this one's, does not start.
async fn refusal(service: &Service, changes: &[(&str, &str)]) -> Option<String> {
    let variables = laid_over(service.variables.clone(), changes);
    let opened = App::open(config(&variables), Some(&secrets()), service.clock.clone()).await;
    match opened {
        Ok(app) => {
            app.domain.metadata.close().await;
            None
        }
        Err(error) => Some(error.story()),
    }
}

async fn another_environment_refuses_the_database(service: &Service) {
    let refused = refusal(service, &[("BOX_ENVIRONMENT", "staging")]).await;
    let story = refused.unwrap();
    assert!(
        story.contains("test") && story.contains("staging"),
        "{story}"
    );
}

async fn another_database_refuses_the_store(service: &Service) {
    let other = Database::create(kind(service)).await.unwrap();
    let refused = refusal(service, &[("BOX_DATABASE__URL", other.url())]).await;
    assert!(refused.unwrap().contains("store belongs to another"));
}

async fn a_store_without_its_marker_is_refused(service: &Service) {
    let empty = tempfile::tempdir().unwrap();
    let url = format!("file:{}", empty.path().display());
    let refused = refusal(service, &[("BOX_STORE__URL", &url)]).await;
    assert!(refused.unwrap().contains("no marker"));
}

async fn a_second_service_over_the_same_pair_starts(service: &Service) {
    assert_eq!(refusal(service, &[]).await, None);
}

fn kind(service: &Service) -> Kind {
    match service.pair {
        Pair::SqliteLocal => Kind::Sqlite,
        Pair::PostgresLocal | Pair::PostgresS3 => Kind::Postgres,
    }
}

/// Where another store of the same sort is.
fn other_store(service: &Service) -> String {
    format!("{}-other", service.variable("BOX_STORE__URL"))
}

async fn what_is_refused_leaves_no_trace(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "content").await;
    let other = Database::create(kind(service)).await.unwrap();
    let environment = ("BOX_ENVIRONMENT", "staging");
    let database = ("BOX_DATABASE__URL", other.url());
    assert!(refusal(service, &[environment]).await.is_some());
    assert!(refusal(service, &[database]).await.is_some());
    // The database that was refused is still good for a store of its own.
    let store = other_store(service);
    let own = [database, ("BOX_STORE__URL", store.as_str())];
    assert_eq!(refusal(service, &own).await, None);
    assert!(refusal(service, &[database]).await.is_some());
    assert_eq!(refusal(service, &[]).await, None);
    assert_eq!(client.content(id(&file)).await, b"content");
    service.assert_holds(1).await;
}

async fn a_store_that_was_emptied_is_refused(service: &Service) {
    // Of a database that has been in use: an empty place of the same sort, and, on a disk, the very
    // place without what was in it.
    let store = other_store(service);
    let refused = refusal(service, &[("BOX_STORE__URL", &store)]).await;
    assert!(refused.unwrap().contains("emptied"));
    let Some(store) = service.local_store() else {
        return;
    };
    let away = store.with_extension("away");
    std::fs::rename(&store, &away).unwrap();
    for _ in 0..2 {
        // It does not take what it made of the first attempt for a store the second time.
        let refused = refusal(service, &[]).await;
        assert!(refused.unwrap().contains("emptied"));
    }
    std::fs::remove_dir_all(&store).unwrap();
    std::fs::rename(&away, &store).unwrap();
    assert_eq!(refusal(service, &[]).await, None);
}

async fn services_that_start_at_once_agree(service: &Service) {
    // Neither database nor store has been claimed before.
    let fresh = Database::create(kind(service)).await.unwrap();
    let store = other_store(service);
    let changes = [
        ("BOX_DATABASE__URL", fresh.url()),
        ("BOX_STORE__URL", &store),
    ];
    let refusals = futures::future::join_all((0..4).map(|_| refusal(service, &changes))).await;
    assert_eq!(refusals, [const { None }; 4]);
}

async fn a_first_start_that_was_cut_off_leaves_nothing(service: &Service) {
    if service.local_store().is_none() {
        // On S3 the marker is one PUT.
        return;
    }
    let own = Database::create(kind(service)).await.unwrap();
    let store = other_store(service);
    let changes = [("BOX_DATABASE__URL", own.url()), ("BOX_STORE__URL", &store)];
    let root = Path::new(store.strip_prefix("file:").unwrap()).join("test");
    let tmp = root.join("tmp");
    std::fs::create_dir_all(&root).unwrap();
    // Temporary names on another file system: the marker is written there and can't be linked to its
    // place, which is what a crash between the two leaves.
    let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
    let device = |path: &Path| std::fs::metadata(path).unwrap().dev();
    if device(elsewhere.path()) == device(&root) {
        eprintln!("skipped: /dev/shm is not another file system");
        return;
    }
    std::os::unix::fs::symlink(elsewhere.path(), &tmp).unwrap();
    assert!(refusal(service, &changes).await.is_some());
    std::fs::remove_file(&tmp).unwrap();
    std::fs::create_dir(&tmp).unwrap();
    let names = || std::fs::read_dir(&tmp).unwrap().count();
    for entry in std::fs::read_dir(elsewhere.path()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), tmp.join(entry.file_name())).unwrap();
    }
    assert_eq!(names(), 1);

    let next = service.another_with(&changes).await;
    let report = next.fsck().await;
    assert_eq!(report.problems.len(), 0, "{report}");
    next.assert_holds(0).await;
    assert_eq!(names(), 0);
    next.stop().await;
}

async fn two_services_serve_each_others_files(service: &Service) {
    let other = service.another().await;
    let (here, there) = (service.client("acme"), other.client("acme"));
    let file = here.upload("a", "content").await;
    assert_eq!(there.content(id(&file)).await, b"content");
    let uploads = futures::future::join_all((0..10).flat_map(|number| {
        let name = format!("f{number}");
        [here.clone(), there.clone()].map(|client| {
            let name = name.clone();
            async move { client.upload(&name, name.clone()).await }
        })
    }))
    .await;
    for file in &uploads {
        let name = file["name"].as_str().unwrap().as_bytes();
        assert_eq!(here.content(id(file)).await, name);
        assert_eq!(there.content(id(file)).await, name);
    }
    let path = format!("/v1/files/{}?permanent=true", id(&file));
    assert_eq!(send(there.delete(&path)).await.status, 204);
    assert_eq!(send(here.delete(&path)).await.status, 404);
    let (one, two) = tokio::join!(service.domain().reap(), other.domain().reap());
    one.unwrap();
    two.unwrap();
    // One goes, the other stays.
    other.stop().await;
    here.upload("b", "content").await;
    service.assert_holds(21).await;
}

async fn environments_in_one_bucket_are_strangers(service: &Service) {
    let own = Database::create(kind(service)).await.unwrap();
    let changes = [
        ("BOX_ENVIRONMENT", "test-2"),
        ("BOX_DATABASE__URL", own.url()),
    ];
    let neighbour = service.another_with(&changes).await;
    let file = service.client("acme").upload("a", "here").await;
    let theirs = neighbour.client("acme").upload("a", "there").await;
    send(
        neighbour
            .client("acme")
            .get(&format!("/v1/files/{}", id(&file))),
    )
    .await
    .problem(404, "not-found");
    // Neither sees the other's keys, nor takes them for lost ones.
    service.assert_holds(1).await;
    neighbour.assert_holds(1).await;
    let options = box_service::domain::fsck::Options {
        repair: true,
        verify_checksums: true,
        ..Default::default()
    };
    for of in [service, &neighbour] {
        assert_eq!(of.domain().fsck(options).await.unwrap().problems.len(), 0);
        of.settle().await;
    }
    assert_eq!(service.client("acme").content(id(&file)).await, b"here");
    assert_eq!(
        neighbour.client("acme").content(id(&theirs)).await,
        b"there"
    );
    neighbour.stop().await;
}
