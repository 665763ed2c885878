//! Who runs a mailbox, told by its MX: what limits, bounces and reputation are counted by.

/// MX domains of well-known providers and gateways. A host belongs to an entry when it is that domain or below
/// it. Whoever is missing is known by its organisational domain.
const KNOWN: &[(&str, &str)] = &[
    ("google.com", "google"),
    ("googlemail.com", "google"),
    ("smtp.goog", "google"),
    ("outlook.com", "microsoft"),
    ("hotmail.com", "microsoft"),
    ("mx.microsoft", "microsoft"),
    ("office365.us", "microsoft"),
    ("outlook.cn", "microsoft"),
    ("yahoodns.net", "yahoo"),
    ("icloud.com", "apple"),
    ("apple.com", "apple"),
    ("pphosted.com", "proofpoint"),
    ("ppe-hosted.com", "proofpoint"),
    ("gpphosted.com", "proofpoint"),
    ("mimecast.com", "mimecast"),
    ("mimecast.co.za", "mimecast"),
    ("mimecast-offshore.com", "mimecast"),
    ("iphmx.com", "cisco"),
    ("barracudanetworks.com", "barracuda"),
    ("messagelabs.com", "broadcom"),
    ("trendmicro.com", "trendmicro"),
    ("trendmicro.eu", "trendmicro"),
    ("hornetsecurity.com", "hornetsecurity"),
    ("antispamcloud.com", "n-able"),
    ("zoho.com", "zoho"),
    ("zoho.eu", "zoho"),
    ("zoho.in", "zoho"),
    ("messagingengine.com", "fastmail"),
    ("protonmail.ch", "proton"),
    ("gmx.net", "gmx"),
    ("web.de", "gmx"),
    ("kundenserver.de", "ionos"),
    ("ionos.com", "ionos"),
    ("ionos.de", "ionos"),
    ("t-online.de", "t-online"),
    ("comcast.net", "comcast"),
    ("yandex.ru", "yandex"),
    ("yandex.net", "yandex"),
    ("mail.ru", "mail.ru"),
    ("qq.com", "tencent"),
    ("netease.com", "netease"),
    ("cloudflare.net", "cloudflare"),
    ("amazonaws.com", "amazon"),
    ("secureserver.net", "godaddy"),
    ("ovh.net", "ovh"),
    ("orange.fr", "orange"),
    ("seznam.cz", "seznam"),
];

/// The provider behind an MX host (ASCII, any case, with or without the last dot): a short name from the table
/// above, else the host's organisational domain by the Public Suffix List, else the host itself.
pub fn provider_of(mx_host: &str) -> String {
    let host = mx_host.trim_end_matches('.').to_ascii_lowercase();
    let known = KNOWN.iter().find(|(domain, _)| {
        host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    });
    match known {
        Some((_, provider)) => (*provider).to_owned(),
        None => psl::domain_str(&host).map(str::to_owned).unwrap_or(host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn providers_are_known_by_their_mx() {
        for (host, provider) in [
            ("gmail-smtp-in.l.google.com.", "google"),
            ("ASPMX.L.GOOGLE.COM", "google"),
            ("example-com.mail.protection.outlook.com", "microsoft"),
            ("example-com.o-v1.mx.microsoft", "microsoft"),
            ("mta5.am0.yahoodns.net", "yahoo"),
            ("mx01.mail.icloud.com", "apple"),
            ("mxa-00000000.gslb.pphosted.com", "proofpoint"),
            ("eu-smtp-inbound-1.mimecast.com", "mimecast"),
            ("inbound-smtp.eu-west-1.amazonaws.com", "amazon"),
            ("mx1.mail.example.co.uk", "example.co.uk"),
            ("notgoogle.com", "notgoogle.com"),
            ("localhost", "localhost"),
            ("", ""),
        ] {
            assert_eq!(provider_of(host), provider, "{host}");
        }
    }
}
