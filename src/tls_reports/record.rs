//! Where a domain wants TLS reports: its record at `_smtp._tls.<domain>` (RFC 8460, section 3). Pure.

use sendlake_sender::address::Address;
use url::Url;

use super::short_hash;

const VERSION: &str = "v=TLSRPTv1";
/// A record may name any number of places; nobody needs more.
const DESTINATIONS_MAX: usize = 5;

/// One place that reports go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    Mail(Address),
    Https(Url),
}

impl Destination {
    /// A name for it that tells nobody's address.
    pub fn key(&self) -> String {
        short_hash(&["destination", &self.to_string()])
    }
}

impl std::fmt::Display for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Destination::Mail(address) => write!(f, "mailto:{address}"),
            Destination::Https(url) => write!(f, "{url}"),
        }
    }
}

/// What the TXT records of a name say about reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// There is no record, or more than one, which counts as none.
    Nothing,
    /// Reports are wanted here; never empty.
    Reports(Vec<Destination>),
    /// There is a record, and no report can be sent by it: why, in words.
    Unusable(String),
}

/// Reads the texts of all TXT records at `_smtp._tls.<domain>`.
pub fn wish(texts: &[String]) -> Wish {
    let ours: Vec<&str> = texts.iter().filter_map(|text| fields_of(text)).collect();
    let [fields] = ours.as_slice() else {
        return Wish::Nothing;
    };
    let rua = fields.split(';').find_map(|field| {
        let (name, value) = field.split_once('=')?;
        (name.trim() == "rua").then_some(value)
    });
    let Some(rua) = rua else {
        return Wish::Unusable("the record has no rua".to_owned());
    };
    let mut destinations = Vec::new();
    let mut refused = Vec::new();
    for uri in rua.split(',').map(str::trim).filter(|uri| !uri.is_empty()) {
        match destination(uri) {
            Ok(found) if destinations.contains(&found) => {}
            Ok(found) => destinations.push(found),
            Err(why) => refused.push(why),
        }
    }
    destinations.truncate(DESTINATIONS_MAX);
    match (destinations.is_empty(), refused.is_empty()) {
        (false, _) => Wish::Reports(destinations),
        (true, false) => Wish::Unusable(refused.join("; ")),
        (true, true) => Wish::Unusable("its rua is empty".to_owned()),
    }
}

/// What follows the version, if the text is a record of this kind.
fn fields_of(text: &str) -> Option<&str> {
    let rest = text.strip_prefix(VERSION)?.trim_start();
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix(';') }
}

fn destination(uri: &str) -> Result<Destination, String> {
    let shown = || -> String { uri.chars().take(200).collect() };
    let url = Url::parse(uri).map_err(|error| format!("{:?} is no URI: {error}", shown()))?;
    match url.scheme() {
        // what follows a question mark are header fields, which are nobody's to set
        "mailto" => {
            let address = decoded(url.path()).ok_or_else(|| format!("{:?} is no mail address", shown()))?;
            let address = Address::parse(&address).map_err(|error| format!("{:?}: {error}", shown()))?;
            Ok(Destination::Mail(address))
        }
        "https" if url.username().is_empty() && url.password().is_none() => {
            let mut url = url;
            url.set_fragment(None);
            Ok(Destination::Https(url))
        }
        "https" => Err(format!("{:?} names a user", shown())),
        scheme => Err(format!("reports go by mailto and https, not by {scheme}")),
    }
}

/// Without percent-encoding (RFC 6068, section 2); `None` for what is no text.
fn decoded(text: &str) -> Option<String> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(octet) = rest.next() {
        if octet != b'%' {
            octets.push(octet);
            continue;
        }
        let digit = |octet: u8| char::from(octet).to_digit(16);
        let (high, low) = (digit(rest.next()?)?, digit(rest.next()?)?);
        octets.push(u8::try_from(high * 16 + low).ok()?);
    }
    let text = String::from_utf8(octets).ok()?;
    (!text.chars().any(char::is_control)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(texts: &[&str]) -> Wish {
        wish(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
    }

    fn shown(texts: &[&str]) -> Vec<String> {
        match of(texts) {
            Wish::Reports(found) => found.iter().map(ToString::to_string).collect(),
            other => vec![format!("{other:?}")],
        }
    }

    #[test]
    fn records_of_the_rfc_are_read() {
        assert_eq!(shown(&["v=TLSRPTv1;rua=mailto:reports@example.com"]), ["mailto:reports@example.com"]);
        assert_eq!(
            shown(&[
                "other",
                "v=TLSRPTv1; rua=https://reporting.example.com/v1/tlsrpt , mailto:a%2Bb@Example.com?subject=x;"
            ]),
            ["https://reporting.example.com/v1/tlsrpt", "mailto:a+b@example.com"]
        );
        assert_eq!(
            shown(&["v=TLSRPTv1 ; x=y; rua=ftp://a.example/x,mailto:a@b.example,mailto:a@b.example"]),
            ["mailto:a@b.example"]
        );
    }

    #[test]
    fn what_is_no_record_asks_for_nothing() {
        let one = "v=TLSRPTv1; rua=mailto:a@b.example";
        for texts in
            [vec![], vec!["v=spf1 -all"], vec![one, one], vec!["v=TLSRPTv10; rua=mailto:a@b.example"]]
        {
            assert_eq!(of(&texts), Wish::Nothing, "{texts:?}");
        }
    }

    #[test]
    fn what_cannot_be_followed_says_why() {
        for (text, why) in [
            ("v=TLSRPTv1", "no rua"),
            ("v=TLSRPTv1;", "no rua"),
            ("v=TLSRPTv1; rua=", "empty"),
            ("v=TLSRPTv1; rua=http://a.example/", "not by http"),
            ("v=TLSRPTv1; rua=https://me:secret@a.example/", "names a user"),
            ("v=TLSRPTv1; rua=mailto:a%0d%0aBcc:c@b.example", "no mail address"),
            ("v=TLSRPTv1; rua=mailto:nobody", "mailto:nobody"),
            ("v=TLSRPTv1; rua=not a uri", "no URI"),
        ] {
            let Wish::Unusable(said) = of(&[text]) else { panic!("{text}") };
            assert!(said.contains(why), "{text}: {said}");
        }
    }

    #[test]
    fn a_key_tells_destinations_apart_and_no_address() {
        let Wish::Reports(found) = of(&["v=TLSRPTv1; rua=mailto:ann@b.example,mailto:bo@b.example"]) else {
            panic!()
        };
        let keys: Vec<String> = found.iter().map(Destination::key).collect();
        assert!(keys[0] != keys[1] && keys[0].len() == 16 && !keys[0].contains("ann"), "{keys:?}");
    }
}
