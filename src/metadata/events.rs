//! The `events` table: what happened, written in the transaction that did it.

use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{EventId, Tenant};

use super::Conn;

#[derive(Clone, Debug)]
pub struct Event {
    pub id: EventId,
    pub tenant: Tenant,
    pub at: Timestamp,
    pub subject: String,
    /// `file.created` and its like.
    pub action: &'static str,
    /// The id of what it happened to.
    pub target: String,
    pub request_id: Option<String>,
    pub remote_ip: Option<String>,
    pub detail: serde_json::Value,
}

impl Conn<'_> {
    pub async fn event_insert(&mut self, event: &Event) -> Result<()> {
        run!(self, "INSERT INTO events (id, tenant, at, subject, action, target, request_id, remote_ip, detail)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)", [event.id, &event.tenant, event.at, &event.subject, event.action, &event.target, &event.request_id, &event.remote_ip, event.detail.to_string()]);
        Ok(())
    }

    /// The actions that happened to a target, the earliest first.
    pub async fn event_actions(&mut self, tenant: &Tenant, target: &str) -> Result<Vec<String>> {
        Ok(on!(self, |c| {
            sqlx::query_scalar(
                "SELECT action FROM events WHERE tenant = $1 AND target = $2 ORDER BY at, id",
            )
            .bind(tenant)
            .bind(target)
            .fetch_all(c)
            .await?
        }))
    }
}
