//! Saves where endpoints are: all that came within a second in one transaction, each endpoint's changes in their order.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sendlake_control::ControlStore;
use sendlake_control::endpoint::progress::Progress;
use tokio::sync::mpsc;

/// How long a failed save waits for the next try.
const AGAIN: Duration = Duration::from_secs(2);

/// Saves what it is told, until nobody is left to tell it anything, and all is saved.
pub(super) async fn keep(control: Arc<ControlStore>, mut told: mpsc::UnboundedReceiver<Progress>) {
    let mut waiting: HashMap<String, Progress> = HashMap::new();
    let mut is_failing = false;
    while let Some(first) = told.recv().await {
        absorb(&mut waiting, first);
        while !waiting.is_empty() {
            while let Ok(more) = told.try_recv() {
                absorb(&mut waiting, more);
            }
            let changed: Vec<Progress> = waiting.values().cloned().collect();
            match control.save_progress(&changed).await {
                Ok(()) => {
                    waiting.clear();
                    is_failing = false;
                }
                Err(error) => {
                    if !is_failing {
                        tracing::warn!(%error, "how far webhooks have got cannot be saved; after a crash now, events come again");
                    }
                    is_failing = true;
                    if told.is_closed() {
                        return;
                    }
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }
}

fn absorb(waiting: &mut HashMap<String, Progress>, later: Progress) {
    match waiting.get_mut(&later.endpoint_id) {
        Some(earlier) => earlier.absorb(later),
        None => drop(waiting.insert(later.endpoint_id.clone(), later)),
    }
}
