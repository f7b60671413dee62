//! Claims about unused connections of one worker, and how one goes to another, on a simulated
//! network. That it serves requests there is shown in `tests/it/`.

use std::cell::RefCell;
use std::future::Future;
use std::net::SocketAddr;

use super::*;
use crate::net::Endpoint;
use crate::runtime::budget::Budget;
use crate::runtime::driver::{Completion, Fd};
use crate::runtime::mail::{Steal, Stolen};
use crate::runtime::sim::tests::SIZES;
use crate::runtime::sim::{Behaviour, Far, Faults, Network, Sim};
use crate::runtime::tasks::{Lent, Released, Tasks};

const SERVER: ServerId = ServerId(3);
const SEEDS: u64 = 32;

/// A worker, a server, and the far ends of its connections.
struct Bench {
    sim: Lent<Sim>,
    net: Network,
    tasks: Tasks<Sim>,
    kept: Rc<RefCell<Kept<Sim>>>,
    state: Arc<ServerState>,
    far: Vec<Far>,
}

fn at(secs: u64) -> Time {
    Time::ZERO + Duration::from_secs(secs)
}

fn address() -> Endpoint {
    Endpoint::Ip(SocketAddr::from(([127, 0, 0, 1], 80)))
}

impl Bench {
    fn new(seed: u64, worker: u16) -> Self {
        let sim = Sim::new(seed, SIZES, Faults { late_cancel: 500, ..Faults::NONE });
        let net = sim.network();
        net.listen(&address(), Behaviour::Accept);
        let tasks = Tasks::new(net.now(), Arc::new(Budget::new(1_000, None)));
        let state = Arc::new(ServerState::new(SERVER, PoolId(0), "a", address(), true));
        let kept = Rc::new(RefCell::new(Kept::new(worker)));
        Self { sim: Lent::new(sim), net, tasks, kept, state, far: Vec::new() }
    }

    fn turn(&mut self) {
        let mut seen: Vec<Completion> = Vec::new();
        self.tasks.run(&mut self.sim);
        let deadline = self.net.now() + Duration::from_millis(1);
        self.sim.turn(deadline.min(self.tasks.deadline()), &mut seen).expect("a turn");
        for completion in seen {
            self.tasks.complete(completion, &mut self.sim);
        }
        self.far.extend(self.net.served());
        self.tasks.run(&mut self.sim);
    }

    /// What a task gives in the end.
    fn done<T: 'static>(&mut self, job: impl Future<Output = T> + 'static) -> T {
        let slate = Rc::new(RefCell::new(None));
        let done = Rc::clone(&slate);
        self.tasks.spawn(async move { *done.borrow_mut() = Some(job.await) });
        loop {
            self.turn();
            if let Some(output) = slate.borrow_mut().take() {
                return output;
            }
        }
    }

    /// Lets everything arrive that is on its way.
    fn settle(&mut self) {
        let until = self.net.now() + Duration::from_secs(1);
        while self.net.now() < until {
            self.turn();
        }
    }

    /// Keeps a new connection as one that has been unused since then.
    fn keep(&mut self, since: Time) -> Fd {
        let (shell, kept) = (Rc::clone(self.tasks.shell()), Rc::clone(&self.kept));
        let state = Arc::clone(&self.state);
        let before = self.far.len();
        let fd = self.done(async move {
            let options = StreamOptions { source: None };
            let socket = shell.connect(&address(), &options).await.expect("a server");
            let fd = socket.fd();
            kept.borrow_mut().put(&state, Stream::plain(socket), since);
            fd
        });
        while self.far.len() == before {
            self.turn();
        }
        fd
    }

    fn give(&self, latest: Time) -> Option<(Stream<Sim>, Time)> {
        self.kept.borrow_mut().give(SERVER, Time::ZERO, latest)
    }

    fn gives(&self, latest: Time) -> Option<(Fd, Time)> {
        self.give(latest).map(|(stream, since)| (stream.socket().fd(), since))
    }

    fn hint(&self) -> u64 {
        self.state.kept_by.load(Ordering::Relaxed)
    }

    /// What another worker gets when it is given the connection.
    fn part(&mut self, stream: Stream<Sim>, since: Time) -> Stolen {
        let steal = Steal { server: SERVER, thief: 1, ticket: 2, generation: 3 };
        stream.into_socket().expect("plain").part(Stolen { steal, fd: None, since });
        loop {
            self.turn();
            match self.tasks.next_released() {
                Some(Released::Parted(stolen)) => return stolen,
                other => assert_eq!(other, None),
            }
        }
    }
}

#[test]
fn gives_what_has_been_unused_the_longest_and_nothing_before_its_time() {
    let mut bench = Bench::new(1, 0);
    let (second, first, third) = (bench.keep(at(2)), bench.keep(at(1)), bench.keep(at(3)));
    assert_eq!(bench.gives(Time::ZERO), None);
    assert_eq!(bench.gives(at(2)), Some((first, at(1))));
    assert_eq!(bench.gives(at(2)), Some((second, at(2))));
    assert_eq!(bench.gives(at(2)), None);
    assert_eq!(bench.kept.borrow().count, 1);
    let kept = Rc::clone(&bench.kept);
    let taken = bench.done(async move { kept.borrow_mut().take(SERVER, Time::ZERO) });
    assert_eq!(taken.map(|stream| stream.socket().fd()), Some(third));
    assert_eq!(bench.kept.borrow().count, 0);
}

#[test]
fn gives_none_that_is_too_old_or_on_which_something_happened() {
    let mut bench = Bench::new(1, 0);
    bench.keep(at(1));
    bench.keep(at(2));
    let quiet = bench.keep(at(3));
    bench.far[1].send(b"HTTP/1.1 408 Too late\r\n\r\n");
    bench.settle();
    let given = bench.kept.borrow_mut().give(SERVER, at(2), at(3));
    assert_eq!(given.map(|(stream, since)| (stream.socket().fd(), since)), Some((quiet, at(3))));
}

#[test]
fn a_watch_that_found_no_buffer_says_nothing_about_the_server() {
    let mut bench = Bench::new(1, 0);
    for _ in 0..SIZES.ring_count {
        bench.keep(at(1));
    }
    for far in &bench.far {
        far.send(b"HTTP/1.1 408 Too late\r\n\r\n");
    }
    bench.settle();
    let good = bench.keep(at(2));
    bench.keep(at(3));
    bench.far.last().expect("the server's end").fin();
    bench.settle();
    bench.kept.borrow_mut().prune(at(3), |_| Stay::ALL);
    assert_eq!(bench.kept.borrow().count, 2);
    let kept = Rc::clone(&bench.kept);
    let (first, second) = bench.done(async move {
        let take = || kept.borrow_mut().take(SERVER, Time::ZERO);
        (take().map(|stream| stream.socket().fd()), take().map(drop))
    });
    assert_eq!((first, second), (Some(good), None));
}

#[test]
fn where_descriptors_are_short_those_unused_the_longest_close_whatever_their_servers() {
    let mut bench = Bench::new(1, 0);
    let other = ServerState::new(ServerId(1), PoolId(0), "b", address(), true);
    let other = Arc::new(other);
    let last = bench.keep(at(3));
    bench.keep(at(1));
    let own = std::mem::replace(&mut bench.state, other);
    bench.keep(at(2));
    assert_eq!(bench.kept.borrow_mut().spare(2), 2);
    bench.settle();
    let kept = Rc::clone(&bench.kept);
    assert_eq!((kept.borrow().count, bench.hint(), own.kept_by.load(Ordering::Relaxed)), (1, 0, 1));
    assert!(bench.far[1].got_fin() && bench.far[2].got_fin() && !bench.far[0].got_fin());
    assert_eq!(bench.gives(at(3)), Some((last, at(3))));
    assert_eq!(kept.borrow_mut().spare(5), 0);
}

#[test]
fn a_connection_that_comes_from_another_worker_closes_if_nothing_covers_it() {
    let mut bench = Bench::new(1, 0);
    let fd = bench.keep(at(1));
    let (stream, since) = bench.give(at(1)).expect("one");
    bench.part(stream, since);
    let budget = Arc::new(Budget::new(4, None));
    assert_eq!((0..4).filter(|_| budget.reserve()).count(), 4);
    bench.tasks = Tasks::new(bench.net.now(), Arc::clone(&budget));
    assert!(bench.tasks.shell().adopt_shared(fd, false).is_none());
    bench.settle();
    assert!(bench.far[0].got_fin() && bench.tasks.is_empty());
    bench.tasks.shell().cover().settle();
    assert_eq!(budget.free(), 0);
    bench.sim.assert_quiet(0);
}

#[test]
fn the_hint_is_there_while_something_is_kept_and_goes_when_nothing_is() {
    let mut bench = Bench::new(1, 5);
    assert_eq!(bench.hint(), 0);
    bench.keep(at(1));
    assert_eq!(bench.hint(), 1 << 5);
    assert_eq!(bench.give(Time::ZERO).map(drop), None);
    assert_eq!(bench.hint(), 1 << 5);
    assert_eq!(bench.give(at(1)).map(drop), Some(()));
    assert_eq!(bench.hint(), 0);
    bench.keep(at(1));
    let kept = Rc::clone(&bench.kept);
    bench.done(async move { drop(kept.borrow_mut().take(SERVER, Time::ZERO)) });
    // It mostly comes back. When it does not:
    bench.kept.borrow_mut().prune(at(2), |_| Stay::ALL);
    assert_eq!(bench.hint(), 0);
    bench.keep(at(1));
    bench.kept.borrow_mut().prune(at(2), |_| Stay::NONE);
    assert_eq!((bench.hint(), bench.kept.borrow().count), (0, 0));
    assert_eq!(bench.kept.borrow().deadline(), Time::NEVER);
}

#[test]
fn asks_only_others_that_may_have_some_and_not_again_too_soon() {
    let mut kept: Kept<Sim> = Kept::new(2);
    let state = ServerState::new(SERVER, PoolId(0), "a", address(), true);
    state.kept_by.store(1 << 2, Ordering::Relaxed);
    assert_eq!(kept.whom_to_ask(&state, at(1), 7), None);
    state.kept_by.store(1 << 2 | 1 << 5 | 1 << 63, Ordering::Relaxed);
    let asked = |kept: &Kept<Sim>, now| -> std::collections::BTreeSet<_> {
        (0..128).filter_map(|random| kept.whom_to_ask(&state, now, random)).collect()
    };
    assert_eq!(asked(&kept, at(1)), [5, 63].into());
    kept.ask_later(SERVER, at(3));
    assert_eq!(asked(&kept, at(2)), [].into());
    assert_eq!(asked(&kept, at(3)), [5, 63].into());
    // Nor is it asked itself where ids have no bit.
    assert_eq!(Kept::<Sim>::new(64).bit(), 0);
}

#[test]
fn a_connection_parts_open_and_with_nothing_in_flight() {
    for seed in 0..SEEDS {
        let mut bench = Bench::new(seed, 0);
        let fd = bench.keep(at(1));
        let (stream, since) = bench.give(at(1)).expect("one");
        let stolen = bench.part(stream, since);
        assert_eq!((stolen.fd, stolen.since), (Some(fd), at(1)), "seed {seed}");
        assert_eq!(bench.net.in_flight(), 0, "seed {seed}");
        assert!(bench.tasks.is_empty(), "seed {seed}");
        bench.settle();
        assert!(!bench.far[0].got_fin() && !bench.far[0].got_reset(), "seed {seed}");
        // Taken in again.
        let socket = bench.tasks.shell().adopt(fd, false);
        bench.done(async move { socket.send(b"GET").await.expect("sent") });
        bench.settle();
        assert_eq!(bench.far[0].read(), b"GET", "seed {seed}");
        bench.sim.assert_quiet(0);
    }
}

#[test]
fn a_connection_on_which_something_comes_while_it_parts_is_closed() {
    let deeds: [fn(&Far); 3] = [|far| far.send(b"x"), Far::fin, Far::reset];
    let mut closed = 0;
    for seed in 0..SEEDS {
        for deed in deeds {
            let mut bench = Bench::new(seed, 0);
            let fd = bench.keep(at(1));
            let (stream, since) = bench.give(at(1)).expect("one");
            deed(&bench.far[0]);
            let stolen = bench.part(stream, since);
            // What was still on its way is met by whoever has it.
            if let Some(open) = stolen.fd {
                assert_eq!(open, fd);
                bench.sim.close_now(open);
            } else {
                closed += 1;
            }
            bench.settle();
            bench.sim.assert_quiet(0);
        }
    }
    assert!(closed > 0, "nothing ever came in time");
}
