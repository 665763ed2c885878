//! What others report of domains and addresses, in the lake: the tables `dmarc_records` and `tls_report_records`, and
//! `provider_figures`, beside `events`. A report goes in whole or not at all, and once, whoever brings it how often.
//!
//! - [`rows`]: a report as rows, and whose they are · `figures`: providers' own figures likewise · [`schema`]: the columns
//! - [`table`]: one of the tables, appended to exactly once · `tidy`: small files joined, old days gone

mod figures;
pub mod rows;
pub mod schema;
pub mod table;
mod tidy;

pub use self::rows::{ReportRows, Whose};
pub use self::schema::Kind;
pub use self::table::ReportTable;
use crate::store::LakeStore;
use crate::table::LakeError;

/// The tables of one lake.
#[derive(Debug)]
pub struct ReportTables {
    pub dmarc: ReportTable,
    pub tls: ReportTable,
    pub figures: ReportTable,
}

impl ReportTables {
    /// The tables without a request: each is opened, or made when it is not there, by its first use.
    pub fn lazy(store: &LakeStore) -> Result<Self, LakeError> {
        let table = |kind| ReportTable::lazy(store, kind);
        Ok(Self { dmarc: table(Kind::Dmarc)?, tls: table(Kind::Tls)?, figures: table(Kind::Figures)? })
    }

    pub fn of(&self, kind: Kind) -> &ReportTable {
        match kind {
            Kind::Dmarc => &self.dmarc,
            Kind::Tls => &self.tls,
            Kind::Figures => &self.figures,
        }
    }

    pub fn all(&self) -> [&ReportTable; 3] {
        [&self.dmarc, &self.tls, &self.figures]
    }
}

#[cfg(test)]
mod tests;
