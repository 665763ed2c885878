//! The bytes of one message: its own headers and signatures over the content that its submission shares.

use std::sync::Arc;

use parking_lot::Mutex;
use sendlake_control::clock::Timestamp;
use uuid::Uuid;

use super::DeliveryParts;
use super::contents::Contents;
use crate::dkim::BodyHash;
use crate::headers::{Personal, Unsubscribe, personal_headers};
use crate::identity::{Identities, Identity};
use crate::spool::{QueueEntry, Spool, SpoolError};
use crate::submission::Content;
use crate::token::{Purpose, TokenKeys};

/// Contents kept for the next recipient of the same submission: how many, and in how many bytes together.
const SHARED_MAX: usize = 64;
const SHARED_BYTES_MAX: usize = 64 << 20;

pub(super) struct Preparer {
    spool: Arc<Spool>,
    identities: Arc<dyn Identities>,
    tokens: TokenKeys,
    public_url: String,
    feedback_sender: String,
    sign: bool,
    shared: Mutex<Contents<Shared>>,
}

/// What all messages of a submission have in common.
pub(super) struct Shared {
    pub content: Content,
    body_hash: Option<BodyHash>,
}

/// One message, ready to be sent.
pub(super) struct Prepared {
    pub reverse_path: String,
    pub mail_from_domain: String,
    /// Header fields above the shared ones: signatures first, then personal headers.
    pub above: Vec<u8>,
    pub shared: Arc<Shared>,
    pub identity: Option<Arc<Identity>>,
}

impl Preparer {
    pub fn new(parts: &DeliveryParts) -> Self {
        Self {
            spool: Arc::clone(&parts.spool),
            identities: Arc::clone(&parts.identities),
            tokens: parts.tokens.clone(),
            public_url: parts.settings.public_url.clone(),
            feedback_sender: parts.settings.feedback_sender.clone(),
            sign: parts.settings.sign,
            shared: Mutex::new(Contents::new(SHARED_MAX, SHARED_BYTES_MAX)),
        }
    }

    /// Makes the message that `entry` stands for. A tenant whose domain was removed since still sends, from
    /// the header's own domain and unsigned: what was accepted is delivered.
    pub fn prepare(&self, entry: &QueueEntry, now: Timestamp) -> Result<Prepared, SpoolError> {
        let shared = self.shared(entry.submission_id)?;
        let identity = self.identities.find(&entry.tenant_id, &entry.header_from_domain);
        let mail_from_domain = identity
            .as_ref()
            .map_or_else(|| entry.header_from_domain.clone(), |identity| identity.bounce_domain.clone());
        let token = self.tokens.issue(Purpose::ReturnPath, entry.message_id);
        let personal = personal_headers(
            &shared.content,
            &Personal {
                message_id: entry.message_id,
                stream: entry.stream,
                tenant: entry.tenant_id.as_str(),
                campaign_id: entry.campaign_id.as_deref(),
                header_from_domain: &entry.header_from_domain,
                unsubscribe: Some(Unsubscribe {
                    base_url: &self.public_url,
                    mailbox_domain: identity.as_ref().map(|identity| identity.bounce_domain.as_str()),
                }),
                feedback_sender: &self.feedback_sender,
            },
            &self.tokens,
        );
        let above = self.signatures(identity.as_deref(), &personal, &shared, now);
        Ok(Prepared {
            reverse_path: format!("{token}@{mail_from_domain}"),
            mail_from_domain,
            above: [above, personal].concat(),
            shared,
            identity,
        })
    }

    /// Signature fields, the tenant's own on top. One that fails is left out and told: mail unsigned is worse
    /// than mail signed, but better than none.
    fn signatures(
        &self,
        identity: Option<&Identity>,
        personal: &[u8],
        shared: &Shared,
        now: Timestamp,
    ) -> Vec<u8> {
        let Some(body_hash) = &shared.body_hash else { return Vec::new() };
        let platform = self.identities.platform();
        let signers = [identity, platform.as_deref()].into_iter().flatten().filter_map(|i| i.signer.as_ref());
        let mut fields = Vec::new();
        for signer in signers {
            match signer.sign(&[personal, &shared.content.headers], body_hash, now) {
                Ok(field) => fields.extend_from_slice(&field),
                Err(error) => tracing::error!(domain = signer.domain(), %error, "message left unsigned"),
            }
        }
        fields
    }

    fn shared(&self, submission_id: Uuid) -> Result<Arc<Shared>, SpoolError> {
        if let Some(shared) = self.shared.lock().get(submission_id) {
            return Ok(shared);
        }
        let content = self.spool.reader().content(submission_id)?.ok_or_else(|| {
            SpoolError::Damaged(format!("submission {submission_id} has a queued message but no content"))
        })?;
        let bytes = content.headers.len() + content.body.len();
        let body_hash = self.sign.then(|| BodyHash::relaxed(&content.body));
        let shared = Arc::new(Shared { content, body_hash });
        self.shared.lock().keep(submission_id, Arc::clone(&shared), bytes);
        Ok(shared)
    }
}
