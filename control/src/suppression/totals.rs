//! What the list adds up to: a count, and the sum of keyed hashes of its entries, in whatever order they came. Changed
//! with the list in one transaction; counted anew from the rows, it shows whether any vanished.

use std::fmt;

use aws_lc_rs::hmac;
use serde::{Deserialize, Serialize};
use sqlx::SqliteConnection;

use super::{AddressHash, Reach, Reason, tag, unreadable};
use crate::error::ControlError;
use crate::id::TenantId;
use crate::store::ControlStore;

/// A sum modulo 2^128 over keyed hashes: adding an entry and taking it away again gives the same, in any order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(u128);

impl Digest {
    pub fn add(&mut self, entry: u128) {
        self.0 = self.0.wrapping_add(entry);
    }

    pub fn subtract(&mut self, entry: u128) {
        self.0 = self.0.wrapping_sub(entry);
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let digits = (text.len() == 32).then(|| u128::from_str_radix(&text, 16).ok()).flatten();
        digits.map(Self).ok_or_else(|| format!("{text:?} is not 32 hexadecimal digits"))
    }
}

/// What a list adds up to, after one line of its log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// The latest line of the log.
    pub seq: i64,
    pub entries: i64,
    #[serde(rename = "hash")]
    pub digest: Digest,
}

/// Hashes entries for a [`Digest`]: tenant, address, reason and reach count, so that no entry stands for another.
#[derive(Clone, Debug)]
pub struct EntryHasher(hmac::Key);

impl EntryHasher {
    pub fn new(list_key: &[u8; 32]) -> Self {
        let list = hmac::Key::new(hmac::HMAC_SHA256, list_key);
        Self(hmac::Key::new(hmac::HMAC_SHA256, &tag(&list, &[b"suppression entries 1"])))
    }

    pub fn hash(&self, tenant: &TenantId, address: AddressHash, reason: Reason, reach: Reach) -> u128 {
        let words = format!("/{reason}/{reach}/{tenant}");
        let [first @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] =
            tag(&self.0, &[&address.0, words.as_bytes()]);
        u128::from_be_bytes(first)
    }
}

/// What was written of the totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// What the list adds up to, by what was counted change by change.
    pub totals: Totals,
    /// What was last noted for safe-keeping elsewhere.
    pub noted: (i64, Digest),
}

type Row = (i64, i64, String, i64, String);

impl ControlStore {
    /// What the list adds up to, by what was counted change by change. `None` in a store that an older build made and
    /// no newer one has written to.
    pub async fn suppression_totals(&self) -> Result<Option<Recorded>, ControlError> {
        let mut connection = self.pool.acquire().await.map_err(self.failed("read the suppressions' sum"))?;
        self.read_totals(&mut connection).await
    }

    pub(super) async fn read_totals(
        &self,
        connection: &mut SqliteConnection,
    ) -> Result<Option<Recorded>, ControlError> {
        let row: Option<Row> = sqlx::query_as(
            "SELECT seq, entries, digest, recorded_seq, recorded_digest FROM suppression_totals WHERE id = 1",
        )
        .fetch_optional(connection)
        .await
        .map_err(self.failed("read the suppressions' sum"))?;
        let digest = |text: String| {
            Digest::try_from(text).map_err(|problem| unreadable(&TenantId::platform(), problem))
        };
        row.map(|(seq, entries, sum, noted_seq, noted)| {
            Ok(Recorded {
                totals: Totals { seq, entries, digest: digest(sum)? },
                noted: (noted_seq, digest(noted)?),
            })
        })
        .transpose()
    }

    pub(super) async fn write_totals(
        &self,
        connection: &mut SqliteConnection,
        totals: Totals,
    ) -> Result<(), ControlError> {
        sqlx::query("INSERT INTO suppression_totals (id, seq, entries, digest, recorded_seq, recorded_digest) VALUES (1, $1, $2, $3, 0, $4) ON CONFLICT (id) DO UPDATE SET seq = excluded.seq, entries = excluded.entries, digest = excluded.digest")
            .bind(totals.seq)
            .bind(totals.entries)
            .bind(totals.digest.to_string())
            .bind(Digest::default().to_string())
            .execute(connection)
            .await
            .map_err(self.failed("write the suppressions' sum"))?;
        Ok(())
    }

    /// Makes the sum of a list that an older build kept without one.
    pub(crate) async fn ensure_suppression_totals(&self) -> Result<(), ControlError> {
        if self.suppression_totals().await?.is_some() {
            return Ok(());
        }
        let doing = "add the suppressions up";
        let mut transaction = self.begin(doing).await?;
        if self.read_totals(&mut transaction).await?.is_none() {
            let totals = self.count(&mut transaction).await?;
            self.write_totals(&mut transaction, totals).await?;
        }
        transaction.commit().await.map_err(self.failed(doing))
    }

    /// Takes what the rows add up to for what they should: after somebody has seen to what was missing.
    pub async fn correct_suppression_totals(&self) -> Result<(), ControlError> {
        let doing = "add the suppressions up";
        let mut transaction = self.begin(doing).await?;
        let totals = self.count(&mut transaction).await?;
        self.write_totals(&mut transaction, totals).await?;
        transaction.commit().await.map_err(self.failed(doing))
    }

    /// Counts the rows anew, in one consistent reading. Reads every row: about a microsecond for each. Returns what
    /// they add up to, and what the store has noted that they should.
    pub async fn recount_suppressions(&self) -> Result<(Totals, Option<Recorded>), ControlError> {
        let doing = "add the suppressions up";
        let mut transaction = self.pool.begin().await.map_err(self.failed(doing))?;
        let noted = self.read_totals(&mut transaction).await?;
        Ok((self.count(&mut transaction).await?, noted))
    }

    async fn count(&self, connection: &mut SqliteConnection) -> Result<Totals, ControlError> {
        let hasher = self.entry_hasher();
        let mut totals = Totals { seq: self.last_seq(connection).await?, ..Totals::default() };
        let mut add = |tenant: &TenantId, reason, reach, hash, _| {
            totals.digest.add(hasher.hash(tenant, hash, reason, reach));
            totals.entries += 1;
        };
        self.each_entry(connection, &mut add).await?;
        Ok(totals)
    }

    /// The latest line of the log.
    pub async fn last_suppression_seq(&self) -> Result<i64, ControlError> {
        let mut connection = self.pool.acquire().await.map_err(self.failed("read the suppressions' log"))?;
        self.last_seq(&mut connection).await
    }

    /// The latest line of the log; above it where the list goes on from another store's.
    pub(super) async fn last_seq(&self, connection: &mut SqliteConnection) -> Result<i64, ControlError> {
        let (seq,): (i64,) = sqlx::query_as("SELECT MAX(COALESCE((SELECT MAX(seq) FROM suppression_log), 0), COALESCE((SELECT seq FROM suppression_totals), 0))")
            .fetch_one(connection)
            .await
            .map_err(self.failed("read the suppressions' log"))?;
        Ok(seq)
    }

    /// Notes what is about to be handed over for safe-keeping: before it is, so that whoever keeps something later than
    /// this knows that this store is an older copy.
    pub async fn note_totals(&self, totals: Totals) -> Result<(), ControlError> {
        sqlx::query("UPDATE suppression_totals SET recorded_seq = $1, recorded_digest = $2 WHERE id = 1")
            .bind(totals.seq)
            .bind(totals.digest.to_string())
            .execute(&self.pool)
            .await
            .map_err(self.failed("note the suppressions' sum"))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_has_no_order_and_every_part_of_an_entry_counts() {
        let hasher = EntryHasher::new(&[7; 32]);
        let [acme, bolt] = ["acme", "bolt"].map(|name| TenantId::new(name).unwrap());
        let (a, b) = (AddressHash([1; 32]), AddressHash([2; 32]));
        let entries = [
            hasher.hash(&acme, a, Reason::Complaint, Reach::Bulk),
            hasher.hash(&acme, b, Reason::Complaint, Reach::Bulk),
            hasher.hash(&bolt, a, Reason::Complaint, Reach::Bulk),
            hasher.hash(&acme, a, Reason::Manual, Reach::Bulk),
            hasher.hash(&acme, a, Reason::Complaint, Reach::Tenant),
        ];
        let mut distinct = entries.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), entries.len());
        let (mut forth, mut back) = (Digest::default(), Digest::default());
        entries.iter().for_each(|entry| forth.add(*entry));
        entries.iter().rev().for_each(|entry| back.add(*entry));
        assert_eq!(forth, back);
        entries.iter().for_each(|entry| back.subtract(*entry));
        assert_eq!(back, Digest::default());
        assert_eq!(Digest::try_from(forth.to_string()), Ok(forth));
        assert_ne!(EntryHasher::new(&[8; 32]).hash(&acme, a, Reason::Manual, Reach::Bulk), entries[3]);
    }
}
