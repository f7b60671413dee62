//! How connections and turns begin and end.

use super::*;

on_every_driver! {
    one_accept_brings_many_clients_until_it_is_cancelled,
    a_single_accept_leaves_the_others_in_the_queue,
    a_connect_succeeds_or_says_why_not,
    a_connect_that_finds_its_few_ports_taken_may_have_any,
    a_connect_in_flight_ends_with_a_cancel,
    a_peer_that_resets_at_once_was_connected_or_is_told_as_a_reset,
    a_unix_socket_with_a_full_queue_refuses_at_once,
    a_poll_for_resets_is_silent_on_data_and_ends_on_a_reset,
    a_poll_of_a_counter_rings_each_time,
    a_reset_from_here_ends_what_is_armed_and_reaches_the_peer,
    a_descriptor_that_was_used_before_starts_anew,
    a_descriptor_that_is_forgotten_works_with_another_driver_and_back,
    a_turn_ends_at_its_deadline,
}

impl<D: Driver> Bench<D> {
    fn connect(&mut self, to: &Endpoint) -> (Fd, Result<u32, Errno>) {
        let fd = self.driver.open_now(to, &StreamOptions { source: None }).expect("a socket");
        self.driver.submit_connect(fd, to, token(CONNECT));
        (fd, self.last(CONNECT).result)
    }
}

fn one_accept_brings_many_clients_until_it_is_cancelled(bench: &mut Bench<impl Driver>) {
    bench.driver.submit_accept(bench.listener(), true, token(ACCEPT));
    assert!(bench.seen.is_empty(), "D1: nothing from inside a submit");
    let clients: Vec<_> = (0..20).map(|_| bench.client()).collect();
    for mut client in clients {
        let got = bench.next(ACCEPT);
        assert!(got.more);
        let fd = Fd(got.result.expect("a client") as i32);
        client.write_all(b"x").unwrap();
        bench.driver.submit_recv(fd, false, token(RECV));
        let chunk = bench.last(RECV).chunk.expect("bytes");
        assert_eq!(bench.take(chunk), b"x");
        bench.driver.close_now(fd);
    }
    bench.driver.submit_cancel(token(ACCEPT));
    assert_eq!(bench.last(ACCEPT).result, Err(Errno::ECANCELED));
}

fn a_single_accept_leaves_the_others_in_the_queue(bench: &mut Bench<impl Driver>) {
    let _clients = [bench.client(), bench.client()];
    bench.driver.submit_accept(bench.listener(), false, token(ACCEPT));
    let first = bench.last(ACCEPT).result.unwrap();
    bench.turn(Duration::ZERO);
    assert!(bench.seen.is_empty());
    let second = bench.driver.accept_now(bench.listener()).expect("the other");
    assert_ne!(first, second.0 as u32);
    assert_eq!(bench.driver.accept_now(bench.listener()), Err(Errno::EAGAIN));
}

fn a_connect_succeeds_or_says_why_not(bench: &mut Bench<impl Driver>) {
    let address = bench.listener.local_addr().unwrap();
    let (fd, result) = bench.connect(&Endpoint::Ip(address));
    assert_eq!(result, Ok(0));
    assert_eq!(bench.driver.peer_now(fd), Some(address));
    bench.driver.submit_accept(bench.listener(), false, token(ACCEPT));
    let other = Fd(bench.last(ACCEPT).result.unwrap() as i32);
    assert_eq!(bench.driver.send_bytes_now(other, b"welcome"), Ok(7));
    bench.driver.close_now(other);
    assert_eq!(bench.drain(fd), (b"welcome".to_vec(), Ok(0)));
    bench.close(fd);
    // Bound and not listening: nobody else can take the port meanwhile.
    let deaf = Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    deaf.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let deaf_at = deaf.local_addr().unwrap().as_socket().unwrap();
    let (fd, result) = bench.connect(&Endpoint::Ip(deaf_at));
    assert_eq!(result, Err(Errno::ECONNREFUSED));
    bench.close(fd);
    let dir = tempfile::tempdir().unwrap();
    let (fd, result) = bench.connect(&Endpoint::Unix(dir.path().join("none").as_path().into()));
    assert_eq!(result, Err(Errno::ENOENT));
    bench.close(fd);
}

fn a_peer_that_resets_at_once_was_connected_or_is_told_as_a_reset(bench: &mut Bench<impl Driver>) {
    let to = Endpoint::Ip(bench.listener.local_addr().unwrap());
    for _ in 0..100 {
        let fd = bench.driver.open_now(&to, &StreamOptions { source: None }).unwrap();
        bench.driver.submit_connect(fd, &to, token(CONNECT));
        let listener = bench.listener.try_clone().unwrap();
        let peer = std::thread::spawn(move || {
            listener.set_nonblocking(false).unwrap();
            reset(listener.accept().unwrap().0);
        });
        let connected = bench.last(CONNECT).result;
        peer.join().unwrap();
        // A kernel that is busy ends the handshake in the background, and may have the reset
        // before it says that there was a connection.
        if connected != Err(Errno::ECONNRESET) {
            assert_eq!(connected, Ok(0));
            assert_eq!(bench.drain(fd), (Vec::new(), Err(Errno::ECONNRESET)));
        }
        bench.close(fd);
    }
}

fn a_connect_that_finds_its_few_ports_taken_may_have_any<D: Driver>(bench: &mut Bench<D>) {
    let to = Endpoint::Ip(bench.listener.local_addr().unwrap());
    let open = |driver: &mut D| driver.open_now(&to, &StreamOptions { source: None }).unwrap();
    let fd = open(&mut bench.driver);
    let range = sys::option(fd.0, libc::SOL_IP, IP_LOCAL_PORT_RANGE).unwrap_or(0);
    if range == 0 {
        println!("SKIPPED a_connect_that_finds_its_few_ports_taken_may_have_any: needs Linux 6.3");
        return bench.driver.close_now(fd);
    }
    let mut others = Vec::new();
    loop {
        let other = open(&mut bench.driver);
        sys::set_option(other.0, libc::SOL_IP, IP_LOCAL_PORT_RANGE, range).unwrap();
        others.push(other);
        bench.driver.submit_connect(other, &to, token(CONNECT));
        match bench.last(CONNECT).result {
            Ok(_) => assert!(others.len() <= 8, "there are not more"),
            Err(errno) => break assert_eq!(errno, Errno::EADDRNOTAVAIL),
        }
    }
    bench.driver.submit_connect(fd, &to, token(CONNECT));
    assert_eq!(bench.last(CONNECT).result, Err(Errno::EADDRNOTAVAIL));
    assert!(bench.driver.lift_ports_now(fd));
    bench.driver.submit_connect(fd, &to, token(CONNECT));
    assert_eq!(bench.last(CONNECT).result, Ok(0));
    assert!(!bench.driver.lift_ports_now(fd), "it may have any already");
    for fd in others.into_iter().chain([fd]) {
        bench.driver.close_now(fd);
    }
}

fn a_connect_in_flight_ends_with_a_cancel(bench: &mut Bench<impl Driver>) {
    bench.driver.bar_now(bench.listener());
    let to = Endpoint::Ip(bench.listener.local_addr().unwrap());
    for resets in [false, true] {
        let fd = bench.driver.open_now(&to, &StreamOptions { source: None }).unwrap();
        bench.driver.submit_connect(fd, &to, token(CONNECT));
        bench.turn(Duration::ZERO);
        assert!(bench.seen.is_empty(), "{:?}", bench.seen);
        if resets {
            bench.driver.reset_now(fd);
        }
        bench.driver.submit_cancel(token(CONNECT));
        assert!(bench.last(CONNECT).result.is_err());
        bench.close(fd);
    }
}

fn a_unix_socket_with_a_full_queue_refuses_at_once(bench: &mut Bench<impl Driver>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("full");
    let listener = Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    listener.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
    listener.listen(0).unwrap();
    let to = Endpoint::Unix(path.as_path().into());
    let (first, result) = bench.connect(&to);
    assert_eq!(result, Ok(0));
    let (second, result) = bench.connect(&to);
    assert_eq!(result, Err(Errno::EAGAIN));
    bench.close(first);
    bench.close(second);
}

fn a_poll_for_resets_is_silent_on_data_and_ends_on_a_reset(bench: &mut Bench<impl Driver>) {
    let (fd, mut far) = bench.accepted();
    bench.driver.submit_poll(fd, Interest::Reset, token(POLL));
    far.write_all(b"data").unwrap();
    bench.driver.submit_recv(fd, true, token(RECV));
    let chunk = bench.next(RECV).chunk.unwrap();
    assert_eq!(bench.take(chunk), b"data");
    bench.driver.submit_cancel(token(RECV));
    bench.last(RECV);
    assert!(bench.seen.is_empty(), "{:?}", bench.seen);
    far.shutdown(Shutdown::Write).unwrap();
    bench.turn(Duration::ZERO);
    assert!(bench.seen.drain(..).all(|one| one.more && one.result.unwrap() & POLL_ERR == 0));
    // Unread bytes make its close an RST.
    bench.driver.send_bytes_now(fd, b"unread").unwrap();
    far.peek(&mut [0]).unwrap();
    drop(far);
    let told = |one: &Completion| one.token == token(POLL) && is_reset(one.result.unwrap(), false);
    if bench.wait_for("word of the reset", told).more {
        bench.driver.submit_cancel(token(POLL));
        bench.last(POLL);
    }
    bench.seen.clear();
    bench.close(fd);
}

fn a_poll_of_a_counter_rings_each_time(bench: &mut Bench<impl Driver>) {
    let counter = sys::eventfd().unwrap();
    let fd = Fd(counter.as_raw_fd());
    for _ in 0..10 {
        bench.driver.submit_poll(fd, Interest::Readable, token(POLL));
        bench.turn(Duration::ZERO);
        assert!(bench.seen.is_empty(), "{:?}", bench.seen);
        std::thread::scope(|scope| {
            scope.spawn(|| sys::eventfd_signal(&counter));
            bench.last(POLL).result.unwrap();
        });
        sys::eventfd_clear(fd.0);
    }
    bench.close(Fd(counter.into_raw_fd()));
}

fn a_reset_from_here_ends_what_is_armed_and_reaches_the_peer(bench: &mut Bench<impl Driver>) {
    let (fd, mut far) = bench.accepted();
    bench.driver.submit_recv(fd, true, token(RECV));
    bench.turn(Duration::ZERO);
    bench.driver.reset_now(fd);
    assert!(matches!(bench.last(RECV).result, Ok(0) | Err(_)));
    assert_eq!(far.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    bench.close(fd);
}

fn a_descriptor_that_was_used_before_starts_anew(bench: &mut Bench<impl Driver>) {
    let mut numbers = std::collections::BTreeSet::new();
    for round in 0..50u8 {
        let (fd, mut far) = bench.accepted();
        numbers.insert(fd.0);
        bench.driver.submit_recv(fd, true, token(RECV));
        bench.driver.submit_poll(fd, Interest::Reset, token(POLL));
        far.write_all(&[round]).unwrap();
        let chunk = bench.next(RECV).chunk.unwrap();
        assert_eq!(bench.take(chunk), [round]);
        for op in [RECV, POLL] {
            bench.driver.submit_cancel(token(op));
            assert_eq!(bench.last(op).result, Err(Errno::ECANCELED));
        }
        bench.close(fd);
    }
    assert!(numbers.len() < 50, "no number came twice: {numbers:?}");
}

fn a_descriptor_that_is_forgotten_works_with_another_driver_and_back(
    bench: &mut Bench<impl Driver>,
) {
    there_and_back(bench, on_epoll());
    if let Some(other) = on_uring() {
        there_and_back(bench, other);
    }
}

fn there_and_back(bench: &mut Bench<impl Driver>, mut other: Bench<impl Driver>) {
    let (fd, mut far) = bench.accepted();
    for round in 0..3 {
        unused_here(bench, fd);
        far.write_all(&[round]).unwrap();
        other.driver.submit_recv(fd, false, token(RECV));
        let chunk = other.last(RECV).chunk.expect("bytes");
        assert_eq!(other.take(chunk), [round]);
        unused_here(&mut other, fd);
        far.write_all(b"back").unwrap();
        bench.driver.submit_recv(fd, false, token(RECV));
        let chunk = bench.last(RECV).chunk.expect("bytes");
        assert_eq!(bench.take(chunk), b"back");
    }
    drop(far);
    assert_eq!(bench.drain(fd), (Vec::new(), Ok(0)));
    bench.close(fd);
}

/// Watches the connection, ends that, and lets go of it.
fn unused_here(bench: &mut Bench<impl Driver>, fd: Fd) {
    bench.driver.submit_recv(fd, false, token(RECV));
    bench.turn(Duration::ZERO);
    bench.driver.submit_cancel(token(RECV));
    assert_eq!(bench.last(RECV).result, Err(Errno::ECANCELED));
    assert_eq!(bench.driver.recv_bytes_now(fd, &mut [0]), Err(Errno::EAGAIN));
    bench.driver.forget_now(fd);
    assert!(!is_told_of(fd), "what happens on it still wakes this driver");
}

/// Some epoll set of the process has the descriptor.
fn is_told_of(fd: Fd) -> bool {
    let number = fd.0.to_string();
    let names = |line: &str| {
        line.strip_prefix("tfd:").and_then(|rest| rest.split_whitespace().next()) == Some(&number)
    };
    let infos = std::fs::read_dir("/proc/self/fdinfo").expect("procfs");
    let texts = infos.flatten().filter_map(|info| std::fs::read_to_string(info.path()).ok());
    texts.into_iter().any(|text| text.lines().any(names))
}

fn a_turn_ends_at_its_deadline(bench: &mut Bench<impl Driver>) {
    for wait in [Duration::ZERO, Duration::from_micros(1_500)] {
        let before = bench.driver.clock();
        bench.turn(wait);
        assert!(bench.driver.now() >= before + wait, "it came back early");
    }
    // One that has passed already.
    let past = Time(bench.driver.clock().0 - 1_000_000);
    bench.driver.turn(past, &mut bench.seen).unwrap();
    assert!(bench.seen.is_empty());
}
