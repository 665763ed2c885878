//! Providers of large mailbox domains, for records that name a recipient and no MX. Each is what the MX of that domain
//! comes to by `provider_of` of the sender; domains with an MX of their own are not here, and stay unknown.

/// Mailbox domain → provider. A name that ends in `.*` stands for every country's domain of that name.
const DOMAINS: &[(&str, &str)] = &[
    ("gmail.com", "google"),
    ("googlemail.com", "google"),
    ("outlook.*", "microsoft"),
    ("hotmail.*", "microsoft"),
    ("live.*", "microsoft"),
    ("msn.com", "microsoft"),
    ("passport.com", "microsoft"),
    ("windowslive.com", "microsoft"),
    ("yahoo.co.jp", "yahoo.co.jp"),
    ("yahoo.*", "yahoo"),
    ("ymail.com", "yahoo"),
    ("rocketmail.com", "yahoo"),
    ("myyahoo.com", "yahoo"),
    ("aol.*", "yahoo"),
    ("aim.com", "yahoo"),
    ("verizon.net", "yahoo"),
    ("icloud.com", "apple"),
    ("me.com", "apple"),
    ("mac.com", "apple"),
    ("gmx.*", "gmx"),
    ("web.de", "gmx"),
    ("mail.com", "gmx"),
    ("t-online.de", "t-online"),
    ("comcast.net", "comcast"),
    ("yandex.*", "yandex"),
    ("ya.ru", "yandex"),
    ("mail.ru", "mail.ru"),
    ("bk.ru", "mail.ru"),
    ("list.ru", "mail.ru"),
    ("inbox.ru", "mail.ru"),
    ("qq.com", "tencent"),
    ("foxmail.com", "tencent"),
    ("163.com", "netease"),
    ("126.com", "netease"),
    ("yeah.net", "netease"),
    ("proton.me", "proton"),
    ("protonmail.com", "proton"),
    ("pm.me", "proton"),
    ("fastmail.com", "fastmail"),
    ("fastmail.fm", "fastmail"),
    ("orange.fr", "orange"),
    ("wanadoo.fr", "orange"),
    ("seznam.cz", "seznam"),
    ("email.cz", "seznam"),
];

/// The provider of a mailbox domain (lower case), where it is one of the large ones.
pub(super) fn provider_of(domain: &str) -> Option<&'static str> {
    let found = DOMAINS.iter().find(|(known, _)| match known.strip_suffix('*') {
        Some(stem) => domain.strip_prefix(stem).is_some_and(is_country),
        None => domain == *known,
    });
    found.map(|(_, provider)| *provider)
}

/// `com`, `de`, `co.uk`, `com.br`.
fn is_country(rest: &str) -> bool {
    match rest.split_once('.') {
        None => rest == "com" || rest.len() == 2,
        Some((second, country)) => matches!(second, "co" | "com") && country.len() == 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_mailbox_domains_are_known_and_others_are_not() {
        for (domain, provider) in [
            ("gmail.com", Some("google")),
            ("hotmail.co.uk", Some("microsoft")),
            ("live.nl", Some("microsoft")),
            ("yahoo.com.br", Some("yahoo")),
            ("yahoo.co.jp", Some("yahoo.co.jp")),
            ("icloud.com", Some("apple")),
            ("live.example", None),
            ("notgmail.com", None),
            ("gmx.evil.test", None),
            ("", None),
        ] {
            assert_eq!(provider_of(domain), provider, "{domain}");
        }
    }
}
