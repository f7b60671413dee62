//! Three small servers on loopback that can be killed and revived.
//!
//! Each answers an HTTP request, and any other line, with its name, so that `curl` and `nc`
//! show who got the connection. They live on one thread of their own, apart from everything
//! that is demonstrated.
//!
//! A kill is that of a process that shuts down well: the listening socket is closed without
//! losing what its queue holds, the answers under way are finished, and every connection is
//! closed at its next pause. After that, connects are refused. A revived server has the same
//! address.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::LocalSet;

use crate::runtime::sys;

/// Names of the servers, in the order of the pool.
pub const NAMES: [&str; 3] = ["red", "green", "blue"];

/// A request or line longer than this ends its connection: no real client of a demo sends one.
const REQUEST_MAX: usize = 8 << 10;

/// How long a killed server waits for the first request of a connection it has accepted.
const FIRST_REQUEST_MAX: Duration = Duration::from_secs(5);

/// Looks at the queue of a listener that closes, and the time between them: a handshake that
/// was under way ends in it, also when the kernel was late with the client's last packet.
const LAST_LOOKS: u32 = 3;
const LAST_LOOK_EVERY: Duration = Duration::from_millis(10);

/// How long a pause is after which a killed server closes a connection that it has answered.
const PAUSE: Duration = Duration::from_millis(2);

/// Between two attempts to bind a revived server's address.
const REBIND_EVERY: Duration = Duration::from_millis(50);

/// What a server is told to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Serve,
    Die,
    /// The demo is over.
    Quit,
}

/// The three servers, as the demo holds them.
#[derive(Debug)]
pub struct Servers {
    pub addresses: Vec<SocketAddr>,
    orders: Vec<watch::Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl Servers {
    /// Binds them to free ports and begins to serve.
    ///
    /// # Errors
    /// When loopback cannot be bound, or no thread can be had.
    pub fn start() -> io::Result<Self> {
        let mut listeners = Vec::new();
        for _ in NAMES {
            let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
            listener.set_nonblocking(true)?;
            listeners.push(listener);
        }
        let addresses =
            listeners.iter().map(std::net::TcpListener::local_addr).collect::<io::Result<_>>()?;
        let (orders, inboxes): (Vec<_>, Vec<_>) =
            NAMES.iter().map(|_| watch::channel(Order::Serve)).unzip();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("demo-servers".into()).spawn(move || {
            let local = LocalSet::new();
            for ((name, listener), inbox) in NAMES.into_iter().zip(listeners).zip(inboxes) {
                local.spawn_local(live(name, listener, inbox));
            }
            // Ends when every server has quit and every connection with it.
            runtime.block_on(local);
        })?;
        Ok(Self { addresses, orders, thread: Some(thread) })
    }

    /// Server `index` stops listening and closes its connections at their next pause.
    pub fn kill(&self, index: usize) {
        self.orders[index].send_replace(Order::Die);
    }

    /// Server `index` serves again, on its old address.
    pub fn revive(&self, index: usize) {
        self.orders[index].send_replace(Order::Serve);
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for order in &self.orders {
            order.send_replace(Order::Quit);
        }
        if let Some(thread) = self.thread.take() {
            // It ends by itself; that it panicked has shown in what it served.
            let _ = thread.join();
        }
    }
}

/// One server, from life to life until the demo is over.
async fn live(
    name: &'static str,
    listener: std::net::TcpListener,
    mut orders: watch::Receiver<Order>,
) {
    let Ok(address) = listener.local_addr() else { return };
    let mut listener = TcpListener::from_std(listener).ok();
    loop {
        let order = *orders.borrow_and_update();
        match (order, listener.take()) {
            (Order::Serve, Some(open)) => {
                serve(name, &open, &mut orders).await;
                shut(name, open, &orders).await;
                continue;
            }
            // Killed before it could begin: who is in the queue already is still served.
            (Order::Die, Some(open)) => {
                shut(name, open, &orders).await;
                continue;
            }
            (Order::Serve, None) => {
                listener = bind(address).ok();
                if listener.is_none() {
                    tokio::time::sleep(REBIND_EVERY).await;
                }
                continue;
            }
            (Order::Quit, _) => return,
            (Order::Die, None) => {}
        }
        if orders.changed().await.is_err() {
            return;
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(1024)
}

/// Accepts until the order changes.
async fn serve(name: &'static str, listener: &TcpListener, orders: &mut watch::Receiver<Order>) {
    loop {
        tokio::select! {
            _ = orders.changed() => return,
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    tokio::task::spawn_local(converse(name, stream, orders.clone()));
                }
            }
        }
    }
}

/// Closes a listener without losing what its queue holds, which the close would reset. Asks
/// the socket itself: tokio knows of a connection only after its next look at epoll.
async fn shut(name: &'static str, listener: TcpListener, orders: &watch::Receiver<Order>) {
    sys::drop_syns(listener.as_raw_fd());
    let Ok(listener) = listener.into_std() else { return };
    for look in 0..LAST_LOOKS {
        if look > 0 {
            tokio::time::sleep(LAST_LOOK_EVERY).await;
        }
        while let Ok((stream, _)) = listener.accept() {
            let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
            if let Ok(stream) = stream {
                tokio::task::spawn_local(converse(name, stream, orders.clone()));
            }
        }
    }
}

/// One connection: answers until the peer ends, or until a pause after the order to die.
async fn converse(name: &'static str, mut stream: TcpStream, mut orders: watch::Receiver<Order>) {
    let _ = stream.set_nodelay(true);
    let page = Rc::new(Page::new(name));
    let mut asked = Vec::with_capacity(1024);
    let mut answered = false;
    loop {
        let order = *orders.borrow_and_update();
        let quiet = asked.is_empty() && answered;
        let read = stream.read_buf(&mut asked);
        let patience = match order {
            Order::Serve => Duration::MAX,
            Order::Die if !quiet => FIRST_REQUEST_MAX,
            Order::Die | Order::Quit => PAUSE,
        };
        let got = tokio::select! {
            biased;
            got = tokio::time::timeout(patience, read) => got.unwrap_or(Ok(0)),
            _ = orders.changed() => continue,
        };
        if !matches!(got, Ok(1..)) {
            return;
        }
        while let Some((len, keep, answer)) = page.answer(&asked) {
            asked.drain(..len);
            answered = true;
            if stream.write_all(&answer).await.is_err() || !keep {
                return;
            }
        }
        if asked.len() > REQUEST_MAX {
            return;
        }
    }
}

/// What a server says.
#[derive(Debug)]
struct Page {
    name: &'static str,
    body: String,
}

impl Page {
    fn new(name: &'static str) -> Self {
        Self { name, body: format!("hello from {name}\n") }
    }

    /// The answer to the first whole request or line: how long that was, whether the
    /// connection goes on, and the bytes.
    fn answer(&self, asked: &[u8]) -> Option<(usize, bool, Vec<u8>)> {
        let line_end = asked.iter().position(|&byte| byte == b'\n')? + 1;
        let line = asked[..line_end].trim_ascii_end();
        if !line.ends_with(b"HTTP/1.1") && !line.ends_with(b"HTTP/1.0") {
            let echo = String::from_utf8_lossy(line);
            return Some((line_end, true, format!("{}: {echo}\n", self.name).into_bytes()));
        }
        let head_end = asked.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
        let head = String::from_utf8_lossy(&asked[..head_end]).to_ascii_lowercase();
        let keep = line.ends_with(b"1.1") && !head.contains("\r\nconnection: close\r\n");
        let connection = if keep { "" } else { "Connection: close\r\n" };
        let body = if line.starts_with(b"HEAD ") { "" } else { &self.body };
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n{connection}\r\n{body}",
            self.body.len()
        );
        Some((head_end, keep, answer.into_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn connect(address: SocketAddr) -> TcpStream {
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream
    }

    fn ask(stream: &mut TcpStream, what: &str, answer: &str) {
        stream.write_all(what.as_bytes()).expect("it reads");
        let mut got = vec![0; answer.len()];
        stream.read_exact(&mut got).expect("it answers");
        assert_eq!(String::from_utf8_lossy(&got), answer);
    }

    fn until(holds: impl Fn() -> bool) {
        let deadline = std::time::Instant::now() + PATIENCE;
        while !holds() {
            assert!(std::time::Instant::now() < deadline, "it never came about");
            std::thread::yield_now();
        }
    }

    #[test]
    fn each_server_says_its_name_to_http_and_to_lines() {
        let servers = Servers::start().expect("loopback");
        for (name, &address) in NAMES.iter().zip(&servers.addresses) {
            ask(&mut connect(address), "hi\n", &format!("{name}: hi\n"));
            let mut stream = connect(address);
            stream
                .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                .expect("it reads");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("it answers and ends");
            assert!(answer.ends_with(&format!("\r\n\r\nhello from {name}\n")), "{answer}");
        }
    }

    #[test]
    fn a_killed_server_ends_idle_connections_refuses_new_ones_and_comes_back() {
        let servers = Servers::start().expect("loopback");
        let address = servers.addresses[1];
        let mut stream = connect(address);
        ask(&mut stream, "hi\n", "green: hi\n");
        servers.kill(1);
        assert_eq!(stream.read(&mut [0; 1]).expect("an orderly end"), 0);
        until(|| {
            let refused = TcpStream::connect(address).err();
            refused.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
        });
        ask(&mut connect(servers.addresses[0]), "hi\n", "red: hi\n");
        servers.revive(1);
        until(|| TcpStream::connect(address).is_ok());
        ask(&mut connect(address), "hi\n", "green: hi\n");
    }

    #[test]
    fn what_was_accepted_before_a_kill_is_answered_after_it() {
        let servers = Servers::start().expect("loopback");
        let mut streams: Vec<_> = (0..50).map(|_| connect(servers.addresses[2])).collect();
        for stream in &mut streams {
            stream.write_all(b"hi\n").expect("it reads");
        }
        // A client's connect returns before the server's kernel has its last packet; what the
        // other end has acknowledged stands in the queue of the listener for certain.
        for stream in &streams {
            until(|| sys::unsent(stream.as_raw_fd()) == 0);
        }
        servers.kill(2);
        for stream in &mut streams {
            let mut got = [0; 9];
            stream.read_exact(&mut got).expect("it answers");
            assert_eq!(String::from_utf8_lossy(&got), "blue: hi\n");
        }
    }
}
