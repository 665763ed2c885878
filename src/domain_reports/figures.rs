//! Providers' own figures: an export that an operator brings goes into the lake at once, or not at all.

use sendlake_control::id::TenantId;
use sendlake_ingest::calibration::{self, About, Export, Fault, Figures};
use sendlake_ingest::domain_tables::ReportRows;
use serde::{Deserialize, Serialize};

use super::DomainReports;
use crate::hear::Unavailable;

/// What became of an export: `read = added + repeated + bad`, but for ranges of addresses, which are one record each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenFigures {
    /// Records in the file.
    pub read: u64,
    /// Domains and addresses, each with a day, that something new was said of.
    pub added: u64,
    /// Of which everything was known.
    pub repeated: u64,
    pub bad: u64,
    /// The first of the bad ones.
    pub faults: Vec<Fault>,
}

impl DomainReports {
    /// Takes an export. Figures of a domain are its owner's, those of an address `tenant`'s; both the installation's where
    /// there is none. What comes later in an export, or in a later one, goes before what came earlier.
    pub async fn take_figures(
        &self,
        export: Export,
        tenant: Option<TenantId>,
        data: Vec<u8>,
    ) -> Result<TakenFigures, Unavailable> {
        let failed = |error: &dyn std::fmt::Display| Unavailable(error.to_string());
        let reading = tokio::task::spawn_blocking(move || calibration::read(&export, &data));
        let reading = reading.await.map_err(|error| failed(&error))?;
        let now = self.ids.now();
        let owner = |figures: &Figures| match &figures.about {
            About::Domain(domain) => self.identities.owner_of(domain),
            About::Ip(_) => tenant.clone(),
        };
        let rows = reading.figures.iter().zip(0_i64..).map(|(figures, number)| {
            let owner = owner(figures).unwrap_or_else(TenantId::platform);
            // a microsecond apart, so that the last one is the last that was recorded
            ReportRows::of_figures(figures, &owner, sendlake_control::clock::Timestamp(now.0 + number))
        });
        let rows: Vec<ReportRows> = rows.collect::<Result<_, _>>().map_err(|error| failed(&error))?;
        let was_new = if rows.is_empty() {
            Vec::new()
        } else {
            self.tables.figures.append(&rows).await.map_err(|error| failed(&error))?
        };
        let added = was_new.iter().filter(|new| **new).count() as u64;
        Ok(TakenFigures {
            read: reading.read,
            added,
            repeated: was_new.len() as u64 - added,
            bad: reading.bad,
            faults: reading.faults,
        })
    }
}
