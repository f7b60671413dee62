//! Claims about the circuit breaker.

use proptest::prelude::*;

use super::*;

const SECOND: u64 = 1_000_000_000;
const START: u64 = 1_000 * SECOND;

const PLAN: BreakerPlan = BreakerPlan {
    errors: 50,
    min_requests: 4,
    window: Duration::from_secs(10),
    open_for: Duration::from_secs(5),
    probes: 2,
    slow: None,
};

const GOOD: Outcome = Outcome { error: false, took: Duration::from_millis(1) };
const BAD: Outcome = Outcome { error: true, took: Duration::from_millis(1) };
const SLOW: Outcome = Outcome { error: false, took: Duration::from_secs(3) };

fn ticket(admit: Admit) -> Ticket {
    match admit {
        Admit::Pass(ticket) | Admit::Probe(ticket) => ticket,
        Admit::Shed => panic!("shed"),
    }
}

/// One request after another, `G`ood, `B`ad or `S`low, at one moment.
fn run(breaker: &mut Breaker, now: u64, outcomes: &str) -> BreakerState {
    for outcome in outcomes.chars() {
        let ticket = ticket(breaker.admit(now));
        let outcome = match outcome {
            'G' => GOOD,
            'B' => BAD,
            _ => SLOW,
        };
        let _ = breaker.record(now, ticket, outcome);
    }
    breaker.state()
}

fn opened() -> Breaker {
    let mut breaker = Breaker::new(PLAN);
    assert_eq!(run(&mut breaker, START, "BBBB"), BreakerState::Open);
    breaker
}

#[test]
fn opens_at_the_share_of_errors_but_not_before_min_requests() {
    for (outcomes, want) in [
        ("BBB", BreakerState::Closed),
        ("BGB", BreakerState::Closed),
        ("BGBG", BreakerState::Open),
        ("GGGBB", BreakerState::Closed),
        ("GGGBBB", BreakerState::Open),
        ("GGGGGGGG", BreakerState::Closed),
    ] {
        assert_eq!(run(&mut Breaker::new(PLAN), START, outcomes), want, "{outcomes}");
    }
}

#[test]
fn slow_answers_open_it_where_they_are_counted() {
    let slow = Some(Slow { over: Duration::from_secs(2), share: 50 });
    let mut breaker = Breaker::new(BreakerPlan { slow, ..PLAN });
    assert_eq!(run(&mut breaker, START, "SGGS"), BreakerState::Open);
    assert_eq!(run(&mut Breaker::new(PLAN), START, "SSSS"), BreakerState::Closed);
    let exactly = Outcome { took: Duration::from_secs(2), ..GOOD };
    let mut breaker = Breaker::new(BreakerPlan { slow, ..PLAN });
    for _ in 0..9 {
        let ticket = ticket(breaker.admit(START));
        assert_eq!(breaker.record(START, ticket, exactly), None);
    }
}

#[test]
fn errors_older_than_the_window_are_forgotten() {
    let mut breaker = Breaker::new(PLAN);
    assert_eq!(run(&mut breaker, START, "BBB"), BreakerState::Closed);
    assert_eq!(run(&mut breaker, START + 10 * SECOND, "BGG"), BreakerState::Closed);
    assert_eq!(run(&mut breaker, START + 19 * SECOND, "B"), BreakerState::Open, "2 of 4");
    let mut breaker = Breaker::new(PLAN);
    assert_eq!(run(&mut breaker, START, "BBB"), BreakerState::Closed);
    assert_eq!(run(&mut breaker, START + 1_000 * SECOND, "GGGG"), BreakerState::Closed);
}

#[test]
fn open_sheds_and_says_for_how_long() {
    let mut breaker = opened();
    // A worker whose clock is behind does not see an earlier state.
    for (now, seconds) in [(START, 5), (START + SECOND, 4), (START, 4)] {
        assert_eq!(breaker.admit(now), Admit::Shed);
        assert_eq!(breaker.opens_in(now), Duration::from_secs(seconds));
    }
}

#[test]
fn closes_after_as_many_good_probes_and_lets_no_more_than_those_pass() {
    let mut breaker = opened();
    let now = START + 5 * SECOND;
    let first = breaker.admit(now);
    assert!(matches!(first, Admit::Probe(_)));
    assert_eq!(breaker.state(), BreakerState::HalfOpen);
    let second = breaker.admit(now);
    assert!(matches!(second, Admit::Probe(_)));
    assert_eq!((breaker.admit(now), breaker.opens_in(now)), (Admit::Shed, Duration::ZERO));
    assert_eq!(breaker.record(now, ticket(first), GOOD), None);
    assert_eq!(breaker.admit(now), Admit::Shed, "one good answer and one in flight");
    assert_eq!(breaker.record(now, ticket(second), GOOD), Some(BreakerState::Closed));
    assert!(matches!(breaker.admit(now), Admit::Pass(_)));
    assert_eq!(run(&mut breaker, now, "BBB"), BreakerState::Closed, "it counts from nothing");
}

#[test]
fn a_bad_probe_opens_it_for_as_long_again() {
    let mut breaker = opened();
    let now = START + 5 * SECOND;
    let (first, second) = (ticket(breaker.admit(now)), ticket(breaker.admit(now)));
    assert_eq!(breaker.record(now, first, BAD), Some(BreakerState::Open));
    assert_eq!(breaker.record(now, second, GOOD), None);
    assert_eq!(breaker.admit(now), Admit::Shed);
    assert_eq!(breaker.opens_in(now), Duration::from_secs(5));
}

#[test]
fn an_abandoned_probe_gives_its_place_to_another() {
    let mut breaker = opened();
    let now = START + 5 * SECOND;
    let (first, second) = (ticket(breaker.admit(now)), ticket(breaker.admit(now)));
    breaker.abandon(first);
    let third = ticket(breaker.admit(now));
    assert_eq!(breaker.admit(now), Admit::Shed);
    assert_eq!(breaker.record(now, second, GOOD), None);
    assert_eq!(breaker.record(now, third, GOOD), Some(BreakerState::Closed));
}

#[test]
fn answers_from_before_a_change_count_for_nothing() {
    let mut breaker = Breaker::new(PLAN);
    let late: Vec<Ticket> = (0..9).map(|_| ticket(breaker.admit(START))).collect();
    assert_eq!(run(&mut breaker, START, "BBBB"), BreakerState::Open);
    let now = START + 5 * SECOND;
    let probes = [ticket(breaker.admit(now)), ticket(breaker.admit(now))];
    assert_eq!(breaker.record(now, late[0], BAD), None);
    assert_eq!(breaker.record(now, late[1], GOOD), None);
    breaker.abandon(late[2]);
    assert_eq!(breaker.admit(now), Admit::Shed, "no place came free");
    assert_eq!(breaker.record(now, probes[0], GOOD), None);
    assert_eq!(breaker.record(now, probes[1], GOOD), Some(BreakerState::Closed));
    for ticket in &late[3..] {
        assert_eq!(breaker.record(now, *ticket, BAD), None);
    }
    assert_eq!(breaker.state(), BreakerState::Closed);
}

#[test]
fn a_shorter_window_by_reload_starts_counting_again() {
    let mut breaker = Breaker::new(PLAN);
    assert_eq!(run(&mut breaker, START, "BBB"), BreakerState::Closed);
    breaker.set_plan(BreakerPlan { window: Duration::from_secs(100), ..PLAN });
    assert_eq!(run(&mut breaker, START, "BGG"), BreakerState::Closed);
    breaker.set_plan(BreakerPlan { window: Duration::ZERO, ..PLAN });
    assert_eq!(run(&mut breaker, START, "BGG"), BreakerState::Closed);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Wait(u64),
    Admit,
    End { which: usize, error: bool },
    Abandon(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (0..6 * SECOND).prop_map(Step::Wait),
        6 => Just(Step::Admit),
        4 => (any::<usize>(), any::<bool>()).prop_map(|(which, error)| Step::End { which, error }),
        1 => any::<usize>().prop_map(Step::Abandon),
    ]
}

/// None of those on their way is a probe of the present state.
fn forget(flying: &mut [(Ticket, bool)]) {
    for (_, probe) in flying {
        *probe = false;
    }
}

proptest! {
    #[test]
    fn probes_in_flight_and_good_ones_are_never_more_than_probes(
        steps in prop::collection::vec(step(), 1..400),
        probes in 1..5_u32,
    ) {
        let mut breaker = Breaker::new(BreakerPlan { probes, ..PLAN });
        let (mut now, mut flying): (_, Vec<(Ticket, bool)>) = (START, Vec::new());
        let mut good = 0;
        for step in steps {
            match step {
                Step::Wait(time) => now += time,
                Step::Admit => match breaker.admit(now) {
                    Admit::Pass(ticket) => flying.push((ticket, false)),
                    Admit::Probe(ticket) => {
                        if !flying.iter().any(|(known, _)| *known == ticket) && good == 0 {
                            forget(&mut flying);
                        }
                        flying.push((ticket, true));
                    }
                    Admit::Shed => prop_assert_ne!(breaker.state(), BreakerState::Closed),
                },
                Step::End { which, error } if !flying.is_empty() => {
                    let (ticket, probe) = flying.swap_remove(which % flying.len());
                    let outcome = if error { BAD } else { GOOD };
                    let changed = breaker.record(now, ticket, outcome);
                    good += u32::from(probe && !error && changed.is_none());
                    if changed.is_some() {
                        good = 0;
                        forget(&mut flying);
                    }
                }
                Step::Abandon(which) if !flying.is_empty() => {
                    breaker.abandon(flying.swap_remove(which % flying.len()).0);
                }
                Step::End { .. } | Step::Abandon(_) => {}
            }
            let probing = flying.iter().filter(|(_, probe)| *probe).count() as u32;
            prop_assert!(probing + good <= probes, "{} and {}", probing, good);
        }
    }
}

#[test]
fn a_plan_that_wants_fewer_probes_than_were_good_lets_one_more_decide() {
    let mut breaker = opened();
    breaker.set_plan(BreakerPlan { probes: 10, ..PLAN });
    let now = START + nanos(PLAN.open_for);
    assert_eq!(run(&mut breaker, now, "GGGG"), BreakerState::HalfOpen);
    breaker.set_plan(BreakerPlan { probes: 3, ..PLAN });
    let Admit::Probe(ticket) = breaker.admit(now) else { panic!("somebody has to decide") };
    assert_eq!(breaker.admit(now), Admit::Shed, "one is enough");
    assert_eq!(breaker.record(now, ticket, GOOD), Some(BreakerState::Closed));
}
