//! From checked requests to submissions: ids, times, content and its hashes.

use sendlake_control::clock::Timestamp;
use sendlake_control::id::TenantId;

use super::Api;
use super::request::MessageRequest;
use super::request::options::Options;
use super::request::raw::RawRequest;
use crate::address::Address;
use crate::compose::fingerprint::{self, Personal};
use crate::compose::{self, mailbox::Mailbox};
use crate::submission::{Content, NewMessage, Submission};

impl Api {
    pub(super) fn submission(&self, tenant_id: &TenantId, request: MessageRequest) -> Submission {
        let MessageRequest { draft, recipients, options } = request;
        let accepted_at = self.ids.now();
        let content = compose::compose(&draft, not_before(&options, accepted_at), self.ids.entropy.as_ref());
        let mut personal = personal(&recipients);
        let named = draft.to.iter().chain(&draft.cc).filter_map(|mailbox| mailbox.name.as_deref());
        named.for_each(|name| personal.add_name(name));
        let from_html = || draft.html.as_deref().map(fingerprint::text_of_html);
        let text = draft.text.clone().or_else(from_html).unwrap_or_default();
        let labels = Labels::of(draft.subject.as_deref(), &text, &personal);
        self.assemble(tenant_id, &draft.from, recipients, options, content, labels, accepted_at)
    }

    pub(super) fn raw_submission(&self, tenant_id: &TenantId, request: RawRequest) -> Submission {
        let RawRequest { message, recipients, options } = request;
        let labels = Labels::of(message.subject.as_deref(), &message.text, &personal(&recipients));
        self.assemble(tenant_id, &message.from, recipients, options, message.content, labels, self.ids.now())
    }

    #[expect(clippy::too_many_arguments, reason = "each is one part of the submission")]
    fn assemble(
        &self,
        tenant_id: &TenantId,
        from: &Mailbox,
        recipients: Vec<Address>,
        options: Options,
        mut content: Content,
        labels: Labels,
        accepted_at: Timestamp,
    ) -> Submission {
        content.tracking = options.tracking.or(self.senders.tracking(tenant_id));
        Submission {
            submission_id: self.ids.uuid(),
            tenant_id: tenant_id.clone(),
            stream: options.stream,
            not_before: not_before(&options, accepted_at),
            campaign_id: options.campaign_id,
            tags: options.tags,
            header_from_domain: from.address.domain().to_owned(),
            recipients: recipients
                .into_iter()
                .map(|recipient| NewMessage { message_id: self.ids.uuid(), recipient })
                .collect(),
            accepted_at,
            content,
            subject_hash: labels.subject_hash,
            content_fingerprint: Some(labels.content_fingerprint),
            idempotency: None,
        }
    }
}

/// What is kept of the content in events.
struct Labels {
    subject_hash: Option<String>,
    content_fingerprint: String,
}

impl Labels {
    fn of(subject: Option<&str>, text: &str, personal: &Personal) -> Self {
        Self {
            subject_hash: subject.map(fingerprint::subject_hash),
            content_fingerprint: fingerprint::content_fingerprint(subject, text, personal),
        }
    }
}

fn personal(recipients: &[Address]) -> Personal {
    let mut personal = Personal::default();
    recipients.iter().for_each(|address| personal.add_address(address));
    personal
}

fn not_before(options: &Options, accepted_at: Timestamp) -> Timestamp {
    options.send_at.map_or(accepted_at, |at| at.max(accepted_at))
}
