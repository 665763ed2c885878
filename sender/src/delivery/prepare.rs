//! The bytes of one message: its own headers and signatures over the content that its submission shares.

use std::sync::Arc;

use parking_lot::Mutex;
use sendlake_control::clock::Timestamp;
use url::Url;
use uuid::Uuid;

use super::DeliveryParts;
use super::contents::Contents;
use crate::dkim::BodyHash;
use crate::headers::{Personal, Unsubscribe, personal_headers};
use crate::identity::{Identities, Identity};
use crate::link::{Facts, Sent, Whom};
use crate::spool::{QueueEntry, Spool, SpoolError};
use crate::submission::{Content, Tracking};
use crate::token::{Purpose, TokenKeys};
use crate::track::{Place, Rendered, Template};

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
    offer_cfbl: bool,
    shared: Mutex<Contents<Shared>>,
}

/// What all messages of a submission have in common.
pub(super) struct Shared {
    pub content: Content,
    /// Of the content's own body; tracked messages have bodies, and hashes, of their own.
    body_hash: Option<BodyHash>,
    template: Option<Template>,
}

/// One message, ready to be sent.
pub(super) struct Prepared {
    pub reverse_path: String,
    pub mail_from_domain: String,
    /// Header fields above the shared ones: signatures first, then personal headers.
    pub above: Vec<u8>,
    pub shared: Arc<Shared>,
    /// Header section and body where they are this message's own.
    tracked: Option<Rendered>,
    pub identity: Option<Arc<Identity>>,
}

impl Prepared {
    /// The message as it goes on the wire.
    pub fn octets(&self) -> [&[u8]; 4] {
        let content = &self.shared.content;
        let (headers, body) = match &self.tracked {
            Some(own) => (&own.headers, &own.body),
            None => (&content.headers, &content.body),
        };
        [&self.above, headers, b"\r\n", body]
    }

    /// What is tracked in it.
    pub fn tracking(&self) -> Tracking {
        self.shared.template.as_ref().map_or_else(Tracking::default, |template| template.tracking)
    }
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
            offer_cfbl: parts.settings.offer_cfbl,
            shared: Mutex::new(Contents::new(SHARED_MAX, SHARED_BYTES_MAX)),
        }
    }

    /// Makes the message that `entry` stands for. A tenant whose domain was removed since still sends, from
    /// the header's own domain and unsigned: what was accepted is delivered.
    pub fn prepare(
        &self,
        entry: &QueueEntry,
        provider: Option<&str>,
        now: Timestamp,
    ) -> Result<Prepared, SpoolError> {
        let shared = self.shared(entry.submission_id)?;
        let identity = self.identities.find(&entry.tenant_id, &entry.header_from_domain);
        let mail_from_domain = identity
            .as_ref()
            .map_or_else(|| entry.header_from_domain.clone(), |identity| identity.bounce_domain.clone());
        let token = self.tokens.issue(Purpose::ReturnPath, entry.message_id);
        // only what the domain's own signature covers may name an address for complaints
        let signed = identity.as_ref().filter(|identity| self.offer_cfbl && identity.signer.is_some());
        let personal = personal_headers(
            &shared.content,
            &Personal {
                message_id: entry.message_id,
                stream: entry.stream,
                tenant: &entry.tenant_id,
                recipient: &entry.recipient.to_string(),
                campaign_id: entry.campaign_id.as_deref(),
                header_from_domain: &entry.header_from_domain,
                unsubscribe: Some(Unsubscribe {
                    base_url: &self.public_url,
                    mailbox_domain: identity.as_ref().map(|identity| identity.bounce_domain.as_str()),
                }),
                feedback_sender: &self.feedback_sender,
                complaint_domain: signed.map(|identity| identity.bounce_domain.as_str()),
            },
            &self.tokens,
        );
        let tracked = shared.template.as_ref().map(|template| {
            let tracking_domain = identity.as_ref().and_then(|identity| identity.tracking_domain.as_deref());
            self.track(template, entry, provider, tracking_domain, now)
        });
        let above = self.signatures(identity.as_deref(), &personal, &shared, tracked.as_ref(), now);
        Ok(Prepared {
            reverse_path: format!("{token}@{mail_from_domain}"),
            mail_from_domain,
            above: [above, personal].concat(),
            shared,
            tracked,
            identity,
        })
    }

    /// The message with links of this recipient's own.
    fn track(
        &self,
        template: &Template,
        entry: &QueueEntry,
        provider: Option<&str>,
        tracking_domain: Option<&str>,
        now: Timestamp,
    ) -> Rendered {
        let base_url = link_base(&self.public_url, tracking_domain);
        let token = self.tokens.issue(Purpose::Tracking, entry.message_id);
        let whom = Whom {
            tenant_id: entry.tenant_id.clone(),
            stream: entry.stream,
            recipient: entry.recipient.to_string(),
        };
        let sent = Sent {
            sent_at: Timestamp::from_secs(now.as_secs()),
            campaign_id: entry.campaign_id.clone(),
            provider: provider.map(str::to_owned),
            header_from_domain: Some(entry.header_from_domain.clone()),
        };
        template.render(|place| {
            let (path, facts) = match place {
                Place::Open => ("o", Facts::Open(whom.clone(), sent.clone())),
                Place::Click(url) => ("c", Facts::Click(whom.clone(), sent.clone(), url.clone())),
            };
            format!("{base_url}/{path}/{token}/{}", facts.seal(&self.tokens, entry.message_id))
        })
    }

    /// Signature fields, the tenant's own on top. One that fails is left out and told: mail unsigned is worse
    /// than mail signed, but better than none.
    fn signatures(
        &self,
        identity: Option<&Identity>,
        personal: &[u8],
        shared: &Shared,
        tracked: Option<&Rendered>,
        now: Timestamp,
    ) -> Vec<u8> {
        let Some(shared_hash) = &shared.body_hash else { return Vec::new() };
        let own_hash = tracked.map(|own| BodyHash::relaxed(&own.body));
        let body_hash = own_hash.as_ref().unwrap_or(shared_hash);
        let headers = tracked.map_or(&shared.content.headers, |own| &own.headers);
        let platform = self.identities.platform();
        let signers = [identity, platform.as_deref()].into_iter().flatten().filter_map(|i| i.signer.as_ref());
        let mut fields = Vec::new();
        for signer in signers {
            match signer.sign(&[personal, headers], body_hash, now) {
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
        let template = Template::new(&content, &|url| self.is_own(url));
        let bytes = content.size_bytes() + template.as_ref().map_or(0, Template::bytes);
        let body_hash = self.sign.then(|| BodyHash::relaxed(&content.body));
        let shared = Arc::new(Shared { content, body_hash, template });
        self.shared.lock().keep(submission_id, Arc::clone(&shared), bytes);
        Ok(shared)
    }

    /// Pages of this installation behind links in mail: to leave, above all.
    fn is_own(&self, url: &str) -> bool {
        let path = url.strip_prefix(self.public_url.trim_end_matches('/'));
        path.is_some_and(|path| ["/u/", "/c/", "/o/"].iter().any(|own| path.starts_with(own)))
    }
}

/// What tracked links start with: the tracking domain, reached as the installation is, or the installation itself.
fn link_base(public_url: &str, tracking_domain: Option<&str>) -> String {
    let public = Url::parse(public_url).ok();
    let own = tracking_domain.zip(public).and_then(|(domain, mut url)| {
        url.set_host(Some(domain)).ok()?;
        Some(url)
    });
    let base = own.map_or_else(|| public_url.to_owned(), String::from);
    base.trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tracking_domain_is_reached_as_the_installation_is() {
        let links = Some("links.acme.example");
        assert_eq!(link_base("https://mail.example.net", links), "https://links.acme.example");
        assert_eq!(link_base("http://localhost:8025/x/", links), "http://links.acme.example:8025/x");
        assert_eq!(link_base("https://mail.example.net/", None), "https://mail.example.net");
    }
}
