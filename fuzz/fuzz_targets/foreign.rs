//! Other senders' records: whatever a file or a push holds, it is read within bounds, and the counts add up.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sendlake_control::id::TenantId;
use sendlake_fuzz::NOON;
use sendlake_fuzz::foreign::read::Reading;
use sendlake_fuzz::foreign::{ELSEWHERE, Fact, Setting, Source, facts_of_body};

fuzz_target!(|bytes: &[u8]| {
    let Some((first, content)) = bytes.split_first() else { return };
    let source = Source::ALL[usize::from(*first) % Source::ALL.len()];
    let setting = Setting {
        source,
        tenant_id: TenantId::new("acme").unwrap(),
        stream: None,
        domain: None,
        utc_offset_s: 0,
        provider_of: str::to_owned,
        now: NOON,
    };
    let mut reading = Reading::new(setting.clone());
    let mut mapped = 0;
    reading.read("input", content, &mut |event: sendlake_fuzz::event::Event| {
        mapped += 1;
        assert!(event.ip_pool.is_some_and(|pool| pool.starts_with(ELSEWHERE)));
        assert!(!event.event_id.is_nil() && event.recorded_at == event.occurred_at);
        assert!(event.occurred_at.0 > 0 && event.occurred_at <= NOON.plus_secs(86_400));
        for text in [&event.recipient, &event.reply_text, &event.url, &event.campaign_id, &event.mx_host] {
            assert!(text.as_ref().is_none_or(|text| text.chars().count() <= 1_000));
        }
        assert!(event.tags.len() <= 30);
        true
    });
    let tally = reading.tally;
    assert_eq!(mapped, tally.mapped);
    assert_eq!(tally.read, tally.mapped + tally.unmapped + tally.bad);
    assert!(tally.faults.len() <= 20 && tally.unmapped_kinds.len() <= 101);
    for fact in facts_of_body(&setting, content) {
        if let Fact::Bad(why) | Fact::Unmapped(why) = fact {
            assert!(why.chars().count() <= 1_000, "{why}");
        }
    }
});
