//! Clients that come, ask and go until they are told to stop, none of whom may be refused, cut or
//! failed.
//!
//! By default one client comes and one asks, each as fast as it is served. With
//! `SLUICEGATE_CHANGES_FULL=1` there are [`COMING`] new connections and [`ASKING`] requests a second
//! for [`LONG`], whatever else happens.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use super::deadline::{PATIENCE, within};
use super::named_echo::{open, say};
use super::talk::Talk;

/// Requests on one connection before the next one.
const REQUESTS_MAX: u32 = 50;

const COMING: u32 = 500;
const ASKING: u32 = 1_000;

/// How long the changes of a full form are spread over.
pub const LONG: Duration = Duration::from_secs(60);

/// Clients of each kind that share the rates.
const CLIENTS: u32 = 8;

/// Whether the heavy form is asked for.
pub fn is_full() -> bool {
    std::env::var_os("SLUICEGATE_CHANGES_FULL").is_some()
}

/// When the next of so many things a second is due.
struct Beat {
    began: Instant,
    nth: u32,
    /// Of all clients of the kind; `None`: at once.
    rate: Option<u32>,
}

impl Beat {
    fn new(rate: u32) -> Self {
        Self { began: Instant::now(), nth: 0, rate: is_full().then_some(rate) }
    }

    fn wait(&mut self) {
        let Some(rate) = self.rate else { return };
        let due = self.began + Duration::from_secs(1) * CLIENTS * self.nth / rate;
        self.nth += 1;
        std::thread::park_timeout(due.saturating_duration_since(Instant::now()));
    }
}

/// Ends when this share of [`LONG`] is over, where the full form is asked for.
pub fn until_part(began: Instant, part: usize, parts: usize) {
    if is_full() {
        let due = began + LONG * part as u32 / parts as u32;
        let left = due.saturating_duration_since(Instant::now());
        let _ = within(left, || Err::<(), ()>(()));
    }
}

#[derive(Default)]
pub struct Load {
    over: AtomicBool,
    came: AtomicU64,
    asked: AtomicU64,
}

impl Load {
    /// Runs `work` under newcomers at `tcp` and requests at `web`. Returns how many connections
    /// and requests there were.
    pub fn during(tcp: SocketAddr, web: SocketAddr, work: impl FnOnce() + Send) -> (u64, u64) {
        let load = Self::default();
        std::thread::scope(|scope| {
            let clients = load.start(scope, tcp, web);
            let done = scope.spawn(work).join();
            load.over.store(true, Ordering::Relaxed);
            for client in clients {
                client.join().expect("nobody was refused, cut or failed");
            }
            done.expect("what was done under it went well");
        });
        (load.came.into_inner(), load.asked.into_inner())
    }

    fn start<'s>(
        &'s self,
        scope: &'s Scope<'s, '_>,
        tcp: SocketAddr,
        web: SocketAddr,
    ) -> Vec<ScopedJoinHandle<'s, ()>> {
        let each = if is_full() { CLIENTS } else { 1 };
        let pair = |_| [scope.spawn(move || self.come(tcp)), scope.spawn(move || self.ask(web))];
        (0..each).flat_map(pair).collect()
    }

    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    fn come(&self, at: SocketAddr) {
        let mut beat = Beat::new(COMING);
        while self.goes_on() {
            beat.wait();
            let (mut stream, _) = open(at).expect("a new connection");
            say(&mut stream, b"hello").expect("a short session");
            self.came.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn ask(&self, at: SocketAddr) {
        let mut beat = Beat::new(ASKING);
        while self.goes_on() {
            let stream = TcpStream::connect_timeout(&at, PATIENCE).expect("a new connection");
            stream.set_read_timeout(Some(PATIENCE)).expect("an option");
            let mut talk = Talk::over(stream);
            for _ in 0..REQUESTS_MAX {
                beat.wait();
                let said = talk.get("/");
                assert_eq!(said.status, 200);
                self.asked.fetch_add(1, Ordering::Relaxed);
                // A process that goes says so, and its client comes again.
                let ends =
                    said.field("Connection").is_some_and(|it| it.eq_ignore_ascii_case("close"));
                if ends || !self.goes_on() {
                    break;
                }
            }
        }
    }
}
