//! A connection of a task, with or without TLS on it.
//!
//! What is read and written here is payload. A peer's end in order is a receive of 0 bytes: its
//! FIN, and with TLS its close_notify before it; a FIN alone is [`StreamError::Truncated`]
//! there, because anybody on the way could have made it.

use std::future::poll_fn;
use std::io::{self, IoSlice, Read as _, Write};
use std::task::{Context, Poll, ready};

use nix::errno::Errno;
use rustls::Connection;

use crate::runtime::driver::{Driver, Fd};
use crate::runtime::tasks::{Inbox, Socket};
use crate::tls::info::TlsInfo;

/// Plaintext that is taken at a time at least: a record's worth (RFC 8446 §5.1), and no more than
/// a small inbox has room for.
const PLAIN_ROOM: usize = 16 << 10;

/// Ciphertext that waits for the kernel before more is encrypted.
const UNSENT_MAX: usize = 256 << 10;

/// What ends a stream out of order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamError {
    /// The connection was reset, or the kernel gave it up.
    Reset,
    /// TLS ended by a FIN without close_notify.
    Truncated,
    /// The peer's TLS is broken, or it does not want ours.
    Tls,
    /// More than an inbox may hold.
    TooLarge,
    /// The peer has not looked at this message, and says so: it may be sent again.
    Refused,
    /// The peer's protocol has no form for this message.
    Unsayable,
}

impl From<Errno> for StreamError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::EMSGSIZE => Self::TooLarge,
            _ => Self::Reset,
        }
    }
}

/// TLS of one side, without its connection.
#[derive(Debug)]
pub struct Tls {
    connection: Connection,
    /// Ciphertext that was received and not decrypted yet.
    wire: Inbox,
    /// The peer's FIN came.
    fin_seen: bool,
}

impl Tls {
    #[must_use]
    pub fn new(mut connection: Connection) -> Self {
        // Ours is the bound.
        connection.set_buffer_limit(None);
        Self { connection, wire: Inbox::default(), fin_seen: false }
    }

    #[must_use]
    pub const fn connection(&self) -> &Connection {
        &self.connection
    }

    /// What the log and servers are told about it.
    #[must_use]
    pub fn info(&self) -> Option<TlsInfo> {
        match &self.connection {
            Connection::Server(server) => TlsInfo::of(server),
            Connection::Client(_) => None,
        }
    }

    /// Hands received ciphertext to rustls until it wants no more or has plaintext to give.
    fn decrypt(&mut self) -> Result<(), StreamError> {
        while !self.wire.is_empty() && self.connection.wants_read() {
            let mut bytes = self.wire.bytes();
            let before = bytes.len();
            let read = self.connection.read_tls(&mut bytes);
            let taken = before - bytes.len();
            self.wire.consume(taken);
            if read.is_err() || taken == 0 {
                break;
            }
            let state = self.connection.process_new_packets().map_err(|_| StreamError::Tls)?;
            if state.plaintext_bytes_to_read() > 0 || state.peer_has_closed() {
                break;
            }
        }
        Ok(())
    }

    /// Moves decrypted bytes into `inbox`. `Ok(None)`: there are none yet.
    fn take_plain(&mut self, inbox: &mut Inbox) -> Result<Option<usize>, StreamError> {
        match self.connection.reader().read(inbox.room()) {
            Ok(n) => {
                inbox.filled(n);
                Ok(Some(n))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(_) => Err(StreamError::Truncated),
        }
    }
}

/// One message of a connection that carries many (HTTP/2), seen as an HTTP/1 connection of its
/// own: its request and its answer are read and written in HTTP/1's form.
pub trait Message: std::fmt::Debug {
    /// See [`Stream::poll_recv`].
    ///
    /// # Errors
    /// See [`StreamError`].
    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        inbox: &mut Inbox,
    ) -> Poll<Result<usize, StreamError>>;

    /// See [`Stream::poll_send`].
    ///
    /// # Errors
    /// See [`StreamError`].
    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8])
    -> Poll<Result<usize, StreamError>>;

    /// See [`Stream::poll_gone`].
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// See [`Stream::lives_on`].
    fn lives_on(&self) -> bool {
        false
    }

    /// See [`Stream::abort`].
    fn abort(&mut self);
}

/// What carries the bytes.
#[derive(Debug)]
enum Line<D: Driver> {
    Socket(Socket<D>),
    Message(Box<dyn Message>),
}

impl<D: Driver> Line<D> {
    const fn socket(&self) -> &Socket<D> {
        match self {
            Self::Socket(socket) => socket,
            Self::Message(_) => panic!("messages are neither tunnelled nor kept nor secured"),
        }
    }
}

/// A connection with or without TLS, or a message that is like one.
#[derive(Debug)]
pub struct Stream<D: Driver> {
    line: Line<D>,
    tls: Option<Box<Tls>>,
}

/// Lets rustls write to the socket what it takes now.
struct Sink<'a, D: Driver>(&'a Socket<D>);

impl<D: Driver> Write for Sink<'_, D> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send_now(bytes).map_err(io::Error::from)
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.send_parts_now(parts).map_err(io::Error::from)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<D: Driver> Stream<D> {
    #[must_use]
    pub const fn plain(socket: Socket<D>) -> Self {
        Self { line: Line::Socket(socket), tls: None }
    }

    #[must_use]
    pub const fn new(socket: Socket<D>, tls: Option<Box<Tls>>) -> Self {
        Self { line: Line::Socket(socket), tls }
    }

    #[must_use]
    pub const fn of_message(message: Box<dyn Message>) -> Self {
        Self { line: Line::Message(message), tls: None }
    }

    /// The connection's socket.
    ///
    /// # Panics
    /// When this is a message: see [`Stream::is_message`].
    #[must_use]
    pub const fn socket(&self) -> &Socket<D> {
        self.line.socket()
    }

    /// The connection's socket, if there is one and no TLS on it.
    ///
    /// # Errors
    /// The stream itself, as it was.
    pub fn into_socket(self) -> Result<Socket<D>, Self> {
        match self {
            Self { line: Line::Socket(socket), tls: None } => Ok(socket),
            other => Err(other),
        }
    }

    /// It has no socket of its own.
    #[must_use]
    pub const fn is_message(&self) -> bool {
        matches!(self.line, Line::Message(_))
    }

    /// The descriptor of a TCP connection, with TLS on it or not.
    #[must_use]
    pub fn tcp_fd(&self) -> Option<Fd> {
        match &self.line {
            Line::Socket(socket) => (!socket.is_unix()).then(|| socket.fd()),
            Line::Message(_) => None,
        }
    }

    /// Ready when the peer has given this message up. A connection never tells: its end is read.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.line {
            Line::Socket(_) => Poll::Pending,
            Line::Message(message) => message.poll_gone(cx),
        }
    }

    #[must_use]
    pub fn tls(&self) -> Option<&Tls> {
        self.tls.as_deref()
    }

    /// Parts with the connection; what is armed on it ends.
    #[must_use]
    pub fn into_tls(self) -> Option<Box<Tls>> {
        self.tls
    }

    /// From here on, what is sent and received is under this TLS.
    pub fn secure(&mut self, tls: Tls) {
        debug_assert!(self.tls.is_none(), "TLS within TLS");
        self.tls = Some(Box::new(tls));
    }

    /// Runs the handshake to its end.
    ///
    /// # Errors
    /// [`StreamError::Tls`] after our alert has been sent, if it could be; or the connection's.
    pub async fn handshake(&mut self) -> Result<(), StreamError> {
        loop {
            let Some(tls) = &mut self.tls else { return Ok(()) };
            let decrypted = tls.decrypt();
            let handshaking = tls.connection.is_handshaking();
            if decrypted.is_err() {
                // The alert.
                let _ = poll_fn(|cx| self.poll_flush(cx)).await;
                return decrypted;
            }
            poll_fn(|cx| self.poll_flush(cx)).await?;
            if !handshaking {
                return Ok(());
            }
            let Some(tls) = &mut self.tls else { return Ok(()) };
            let socket = self.line.socket();
            let got = poll_fn(|cx| socket.poll_recv(cx, &mut tls.wire)).await?;
            if got == 0 {
                return Err(StreamError::Truncated);
            }
        }
    }

    /// The connection of a message takes others still, whatever became of this one.
    #[must_use]
    pub fn lives_on(&self) -> bool {
        match &self.line {
            Line::Message(message) => message.lives_on(),
            Line::Socket(_) => false,
        }
    }

    /// Tells the peer of a message that the rest is not coming; a connection is reset by whoever
    /// owns it.
    pub fn abort(&mut self) {
        if let Line::Message(message) = &mut self.line {
            message.abort();
        }
    }

    /// The next payload, behind what is in `inbox`; 0 is the peer's end in order.
    ///
    /// # Errors
    /// See [`StreamError`].
    pub async fn recv(&mut self, inbox: &mut Inbox) -> Result<usize, StreamError> {
        poll_fn(|cx| self.poll_recv(cx, inbox)).await
    }

    /// See [`Stream::recv`].
    pub fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        inbox: &mut Inbox,
    ) -> Poll<Result<usize, StreamError>> {
        let socket = match &mut self.line {
            Line::Message(message) => return message.poll_recv(cx, inbox),
            Line::Socket(socket) => socket,
        };
        let Some(tls) = &mut self.tls else {
            return socket.poll_recv(cx, inbox).map_err(StreamError::from);
        };
        let shell = socket.shell();
        let mut total = 0;
        loop {
            if !shell.reserve(inbox, PLAIN_ROOM) {
                let full = if total > 0 { Ok(total) } else { Err(StreamError::TooLarge) };
                return Poll::Ready(full);
            }
            match tls.take_plain(inbox) {
                Ok(Some(n)) => {
                    total += n;
                    if n == 0 {
                        return Poll::Ready(Ok(total));
                    }
                    continue;
                }
                Ok(None) => {}
                Err(error) if total == 0 => return Poll::Ready(Err(error)),
                Err(_) => return Poll::Ready(Ok(total)),
            }
            let before = tls.wire.len();
            if let Err(error) = tls.decrypt() {
                // The alert goes out if the socket takes it now; there is no more to say.
                let _ = tls.connection.write_tls(&mut Sink(socket));
                return Poll::Ready(if total > 0 { Ok(total) } else { Err(error) });
            }
            if tls.wire.len() < before {
                continue;
            }
            if total > 0 {
                return Poll::Ready(Ok(total));
            }
            if tls.fin_seen {
                return Poll::Ready(Err(StreamError::Truncated));
            }
            // A key update, or tickets: answers that nobody else would send.
            if tls.connection.wants_write() {
                let _ = tls.connection.write_tls(&mut Sink(socket));
            }
            shell.rest(inbox); // K3: nothing is held while waiting
            let got = ready!(socket.poll_recv(cx, &mut tls.wire));
            if got? == 0 {
                tls.fin_seen = true;
                // Tells the reader that no close_notify will come.
                let _ = tls.connection.read_tls(&mut io::empty());
                let _ = tls.connection.process_new_packets();
            }
        }
    }

    /// Sends all of `bytes`.
    ///
    /// # Errors
    /// See [`StreamError`].
    pub async fn send(&mut self, mut bytes: &[u8]) -> Result<(), StreamError> {
        while !bytes.is_empty() {
            let n = poll_fn(|cx| self.poll_send(cx, bytes)).await?;
            bytes = &bytes[n..];
        }
        if self.tls.is_some() {
            poll_fn(|cx| self.poll_flush(cx)).await?;
        }
        Ok(())
    }

    /// Sends what goes now, or waits. With TLS, some of it may still be here:
    /// [`Stream::poll_flush`].
    pub fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize, StreamError>> {
        let socket = match &mut self.line {
            Line::Message(message) => return message.poll_send(cx, bytes),
            Line::Socket(socket) => socket,
        };
        let Some(tls) = &mut self.tls else {
            loop {
                match socket.send_now(bytes) {
                    Ok(n) => return Poll::Ready(Ok(n)),
                    Err(Errno::EAGAIN) => ready!(socket.poll_writable(cx))?,
                    Err(errno) => return Poll::Ready(Err(errno.into())),
                }
            }
        };
        if tls.connection.wants_write() {
            ready!(self.poll_flush(cx))?;
        }
        let Some(tls) = &mut self.tls else { return Poll::Ready(Ok(0)) };
        let bytes = &bytes[..bytes.len().min(UNSENT_MAX)];
        let n = tls.connection.writer().write(bytes).map_err(|_| StreamError::Tls)?;
        match self.poll_flush(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(n)),
        }
    }

    /// Sends the ciphertext that is still here.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        let Some(tls) = &mut self.tls else { return Poll::Ready(Ok(())) };
        let socket = self.line.socket();
        while tls.connection.wants_write() {
            match tls.connection.write_tls(&mut Sink(socket)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(socket.poll_writable(cx))?;
                }
                Err(_) => return Poll::Ready(Err(StreamError::Reset)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Ends our direction in order: close_notify, then the FIN.
    ///
    /// # Errors
    /// See [`StreamError`].
    pub async fn finish(&mut self) -> Result<(), StreamError> {
        poll_fn(|cx| self.poll_finish(cx)).await
    }

    /// See [`Stream::finish`].
    pub fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        if let Some(tls) = &mut self.tls {
            tls.connection.send_close_notify();
            ready!(self.poll_flush(cx))?;
        }
        if let Line::Socket(socket) = &self.line {
            socket.finish();
        }
        Poll::Ready(Ok(()))
    }
}
