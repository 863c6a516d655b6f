//! What changes a file but not its bytes: merge patches, the way out of the trash, copies, and
//! deletions of many at once.

mod batches;
mod copies;
mod patches;
mod refusals;
mod restores;

use serde_json::Value;

use crate::harness::client::{Client, id, send};
use crate::harness::service::Service;

const NEVER: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

fn path(file: &Value) -> String {
    format!("/v1/files/{}", id(file))
}

/// The File as it is now.
async fn shown(client: &Client, file: &Value) -> Value {
    send(client.get(&path(file))).await.json(200)
}

async fn trash(client: &Client, file: &Value) {
    assert_eq!(send(client.delete(&path(file))).await.status, 204);
}

async fn remove(client: &Client, file: &Value) {
    let path = format!("{}?permanent=true", path(file));
    assert_eq!(send(client.delete(&path)).await.status, 204);
}

/// What the file's events tell, the oldest first: the clock must have moved between them.
async fn events(service: &Service, file: &Value) -> Vec<String> {
    let mut reader = service.domain().metadata.reader().await.unwrap();
    let tenant = "acme".parse().unwrap();
    let actions = reader.conn().event_actions(&tenant, id(file)).await;
    actions.unwrap()
}
