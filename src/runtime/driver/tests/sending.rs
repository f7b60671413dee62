//! Bytes that go: through send, through a pipe, and when there is no room.

use super::*;

on_every_driver! {
    a_send_that_waits_sends_all_to_a_slow_reader,
    a_send_that_does_not_wait_says_when_nothing_fits,
    a_cancelled_send_says_how_much_went,
    a_send_to_a_peer_that_resets_ends,
    bytes_appended_to_a_chunk_in_flight_are_not_sent_with_it,
    a_pipe_carries_bytes_from_socket_to_socket,
    a_poll_for_writing_waits_for_room,
}

fn a_send_that_waits_sends_all_to_a_slow_reader(bench: &mut Bench<impl Driver>) {
    let (fd, far) = bench.accepted();
    let before = bench.fill(fd);
    let chunk = bench.block(&text(16_384));
    bench.driver.submit_send(fd, chunk, true, token(SEND));
    bench.turn(Duration::ZERO);
    assert!(bench.seen.is_empty(), "there was no room: {:?}", bench.seen);
    let reader = reader(far);
    assert_eq!(bench.last(SEND).result, Ok(16_384));
    bench.driver.finish_now(fd);
    assert_eq!(reader.join().unwrap(), before + 16_384);
    bench.driver.release(chunk);
    bench.close(fd);
}

fn a_send_that_does_not_wait_says_when_nothing_fits(bench: &mut Bench<impl Driver>) {
    let (fd, mut far) = bench.accepted();
    let chunk = bench.block(b"hello");
    bench.driver.submit_send(fd, chunk, false, token(SEND));
    assert_eq!(bench.last(SEND).result, Ok(5));
    let mut room = [0; 5];
    far.read_exact(&mut room).unwrap();
    assert_eq!(&room, b"hello");
    bench.fill(fd);
    bench.driver.submit_send(fd, chunk, false, token(SEND));
    assert_eq!(bench.last(SEND).result, Err(Errno::EAGAIN));
    bench.driver.release(chunk);
    bench.close(fd);
}

fn a_cancelled_send_says_how_much_went(bench: &mut Bench<impl Driver>) {
    let (fd, far) = bench.accepted();
    let before = bench.fill(fd);
    let chunk = bench.block(&text(16_384));
    bench.driver.submit_send(fd, chunk, true, token(SEND));
    bench.turn(Duration::ZERO);
    bench.driver.submit_cancel(token(SEND));
    let sent = match bench.last(SEND).result {
        Ok(sent) => u64::from(sent),
        Err(errno) => {
            assert_eq!(errno, Errno::ECANCELED);
            0
        }
    };
    bench.driver.finish_now(fd);
    assert_eq!(reader(far).join().unwrap(), before + sent);
    bench.driver.release(chunk);
    bench.close(fd);
}

fn a_send_to_a_peer_that_resets_ends(bench: &mut Bench<impl Driver>) {
    let (fd, far) = bench.accepted();
    bench.fill(fd);
    let chunk = bench.block(&text(16_384));
    bench.driver.submit_send(fd, chunk, true, token(SEND));
    bench.turn(Duration::ZERO);
    reset(far);
    match bench.last(SEND).result {
        Ok(sent) => assert!(sent < 16_384, "there was no room"),
        Err(errno) => assert!(matches!(errno, Errno::ECONNRESET | Errno::EPIPE), "{errno}"),
    }
    bench.driver.release(chunk);
    bench.close(fd);
}

fn bytes_appended_to_a_chunk_in_flight_are_not_sent_with_it(bench: &mut Bench<impl Driver>) {
    let (fd, far) = bench.accepted();
    let chunk = bench.block(b"first");
    let mut queue = Queue::default();
    queue.push(chunk, bench.driver.buffers());
    bench.driver.submit_send(fd, chunk, true, token(SEND));
    bench.driver.buffers().write(chunk, b", second");
    queue.grown(8);
    assert_eq!(bench.last(SEND).result, Ok(5));
    assert_eq!(queue.sent(5, bench.driver.buffers()), None);
    assert_eq!(bench.driver.send_now(fd, chunk), Ok(8));
    bench.driver.finish_now(fd);
    assert_eq!(reader(far).join().unwrap(), 13);
    bench.driver.release(chunk);
    bench.close(fd);
}

fn a_pipe_carries_bytes_from_socket_to_socket(bench: &mut Bench<impl Driver>) {
    let ((from, mut near), (to, mut far)) = (bench.accepted(), bench.accepted());
    let pipe = bench.driver.take_pipe().expect("a pipe");
    let capacity = bench.driver.pipe_capacity(pipe);
    let sent = text(200_000);
    let expected = sent.clone();
    let writer = std::thread::spawn(move || near.write_all(&sent).unwrap());
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        far.read_to_end(&mut bytes).unwrap();
        bytes
    });
    loop {
        bench.driver.submit_poll(from, Interest::Readable, token(POLL));
        let mask = bench.last(POLL).result.unwrap();
        assert_ne!(mask & libc::POLLIN as u32, 0);
        let mut left = match bench.driver.splice_in_now(from, pipe, capacity) {
            Ok(0) => break,
            Ok(n) => n,
            Err(errno) => panic!("there was something to read: {errno}"),
        };
        while left > 0 {
            match bench.driver.splice_out_now(pipe, to, left) {
                Ok(n) => left -= n,
                Err(errno) => {
                    assert_eq!(errno, Errno::EAGAIN);
                    bench.driver.submit_poll(to, Interest::Writable, token(SEND));
                    bench.last(SEND).result.unwrap();
                }
            }
        }
    }
    bench.driver.give_pipe(pipe, true);
    bench.driver.finish_now(to);
    writer.join().unwrap();
    assert!(reader.join().unwrap() == expected);
    bench.close(from);
    bench.close(to);
}

fn a_poll_for_writing_waits_for_room(bench: &mut Bench<impl Driver>) {
    let (fd, far) = bench.accepted();
    bench.driver.submit_poll(fd, Interest::Writable, token(POLL));
    assert_ne!(bench.last(POLL).result.unwrap() & libc::POLLOUT as u32, 0);
    bench.fill(fd);
    bench.driver.submit_poll(fd, Interest::Writable, token(POLL));
    bench.turn(Duration::ZERO);
    assert!(bench.seen.is_empty(), "{:?}", bench.seen);
    let reader = reader(far);
    assert_ne!(bench.last(POLL).result.unwrap() & libc::POLLOUT as u32, 0);
    bench.driver.finish_now(fd);
    reader.join().unwrap();
    bench.close(fd);
}
