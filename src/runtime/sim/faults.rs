//! How often what goes wrong, and with which error.
//!
//! All knobs are per mille of the chances there are (one per try of an operation).

use nix::errno::Errno;

/// Per mille each; 0 switches a fault off.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// A send takes less than fits, also one that is to wait for all.
    pub short_send: u16,
    /// A receive or splice brings less than there is; a pipe is full before its capacity.
    pub short_recv: u16,
    /// A receive finds no ring buffer although one is free.
    pub enobufs: u16,
    /// A multishot operation ends with a good completion, as when the completion queue fills.
    pub multishot_end: u16,
    /// A cancel takes effect some virtual time after its turn.
    pub late_cancel: u16,
    /// One of [`OPEN_ERRORS`] instead of a socket.
    pub open: u16,
    /// One of [`CONNECT_ERRORS`] instead of a connection.
    pub connect: u16,
    /// One of [`ACCEPT_ERRORS`] instead of a client.
    pub accept: u16,
    /// One of [`TRANSFER_ERRORS`]; the connection itself stays whole.
    pub send: u16,
    /// One of [`TRANSFER_ERRORS`]; the bytes stay where they are.
    pub recv: u16,
    /// A delivery fails and takes the connection with it: one of [`DEATHS`], no RST to anyone.
    pub die: u16,
}

impl Faults {
    /// Nothing goes wrong on our machine; the network and the far ends still do as they like.
    pub const NONE: Self = Self {
        short_send: 0,
        short_recv: 0,
        enobufs: 0,
        multishot_end: 0,
        late_cancel: 0,
        open: 0,
        connect: 0,
        accept: 0,
        send: 0,
        recv: 0,
        die: 0,
    };

    /// What loses no byte and ends no connection: only the path becomes rough.
    pub const ROUGH: Self = Self {
        short_send: 200,
        short_recv: 200,
        enobufs: 50,
        multishot_end: 50,
        late_cancel: 300,
        ..Self::NONE
    };

    /// Everything, each now and then.
    pub const HOSTILE: Self =
        Self { open: 30, connect: 30, accept: 30, send: 2, recv: 2, die: 2, ..Self::ROUGH };
}

pub const OPEN_ERRORS: &[Errno] =
    &[Errno::EMFILE, Errno::ENFILE, Errno::EADDRNOTAVAIL, Errno::ENOBUFS];

pub const CONNECT_ERRORS: &[Errno] = &[
    Errno::ECONNREFUSED,
    Errno::EHOSTUNREACH,
    Errno::ENETUNREACH,
    Errno::ETIMEDOUT,
    Errno::EADDRNOTAVAIL,
];

/// The first takes the client with it; with the others it waits in the backlog.
pub const ACCEPT_ERRORS: &[Errno] =
    &[Errno::ECONNABORTED, Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM];

pub const TRANSFER_ERRORS: &[Errno] = &[Errno::ENOMEM, Errno::ENOBUFS, Errno::EIO];

pub const DEATHS: &[Errno] = &[Errno::ETIMEDOUT, Errno::EHOSTUNREACH, Errno::ENETUNREACH];
