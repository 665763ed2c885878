//! What a rule may say of a code: `550`, `55x`, `5xx`; `5.1.1`, `x.1.1`, `x.7.60x`.

use std::str::FromStr;

/// Three places, each a digit or any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodePattern([Option<u8>; 3]);

impl CodePattern {
    /// `severity` stands in for a code that is not known: a pattern of a class fits it.
    pub fn fits(&self, code: Option<u16>, severity: Option<u8>) -> bool {
        let [first, second, third] = self.0;
        match code {
            Some(code) => {
                let places = [code / 100, code / 10 % 10, code % 10];
                self.0
                    .iter()
                    .zip(places)
                    .all(|(known, digit)| known.is_none_or(|known| u16::from(known) == digit))
            }
            None => second.is_none() && third.is_none() && first.is_none_or(|first| severity == Some(first)),
        }
    }
}

impl FromStr for CodePattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let places: Option<Vec<Option<u8>>> = text.chars().map(place).collect();
        let places = places.and_then(|places| <[Option<u8>; 3]>::try_from(places).ok());
        places
            .filter(|[first, ..]| matches!(first, Some(4 | 5)))
            .map(Self)
            .ok_or_else(|| format!("reply_code {text:?}: write it as 550, 55x or 5xx"))
    }
}

/// Class, subject and detail (RFC 3463), each a number, a number with its last digit open, or any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusPattern([Part; 3]);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Any,
    Is(u16),
    /// Between both, as `60x` and `7xx` say.
    Between(u16, u16),
}

impl Part {
    fn fits(self, number: u16) -> bool {
        match self {
            Self::Any => true,
            Self::Is(known) => known == number,
            Self::Between(low, high) => (low..=high).contains(&number),
        }
    }
}

impl StatusPattern {
    pub fn fits(&self, status: (u16, u16, u16)) -> bool {
        let [class, subject, detail] = self.0;
        class.fits(status.0) && subject.fits(status.1) && detail.fits(status.2)
    }
}

impl FromStr for StatusPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Option<Vec<Part>> = text.split('.').map(part).collect();
        parts
            .and_then(|parts| <[Part; 3]>::try_from(parts).ok())
            .map(Self)
            .ok_or_else(|| format!("enhanced_status {text:?}: write it as 5.1.1, x.1.1 or x.7.60x"))
    }
}

fn part(text: &str) -> Option<Part> {
    if text == "x" {
        return Some(Part::Any);
    }
    let open = text.bytes().rev().take_while(|byte| *byte == b'x').count();
    if open == 0 {
        return text.parse().ok().map(Part::Is);
    }
    let known: u16 = text.get(..text.len() - open)?.parse().ok()?;
    let width = 10_u16.checked_pow(u32::try_from(open).ok()?)?;
    let low = known.checked_mul(width)?;
    Some(Part::Between(low, low.checked_add(width - 1)?))
}

fn place(letter: char) -> Option<Option<u8>> {
    match letter {
        'x' => Some(None),
        digit => digit.to_digit(10).and_then(|digit| u8::try_from(digit).ok()).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_pattern_fits_its_class_and_stands_in_for_an_unknown_code() {
        let fits = |pattern: &str, code| pattern.parse::<CodePattern>().unwrap().fits(code, Some(5));
        assert!(fits("550", Some(550)) && fits("55x", Some(553)) && fits("5xx", Some(571)));
        assert!(!fits("550", Some(551)) && !fits("5xx", Some(450)) && !fits("550", None));
        assert!(fits("5xx", None) && !fits("4xx", None));
        for bad in ["", "5", "650", "5xxx", "x50", "abc"] {
            assert!(bad.parse::<CodePattern>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_status_pattern_fits_any_number_where_it_says_so() {
        let fits = |pattern: &str, status| pattern.parse::<StatusPattern>().unwrap().fits(status);
        assert!(fits("5.1.1", (5, 1, 1)) && fits("x.1.1", (4, 1, 1)) && fits("x.7.x", (5, 7, 509)));
        assert!(
            fits("x.7.60x", (5, 7, 606)) && !fits("x.7.60x", (5, 7, 610)) && fits("x.7.7xx", (5, 7, 705))
        );
        assert!(!fits("5.1.1", (5, 1, 10)) && !fits("5.1.1", (4, 1, 1)));
        for bad in ["", "5.1", "5.1.1.1", "a.b.c", "5.1.99999x", "5..1"] {
            assert!(bad.parse::<StatusPattern>().is_err(), "{bad}");
        }
    }
}
