//! The demo: everything of the gateway at work in one process, with nothing to install.
//!
//! Three small servers ([`servers`]), a gateway in front of them ([`gateway`]), load through it
//! from the load generator, and one server that dies and comes back ([`story`]). [`picture`]
//! collects what is to be seen, [`screen`] and [`lines`] show it, [`summary`] is the end.
//!
//! Nothing here is a special case inside the gateway: it could all be done with `run`, `bench`
//! and three processes.

pub mod gateway;
pub mod lines;
pub mod picture;
pub mod screen;
pub mod servers;
pub mod story;
pub mod summary;
pub mod web;

use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use self::picture::{Picture, Tone, Watcher};
use self::screen::Screen;
use self::servers::{NAMES, Servers};
use self::story::{Act, Story};
use self::summary::Summary;
use self::web::Web;
use crate::control::{Running, ServeError};
use crate::loadgen::connection::Orders;
use crate::loadgen::interrupt::Interrupt;
use crate::loadgen::tally::Tally;
use crate::loadgen::target::{Mode, Script, Target};
use crate::loadgen::{self, Job, Live, Measured, RunError};
use crate::net::Endpoint;

/// Kinds of the events that the demo itself makes.
pub const KILLED: &str = "server-killed";
pub const REVIVED: &str = "server-revived";

/// Requests a second on connections that are kept, and on new ones: enough to see a fault at
/// once, little enough that the machine stays usable.
const KEPT_RATE: f64 = 1500.0;
const FRESH_RATE: f64 = 500.0;

/// Connections of each load.
const CONNECTIONS: u32 = 8;

/// How often keys, signals and the story are looked at.
const TICK: Duration = Duration::from_millis(50);

/// How often a picture is taken; rates are per second because of it.
const PICTURE_EVERY: Duration = Duration::from_secs(1);

/// A demo without an end: longer than anybody watches.
const FOR_EVER: Duration = Duration::from_secs(365 * 86_400);

/// What to show.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// `None`: until a key or a signal.
    pub length: Option<Duration>,
    pub port: u16,
    /// Show nothing while it runs.
    pub quiet: bool,
}

/// Where pictures go.
#[derive(Debug)]
enum Face {
    Screen(Screen),
    Lines,
    Quiet,
}

/// Runs the demo to its end.
///
/// # Errors
/// When the system refuses the port, or something broke.
pub fn run(options: Options) -> Result<Summary, ServeError> {
    // Before any thread: they inherit what signals do.
    let interrupt = Interrupt::new();
    let servers = Servers::start()
        .map_err(|error| ServeError::System(format!("the demo's servers cannot start: {error}")))?;
    let key = web::new_key();
    let running = gateway::start(options.port, &key, &servers.addresses)?;
    let tcp = running
        .address(gateway::LISTENER)
        .ok_or_else(|| ServeError::Failed("the demo's listener has no address".into()))?;
    let picture = Picture {
        length: options.length,
        tcp: Some(tcp),
        web: running
            .address(web::LISTENER)
            .zip(running.address(web::SECURE))
            .map(|(address, secure)| Web { address, secure, key }),
        admin: gateway::admin(&running),
        ..Picture::default()
    };
    let result = play(options, (&interrupt, &servers, &running), tcp, picture);
    running.stop_now();
    running.join()?;
    result
}

/// Everything between start and end.
fn play(
    options: Options,
    (interrupt, servers, running): (&Interrupt, &Servers, &Running),
    tcp: SocketAddr,
    picture: Picture,
) -> Result<Summary, ServeError> {
    let mut face = Face::open(options.quiet, &picture)?;
    let (live, stop) = (Live::default(), AtomicBool::new(false));
    let mut watcher = Watcher::new(running, &live, picture);
    let jobs = [true, false].map(|kept| job(tcp, kept, options.length.unwrap_or(FOR_EVER)));
    let (results, duration) = std::thread::scope(|scope| {
        let began = Instant::now();
        let (ended, has_ended) = mpsc::channel();
        let loads = jobs.each_ref().map(|job| {
            let (ended, live, stop) = (ended.clone(), &live, &stop);
            scope.spawn(move || {
                let result = loadgen::run(job, Some(live), stop);
                // Only hastens the end that the loop would see anyway.
                let _ = ended.send(());
                result
            })
        });
        let over = || loads.iter().any(std::thread::ScopedJoinHandle::is_finished);
        let mut story = Story::new(options.length, NAMES.len());
        let mut next_picture = PICTURE_EVERY;
        while !over() && !face.wants_out(TICK, &has_ended) && !interrupt.came() {
            let elapsed = began.elapsed();
            if options.length.is_none_or(|length| elapsed < length)
                && let Some(act) = story.due(elapsed)
            {
                perform(act, servers, elapsed, &mut watcher);
            }
            watcher.hear(elapsed);
            if elapsed >= next_picture {
                next_picture += PICTURE_EVERY;
                if watch(&mut watcher, &mut face, elapsed).is_err() {
                    break; // The reader has gone: nobody watches any more.
                }
            }
        }
        // Loads that ended by themselves do not mind; the others end now.
        if options.length.is_none_or(|length| began.elapsed() < length) {
            stop.store(true, Ordering::Relaxed);
        }
        let results = loads.map(std::thread::ScopedJoinHandle::join);
        (results, began.elapsed())
    });
    watcher.hear(duration);
    drop(face);
    let mut tally = Tally::default();
    for result in results {
        tally.add(&measured(result)?.tally);
    }
    Ok(Summary { duration, tally, events: watcher.events() })
}

fn measured(
    result: std::thread::Result<Result<Measured, RunError>>,
) -> Result<Measured, ServeError> {
    match result {
        Ok(Ok(measured)) => Ok(measured),
        Ok(Err(RunError::Refused(why))) => Err(ServeError::System(why)),
        Ok(Err(error)) => Err(ServeError::Failed(error.to_string())),
        Err(_) => Err(ServeError::Failed("the load generator panicked; this is a defect".into())),
    }
}

/// A load of GETs, on kept connections or on a new one each.
fn job(tcp: SocketAddr, kept: bool, duration: Duration) -> Job {
    let target = Target::parse(&tcp.to_string(), Mode::Http);
    let request = target.expect("a socket address is a target").get(&[], kept);
    let orders = Orders {
        to: Endpoint::Ip(tcp),
        script: Script::Http { request },
        new_connection: !kept,
        // As HTTP clients do when a kept connection turns out to be closed.
        retry: true,
        timeout: Duration::from_secs(10),
    };
    let rate = if kept { KEPT_RATE } else { FRESH_RATE };
    Job {
        orders,
        connections: CONNECTIONS,
        workers: 1,
        rate: Some(rate),
        warmup: Duration::ZERO,
        duration,
    }
}

fn perform(act: Act, servers: &Servers, elapsed: Duration, watcher: &mut Watcher<'_>) {
    match act {
        Act::Kill(index) => {
            servers.kill(index);
            let text = format!("{} is killed", NAMES[index]);
            watcher.tell(elapsed, KILLED, text, Tone::Bad);
        }
        Act::Revive(index) => {
            servers.revive(index);
            let text = format!("{} is started again", NAMES[index]);
            watcher.tell(elapsed, REVIVED, text, Tone::Good);
        }
    }
}

fn watch(watcher: &mut Watcher<'_>, face: &mut Face, elapsed: Duration) -> io::Result<()> {
    let mut shown = Ok(());
    watcher.take(elapsed, |picture| shown = face.show(picture));
    shown
}

impl Face {
    /// The screen where there is one that is large enough.
    fn open(quiet: bool, picture: &Picture) -> Result<Self, ServeError> {
        if quiet {
            return Ok(Self::Quiet);
        }
        let terminal = io::stdout().is_terminal() && io::stdin().is_terminal();
        let large = ratatui::crossterm::terminal::size().is_ok_and(|(width, height)| {
            width >= screen::WIDTH_MIN && height >= screen::HEIGHT_MIN
        });
        if terminal && large {
            let mut screen = Screen::open()
                .map_err(|error| ServeError::Failed(format!("the terminal: {error}")))?;
            screen.show(picture);
            return Ok(Self::Screen(screen));
        }
        // A reader that is gone already is found out by the first picture.
        let _ = lines::begin(picture, &mut io::stdout().lock());
        Ok(Self::Lines)
    }

    fn show(&mut self, picture: &Picture) -> io::Result<()> {
        match self {
            Self::Screen(screen) => screen.show(picture),
            Self::Lines => lines::show(picture, &mut io::stdout().lock())?,
            Self::Quiet => {}
        }
        Ok(())
    }

    /// Waits up to `patience` for a key or the end of a load; whether a key says that it is
    /// enough.
    fn wants_out(&self, patience: Duration, ended: &Receiver<()>) -> bool {
        if let Self::Screen(screen) = self {
            // A terminal that has gone has nobody before it.
            return screen.wants_out(patience).unwrap_or(true);
        }
        let _ = ended.recv_timeout(patience);
        false
    }
}
