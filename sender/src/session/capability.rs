//! What a server announced in its reply to EHLO (RFC 5321, section 4.1.1.1).

/// The extensions that delivery uses. One odd parameter spoils only its own line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// RFC 2920.
    pub pipelining: bool,
    /// RFC 6152.
    pub eightbit_mime: bool,
    /// RFC 6531.
    pub smtputf8: bool,
    /// RFC 3207.
    pub starttls: bool,
    /// RFC 1870: announced at all, so that `SIZE=` may be given.
    pub size: bool,
    /// The largest message taken, in octets; `None` when no limit is known.
    pub size_bytes_max: Option<u64>,
}

impl Capabilities {
    /// From the lines of a 250 reply, without their codes; the first is the greeting.
    pub fn of_ehlo(lines: &[String]) -> Self {
        let mut found = Self::default();
        for line in lines.iter().skip(1) {
            let mut words = line.split_ascii_whitespace();
            let Some(keyword) = words.next() else { continue };
            match keyword.to_ascii_uppercase().as_str() {
                "PIPELINING" => found.pipelining = true,
                "8BITMIME" => found.eightbit_mime = true,
                "SMTPUTF8" => found.smtputf8 = true,
                "STARTTLS" => found.starttls = true,
                "SIZE" => {
                    found.size = true;
                    // Zero says "no fixed limit" (RFC 1870, section 4).
                    found.size_bytes_max = words.next().and_then(|n| n.parse().ok()).filter(|&n| n > 0);
                }
                _ => {}
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_are_read_whatever_else_is_announced() {
        let lines =
            ["mx.test PIPELINING", "size 1000", "8bitmime", "AUTH=x", "", "STARTTLS ", "X-ODD é\u{fffd}"];
        let found = Capabilities::of_ehlo(&lines.map(String::from));
        assert_eq!(
            found,
            Capabilities {
                eightbit_mime: true,
                starttls: true,
                size: true,
                size_bytes_max: Some(1000),
                ..Capabilities::default()
            }
        );
        for (line, limit) in
            [("SIZE", None), ("SIZE 0", None), ("SIZE x", None), ("SIZE 99999999999999999999", None)]
        {
            let found = Capabilities::of_ehlo(&["mx".to_owned(), line.to_owned()]);
            assert_eq!((found.size, found.size_bytes_max), (true, limit), "{line}");
        }
    }
}
