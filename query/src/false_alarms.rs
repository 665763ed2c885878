//! How often complaint pacing is wrong, and how soon it is right: the rule of `complaint_baseline` in plain numbers, held
//! to the view, then played over thousands of days of chance.

use crate::output::{self, Format};
use crate::scope::Scope;
use crate::testing::{engine_within, events, limits, snapshot};
use crate::views::surroundings;

/// Deliveries and complaints.
type Counts = (f64, f64);

fn byar_lower(complaints: f64, z: f64) -> f64 {
    if complaints == 0.0 {
        return 0.0;
    }
    let root = (1.0 - 1.0 / (9.0 * complaints) - z / (3.0 * complaints.sqrt())).max(0.0);
    complaints * root.powi(3)
}

fn smoothed((deliveries, complaints): Counts) -> f64 {
    (complaints + 1.0) / (deliveries + 2000.0)
}

fn rate_lower((deliveries, complaints): Counts, baseline: Counts, from_prior: bool) -> f64 {
    let widened = if from_prior { 1.0 } else { (1.0 + deliveries / (baseline.0 + 2000.0)).sqrt() };
    byar_lower(complaints, 3.9 * widened) / deliveries
}

fn is_flagged(current: Counts, baseline: Counts) -> bool {
    let rate = current.1 / current.0;
    let usual = smoothed(baseline);
    rate >= 2.0 * usual && rate >= 0.0005 && rate_lower(current, baseline, false) > usual
}

/// The last 7 or 28 days, whichever has the lower rate, without the days that stood out.
fn baseline(days: &[Counts]) -> Counts {
    let add = |sum: Counts, day: &Counts| (sum.0 + day.0, sum.1 + day.1);
    let is_normal = |at: usize| {
        let (deliveries, complaints) = days[at];
        let before = days[at.saturating_sub(28)..at].iter().fold((0.0, 0.0), add);
        let stands_out = complaints >= 2.0
            && complaints >= 0.0005 * deliveries
            && complaints >= 2.0 * deliveries * smoothed(before)
            && byar_lower(complaints, 2.33) > deliveries * smoothed(before);
        !stands_out
    };
    let last = |count: usize| {
        let from = days.len().saturating_sub(count);
        (from..days.len()).filter(|at| is_normal(*at)).fold((0.0, 0.0), |sum, at| add(sum, &days[at]))
    };
    let (week, month) = (last(7), last(28));
    if smoothed(week) <= smoothed(month) { week } else { month }
}

/// Complaints hour by hour, from a seed.
struct Chance(u64);

impl Chance {
    fn unit(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn poisson(&mut self, mean: f64) -> f64 {
        let floor = (-mean).exp();
        let mut product = self.unit();
        let mut count = 0.0;
        while product > floor {
            product *= self.unit();
            count += 1.0;
        }
        count
    }
}

/// Whether the look at `hour` flags, with `complaints` in each hour and the same deliveries every hour.
fn look(complaints: &[f64], per_hour: f64, hour: usize) -> bool {
    let sum = |from: usize, to: usize| complaints[from..to].iter().sum::<f64>();
    let current = (24.0 * per_hour, sum(hour - 24, hour));
    if current.1 / current.0 < 0.0005 {
        return false;
    }
    let today = (hour - 1) / 24;
    let past = hour - 24;
    let day = |day: usize| {
        let (from, to) = (day * 24, past.min(day * 24 + 24));
        (to.saturating_sub(from) as f64 * per_hour, if to > from { sum(from, to) } else { 0.0 })
    };
    let days: Vec<Counts> = (today.saturating_sub(57)..today).map(day).collect();
    is_flagged(current, baseline(&days))
}

#[tokio::test]
async fn the_view_and_these_numbers_are_one_rule() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests-data");
    let mut compared = 0;
    for case in ["incident", "slow_ramp", "weekly_sender", "one_off_campaign", "two_tenants_judged"] {
        let text = std::fs::read_to_string(root.join(format!("{case}.case"))).unwrap();
        let (head, body) = text.split_once("-- events\n").unwrap();
        let (surroundings, as_of) = surroundings(head);
        let rows = events(body.split("-- query ").next().unwrap());
        let engine = engine_within(snapshot(&rows, &[]), surroundings, limits());
        let sql = "SELECT * FROM complaint_baseline WHERE rate IS NOT NULL";
        let output = engine.query_as_of(&Scope::AllTenants, sql, limits().query, &as_of).await.unwrap();
        let output: serde_json::Value =
            serde_json::from_slice(&output::to_bytes(&output, Format::Json).unwrap()).unwrap();
        for row in output["rows"].as_array().unwrap() {
            let number = |name: &str| row[name].as_f64().unwrap();
            let current = (number("deliveries"), number("complaints"));
            let past = (number("baseline_deliveries"), number("baseline_complaints"));
            let from_prior = row["baseline_source"] == "prior";
            let close = |a: f64, b: f64| (a - b).abs() < 1e-12;
            assert!(close(number("baseline_rate"), smoothed(past)), "{row}");
            assert!(close(number("rate_lower"), rate_lower(current, past, from_prior)), "{row}");
            if !from_prior {
                assert_eq!(row["flagged"], is_flagged(current, past), "{row}");
            }
            compared += 1;
        }
    }
    assert!(compared > 20, "{compared}");
}

#[test]
fn a_thousand_healthy_campaign_days_give_less_than_one_false_flag() {
    const DAYS: usize = 2_000;
    const BEFORE: usize = 28;
    let mut chance = Chance(0x5eed_1ace);
    let (mut flags, mut days) = (0, 0);
    for rate in [0.000_3, 0.000_5] {
        for per_day in [2_000.0, 6_000.0, 12_000.0, 30_000.0] {
            let per_hour = per_day / 24.0;
            let hours = (BEFORE + DAYS) * 24;
            let complaints: Vec<f64> = (0..hours).map(|_| chance.poisson(per_hour * rate)).collect();
            let is_false = |day: &usize| (0..24).any(|h| look(&complaints, per_hour, day * 24 + h + 1));
            let wrong = (BEFORE..BEFORE + DAYS).filter(is_false).count();
            println!("{:.2} % of {per_day} a day: {wrong} false flags in {DAYS} days", rate * 100.0);
            flags += wrong;
            days += DAYS;
        }
    }
    assert!(
        flags * 1_000 < days,
        "{flags} false flags in {days} healthy campaign-days, looked at every hour"
    );
}

#[test]
fn a_rise_from_0_03_to_0_25_percent_in_36_hours_is_seen_on_the_way() {
    const TRIALS: usize = 200;
    let mut chance = Chance(0xca5e_0f36);
    let mut found = Vec::new();
    for per_day in [2_400.0, 6_000.0, 12_000.0, 20_000.0, 30_000.0] {
        let per_hour = per_day / 24.0;
        let mut seen: Vec<usize> = Vec::new();
        for _ in 0..TRIALS {
            let rate = |hour: usize| match hour.checked_sub(8 * 24) {
                None => 0.000_3,
                Some(hour) => 0.000_3 + 0.002_2 * (hour as f64 + 0.5) / 36.0,
            };
            let complaints: Vec<f64> =
                (0..8 * 24 + 36).map(|hour| chance.poisson(per_hour * rate(hour))).collect();
            seen.extend((1..=36).find(|hour| look(&complaints, per_hour, 8 * 24 + hour)));
        }
        seen.sort_unstable();
        let share = seen.len() as f64 / TRIALS as f64;
        let median = seen.get(seen.len() / 2).copied().unwrap_or(99);
        println!("{per_day} a day: seen in {:.0} % of cases, half of those by hour {median}", share * 100.0);
        found.push((share, median));
    }
    assert!(found[2].0 > 0.9 && found[2].1 <= 28, "{found:?}");
    assert!(found[4].0 > 0.99 && found[4].1 <= 22, "{found:?}");
}
