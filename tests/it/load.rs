//! Clients that come, ask and go until they are told to stop, none of whom may be refused, cut or
//! failed.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{Scope, ScopedJoinHandle};

use super::deadline::PATIENCE;
use super::named_echo::{open, say};
use super::talk::Talk;

/// Requests on one connection before the next one.
const REQUESTS_MAX: u32 = 50;

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
    ) -> [ScopedJoinHandle<'s, ()>; 2] {
        [scope.spawn(move || self.come(tcp)), scope.spawn(move || self.ask(web))]
    }

    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    fn come(&self, at: SocketAddr) {
        while self.goes_on() {
            let (mut stream, _) = open(at).expect("a new connection");
            say(&mut stream, b"hello").expect("a short session");
            self.came.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn ask(&self, at: SocketAddr) {
        while self.goes_on() {
            let stream = TcpStream::connect_timeout(&at, PATIENCE).expect("a new connection");
            stream.set_read_timeout(Some(PATIENCE)).expect("an option");
            let mut talk = Talk::over(stream);
            for _ in 0..REQUESTS_MAX {
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
