//! Usage counters: first attempts by scope and hour, changed in the transaction that marks the messages.

use redb::ReadableTable;
use sendlake_control::clock::Timestamp;
use sendlake_control::id::TenantId;

use super::SpoolError;
use super::read::{SpoolReader, open_table};
use super::table::{Tables, USAGE};
use crate::policy::usage::{Counted, KEPT_HOURS, Scope, hour_of};
use crate::stream::Stream;

/// `hour tenant NUL stream domain NUL provider`: the hour goes first, so that purging is one range.
pub(super) fn usage_key(counted: &Counted) -> Vec<u8> {
    let Scope { tenant_id, stream, sending_domain, provider } = &counted.scope;
    let mut key = hour_bytes(counted.hour).to_vec();
    key.extend_from_slice(tenant_id.as_str().as_bytes());
    key.extend_from_slice(&[0, *stream as u8]);
    key.extend_from_slice(sending_domain.as_bytes());
    key.push(0);
    key.extend_from_slice(provider.as_bytes());
    key
}

fn hour_bytes(hour: i64) -> [u8; 4] {
    u32::try_from(hour.max(0)).unwrap_or(u32::MAX).to_be_bytes()
}

fn parse(key: &[u8]) -> Option<Counted> {
    let (hour, rest) = key.split_first_chunk::<4>()?;
    let mut parts = rest.splitn(2, |&b| b == 0);
    let (tenant, rest) = (parts.next()?, parts.next()?);
    let (stream, rest) = rest.split_first()?;
    let mut parts = rest.splitn(2, |&b| b == 0);
    let (domain, provider) = (parts.next()?, parts.next()?);
    let scope = Scope {
        tenant_id: TenantId::new(std::str::from_utf8(tenant).ok()?).ok()?,
        stream: Stream::ALL.into_iter().find(|s| *s as u8 == *stream)?,
        sending_domain: std::str::from_utf8(domain).ok()?.to_owned(),
        provider: std::str::from_utf8(provider).ok()?.to_owned(),
    };
    Some(Counted { scope, hour: i64::from(u32::from_be_bytes(*hour)) })
}

impl SpoolReader {
    /// What was counted in the hours that any window reaches.
    pub fn usage(&self, now: Timestamp) -> Result<Vec<(Counted, u64)>, SpoolError> {
        let Some(usage) = open_table(&self.begin()?, USAGE)? else { return Ok(Vec::new()) };
        let from = hour_bytes(hour_of(now) - KEPT_HOURS);
        usage
            .range(from.as_slice()..)?
            .map(|row| {
                let (key, attempts) = row?;
                let counted = parse(key.value()).ok_or_else(|| SpoolError::Damaged("a usage key".into()))?;
                Ok((counted, attempts.value()))
            })
            .collect()
    }
}

impl Tables<'_> {
    /// Forgets hours that no window reaches any more.
    pub(super) fn purge_usage(&mut self, now: Timestamp) -> Result<(), SpoolError> {
        let end = hour_bytes(hour_of(now) - KEPT_HOURS);
        if self.usage.range::<&[u8]>(..end.as_slice())?.next().is_some() {
            self.usage.retain_in::<&[u8], _>(..end.as_slice(), |_, _| false)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_back() {
        for stream in Stream::ALL {
            let scope = Scope {
                tenant_id: TenantId::new("acme").unwrap(),
                stream,
                sending_domain: "news.acme.example".into(),
                provider: "google".into(),
            };
            let counted = Counted { scope, hour: 498_706 };
            assert_eq!(parse(&usage_key(&counted)), Some(counted));
        }
        assert_eq!(parse(b"short"), None);
    }
}
