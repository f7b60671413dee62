//! The result of a run, as a table for people and as JSON for machines.
//!
//! Pure: from counts to text. The JSON keys are a contract.

use std::fmt::Write as _;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use super::tally::{Failure, Tally};
use super::target::Mode;

/// One run against one target.
#[derive(Clone, Debug)]
pub struct Report {
    pub mode: Mode,
    /// The target as it was written.
    pub url: String,
    /// Starts a second in an open loop; `None`: closed loop.
    pub rate: Option<f64>,
    pub connections: u32,
    /// How long was measured, without connecting, warm-up and the wait for the last answers.
    pub duration: Duration,
    pub tally: Tally,
}

/// The percentiles that are reported, with their keys.
const PERCENTILES: [(&str, f64); 5] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999)];

impl Report {
    /// Successes a second.
    #[must_use]
    pub fn throughput(&self) -> f64 {
        let seconds = self.duration.as_secs_f64();
        if seconds > 0.0 { self.tally.requests as f64 / seconds } else { 0.0 }
    }

    #[must_use]
    pub fn json(&self) -> Value {
        let tally = &self.tally;
        let errors: Map<_, _> = Failure::ALL
            .iter()
            .map(|&kind| (kind.as_str().to_owned(), tally.errors.count(kind).into()))
            .collect();
        json!({
            "mode": self.mode.as_str(),
            "url": self.url,
            "rate_target": self.rate,
            "connections": self.connections,
            "duration_s": round(self.duration.as_secs_f64(), 3),
            "requests": tally.requests,
            "errors": errors,
            "throughput_rps": round(self.throughput(), 1),
            "bytes_in": tally.bytes_in,
            "bytes_out": tally.bytes_out,
            "latency_us": percentiles(&tally.latency),
            "service_us": percentiles(&tally.service),
            "never_started": tally.never_started,
            "retried": tally.retried,
        })
    }

    /// The table for a terminal, with a newline at its end.
    #[must_use]
    pub fn text(&self) -> String {
        let tally = &self.tally;
        let pace = self.rate.map_or_else(
            || "closed loop".to_owned(),
            |rate| format!("open loop at {} req/s", grouped(rate.round() as u64)),
        );
        let mut out = format!(
            "{} {}   {pace}, {} connections, {:.1} s\n",
            self.mode.as_str(),
            self.url,
            grouped(self.connections.into()),
            self.duration.as_secs_f64(),
        );
        let _ = writeln!(
            out,
            "  requests {:>12}   {} req/s   {} in, {} out",
            grouped(tally.requests),
            grouped(self.throughput().round() as u64),
            size(tally.bytes_in),
            size(tally.bytes_out),
        );
        self.errors_text(&mut out);
        let _ = write!(out, "\n  {:8}", "");
        for (name, _) in PERCENTILES {
            let _ = write!(out, " {name:>10}");
        }
        let _ = writeln!(out, " {:>10} {:>10}", "max", "mean");
        histogram_row(&mut out, "latency", &tally.latency);
        if self.rate.is_some() {
            histogram_row(&mut out, "service", &tally.service);
        }
        out
    }

    fn errors_text(&self, out: &mut String) {
        let tally = &self.tally;
        let _ = writeln!(out, "  errors   {:>12}", grouped(tally.errors.total()));
        for kind in Failure::ALL {
            let (count, first) = (tally.errors.count(kind), tally.errors.first(kind));
            if count > 0 {
                let why = first.map_or_else(String::new, |why| format!("   the first: {why}"));
                let _ = writeln!(out, "    {:10} {:>8}{why}", kind.as_str(), grouped(count));
            }
        }
        if tally.retried > 0 {
            let _ = writeln!(
                out,
                "  {} requests were sent again because a kept connection had been closed",
                grouped(tally.retried)
            );
        }
        if tally.never_started > 0 {
            let _ = writeln!(
                out,
                "  {} requests were due and never started: the rate is more than the connections carry",
                grouped(tally.never_started)
            );
        }
    }
}

/// A run through something and one directly to what is behind it.
#[derive(Clone, Debug)]
pub struct Comparison {
    pub through: Report,
    pub direct: Report,
}

/// From this share of the direct rate on, a closed loop measures the generator as well.
const LIMIT_SHARE: f64 = 0.9;

impl Comparison {
    /// The JSON of the run, with `direct` (same shape) and `added_us`.
    #[must_use]
    pub fn json(&self) -> Value {
        let mut value = self.through.json();
        value["direct"] = self.direct.json();
        let added = |(name, q): (&str, f64)| (name.to_owned(), round(self.added_us(q), 1).into());
        value["added_us"] = PERCENTILES.into_iter().map(added).collect::<Map<_, _>>().into();
        value
    }

    /// Both tables, what lies between them, and what that says.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out =
            format!("{}\ndirectly: {}\n  {:8}", self.through.text(), self.direct.text(), "added");
        for (_, q) in PERCENTILES {
            let _ = write!(out, " {:>10}", microseconds(self.added_us(q)));
        }
        out.push('\n');
        let (through, direct) = (self.through.throughput(), self.direct.throughput());
        if direct > 0.0 && self.through.rate.is_none() {
            let share = through / direct;
            let _ = writeln!(
                out,
                "  {:.0} % of what the generator reaches directly ({} req/s){}",
                share * 100.0,
                grouped(direct.round() as u64),
                if share > LIMIT_SHARE {
                    ": the generator or the server is the limit here"
                } else {
                    ""
                },
            );
        }
        out
    }

    fn added_us(&self, quantile: f64) -> f64 {
        at(&self.through.tally.latency, quantile) - at(&self.direct.tally.latency, quantile)
    }
}

/// A percentile in microseconds; 0 of nothing.
fn at(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    if histogram.is_empty() { 0.0 } else { histogram.value_at_quantile(quantile) as f64 / 1e3 }
}

/// `{"p50", …, "max", "mean"}` in microseconds.
#[must_use]
pub fn percentiles(histogram: &Histogram<u64>) -> Value {
    let mut map: Map<String, Value> = PERCENTILES
        .into_iter()
        .map(|(name, q)| (name.to_owned(), round(at(histogram, q), 1).into()))
        .collect();
    map.insert("max".into(), round(histogram.max() as f64 / 1e3, 1).into());
    map.insert("mean".into(), round(histogram.mean() / 1e3, 1).into());
    map.into()
}

fn histogram_row(out: &mut String, name: &str, histogram: &Histogram<u64>) {
    let _ = write!(out, "  {name:8}");
    for (_, q) in PERCENTILES {
        let _ = write!(out, " {:>10}", microseconds(at(histogram, q)));
    }
    let (max, mean) = (histogram.max() as f64 / 1e3, histogram.mean() / 1e3);
    let _ = writeln!(out, " {:>10} {:>10}", microseconds(max), microseconds(mean));
}

fn round(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}

/// `83.2 µs`, `1.23 ms`, `2.50 s`.
#[must_use]
pub fn microseconds(value: f64) -> String {
    match value.abs() {
        abs if abs < 1e3 => format!("{value:.1} µs"),
        abs if abs < 1e6 => format!("{:.2} ms", value / 1e3),
        _ => format!("{:.2} s", value / 1e6),
    }
}

/// `1,234,567`.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3 + 1);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `12.3 MiB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::time::Time;

    fn report(latency_us: u64, rate: Option<f64>) -> Report {
        let mut tally = Tally::default();
        for _ in 0..1000 {
            tally.success(Time(0), Time(0), Time(latency_us * 1000), (10, 20));
        }
        Report {
            mode: Mode::Tcp,
            url: "127.0.0.1:1".into(),
            rate,
            connections: 8,
            duration: Duration::from_secs(2),
            tally,
        }
    }

    fn keys(value: &Value) -> Vec<&str> {
        value.as_object().expect("an object").keys().map(String::as_str).collect()
    }

    #[test]
    fn json_has_every_key_of_the_contract() {
        let json = report(100, None).json();
        let names = keys(&json);
        assert_eq!(
            &names[..12],
            [
                "mode",
                "url",
                "rate_target",
                "connections",
                "duration_s",
                "requests",
                "errors",
                "throughput_rps",
                "bytes_in",
                "bytes_out",
                "latency_us",
                "service_us"
            ]
        );
        assert_eq!(keys(&json["errors"]), ["connect", "reset", "timeout", "status", "protocol"]);
        let percentiles = ["p50", "p90", "p99", "p99.9", "p99.99", "max", "mean"];
        assert_eq!(
            (keys(&json["latency_us"]), keys(&json["service_us"])),
            (percentiles.into(), percentiles.into())
        );
        assert_eq!((&json["requests"], &json["throughput_rps"]), (&json!(1000), &json!(500.0)));
        assert_eq!((&json["rate_target"], &json["bytes_out"]), (&Value::Null, &json!(20_000)));
        assert!((99.0..101.0).contains(&json["latency_us"]["p50"].as_f64().expect("a number")));
    }

    #[test]
    fn a_run_without_success_is_all_zeros_and_names_its_errors() {
        let mut report = report(1, Some(10.0));
        report.tally = Tally::default();
        report.tally.errors.add(Failure::Connect, 3, || "connection refused".into());
        assert_eq!(report.json()["latency_us"]["p99"], json!(0.0));
        assert_eq!(report.json()["errors"]["connect"], json!(3));
        assert!(
            report.text().contains("connect           3   the first: connection refused"),
            "{}",
            report.text()
        );
    }

    #[test]
    fn a_comparison_shows_what_was_added() {
        let both = Comparison { through: report(150, None), direct: report(100, None) };
        let json = both.json();
        let added = json["added_us"]["p50"].as_f64().expect("a number");
        assert!((49.0..51.0).contains(&added), "{added}");
        assert_eq!(json["direct"]["requests"], json!(1000));
        assert!(
            both.text().contains("100 % of what the generator reaches directly (500 req/s)"),
            "{}",
            both.text()
        );
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            (grouped(0), grouped(999), grouped(1_234_567)),
            ("0".into(), "999".into(), "1,234,567".into())
        );
        assert_eq!(
            (size(10), size(2048), size(5 << 30)),
            ("10 B".into(), "2.0 KiB".into(), "5.0 GiB".into())
        );
        assert_eq!(microseconds(83.21), "83.2 µs");
        assert_eq!(microseconds(1234.0), "1.23 ms");
        assert_eq!(microseconds(2_500_000.0), "2.50 s");
    }
}
