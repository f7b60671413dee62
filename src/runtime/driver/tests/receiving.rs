//! Bytes that come: all of them, once, in order, and then the end that they had.

use super::*;

on_every_driver! {
    bytes_arrive_once_in_order_and_then_the_end,
    a_fin_behind_few_bytes_is_never_missed,
    urgent_data_holds_nothing_up,
    a_single_receive_brings_one_chunk,
    bytes_go_behind_those_of_a_block,
    a_reset_is_an_error_of_the_receive,
    a_cancelled_receive_loses_nothing,
    a_starved_receive_ends_and_goes_on_when_there_are_chunks,
    a_busy_socket_does_not_silence_another,
}

fn bytes_arrive_once_in_order_and_then_the_end(bench: &mut Bench<impl Driver>) {
    let (fd, mut far) = bench.accepted();
    let sent = text(300_000);
    let expected = sent.clone();
    let writer = std::thread::spawn(move || far.write_all(&sent).unwrap());
    let (bytes, end) = bench.drain(fd);
    writer.join().unwrap();
    assert!(bytes == expected, "{} bytes, or others", bytes.len());
    assert_eq!(end, Ok(0));
    bench.close(fd);
}

fn a_fin_behind_few_bytes_is_never_missed(bench: &mut Bench<impl Driver>) {
    for _ in 0..200 {
        let (fd, mut far) = bench.accepted();
        let writer = std::thread::spawn(move || far.write_all(b"last words").unwrap());
        assert_eq!(bench.drain(fd), (b"last words".to_vec(), Ok(0)));
        writer.join().unwrap();
        bench.close(fd);
    }
}

fn urgent_data_holds_nothing_up(bench: &mut Bench<impl Driver>) {
    let (fd, mut far) = bench.accepted();
    far.write_all(b"before").unwrap();
    SockRef::from(&far).send_out_of_band(b"!").unwrap();
    far.write_all(b"after").unwrap();
    bench.driver.submit_recv(fd, true, token(RECV));
    let mut bytes = Vec::new();
    while bytes.len() < 11 {
        let got = bench.next(RECV);
        bytes.extend(bench.take(got.chunk.expect("bytes")));
    }
    assert_eq!(bytes, b"beforeafter");
    bench.driver.submit_cancel(token(RECV));
    assert_eq!(bench.last(RECV).result, Err(Errno::ECANCELED));
    bench.close(fd);
}

fn a_single_receive_brings_one_chunk(bench: &mut Bench<impl Driver>) {
    let (fd, mut far) = bench.accepted();
    far.write_all(&text(3_000)).unwrap();
    let mut bytes = Vec::new();
    while bytes.len() < 3_000 {
        bench.driver.submit_recv(fd, false, token(RECV));
        let got = bench.next(RECV);
        assert!(!got.more && got.result.unwrap() <= SIZES.ring_size);
        bytes.extend(bench.take(got.chunk.expect("bytes")));
    }
    assert!(bytes == text(3_000));
    bench.driver.submit_recv(fd, false, token(RECV));
    bench.turn(Duration::ZERO);
    assert!(bench.seen.is_empty(), "{:?}", bench.seen);
    drop(far);
    let end = bench.last(RECV);
    assert_eq!(end.result, Ok(0));
    if let Some(chunk) = end.chunk {
        bench.driver.release(chunk);
    }
    bench.close(fd);
}

fn bytes_go_behind_those_of_a_block(bench: &mut Bench<impl Driver>) {
    let (fd, mut far) = bench.accepted();
    let chunk = bench.block(b"head ");
    bench.driver.submit_recv_into(fd, chunk, token(RECV));
    bench.turn(Duration::ZERO);
    assert!(bench.seen.is_empty());
    far.write_all(b"tail").unwrap();
    let got = bench.last(RECV);
    assert_eq!((got.result, got.chunk), (Ok(4), None));
    bench.driver.buffers().extend(chunk, 4);
    assert_eq!(bench.take(chunk), b"head tail");
    bench.close(fd);
}

fn a_reset_is_an_error_of_the_receive(bench: &mut Bench<impl Driver>) {
    let (fd, mut far) = bench.accepted();
    far.write_all(b"bye").unwrap();
    bench.driver.submit_recv(fd, true, token(RECV));
    let chunk = bench.next(RECV).chunk.expect("bytes");
    assert_eq!(bench.take(chunk), b"bye");
    reset(far);
    assert_eq!(bench.last(RECV).result, Err(Errno::ECONNRESET));
    bench.close(fd);
}

fn a_cancelled_receive_loses_nothing(bench: &mut Bench<impl Driver>) {
    let (fd, mut far) = bench.accepted();
    for many in [true, false] {
        bench.driver.submit_recv(fd, many, token(RECV));
        bench.turn(Duration::ZERO);
        bench.driver.submit_cancel(token(RECV));
        assert_eq!(bench.last(RECV).result, Err(Errno::ECANCELED));
    }
    // There is nothing that this could mean.
    bench.driver.submit_cancel(token(RECV));
    far.write_all(b"still here").unwrap();
    drop(far);
    assert_eq!(bench.drain(fd), (b"still here".to_vec(), Ok(0)));
    bench.close(fd);
}

fn a_starved_receive_ends_and_goes_on_when_there_are_chunks(bench: &mut Bench<impl Driver>) {
    let (fd, mut far) = bench.accepted();
    let sent = text(20_000);
    far.write_all(&sent).unwrap();
    drop(far);
    let (mut bytes, mut held, mut starved) = (Vec::new(), Vec::new(), 0);
    bench.driver.submit_recv(fd, true, token(RECV));
    loop {
        let got = bench.next(RECV);
        held.extend(got.chunk);
        match got.result {
            Err(errno) => {
                assert_eq!((errno, got.more), (Errno::ENOBUFS, false));
                assert_eq!((held.len(), bench.driver.ring_free()), (8, 0));
                starved += 1;
            }
            Ok(0) => break,
            Ok(_) if got.more => continue,
            Ok(_) => {}
        }
        for chunk in held.drain(..) {
            bytes.extend(bench.take(chunk));
        }
        bench.driver.submit_recv(fd, true, token(RECV));
    }
    for chunk in held {
        bytes.extend(bench.take(chunk));
    }
    assert!(bytes == sent, "{} bytes, or others", bytes.len());
    assert!(starved >= 2, "{starved}");
    bench.close(fd);
}

fn a_busy_socket_does_not_silence_another(bench: &mut Bench<impl Driver>) {
    let ((busy, mut flood), (calm, mut far)) = (bench.accepted(), bench.accepted());
    let writer = std::thread::spawn(move || while flood.write_all(&[1; 8_192]).is_ok() {});
    bench.driver.submit_recv(busy, true, token(RECV));
    bench.driver.submit_recv(calm, true, token(POLL));
    far.write_all(b"me too").unwrap();
    let mut heard = false;
    while !heard {
        let got = bench.wait_for("bytes", |_| true);
        if let Some(chunk) = got.chunk {
            heard = got.token == token(POLL);
            bench.driver.release(chunk);
        }
        if !got.more {
            let fd = if got.token == token(RECV) { busy } else { calm };
            bench.driver.submit_recv(fd, true, got.token);
        }
    }
    bench.driver.reset_now(busy);
    writer.join().unwrap();
}

/// E4: a ring cannot know, its buffers are chosen by the kernel.
#[test]
fn who_comes_too_late_for_a_buffer_of_this_turn_has_one_in_the_next() {
    let mut bench = on_epoll();
    let all = 3 * SIZES.ring_count as usize;
    let pairs: Vec<_> = (0..all).map(|_| bench.accepted()).collect();
    for (_, far) in &pairs {
        (&mut &*far).write_all(b"x").unwrap();
    }
    for (at, (fd, _)) in pairs.iter().enumerate() {
        let token = Token::new(Tag::Session, RECV, at as u32, 1);
        bench.driver.submit_recv(*fd, false, token);
    }
    let mut got = 0;
    while got < all {
        bench.turn(Duration::from_secs(1));
        for one in std::mem::take(&mut bench.seen) {
            assert_eq!(one.result, Ok(1));
            assert_eq!(bench.take(one.chunk.expect("a byte")), b"x");
            got += 1;
        }
    }
    for (fd, _far) in pairs {
        bench.close(fd);
    }
}
