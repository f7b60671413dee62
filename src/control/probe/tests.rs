//! Probes against servers that answer from a script.

use std::net::SocketAddr;

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, UnixListener};

use super::*;
use crate::config::plan::{HttpCheck, Secret};
use crate::control::fixture;

/// Serves one connection: for each step, waits for bytes that contain the first part, then
/// sends the second.
async fn script(mut stream: impl Stream, steps: Vec<(&'static [u8], &'static [u8])>) -> Vec<u8> {
    let mut seen = Vec::new();
    for (wanted, answer) in steps {
        let mut got = Vec::new();
        while !got.windows(wanted.len().max(1)).any(|window| window == wanted) {
            let mut some = [0; 1_024];
            let count = stream.read(&mut some).await.unwrap_or(0);
            if count == 0 {
                return seen;
            }
            got.extend_from_slice(&some[..count]);
        }
        seen.extend_from_slice(&got);
        let _ = stream.write_all(answer).await;
    }
    seen
}

/// The result of `kind` against that script, and what the server saw.
fn check_with(
    kind: CheckKind,
    send_proxy: SendProxy,
    steps: Vec<(&'static [u8], &'static [u8])>,
) -> (Result<String, Failure>, Vec<u8>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let address = Endpoint::Ip(listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            script(stream, steps).await
        });
        let check = Check { timeout: Duration::from_secs(10), ..fixture::check(kind) };
        let target = Target {
            address: &address,
            check: &check,
            host: "s.test",
            send_proxy,
            source: None,
            tls: None,
        };
        let result = run(target).await;
        (result, server.await.unwrap())
    })
}

fn check(kind: CheckKind, steps: Vec<(&'static [u8], &'static [u8])>) -> Result<String, Failure> {
    check_with(kind, SendProxy::Off, steps).0
}

fn http(expect: &[std::ops::RangeInclusive<u16>], body: Option<&str>) -> CheckKind {
    CheckKind::Http(HttpCheck {
        method: "GET".into(),
        path: "/health".into(),
        host: None,
        expect: expect.to_vec(),
        headers: vec![("x-from".into(), "lb".into())],
        body: body.map(Into::into),
    })
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nready";
const ERROR: &[u8] = b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n";

#[test]
fn tcp_passes_when_the_connection_is_accepted() {
    let text = check(CheckKind::Tcp, vec![]).unwrap();
    assert!(text.starts_with("connected in "), "{text}");
}

#[test]
fn a_closed_port_is_refused_and_an_absent_socket_is_named() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (address, words) in [
        (Endpoint::Ip(closed), "refused"),
        (Endpoint::Unix(dir.path().join("no").as_path().into()), "no such socket"),
    ] {
        let check = fixture::check(CheckKind::Tcp);
        let target = Target {
            address: &address,
            check: &check,
            host: "",
            send_proxy: SendProxy::Off,
            source: None,
            tls: None,
        };
        assert_eq!(runtime.block_on(run(target)), Err(Failure::server(words)));
    }
}

#[test]
fn silence_is_a_timeout_in_the_words_of_the_configuration() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Endpoint::Ip(listener.local_addr().unwrap());
    let check = fixture::check(CheckKind::Redis { password: None });
    let target = Target {
        address: &address,
        check: &check,
        host: "",
        send_proxy: SendProxy::Off,
        source: None,
        tls: None,
    };
    assert_eq!(runtime.block_on(run(target)), Err(Failure::server("timeout after 500ms")));
}

#[test]
fn a_source_that_is_not_ours_does_not_count_against_the_server() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let address = Endpoint::Ip(SocketAddr::from(([127, 0, 0, 1], 9)));
    let check = fixture::check(CheckKind::Tcp);
    let source = Some(IpAddr::from([192, 0, 2, 1]));
    let target = Target {
        address: &address,
        check: &check,
        host: "",
        send_proxy: SendProxy::Off,
        source,
        tls: None,
    };
    assert!(matches!(runtime.block_on(run(target)), Err(Failure::Ours(_))));
}

#[test]
fn http_passes_on_an_expected_status_and_sends_what_was_configured() {
    let (result, seen) =
        check_with(http(&[200..=399], None), SendProxy::Off, vec![(b"\r\n\r\n", OK)]);
    assert!(result.unwrap().starts_with("status 200 in "));
    let seen = String::from_utf8(seen).unwrap().to_lowercase();
    assert!(seen.starts_with("get /health http/1.1\r\n"), "{seen}");
    assert!(seen.contains("host: s.test\r\n") && seen.contains("x-from: lb\r\n"), "{seen}");
}

#[test]
fn http_fails_on_another_status_and_says_which_were_expected() {
    let result = check(http(&[200..=399, 404..=404], None), vec![(b"\r\n\r\n", ERROR)]);
    assert_eq!(result, Err(Failure::server("status 500, expected 200-399, 404")));
}

#[test]
fn http_looks_for_the_text_in_the_body() {
    assert!(check(http(&[200..=200], Some("ead")), vec![(b"\r\n\r\n", OK)]).is_ok());
    let result = check(http(&[200..=200], Some("up")), vec![(b"\r\n\r\n", OK)]);
    assert_eq!(result, Err(Failure::server("status 200, but no \"up\" in the body")));
}

#[test]
fn http_needs_http() {
    let result = check(http(&[200..=200], None), vec![(b"\r\n\r\n", b"SSH-2.0-x\r\n\r\n")]);
    assert_eq!(result, Err(Failure::server("answered something that is not HTTP")));
}

#[test]
fn redis_passes_on_pong_after_auth() {
    let kind = CheckKind::Redis { password: Some(Secret("secret".into())) };
    let steps: Vec<(&[u8], &[u8])> = vec![
        (b"*2\r\n$4\r\nAUTH\r\n$6\r\nsecret\r\n", b"+OK\r\n"),
        (b"*1\r\n$4\r\nPING\r\n", b"+PONG\r\n"),
    ];
    assert!(check(kind, steps).unwrap().starts_with("PONG in "));
}

#[test]
fn redis_that_loads_or_lost_its_master_fails() {
    let kind = || CheckKind::Redis { password: None };
    let ping: &[u8] = b"PING\r\n";
    for (answer, word) in [
        (&b"-LOADING Redis is loading the dataset in memory\r\n"[..], "LOADING"),
        (b"-MASTERDOWN Link with MASTER is down\r\n", "MASTERDOWN"),
        (b"-NOAUTH Authentication required.\r\n", "NOAUTH"),
    ] {
        match check(kind(), vec![(ping, answer)]) {
            Err(Failure::Server(text)) => assert!(text.starts_with(word), "{text}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_redis_line_without_an_end_is_bounded() {
    let long: &[u8] = &[b'x'; 4_096];
    let result = check(CheckKind::Redis { password: None }, vec![(b"PING\r\n", long)]);
    assert_eq!(result, Err(Failure::server("answered a line without an end")));
}

#[test]
fn postgres_passes_when_it_asks_for_authentication() {
    let kind = CheckKind::Postgres { user: "lb".into() };
    let result = check(kind, vec![(b"user\0lb\0\0", b"R\0\0\0\x08\0\0\0\0")]);
    assert!(result.unwrap().starts_with("asks for authentication"));
}

#[test]
fn postgres_that_starts_up_fails_and_one_that_does_not_know_the_user_passes() {
    let kind = || CheckKind::Postgres { user: "lb".into() };
    let starting: &[u8] = b"E\0\0\0\x37SFATAL\0C57P03\0Mthe database system is starting up\0\0";
    let unknown: &[u8] = b"E\0\0\0\x1cSFATAL\0C28000\0Mno role\0\0";
    let wanted: &[u8] = b"user\0lb\0\0";
    let result = check(kind(), vec![(wanted, starting)]);
    assert_eq!(result, Err(Failure::server("the database system is starting up")));
    assert!(check(kind(), vec![(wanted, unknown)]).unwrap().contains("28000"));
}

#[test]
fn what_is_not_postgres_fails() {
    let kind = CheckKind::Postgres { user: "lb".into() };
    let result = check(kind, vec![(b"user\0lb\0\0", b"HTTP/1.1 400 Bad Request\r\n\r\n")]);
    assert_eq!(result, Err(Failure::server("answered something that is not PostgreSQL")));
}

#[test]
fn checks_carry_the_proxy_header_of_the_pool() {
    let steps: Vec<(&[u8], &[u8])> = vec![(b"PING\r\n", b"+PONG\r\n")];
    let kind = CheckKind::Redis { password: None };
    let (result, seen) = check_with(kind.clone(), SendProxy::V1, steps.clone());
    assert!(result.is_ok() && seen.starts_with(b"PROXY UNKNOWN\r\n*1"), "{seen:?}");
    let (result, seen) = check_with(kind, SendProxy::V2, steps);
    assert!(result.is_ok() && seen.starts_with(b"\r\n\r\n\0\r\nQUIT\n\x20"), "{seen:?}");
}

#[test]
fn unix_sockets_are_checked_too() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("redis.sock");
    runtime.block_on(async {
        let listener = UnixListener::bind(&path).unwrap();
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            script(stream, vec![(b"PING\r\n", b"+PONG\r\n")]).await
        });
        let address = Endpoint::Unix(path.as_path().into());
        let check = Check {
            timeout: Duration::from_secs(10),
            ..fixture::check(CheckKind::Redis { password: None })
        };
        let target = Target {
            address: &address,
            check: &check,
            host: "",
            send_proxy: SendProxy::Off,
            source: None,
            tls: None,
        };
        assert!(run(target).await.is_ok());
        server.await.unwrap();
    });
}
