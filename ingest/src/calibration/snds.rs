//! Microsoft's Smart Network Data Services: the two files of its automated data access, CSV without a header line.
//!
//! `data.aspx`, one row for each address and day: address, activity from, activity to, RCPT commands, DATA commands, message
//! recipients, filter result, complaint rate, traps from, traps to, trap hits, sample HELO, sample MAIL FROM, comments.
//! `ipStatus.aspx`, one row for each range: first address, last address, blocked, details. Addresses with fewer than a
//! hundred messages a day are in neither. Source: sendersupport.olc.protection.outlook.com/snds/FAQ.aspx, and the files that
//! others publish as tests of their readers.

use std::net::{IpAddr, Ipv4Addr};

use chrono::NaiveDateTime;
use sendlake_control::clock::Timestamp;

use super::{About, Export, Figure, Figures, Reading, day_span, rows, share, short};

/// Most addresses of one range: those of a sender are few.
const RANGE_MAX: u32 = 1_024;
/// Longest activity of one row. They are days.
const SPAN_SECS_MAX: i64 = 3 * 86_400;

pub fn read(export: &Export, bytes: &[u8]) -> Reading {
    let mut reading = Reading::default();
    rows(bytes, &mut reading, |reading, line, row| {
        let cells: Vec<&str> = row.iter().collect();
        // a page that the browser saved with the names of its columns
        let is_header = line == 1 && cells.first().is_some_and(|cell| cell.to_lowercase().starts_with("ip"));
        if is_header || cells.iter().all(|cell| cell.is_empty()) {
            return true;
        }
        match &cells[..] {
            [first, last, blocked, details @ ..] if details.len() <= 1 => {
                reading.take_all(line, status(export, first, last, blocked, details.first().copied()));
            }
            _ => reading.take(line, data(export, &cells)),
        }
        true
    });
    reading
}

fn address(text: &str) -> Result<IpAddr, String> {
    text.parse::<IpAddr>()
        .map(|ip| ip.to_canonical())
        .map_err(|_| format!("{:?} is no IP address", short(text)))
}

fn data(export: &Export, cells: &[&str]) -> Result<Figures, String> {
    let [ip, from, to, rcpt, data, recipients, result, complaints, traps_from, traps_to, traps, rest @ ..] =
        cells
    else {
        return Err(format!("it has {} columns; rows of data have 14, rows of states 4", cells.len()));
    };
    let ip = address(ip)?;
    let begin_at = instant(from, export.utc_offset_s)?;
    let end_at = instant(to, export.utc_offset_s)?;
    if end_at < begin_at || end_at.as_secs() - begin_at.as_secs() > SPAN_SECS_MAX {
        return Err(format!("the activity from {from:?} to {to:?} is no day"));
    }
    // an activity that ends at midnight is of the day before
    let day = Timestamp(end_at.0 - 1).max(begin_at).days();
    day_span(day, export.now)?;
    let mut figures = Vec::new();
    for (metric, cell) in [("rcpt_commands", rcpt), ("data_commands", data), ("recipients", recipients)] {
        figures.extend(count(cell)?.map(|number| Figure::number(metric, number)));
    }
    if !result.is_empty() {
        let word = result.to_uppercase();
        if !["GREEN", "YELLOW", "RED"].contains(&word.as_str()) {
            return Err(format!("the filter result {:?} is none of GREEN, YELLOW, RED", short(result)));
        }
        figures.push(Figure::word("reputation", &word));
    }
    if !complaints.is_empty() {
        figures.push(complaint_rate(complaints)?);
    }
    if let Some(hits) = count(traps)? {
        let span = [traps_from, traps_to].map(|cell| instant(cell, export.utc_offset_s).ok());
        let text = match span {
            [Some(from), Some(to)] => Some(format!("{from} {to}")),
            _ => None,
        };
        figures.push(Figure { text, ..Figure::number("trap_hits", hits) });
    }
    for (metric, cell) in ["sample_helo", "sample_mail_from", "comments"].into_iter().zip(rest) {
        if !cell.is_empty() {
            figures.push(Figure::word(metric, cell));
        }
    }
    Ok(Figures { exporter: export.exporter, about: About::Ip(ip), day, begin_at, end_at, figures })
}

/// Whole numbers; a cell may be empty.
fn count(cell: &str) -> Result<Option<f64>, String> {
    if cell.is_empty() {
        return Ok(None);
    }
    let number = cell.parse::<u32>().map_err(|_| format!("{:?} is no number of things", short(cell)))?;
    Ok(Some(f64::from(number)))
}

/// `1.3%` is exact; `< 0.1%` and `> 10%` are bounds, and no number is made of them.
fn complaint_rate(cell: &str) -> Result<Figure, String> {
    let figure = Figure { metric: "spam_rate", ..Figure::default() };
    Ok(match (cell.strip_prefix('<'), cell.strip_prefix('>')) {
        (Some(upper), _) => Figure { value_lower: Some(0.0), value_upper: Some(share(upper)?), ..figure },
        (_, Some(lower)) => Figure { value_lower: Some(share(lower)?), value_upper: Some(1.0), ..figure },
        _ => Figure { value: Some(share(cell)?), ..figure },
    })
}

/// `11/9/2026 8:00 PM`.
fn instant(text: &str, utc_offset_s: i32) -> Result<Timestamp, String> {
    ["%m/%d/%Y %I:%M %p", "%m/%d/%Y %I:%M:%S %p", "%m/%d/%Y %H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S"]
        .iter()
        .find_map(|form| NaiveDateTime::parse_from_str(text.trim_end_matches('Z'), form).ok())
        .map(|local| Timestamp(local.and_utc().timestamp_micros()).plus_secs(-i64::from(utc_offset_s)))
        .ok_or_else(|| format!("{:?} is no time such as 11/9/2026 8:00 PM", short(text)))
}

/// A range that is blocked, or not: of the day on which it is read, as the file names none.
fn status(
    export: &Export,
    first: &str,
    last: &str,
    blocked: &str,
    details: Option<&str>,
) -> Result<Vec<Figures>, String> {
    let (first, last) = (address(first)?, address(last)?);
    let blocked = match blocked.to_lowercase().as_str() {
        "yes" => 1.0,
        "no" => 0.0,
        _ => return Err(format!("{:?} is neither Yes nor No", short(blocked))),
    };
    let details = details.map(short).filter(|text| !text.is_empty());
    let day = export.now.days();
    let (begin_at, end_at) = day_span(day, export.now)?;
    let of = |ip: IpAddr| Figures {
        exporter: export.exporter,
        about: About::Ip(ip),
        day,
        begin_at,
        end_at,
        figures: vec![Figure { text: details.clone(), ..Figure::number("blocked", blocked) }],
    };
    match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            let (first, last) = (u32::from(first), u32::from(last));
            if last < first || last - first >= RANGE_MAX {
                return Err(format!("the range is empty or has more than {RANGE_MAX} addresses"));
            }
            Ok((first..=last).map(|ip| of(Ipv4Addr::from(ip).into())).collect())
        }
        (first, last) if first == last => Ok(vec![of(first)]),
        _ => Err("a range of IPv6 addresses is not read; one address each is".into()),
    }
}
