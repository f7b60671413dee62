//! A whole instance on loopback: real rings, real sockets, servers that answer from threads.
