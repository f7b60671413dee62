//! A histogram as the percentile text (`.hgrm`) that `HdrHistogram`'s own tools print and plot.
//!
//! The layout, its widths and its five ticks per half distance are those of the Java
//! `outputPercentileDistribution`, so that plotters that read files by column accept it.

use std::io::{self, Write};

use hdrhistogram::Histogram;

/// Steps between one percentile and half the way to 100 %.
const TICKS_PER_HALF_DISTANCE: u32 = 5;

/// Writes the distribution of `latencies` (nanoseconds) in milliseconds, the unit plotters
/// assume.
///
/// # Errors
/// Those of `out`.
pub fn write(latencies: &Histogram<u64>, out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "{:>12} {:>14} {:>10} {:>14}\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    )?;
    let mut total = 0;
    for step in latencies.iter_quantiles(TICKS_PER_HALF_DISTANCE) {
        total += step.count_since_last_iteration();
        let (value, quantile) = (ms(step.value_iterated_to() as f64), step.quantile_iterated_to());
        write!(out, "{value:12.6} {quantile:2.12} {total:10}")?;
        if quantile < 1.0 {
            write!(out, " {:14.2}", 1.0 / (1.0 - quantile))?;
        }
        writeln!(out)?;
    }
    let digits = u32::from(latencies.sigfig());
    let sub_buckets = (2 * 10_u64.pow(digits)).next_power_of_two();
    writeln!(
        out,
        "#[Mean    = {:12.6}, StdDeviation   = {:12.6}]",
        ms(latencies.mean()),
        ms(latencies.stdev())
    )?;
    writeln!(
        out,
        "#[Max     = {:12.6}, Total count    = {:12}]",
        ms(latencies.max() as f64),
        latencies.len()
    )?;
    writeln!(out, "#[Buckets = {:12}, SubBuckets     = {sub_buckets:12}]", latencies.buckets())
}

fn ms(nanoseconds: f64) -> f64 {
    nanoseconds / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(latencies: &Histogram<u64>) -> String {
        let mut out = Vec::new();
        write(latencies, &mut out).expect("a Vec takes everything");
        String::from_utf8(out).expect("text")
    }

    fn thousand() -> Histogram<u64> {
        let mut latencies = crate::loadgen::tally::empty_histogram();
        for n in 1..=1000 {
            latencies.record(n * 1_000_000).expect("in range");
        }
        latencies
    }

    #[test]
    fn the_header_and_the_last_line_are_where_plotters_look() {
        let text = text(&thousand());
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "       Value     Percentile TotalCount 1/(1-Percentile)");
        assert_eq!(lines[1], "");
        let last = lines.iter().rposition(|line| !line.starts_with('#')).expect("rows");
        assert!(lines[last].ends_with(" 1.000000000000       1000"), "{}", lines[last]);
        assert!(lines[last + 1].starts_with("#[Mean    = "));
        assert!(lines[last + 2].ends_with("Total count    =         1000]"), "{}", lines[last + 2]);
        assert!(lines[last + 3].ends_with("SubBuckets     =         2048]"), "{}", lines[last + 3]);
    }

    #[test]
    fn rows_rise_and_the_median_is_in_the_middle() {
        let text = text(&thousand());
        let rows: Vec<Vec<f64>> = text
            .lines()
            .skip(2)
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.split_whitespace().map(|word| word.parse().expect("number")).collect())
            .collect();
        assert!(rows.windows(2).all(|two| two[0][0] <= two[1][0] && two[0][2] <= two[1][2]));
        let median = rows.iter().find(|row| row[1] >= 0.5).expect("a median");
        assert!((499.0..502.0).contains(&median[0]), "{median:?}");
    }

    #[test]
    fn an_empty_histogram_has_no_rows() {
        let text = text(&crate::loadgen::tally::empty_histogram());
        assert!(text.contains("Total count    =            0"));
    }
}
