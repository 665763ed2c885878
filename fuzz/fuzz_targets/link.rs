//! What stands behind `/u/`, `/c/` and `/o/`: any text, and anything that could have been sealed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sendlake_fuzz::link::Facts;
use sendlake_fuzz::token::{Purpose, TokenKeys};
use uuid::Uuid;

fuzz_target!(|bytes: &[u8]| {
    let keys = TokenKeys::new(1, [7; 32]);
    let id = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0042);
    for purpose in [Purpose::Unsubscribe, Purpose::Tracking] {
        let text = String::from_utf8_lossy(bytes);
        let (token, facts) = text.split_once('/').unwrap_or((&text, ""));
        assert!(Facts::open(&keys, purpose, token, facts).is_err(), "a forged link opens");
        let own = keys.issue(purpose, id);
        assert!(Facts::open(&keys, purpose, &own, facts).is_err(), "forged facts open");
        // with the key in hand: what is no form of ours is refused, and what is one comes back as it was
        if let Ok((found, facts)) = Facts::open(&keys, purpose, &own, &keys.seal(purpose, id, bytes)) {
            assert_eq!(found, id);
            let again = Facts::open(&keys, purpose, &own, &facts.seal(&keys, id));
            assert_eq!(again, Ok((id, facts)));
        }
    }
});
