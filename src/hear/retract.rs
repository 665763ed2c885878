//! A complaint that is taken back: a report of type `not-spam` (RFC 6430) about a message that was complained about.

use sendlake_control::suppression::{Reason, SuppressionFilter};
use sendlake_query::Scope;

use super::delivery::Delivery;
use super::{Hearing, Unavailable};
use crate::node::{Refusal, RemoveSuppression};

const WHO: &str = "feedback";

impl Hearing {
    /// Lifts the suppression that a complaint about this very message led to, and logs `suppression_removed`. One that
    /// another message led to stays, as do other reasons.
    pub(super) async fn retract_complaint(&self, delivery: &Delivery) -> Result<(), Unavailable> {
        let failed = |error: &dyn std::fmt::Display| Unavailable(error.to_string());
        let Some(recipient) = &delivery.recipient else { return Ok(()) };
        let filter = SuppressionFilter {
            tenant_id: Some(delivery.tenant_id.clone()),
            address: Some(recipient.clone()),
            reason: Some(Reason::Complaint),
            ..SuppressionFilter::default()
        };
        let found = self.control.suppressions(&filter).await.map_err(|error| failed(&error))?;
        let Some(complaint) = found.first() else { return Ok(()) };
        let statement = format!(
            "SELECT 1 FROM events WHERE message_id = '{}' AND event_type = 'complained' AND event_id = '{}' AND event_date >= DATE '{}'",
            delivery.message_id,
            complaint.event_id,
            complaint.since.plus_secs(-86_400).to_chrono().format("%Y-%m-%d"),
        );
        let limits = self.engine.limits().query;
        let of_this = self.engine.query(&Scope::AllTenants, &statement, limits).await;
        if of_this.map_err(|error| failed(&error))?.num_rows() == 0 {
            return Ok(());
        }
        let wanted = RemoveSuppression {
            tenant_id: Some(delivery.tenant_id.clone()),
            address: recipient.clone(),
            reason: Some(Reason::Complaint),
            note: Some("the recipient says that it was no spam (feedback report of type not-spam)".into()),
        };
        match self.unsuppress(WHO, wanted).await {
            Ok(_) => Ok(()),
            Err(Refusal::Unavailable(error)) => Err(error),
            Err(error) => {
                tracing::warn!(%error, "a complaint was taken back, and its suppression stays");
                Ok(())
            }
        }
    }
}
