//! Claims about limits in Redis as one worker asks for them, on a simulated network with a
//! virtual clock. What the script does is shown against a real server, in `tests/it/`.

use std::net::SocketAddr;
use std::num::NonZeroU32;

use sluicegate_l7::policy::rate::Rate;

use super::*;
use crate::runtime::budget::Budget;
use crate::runtime::driver::Completion;
use crate::runtime::sim::tests::SIZES;
use crate::runtime::sim::{Behaviour, Far, Faults, Network, Sim};
use crate::runtime::tasks::{Lent, TaskId, Tasks};

const TIMEOUT: Duration = Duration::from_millis(500);
const COOLDOWN: Duration = Duration::from_secs(10);
/// Longer than anything takes on this network, and far less than `TIMEOUT` allows.
const SOON: Duration = Duration::from_millis(200);

type Outcome = Result<Decision, Unavailable>;

/// One worker with a store, a network, and what became of its requests.
struct Bench {
    sim: Lent<Sim>,
    net: Network,
    tasks: Tasks<Sim>,
    shared: Rc<SharedLimits<Sim>>,
    outcomes: Rc<RefCell<Vec<(u32, Outcome)>>>,
    redis: Option<Far>,
    heard: String,
    reports: Rc<RefCell<Vec<Report>>>,
}

fn server() -> Endpoint {
    Endpoint::Ip(SocketAddr::from(([127, 0, 0, 1], 6_379)))
}

fn rates() -> [Rate; 1] {
    let hundred = NonZeroU32::new(100).unwrap();
    [Rate::new(hundred, Duration::from_secs(60), hundred)]
}

/// What the script says when `left` tokens of 100 a minute remain.
fn numbers(taken: u32, left: u64) -> String {
    let now = 1_000_000_000_000_000_u64;
    let full_at = now + (100 - left) * 600_000;
    format!("*4\r\n:{taken}\r\n:{now}\r\n:{full_at}\r\n:0\r\n")
}

impl Bench {
    fn new(faults: Faults, behaviour: Behaviour, url: &str, lease: u32) -> Self {
        let sim = Sim::new(7, SIZES, faults);
        let net = sim.network();
        net.listen(&server(), behaviour);
        let tasks = Tasks::new(net.now(), Arc::new(Budget::new(1_000, None)));
        let target = Target {
            endpoint: server(),
            tls: None,
            url: RedisUrl::parse(url).unwrap(),
            prefix: "sg".to_owned(),
            timeout: TIMEOUT,
            cooldown: COOLDOWN,
            lease,
        };
        let reports: Rc<RefCell<Vec<Report>>> = Rc::default();
        let told = Rc::clone(&reports);
        let report = Box::new(move |report| told.borrow_mut().push(report));
        let shared = SharedLimits::new(Rc::clone(tasks.shell()), target, report);
        let (outcomes, heard) = (Rc::default(), String::new());
        Self { sim: Lent::new(sim), net, tasks, shared, outcomes, redis: None, heard, reports }
    }

    fn plain() -> Self {
        Self::new(Faults::NONE, Behaviour::Accept, "redis://127.0.0.1", 1)
    }

    fn ask(&mut self, number: u32) -> TaskId {
        let (shared, outcomes) = (Rc::clone(&self.shared), Rc::clone(&self.outcomes));
        self.tasks.spawn(async move {
            let scope = number.to_le_bytes();
            let outcome = shared.decide("p", &[&scope], Limits::Rates(&rates())).await;
            outcomes.borrow_mut().push((number, outcome));
        })
    }

    /// Lets time pass.
    fn run(&mut self, time: Duration) {
        let until = self.net.now() + time;
        let mut seen: Vec<Completion> = Vec::new();
        while self.net.now() < until {
            self.tasks.run(&mut self.sim);
            let deadline = until.min(self.tasks.deadline());
            self.sim.turn(deadline, &mut seen).expect("a turn");
            for completion in seen.drain(..) {
                self.tasks.complete(completion, &mut self.sim);
            }
            if let Some(redis) = self.net.served() {
                self.redis = Some(redis);
            }
            if let Some(redis) = &self.redis {
                self.heard.push_str(&String::from_utf8(redis.read()).unwrap());
            }
        }
        self.tasks.run(&mut self.sim);
    }

    fn say(&self, bytes: &str) {
        self.redis.as_ref().expect("a connection").send(bytes.as_bytes());
    }

    /// The requests that ended since the last call, by number.
    fn ended(&self) -> Vec<(u32, Outcome)> {
        let mut ended = self.outcomes.take();
        ended.sort_by_key(|(number, _)| *number);
        ended
    }

    /// As [`Bench::ended`], of each what remains of the limit.
    fn left(&self) -> Vec<(u32, Result<u32, Unavailable>)> {
        let left = |(number, outcome): (u32, Outcome)| (number, outcome.map(|one| one.remaining));
        self.ended().into_iter().map(left).collect()
    }

    fn commands(&self, name: &str) -> usize {
        self.heard.matches(&format!("\r\n{name}\r\n")).count()
    }
}

#[test]
fn requests_of_many_tasks_share_a_connection_and_each_gets_its_own_answer() {
    for faults in [Faults::NONE, Faults::ROUGH] {
        let mut bench = Bench::new(faults, Behaviour::Accept, "redis://127.0.0.1", 1);
        for number in 1..=3 {
            let _ = bench.ask(number);
        }
        bench.run(SOON);
        assert_eq!((bench.commands("EVALSHA"), bench.net.fds_open()), (3, 1));
        bench.say(&(numbers(1, 91) + &numbers(1, 92)));
        bench.run(SOON);
        assert_eq!(bench.left(), [(1, Ok(91)), (2, Ok(92))]);
        bench.say(&numbers(0, 0));
        bench.run(SOON);
        let third = bench.ended()[0].1.unwrap();
        assert_eq!((third.allowed, third.retry_after), (false, Duration::from_millis(600)));
    }
}

#[test]
fn a_late_answer_is_nobodys_and_nobody_waits_while_it_cools_down() {
    let mut bench = Bench::plain();
    let _ = bench.ask(1);
    bench.run(TIMEOUT + SOON);
    assert_eq!(bench.ended(), [(1, Err(Unavailable::Timeout))]);
    let late = bench.redis.take().unwrap();
    late.send(numbers(1, 11).as_bytes());
    let _ = bench.ask(2);
    bench.run(Duration::from_nanos(1));
    assert_eq!(bench.ended(), [(2, Err(Unavailable::Cooling))], "at once");
    bench.run(COOLDOWN);
    let _ = bench.ask(3);
    let _ = bench.ask(4);
    bench.run(SOON);
    assert_eq!(bench.ended(), [(4, Err(Unavailable::Cooling))], "one probe, nobody beside it");
    late.send(numbers(1, 12).as_bytes());
    bench.say(&numbers(1, 33));
    bench.run(SOON);
    assert_eq!(bench.left(), [(3, Ok(33))]);
    let _ = bench.ask(5);
    bench.run(SOON);
    bench.say(&numbers(1, 55));
    bench.run(SOON);
    assert_eq!(bench.left(), [(5, Ok(55))]);
    let connected = Report::Connect(ConnectResult::Ok);
    let silent = Report::Decides(Err(Unavailable::Timeout));
    assert_eq!(bench.reports.take(), [connected, silent, connected, Report::Decides(Ok(()))]);
}

#[test]
fn a_task_that_is_gone_leaves_its_answer_to_nobody() {
    let mut bench = Bench::plain();
    let gone = bench.ask(1);
    let _ = bench.ask(2);
    bench.run(SOON);
    bench.tasks.abort(gone);
    bench.say(&(numbers(1, 11) + &numbers(1, 22)));
    bench.run(SOON);
    assert_eq!(bench.left(), [(2, Ok(22))]);
}

#[test]
fn a_server_without_the_script_gets_its_text_and_no_request_fails() {
    let mut bench = Bench::plain();
    let _ = bench.ask(1);
    bench.run(SOON);
    bench.say("-NOSCRIPT No matching script. Please use EVAL.\r\n");
    bench.run(SOON);
    assert_eq!((bench.commands("EVALSHA"), bench.commands("EVAL")), (1, 1));
    bench.say(&numbers(1, 9));
    bench.run(SOON);
    assert_eq!(bench.left(), [(1, Ok(9))]);
    let _ = bench.ask(2);
    bench.run(SOON);
    assert_eq!((bench.commands("EVALSHA"), bench.commands("EVAL")), (2, 1));
}

#[test]
fn a_server_that_is_not_there_costs_one_timeout_or_nothing() {
    let cases = [
        (Behaviour::Refuse, Unavailable::Connect),
        (Behaviour::Unreachable, Unavailable::Connect),
        (Behaviour::BlackHole, Unavailable::Timeout),
        (Behaviour::ResetAfter(Duration::ZERO), Unavailable::Closed),
    ];
    for (behaviour, want) in cases {
        let mut bench = Bench::new(Faults::NONE, behaviour, "redis://127.0.0.1", 1);
        let _ = bench.ask(1);
        bench.run(TIMEOUT + SOON);
        assert_eq!(bench.ended(), [(1, Err(want))], "{behaviour:?}");
        let _ = bench.ask(2);
        bench.run(Duration::from_nanos(1));
        assert_eq!(bench.ended(), [(2, Err(Unavailable::Cooling))], "{behaviour:?}");
        bench.net.listen(&server(), Behaviour::Accept);
        bench.run(COOLDOWN);
        let _ = bench.ask(3);
        bench.run(SOON);
        bench.say(&numbers(1, 5));
        bench.run(SOON);
        assert_eq!(bench.left(), [(3, Ok(5))], "{behaviour:?}");
    }
}

#[test]
fn garbage_ends_the_connection_and_with_it_every_request() {
    let nested = "*1\r\n".repeat(1_000);
    let cases = [
        ("$8589934592\r\n", Unavailable::Garbage),
        (&nested, Unavailable::Garbage),
        ("*-1\r\n:abc\r\n$-5\r\n", Unavailable::Garbage),
        ("+OK\r\n", Unavailable::Garbage),
        ("*1\r\n:1\r\n", Unavailable::Garbage),
        ("-READONLY You can't write against a read only replica.\r\n", Unavailable::Refused),
        ("-LOADING Redis is loading the dataset in memory\r\n", Unavailable::Refused),
        ("-OOM command not allowed\r\n", Unavailable::Refused),
    ];
    for (bytes, want) in cases {
        let mut bench = Bench::plain();
        let (_, _) = (bench.ask(1), bench.ask(2));
        bench.run(SOON);
        bench.say(bytes);
        bench.run(SOON);
        assert_eq!(bench.ended(), [(1, Err(want)), (2, Err(want))], "{bytes:.40}");
        assert_eq!(bench.net.fds_open(), 0, "{bytes:.40}");
    }
}

#[test]
fn a_key_of_the_wrong_type_fails_only_who_asked_for_it() {
    let mut bench = Bench::plain();
    let (_, _) = (bench.ask(1), bench.ask(2));
    bench.run(SOON);
    bench.say(&("-WRONGTYPE Operation against a key\r\n".to_owned() + &numbers(1, 8)));
    bench.run(SOON);
    assert_eq!(bench.left(), [(1, Err(Unavailable::WrongType)), (2, Ok(8))]);
}

#[test]
fn an_unused_connection_that_redis_ends_is_made_again_without_a_failure() {
    let mut bench = Bench::plain();
    let _ = bench.ask(1);
    bench.run(SOON);
    bench.say(&numbers(1, 9));
    bench.run(SOON);
    bench.redis.take().unwrap().fin();
    bench.run(SOON);
    assert_eq!(bench.net.fds_open(), 0);
    let _ = bench.ask(2);
    bench.run(SOON);
    bench.say(&numbers(1, 8));
    bench.run(SOON);
    assert_eq!(bench.left(), [(1, Ok(9)), (2, Ok(8))]);
}

#[test]
fn login_and_database_are_said_first_and_a_refused_login_is_a_failure() {
    let mut bench = Bench::new(Faults::NONE, Behaviour::Accept, "redis://u:p@127.0.0.1/2", 1);
    let _ = bench.ask(1);
    bench.run(SOON);
    assert!(bench.heard.starts_with("*3\r\n$4\r\nAUTH\r\n"), "{}", bench.heard);
    assert_eq!((bench.commands("SELECT"), bench.commands("EVALSHA")), (1, 1));
    bench.say(&("+OK\r\n+OK\r\n".to_owned() + &numbers(1, 4)));
    bench.run(SOON);
    assert_eq!(bench.left(), [(1, Ok(4))]);
    let mut bench = Bench::new(Faults::NONE, Behaviour::Accept, "redis://:no@127.0.0.1", 1);
    let _ = bench.ask(1);
    bench.run(SOON);
    bench.say("-WRONGPASS invalid username-password pair\r\n");
    bench.run(SOON);
    assert_eq!(bench.ended(), [(1, Err(Unavailable::Refused))]);
}

#[test]
fn a_lease_asks_once_for_several_tokens() {
    let mut bench = Bench::new(Faults::NONE, Behaviour::Accept, "redis://127.0.0.1", 3);
    let _ = bench.ask(1);
    bench.run(SOON);
    bench.say(&numbers(3, 50));
    bench.run(SOON);
    let (_, _) = (bench.ask(1), bench.ask(1));
    bench.run(SOON);
    assert_eq!(bench.left(), [(1, Ok(52)), (1, Ok(51)), (1, Ok(50))]);
    assert_eq!(bench.commands("EVALSHA"), 1);
    let _ = bench.ask(1);
    bench.run(SOON);
    assert_eq!(bench.commands("EVALSHA"), 2);
}

#[test]
fn a_closed_store_answers_who_waits_and_leaves_nothing() {
    let mut bench = Bench::plain();
    let _ = bench.ask(1);
    bench.run(SOON);
    bench.shared.close();
    bench.run(SOON);
    assert_eq!(bench.net.fds_open(), 1);
    bench.say(&numbers(1, 9));
    bench.run(SOON);
    assert_eq!(bench.left(), [(1, Ok(9))]);
    assert!(bench.tasks.is_empty());
    bench.sim.assert_quiet(0);
}

#[test]
fn a_key_in_redis_has_one_length_and_parts_do_not_run_into_each_other() {
    let bench = Bench::plain();
    let key = |scope: &[&[u8]]| bench.shared.key("p", &key_hash("p", scope));
    let long = "x".repeat(8_000);
    let text = String::from_utf8(key(&[long.as_bytes()])).unwrap();
    assert!(text.starts_with("sg:p:") && text.len() == 5 + 32, "{text}");
    assert_ne!(key(&[b"ab", b"c"]), key(&[b"a", b"bc"]));
}
