//! What the bucket does by itself, by rules that it is given.
//!
//! It is never asked to delete an object: each has a row, and its row goes first. The service has no temporary
//! keys in S3 either, and what lies below a name such as `tmp/` may be a tenant's.

use std::time::Duration;

use crate::domain::Domain;
use crate::error::Result;

pub use crate::objects::lifecycle::{BucketAction, BucketPlan, BucketRule};

const DAY: u64 = 86_400;

impl Domain {
    /// How the bucket's rules differ from those that the configuration wants; None where the store is no
    /// bucket.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn bucket_plan(&self) -> Result<Option<BucketPlan>> {
        let owner = format!("box-service:{}:", self.objects.root().owner());
        self.objects
            .lifecycle_plan(&owner, &self.bucket_rules())
            .await
    }

    /// Gives the bucket the rules of the plan.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn bucket_apply(&self, plan: &BucketPlan) -> Result<()> {
        self.objects.lifecycle_write(plan).await
    }

    fn bucket_rules(&self) -> Vec<BucketRule> {
        let configured = &self.rules.lifecycle;
        let uploads = configured.abort_uploads_after.map(|after| BucketRule {
            name: "abort-uploads".to_owned(),
            prefix: String::new(),
            action: BucketAction::AbortUploads { days: days(after) },
        });
        let transitions = configured.transitions.iter().map(|transition| BucketRule {
            name: format!("transition:{}", transition.name),
            prefix: transition.prefix.clone().unwrap_or_default(),
            action: BucketAction::Transition {
                days: days(transition.after),
                storage_class: transition.storage_class.as_str().to_owned(),
            },
        });
        uploads.into_iter().chain(transitions).collect()
    }
}

/// Whole ones, as the configuration makes sure.
fn days(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs() / DAY).unwrap_or(u32::MAX)
}
