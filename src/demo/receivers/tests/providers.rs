//! What each provider answers, and what becomes of its mail in the end.

use std::collections::BTreeMap;

use super::super::mailbox::{Mailbox, Nature};
use super::*;

/// A mailbox of the provider that is as wanted.
fn mailbox(profile: &Profile, domain: &str, wanted: impl Fn(&Mailbox) -> bool) -> String {
    (0..)
        .map(|n| format!("user{n}"))
        .find(|local| wanted(&Mailbox::draw(profile.name, &profile.shares, SEED, local)))
        .map(|local| format!("{local}@{domain}"))
        .unwrap()
}

fn with_nature(profile: &Profile, domain: &str, nature: Nature) -> String {
    mailbox(profile, domain, |m| m.nature == nature && !m.greylisted && !m.slow)
}

/// What each attempt at a mailbox of this nature is answered, a connection for each.
async fn attempts(profile: Profile, domain: &str, nature: Nature, count: usize) -> Vec<String> {
    let to = with_nature(&profile, domain, nature);
    let receiver = Receiver::start(profile, SEED).unwrap();
    let mut replies = Vec::new();
    for _ in 0..count {
        let mut client = greeted(&receiver).await;
        let reply = client.deliver(&to).await;
        assert_eq!(reply.starts_with("421"), {
            client.send(b"NOOP\r\n").await;
            client.is_closed().await
        });
        replies.push(reply);
    }
    replies
}

#[tokio::test]
async fn gmail_says_what_gmail_says() {
    let unknown = attempts(Profile::gmail(), "gmail.com", Nature::Unknown, 1).await;
    assert!(unknown[0].starts_with("550-5.1.1 The email account that you tried to reach does not exist."));
    assert!(unknown[0].contains("\n550 5.1.1  https://support.google.com/mail/?p=NoSuchUser "));
    let policy = attempts(Profile::gmail(), "gmail.com", Nature::Policy, 1).await;
    assert!(policy[0].starts_with("550-5.7.26 Your email has been blocked because the sender is unauth"));
    assert!(policy[0].contains("SPF [sender.example] with ip: [127.0.0.1] = did not pass"));
    let throttled = attempts(Profile::gmail(), "gmail.com", Nature::Throttled, 3).await;
    for reply in &throttled[..2] {
        assert!(reply.starts_with("421-4.7.28 ") || reply.starts_with("450-4.2.1 "), "{reply}");
    }
    assert!(throttled[2].starts_with("250 2.0.0 OK"));
    let full = attempts(Profile::gmail(), "gmail.com", Nature::Full, 3).await;
    assert!(full[0].starts_with("452-4.2.2 The recipient's inbox is out of storage space."));
    assert!(full[1].starts_with("452-4.2.2"));
    assert!(full[2].starts_with("250") || full[2].contains("OverQuotaPerm"), "{}", full[2]);
}

#[tokio::test]
async fn microsoft_says_what_microsoft_says() {
    let unknown = attempts(Profile::microsoft(), "outlook.com", Nature::Unknown, 1).await;
    assert!(unknown[0].starts_with("550 5.5.0 ") || unknown[0].contains("RecipientNotFound"));
    let policy = attempts(Profile::microsoft(), "outlook.com", Nature::Policy, 1).await;
    assert!(policy[0].starts_with("550 5.7.1 Unfortunately, messages from [127.0.0.1] weren't sent."));
    assert!(policy[0].contains("our block list (S3150)"));
    let throttled = attempts(Profile::microsoft(), "outlook.com", Nature::Throttled, 3).await;
    for reply in &throttled[..2] {
        assert!(reply.starts_with("451 4.7.") || reply.starts_with("421 RP-001 "), "{reply}");
    }
    assert!(throttled[2].starts_with("250 2.6.0 "));
    let full = attempts(Profile::microsoft(), "outlook.com", Nature::Full, 1).await;
    assert!(full[0].starts_with("554 5.2.2 mailbox full; STOREDRV.Deliver.Exception:QuotaExceeded"));
}

#[tokio::test]
async fn yahoo_says_what_yahoo_says() {
    let unknown = attempts(Profile::yahoo(), "yahoo.com", Nature::Unknown, 1).await;
    assert!(
        unknown[0].starts_with("554 delivery error: dd This user doesn't have a yahoo.com account (user")
    );
    let policy = attempts(Profile::yahoo(), "yahoo.com", Nature::Policy, 1).await;
    assert!(policy[0].starts_with("554 5.7.9 Message not accepted for policy reasons."));
    let throttled = attempts(Profile::yahoo(), "yahoo.com", Nature::Throttled, 3).await;
    assert!(
        throttled[1].starts_with("421 4.7.0 [TSS04] Messages from 127.0.0.1 temporarily deferred due to")
    );
    assert!(throttled[2].starts_with("250 "));
    let full = attempts(Profile::yahoo(), "yahoo.com", Nature::Full, 1).await;
    assert!(full[0].contains("This account is over quota."));
}

#[tokio::test]
async fn yahoo_ends_a_connection_after_its_share_of_messages() {
    let profile = Profile { messages_per_connection: Some(3), ..Profile::yahoo() };
    let to = with_nature(&profile, "yahoo.com", Nature::Fine);
    let receiver = Receiver::start(profile, SEED).unwrap();
    let mut client = greeted(&receiver).await;
    for _ in 0..3 {
        assert!(client.deliver(&to).await.starts_with("250 ok dirdel"));
    }
    let fourth = client.deliver(&to).await;
    assert_eq!(fourth, "421 Max message per connection reached, closing transmission channel");
    assert!(client.is_closed().await);
    assert_eq!(receiver.stats().messages, 3);
}

#[tokio::test]
async fn gateway_says_what_small_gateways_say() {
    let unknown = attempts(Profile::gateway(), "corp.example", Nature::Unknown, 1).await;
    assert!(unknown[0].ends_with("Recipient address rejected: User unknown in relay recipient table"));
    let policy = attempts(Profile::gateway(), "corp.example", Nature::Policy, 1).await;
    assert_eq!(policy[0], "550 5.7.1 Message rejected as spam by Content Filtering.");
    let full = attempts(Profile::gateway(), "corp.example", Nature::Full, 4).await;
    assert!(full[..3].iter().all(|reply| reply.starts_with("452 4.2.2 <user")), "{full:?}");
    assert!(full[3].starts_with("250 2.0.0 Ok: queued as "));
}

#[tokio::test]
async fn greylisted_pair_is_let_through_after_the_delay() {
    let profile = Profile { greylist_delay: Duration::from_millis(150), ..Profile::gateway() };
    let to = mailbox(&profile, "corp.example", |m| m.greylisted && m.nature == Nature::Fine);
    let receiver = Receiver::start(profile, SEED).unwrap();
    let mut client = greeted(&receiver).await;
    let greylisted = "451 4.7.1 Greylisting in action, please come back later";
    assert_eq!(client.deliver(&to).await, greylisted);
    assert_eq!(client.deliver(&to).await, greylisted, "too early");
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(client.deliver(&to).await.starts_with("250 "));
    assert!(client.deliver(&to).await.starts_with("250 "), "and stays let through");
    assert_eq!(client.say("MAIL FROM:<other@sender.example>").await, "250 2.1.0 Ok");
    assert_eq!(client.say(&format!("RCPT TO:<{to}>")).await, greylisted, "another sender is another pair");
    let stats = receiver.stats();
    assert_eq!((stats.accepted, stats.deferred), (2, BTreeMap::from([(451, 3)])));
}

/// The last word on 20,000 mailboxes of each provider, in thousandths: delivered, unknown, other refusals.
#[test]
fn most_mail_is_delivered_and_the_seed_decides_which() {
    let mut totals = [0_u32; 3];
    for profile in [Profile::gmail(), Profile::microsoft(), Profile::yahoo(), Profile::gateway()] {
        let outcome = |seed: u64, n: u32| {
            let mailboxes = Mailboxes::new(seed);
            let to = format!("User{n}@example.com");
            for attempt in 0..8 {
                let verdict = mailboxes.attempt(&profile, "v@s.example", &to, attempt * 2_000);
                match verdict.refusal {
                    None => return (attempt, 250),
                    Some(reply) if reply.code >= 500 => return (attempt, reply.code),
                    Some(reply) if reply.stage == reply::Stage::DataEnd => {
                        mailboxes.refused(&profile, "v@s.example", &to, &reply, attempt * 2_000);
                    }
                    Some(_) => {}
                }
            }
            panic!("{to} was never decided");
        };
        let mut differs = 0;
        for n in 0..20_000 {
            let (attempt, code) = outcome(SEED, n);
            assert_eq!((attempt, code), outcome(SEED, n));
            differs += u32::from((attempt, code) != outcome(SEED + 1, n));
            let mailbox = Mailbox::draw(profile.name, &profile.shares, SEED, &format!("user{n}"));
            match code {
                250 => totals[0] += 1,
                _ if mailbox.nature == Nature::Unknown => totals[1] += 1,
                _ => totals[2] += 1,
            }
        }
        assert!(differs > 1_000, "another seed is another world");
    }
    let permille = totals.map(|total| total * 1_000 / 80_000);
    assert!((930..=950).contains(&permille[0]), "delivered: {permille:?}");
    assert!((30..=40).contains(&permille[1]), "hard bounced: {permille:?}");
}
