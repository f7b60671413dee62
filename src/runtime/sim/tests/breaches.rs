//! Breaches of the contract: the simulation stops at each.

use super::*;

fn under_a_receive(deed: impl FnOnce(&mut Sim, Fd)) {
    let mut bench = Bench::new(1, Faults::NONE);
    let (fd, _far) = bench.accepted();
    bench.sim.submit_recv(fd, true, token(0));
    deed(&mut bench.sim, fd);
}

#[test]
#[should_panic(expected = "D4")]
fn closing_under_an_operation() {
    under_a_receive(Sim::close_now);
}

#[test]
#[should_panic(expected = "D4")]
fn forgetting_under_an_operation() {
    under_a_receive(Sim::forget_now);
}

#[test]
#[should_panic(expected = "use of a closed descriptor")]
fn using_a_closed_descriptor() {
    let mut bench = Bench::new(1, Faults::NONE);
    let (fd, _far) = bench.accepted();
    bench.sim.close_now(fd);
    bench.sim.submit_recv(fd, true, token(0));
}

#[test]
#[should_panic(expected = "second receive")]
fn two_receives_on_one_socket() {
    under_a_receive(|sim, fd| sim.submit_recv(fd, false, token(1)));
}

#[test]
#[should_panic(expected = "a FIN")]
fn a_fin_past_a_send() {
    let mut bench = Bench::new(1, Faults::NONE);
    let (fd, _far) = bench.accepted();
    let chunk = bench.block(b"x");
    bench.sim.submit_send(fd, chunk, true, token(1));
    bench.sim.finish_now(fd);
}

#[test]
#[should_panic(expected = "a splice")]
fn a_splice_beside_an_armed_receive() {
    let mut bench = Bench::new(1, Faults::NONE);
    let (fd, _far) = bench.accepted();
    bench.sim.submit_recv(fd, true, token(0));
    let pipe = bench.sim.take_pipe().expect("a pipe");
    let _ = bench.sim.splice_in_now(fd, pipe, 10);
}

#[test]
#[should_panic(expected = "in flight already")]
fn a_token_used_twice() {
    let mut bench = Bench::new(1, Faults::NONE);
    let (fd, _far) = bench.accepted();
    bench.sim.submit_poll(fd, Interest::Reset, token(2));
    bench.sim.submit_poll(fd, Interest::Readable, token(2));
}

#[test]
#[should_panic(expected = "was given back")]
fn giving_a_chunk_back_twice() {
    let mut bench = Bench::new(1, Faults::NONE);
    let chunk = bench.block(b"x");
    bench.sim.release(chunk);
    bench.sim.release(chunk);
}

#[test]
#[should_panic(expected = "in an operation")]
fn giving_a_chunk_back_while_it_is_sent() {
    let mut bench = Bench::new(1, Faults::NONE);
    let (fd, _far) = bench.accepted();
    let chunk = bench.block(b"x");
    bench.sim.submit_send(fd, chunk, true, token(1));
    bench.sim.release(chunk);
}

#[test]
#[should_panic(expected = "left over")]
fn leaving_something_behind() {
    let mut bench = Bench::new(1, Faults::NONE);
    let _ = bench.block(b"x");
    bench.sim.assert_quiet(1);
}
