//! A folder in which another server leaves mails: each is heard and removed, and what is refused goes into the quarantine.
//! A mail that cannot be recorded now stays for the next look.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::hear::Hearing;

const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Larger files stay where they are, and the log says so.
const BYTES_MAX: u64 = 64 << 20;

/// Looks every two seconds, until `shutdown`.
///
/// A mail has to appear whole: written elsewhere on the same file system, or under a name that begins with a dot, and
/// then renamed, as Maildir deliveries do.
pub(super) async fn watch(folder: PathBuf, hearing: Arc<Hearing>, shutdown: CancellationToken) {
    loop {
        match mails_in(&folder) {
            Ok(mails) => {
                for mail in mails {
                    if shutdown.is_cancelled() {
                        return;
                    }
                    if let Err(error) = hear(&mail, &hearing).await {
                        tracing::warn!(%error, path = %mail.display(), "a mail in inbound.drop_dir stays for the next look");
                    }
                }
            }
            Err(error) => tracing::warn!(%error, path = %folder.display(), "inbound.drop_dir cannot be read"),
        }
        if shutdown.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_none() {
            return;
        }
    }
}

/// Files in the folder and, in a Maildir, in its `new`; the oldest name first.
fn mails_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let new = folder.join("new");
    let mut mails = Vec::new();
    for folder in [folder, new.as_path()] {
        if folder == new && !new.is_dir() {
            continue;
        }
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_file() && !entry.file_name().as_encoded_bytes().starts_with(b".") {
                mails.push(entry.path());
            }
        }
    }
    mails.sort();
    Ok(mails)
}

async fn hear(path: &Path, hearing: &Hearing) -> anyhow::Result<()> {
    let bytes = tokio::fs::metadata(path).await?.len();
    anyhow::ensure!(bytes <= BYTES_MAX, "it has {bytes} bytes; at most {BYTES_MAX} are read");
    let mail = tokio::fs::read(path).await?;
    let heard = hearing.take_file(mail.clone()).await?;
    hearing.set_refused_aside(&mail.into(), &heard).await;
    tokio::fs::remove_file(path).await?;
    Ok(())
}
