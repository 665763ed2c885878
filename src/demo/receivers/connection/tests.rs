//! Hostile input: whatever arrives, a receiver answers in SMTP and does not panic.

use proptest::prelude::*;

use super::super::{Profile, Receiver};
use super::*;

/// Pieces of sessions and pieces of nothing.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let known = prop::sample::select(vec![
        "EHLO c.example\r\n",
        "MAIL FROM:<a@s.example>\r\n",
        "MAIL FROM:<\"a b\"@s.example> SIZE=1 BODY=8BITMIME\r\n",
        "RCPT TO:<b@x.example>\r\n",
        "RCPT TO:<@relay.example:b@x.example> NOTIFY=NEVER\r\n",
        "DATA\r\n",
        ".\r\n",
        "\r\n.\r\n",
        "RSET\r\n",
        "BDAT 10 LAST\r\n",
        "AUTH PLAIN AGEAYg==\r\n",
        "QUIT",
        "\n",
    ]);
    prop_oneof![known.prop_map(|text| text.as_bytes().to_vec()), prop::collection::vec(any::<u8>(), 0..40)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_sent_is_answered_in_well_formed_replies(pieces in prop::collection::vec(piece(), 0..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let replies = runtime.block_on(async {
            let receiver = Receiver::start(Profile::accept_all(), 7).unwrap();
            let (mut ours, mut theirs) = tokio::io::duplex(1 << 20);
            ours.write_all(&pieces.concat()).await.unwrap();
            ours.shutdown().await.unwrap();
            let mut session = Session::new(Arc::clone(&receiver.office), "192.0.2.1".to_owned(), 0, false);
            let _ = Conversation::new(&receiver.office, &mut theirs, 0).run(&mut session, true).await;
            drop(theirs);
            let mut replies = Vec::new();
            ours.read_to_end(&mut replies).await.unwrap();
            replies
        });
        let replies = String::from_utf8(replies).unwrap();
        for line in replies.split_terminator("\r\n") {
            let (code, rest) = line.split_at(3);
            prop_assert!((200..600).contains(&code.parse::<u16>().unwrap()), "{line:?}");
            prop_assert!(rest.starts_with([' ', '-']) && !rest.contains(['\r', '\n']), "{line:?}");
        }
    }
}
