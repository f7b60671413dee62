//! `sluicegate bench tcp|http URL`: the load generator at the command line.
//!
//! Owns the arguments, the progress line on a terminal's stderr, and where results go. What
//! is measured and how is in `loadgen`.

use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use crate::config::units;
use crate::loadgen::connection::Orders;
use crate::loadgen::interrupt::Interrupt;
use crate::loadgen::report::{Comparison, Report, grouped, microseconds};
use crate::loadgen::tally::{Failure, Tally};
use crate::loadgen::target::{self, BadTarget, Script, Target};
use crate::loadgen::{self, Job, Live, Measured, hgrm};

/// Payload of a tcp exchange where none is asked for: a small command of a small protocol.
const PAYLOAD_DEFAULT: u64 = 64;

/// Rates above this cannot be kept by one machine.
const RATE_MAX: f64 = 10_000_000.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Mode {
    /// Bytes that have to come back as they were sent
    Tcp,
    /// GET, over HTTP/1.1, with a status of 200-399
    Http,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Pattern {
    /// The target sends back what it got
    Echo,
    /// PING, as Redis and its kin answer it
    RedisPing,
}

#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    /// What is spoken
    mode: Mode,
    /// The target: host:port, tcp://host:port, `http://host:port/path` or `unix:/path`
    url: String,
    /// Open loop: so many starts a second, latency counted from when each was due
    #[arg(long, short, value_name = "PER_SECOND", value_parser = parse_rate)]
    rate: Option<f64>,
    /// Connections in all
    #[arg(long, short, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    connections: u32,
    /// How long to measure
    #[arg(long, short, default_value = "10s", value_parser = units::duration)]
    duration: Duration,
    /// Run this long before measuring
    #[arg(long, value_parser = units::duration)]
    warmup: Option<Duration>,
    /// Threads, each with a ring of its own
    #[arg(long, alias = "threads", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    workers: u32,
    /// A new connection for each exchange
    #[arg(long)]
    new_connection: bool,
    /// How long one exchange may take
    #[arg(long, default_value = "10s", value_parser = units::duration)]
    timeout: Duration,
    /// tcp: bytes to send and get back, for example 16KiB (default 64B)
    #[arg(long, value_name = "SIZE", value_parser = parse_payload)]
    payload: Option<u64>,
    /// tcp: what to say
    #[arg(long, value_enum, default_value = "echo")]
    pattern: Pattern,
    /// http: a header to send, `Name: value`; may be repeated
    #[arg(long = "header", short = 'H', value_name = "HEADER", value_parser = parse_header)]
    headers: Vec<String>,
    /// Measure this address too, without what stands between, and show what that adds
    #[arg(long, value_name = "ADDR")]
    direct: Option<String>,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
    /// Write the latency distribution to this file, as `HdrHistogram` plotters read it (milliseconds)
    #[arg(long, value_name = "FILE")]
    hgrm: Option<PathBuf>,
}

/// Measures and prints. 0 if at least one exchange succeeded.
#[must_use]
pub fn run(args: &BenchArgs) -> ExitCode {
    let prepared = match Prepared::new(args) {
        Ok(prepared) => prepared,
        Err((code, why)) => return super::fail(code, why),
    };
    // Opened first: a path that cannot be written should not cost a whole run.
    let hgrm_file = match args.hgrm.as_ref().map(File::create).transpose() {
        Ok(file) => file,
        Err(error) => {
            let path = args.hgrm.as_deref().unwrap_or(std::path::Path::new(""));
            return super::fail(
                super::FAILED,
                format_args!("cannot write `{}`: {error}", path.display()),
            );
        }
    };
    match prepared.measure(args) {
        Ok(result) => finish(args, &result, hgrm_file),
        Err((code, why)) => super::fail(code, why),
    }
}

/// An exit code and what to say with it.
type Refusal = (u8, String);

/// What a run needs, checked.
struct Prepared {
    script: Script,
    /// First the direct one if there is one, then the one that was asked for.
    runs: Vec<(String, Job)>,
}

/// What was measured.
enum Outcome {
    Single(Box<Report>),
    Compared(Box<Comparison>),
}

impl Prepared {
    fn new(args: &BenchArgs) -> Result<Self, Refusal> {
        let usage = |error: BadTarget| (super::USAGE, error.0);
        let target = Target::parse(&args.url, args.mode.into()).map_err(usage)?;
        let script = script(args, &target)?;
        make_room(args.connections)?;
        let mut targets = Vec::new();
        if let Some(address) = &args.direct {
            targets.push(Target::parse(address, target::Mode::Tcp).map_err(usage)?);
        }
        targets.push(target);
        let mut this = Self { script, runs: Vec::new() };
        for target in targets {
            let to = target.resolve().map_err(|error| (super::FAILED, error.0))?;
            let orders = Orders {
                to,
                script: this.script.clone(),
                new_connection: args.new_connection,
                retry: false,
                timeout: args.timeout,
            };
            let job = Job {
                orders,
                connections: args.connections,
                workers: args.workers,
                rate: args.rate,
                warmup: args.warmup.unwrap_or_default(),
                duration: args.duration,
            };
            this.runs.push((target.url, job));
        }
        Ok(this)
    }

    fn measure(&self, args: &BenchArgs) -> Result<Outcome, Refusal> {
        let interrupt = Interrupt::new();
        let mut reports = Vec::new();
        for (url, job) in &self.runs {
            let measured = watch(url, job, &interrupt)?;
            let stopped = measured.duration < job.duration;
            reports.push(Report {
                mode: args.mode.into(),
                url: url.clone(),
                rate: job.rate,
                connections: job.connections,
                duration: measured.duration,
                tally: measured.tally,
            });
            if stopped {
                break;
            }
        }
        let last = reports.pop().ok_or((super::FAILED, "nothing was measured".to_owned()))?;
        Ok(match reports.pop() {
            Some(direct) => Outcome::Compared(Box::new(Comparison { through: last, direct })),
            None => Outcome::Single(Box::new(last)),
        })
    }
}

impl Outcome {
    const fn report(&self) -> &Report {
        match self {
            Self::Single(report) => report,
            Self::Compared(both) => &both.through,
        }
    }
}

/// What the exchanges say, from arguments that go together.
fn script(args: &BenchArgs, target: &Target) -> Result<Script, Refusal> {
    let refuse = |why: &str| Err((super::USAGE, why.to_owned()));
    match (args.mode, args.pattern) {
        (Mode::Http, _) if args.payload.is_some() => refuse("`--payload` goes with `bench tcp`"),
        (Mode::Http, Pattern::RedisPing) => refuse("`--pattern` goes with `bench tcp`"),
        (Mode::Http, Pattern::Echo) => {
            Ok(Script::Http { request: target.get(&args.headers, !args.new_connection) })
        }
        (Mode::Tcp, _) if !args.headers.is_empty() => refuse("`--header` goes with `bench http`"),
        (Mode::Tcp, Pattern::RedisPing) if args.payload.is_some() => {
            refuse("`--payload` goes with the pattern `echo`")
        }
        (Mode::Tcp, Pattern::RedisPing) => Ok(Script::redis_ping()),
        (Mode::Tcp, Pattern::Echo) => {
            Ok(Script::echo(args.payload.unwrap_or(PAYLOAD_DEFAULT) as usize))
        }
    }
}

/// Raises the descriptor limit as far as allowed and says so if that is not enough.
fn make_room(connections: u32) -> Result<(), Refusal> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    /// Standard streams, rings, the report: everything that is not a connection.
    const OTHERS: u64 = 64;
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return Ok(()) };
    let wanted = u64::from(connections) + OTHERS;
    if wanted > soft {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
    if wanted > hard {
        let why = format!(
            "{connections} connections need {wanted} open files and the limit is {hard}; \
             raise it with `ulimit -Hn` (LimitNOFILE) or use fewer connections"
        );
        return Err((super::REFUSED, why));
    }
    Ok(())
}

/// Runs one job, showing how it goes when somebody looks on.
fn watch(url: &str, job: &Job, interrupt: &Interrupt) -> Result<Measured, Refusal> {
    /// How often the interrupt is looked at; ten of these make a progress line.
    const TICK: Duration = Duration::from_millis(100);
    let (live, stop) = (Live::default(), AtomicBool::new(false));
    let shown = std::io::stderr().is_terminal().then_some(&live);
    let result = std::thread::scope(|scope| {
        let (ended, has_ended) = mpsc::channel::<()>();
        let running = scope.spawn(|| {
            let _ended = ended; // Dropped at the end, also by a panic.
            loadgen::run(job, shown, &stop)
        });
        let mut ticks = 0_u64;
        while has_ended.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
            ticks += 1;
            if interrupt.came() {
                stop.store(true, Ordering::Relaxed);
            }
            if let (Some(live), 0) = (shown, ticks % 10) {
                eprint!("\r\x1b[2K{url}  {}", progress(ticks / 10, &live.take()));
            }
        }
        running.join()
    });
    if shown.is_some() {
        eprint!("\r\x1b[2K");
    }
    match result {
        Ok(Ok(measured)) => Ok(measured),
        Ok(Err(error @ loadgen::RunError::Refused(_))) => Err((super::REFUSED, error.to_string())),
        Ok(Err(error)) => Err((super::FAILED, format!("target `{url}`: {error}"))),
        Err(_) => Err((super::FAILED, "the load generator panicked".to_owned())),
    }
}

/// One line about the last second.
fn progress(seconds: u64, window: &Tally) -> String {
    let at = |quantile| microseconds(window.latency.value_at_quantile(quantile) as f64 / 1e3);
    format!(
        "{seconds:>4} s {:>10} req/s   p50 {}   p99 {}   errors {}",
        grouped(window.requests),
        at(0.5),
        at(0.99),
        grouped(window.errors.total()),
    )
}

/// Writes the results where they were asked for; the exit code says whether anything succeeded.
fn finish(args: &BenchArgs, outcome: &Outcome, hgrm_file: Option<File>) -> ExitCode {
    let text = match outcome {
        Outcome::Single(report) if args.json => format!("{}\n", report.json()),
        Outcome::Compared(both) if args.json => format!("{}\n", both.json()),
        Outcome::Single(report) => report.text(),
        Outcome::Compared(both) => both.text(),
    };
    let printed = super::print_all(text.as_bytes());
    let report = outcome.report();
    if let Some(file) = hgrm_file {
        let mut out = BufWriter::new(file);
        if let Err(error) = hgrm::write(&report.tally.latency, &mut out).and_then(|()| out.flush())
        {
            return super::fail(
                super::FAILED,
                format_args!("cannot write the .hgrm file: {error}"),
            );
        }
    }
    if report.tally.requests == 0 {
        return super::fail(super::FAILED, nothing_succeeded(report));
    }
    printed
}

fn nothing_succeeded(report: &Report) -> String {
    let errors = &report.tally.errors;
    let main = Failure::ALL.into_iter().max_by_key(|&kind| errors.count(kind));
    let why = main.and_then(|kind| Some(format!("{}: {}", kind.as_str(), errors.first(kind)?)));
    let why = why.unwrap_or_else(|| "no exchange ended within the run".to_owned());
    format!("nothing succeeded against `{}` ({why})", report.url)
}

impl From<Mode> for target::Mode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Tcp => Self::Tcp,
            Mode::Http => Self::Http,
        }
    }
}

/// `2000`, `0.5` or `2000/s`.
fn parse_rate(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix("/s").unwrap_or(text).parse::<f64>().ok();
    number
        .filter(|rate| *rate > 0.0 && *rate <= RATE_MAX)
        .ok_or_else(|| "is not a number of starts a second between 0 and 10,000,000".to_owned())
}

/// A size with its unit, or a bare number of bytes.
fn parse_payload(text: &str) -> Result<u64, String> {
    let size = text.parse::<u64>().map_or_else(|_| units::size(text), Ok)?;
    if (1..=target::PAYLOAD_MAX).contains(&size) {
        return Ok(size);
    }
    Err("is not between 1B and 256MiB".to_owned())
}

fn parse_header(text: &str) -> Result<String, String> {
    let name = text.split_once(':').map_or("", |(name, _)| name);
    let named = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
    if named && !text.bytes().any(|byte| byte.is_ascii_control()) {
        return Ok(text.to_owned());
    }
    Err("is not `Name: value`".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn prepare(line: &str) -> Result<Prepared, Refusal> {
        let words = std::iter::once("bench").chain(line.split_whitespace());
        let cli =
            Cli::try_parse_from(words).map_err(|error| (super::super::USAGE, error.to_string()))?;
        Prepared::new(&cli.bench)
    }

    #[test]
    fn rates_and_payloads_are_numbers_with_a_sense() {
        assert_eq!((parse_rate("2000"), parse_rate("0.5/s")), (Ok(2000.0), Ok(0.5)));
        assert!(["0", "-1", "x", "NaN", "inf", "1e9"].iter().all(|bad| parse_rate(bad).is_err()));
        assert_eq!((parse_payload("100"), parse_payload("16KiB")), (Ok(100), Ok(16_384)));
        assert!(["0", "1GiB", "x", "-1"].iter().all(|bad| parse_payload(bad).is_err()));
    }

    #[test]
    fn a_header_cannot_smuggle_another() {
        assert!(parse_header("X-Key: abc").is_ok());
        assert!(
            ["x", ": y", "a b: c", "a: b\r\nc: d"].iter().all(|bad| parse_header(bad).is_err())
        );
    }

    #[test]
    fn arguments_that_do_not_go_together_are_wrong_usage() {
        for (line, why) in [
            ("http 127.0.0.1:1 --payload 10", "`--payload` goes with `bench tcp`"),
            ("tcp 127.0.0.1:1 -H a:b", "`--header` goes with `bench http`"),
            ("tcp 127.0.0.1:1 --pattern redis-ping --payload 1", "`--payload` goes with"),
            ("tcp nowhere", "target `nowhere`"),
            ("tcp 127.0.0.1:1 --direct nowhere", "target `nowhere`"),
        ] {
            let (code, text) = prepare(line).err().expect("refused");
            assert_eq!(code, super::super::USAGE, "{line}");
            assert!(text.contains(why), "{text}");
        }
    }

    #[test]
    fn direct_runs_first_and_says_the_same() {
        let prepared = prepare("http http://127.0.0.1:1/x --direct 127.0.0.1:2").expect("fine");
        let [(direct, first), (url, second)] = &prepared.runs[..] else { panic!("two runs") };
        assert_eq!((direct.as_str(), url.as_str()), ("127.0.0.1:2", "http://127.0.0.1:1/x"));
        assert_eq!(first.orders.to.to_string(), "127.0.0.1:2");
        assert_eq!(first.orders.script.request(), second.orders.script.request());
    }

    #[test]
    fn more_connections_than_files_is_refused_with_the_limit() {
        let (code, text) = prepare("tcp 127.0.0.1:1 -c 1000000").err().expect("refused");
        assert_eq!(code, super::super::REFUSED);
        assert!(text.contains("1000000 connections need 1000064 open files"), "{text}");
    }
}
