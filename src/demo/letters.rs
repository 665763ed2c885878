//! Mail to the node's own inbound listener, as receivers, mail programs and people send it: over real SMTP.

use std::net::SocketAddr;

use anyhow::Context;
use mail_send::SmtpClientBuilder;
use mail_send::smtp::message::Message;

/// A mail with its envelope. `lines` are header fields, an empty line and the body, without line ends.
pub(super) struct Letter {
    /// Empty for the null return path that bounces have (RFC 5321, section 4.5.5).
    pub from: String,
    pub to: String,
    pub lines: Vec<String>,
}

/// Hands the letters over in one session, by a host that calls itself `host`. Returns when each was taken: its event
/// is durable then.
pub(super) async fn post(inbound: SocketAddr, host: &str, letters: Vec<Letter>) -> anyhow::Result<()> {
    if letters.is_empty() {
        return Ok(());
    }
    // mail-send prepares for TLS even where none is used; whoever was first has chosen already
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut session = SmtpClientBuilder::new(inbound.ip().to_string(), inbound.port())
        .map_err(anyhow::Error::msg)?
        .helo_host(host.to_owned())
        .connect_plain()
        .await
        .context("reach the inbound listener")?;
    for Letter { from, to, lines } in letters {
        let body = (lines.join("\r\n") + "\r\n").into_bytes();
        let message = Message::empty().from(from).to(to.clone()).body(body);
        session.send(message).await.with_context(|| format!("hand over a mail to {to}"))?;
    }
    session.quit().await.context("end the session")
}
