//! What the demo says at its end.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::picture::Told;
use crate::loadgen::report::{grouped, microseconds, percentiles};
use crate::loadgen::tally::{Failure, Tally};

/// The whole demo in numbers.
#[derive(Clone, Debug)]
pub struct Summary {
    pub duration: Duration,
    /// Both loads together.
    pub tally: Tally,
    pub events: Vec<Told>,
}

impl Summary {
    /// `requests`, `errors`, `latency_us`, `events` are a contract.
    #[must_use]
    pub fn json(&self) -> Value {
        let event = |told: &Told| {
            let at = (told.at.as_secs_f64() * 10.0).round() / 10.0;
            json!({ "at_s": at, "kind": told.kind, "text": told.text })
        };
        json!({
            "duration_s": (self.duration.as_secs_f64() * 1e3).round() / 1e3,
            "requests": self.tally.requests,
            "errors": self.tally.errors.total(),
            "retried": self.tally.retried,
            "latency_us": percentiles(&self.tally.latency),
            "events": self.events.iter().map(event).collect::<Vec<_>>(),
        })
    }

    #[must_use]
    pub fn text(&self) -> String {
        let tally = &self.tally;
        let at = |quantile| microseconds(tally.latency.value_at_quantile(quantile) as f64 / 1e3);
        let mut out = format!(
            "{} requests in {:.1} s, errors {}   p50 {}   p99 {}   max {}\n",
            grouped(tally.requests),
            self.duration.as_secs_f64(),
            grouped(tally.errors.total()),
            at(0.5),
            at(0.99),
            microseconds(tally.latency.max() as f64 / 1e3),
        );
        let kills = self.events.iter().filter(|told| told.kind == super::KILLED).count();
        if kills > 0 {
            let times = if kills == 1 { "once".into() } else { format!("{kills} times") };
            let _ = write!(out, "a server was killed {times} under this load");
            out += match (tally.errors.total(), tally.retried) {
                (0, 0) => " and no client saw it\n",
                (0, _) => "; clients whose idle connection went with it opened another\n",
                _ => "\n",
            };
        }
        for kind in Failure::ALL {
            if let (count @ 1.., Some(first)) = (tally.errors.count(kind), tally.errors.first(kind))
            {
                let _ = writeln!(out, "  {} {}, the first: {first}", grouped(count), kind.as_str());
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::picture::Tone;
    use crate::runtime::time::Time;

    fn summary() -> Summary {
        let mut tally = Tally::default();
        tally.success(Time(0), Time(0), Time(1_000_000), (1, 1));
        let told = Told {
            at: Duration::from_millis(1020),
            kind: crate::demo::KILLED,
            text: "green is killed".into(),
            tone: Tone::Bad,
        };
        Summary { duration: Duration::from_secs(3), tally, events: vec![told] }
    }

    #[test]
    fn json_has_every_key_of_the_contract() {
        let json = summary().json();
        assert_eq!((&json["requests"], &json["errors"]), (&json!(1), &json!(0)));
        assert!(json["latency_us"]["p99"].as_f64().is_some_and(|p99| p99 > 900.0));
        let event = json!({ "at_s": 1.0, "kind": "server-killed", "text": "green is killed" });
        assert_eq!(json["events"], json!([event]));
    }

    #[test]
    fn errors_are_said_with_their_reason() {
        let mut summary = summary();
        assert!(summary.text().contains("errors 0") && summary.text().contains("no client saw it"));
        summary.tally.errors.add(Failure::Reset, 2, || "why".into());
        let text = summary.text();
        assert!(text.contains("errors 2") && text.contains("2 reset, the first: why"), "{text}");
    }
}
