//! What DMARC and SMTP TLS reports say, in the lake: the tables `dmarc_records` and `tls_report_records` beside `events`.
//! A report goes in whole or not at all, and once, whoever brings it how often.
//!
//! - [`rows`]: a report as rows, and whose they are · [`schema`]: the columns
//! - [`table`]: one of the tables, appended to exactly once · `tidy`: small files joined, old days gone

pub mod rows;
pub mod schema;
pub mod table;
mod tidy;

pub use self::rows::{ReportRows, Whose};
pub use self::schema::Kind;
pub use self::table::ReportTable;
use crate::store::LakeStore;
use crate::table::LakeError;

/// Both tables of one lake.
#[derive(Debug)]
pub struct ReportTables {
    pub dmarc: ReportTable,
    pub tls: ReportTable,
}

impl ReportTables {
    /// The tables without a request: each is opened, or made when it is not there, by its first use.
    pub fn lazy(store: &LakeStore) -> Result<Self, LakeError> {
        Ok(Self { dmarc: ReportTable::lazy(store, Kind::Dmarc)?, tls: ReportTable::lazy(store, Kind::Tls)? })
    }

    pub fn of(&self, kind: Kind) -> &ReportTable {
        match kind {
            Kind::Dmarc => &self.dmarc,
            Kind::Tls => &self.tls,
        }
    }

    pub fn all(&self) -> [&ReportTable; 2] {
        [&self.dmarc, &self.tls]
    }
}

#[cfg(test)]
mod tests;
