//! One question to an auth service: a request on the worker's own connections, and its answer as
//! a whole.
//!
//! The service is a pool, so its servers are balanced, checked, kept connected and counted as any
//! are. No question is repeated but on a kept connection that turns out to have ended.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use sluicegate_l7::http1::response::{self, Asked, ResponseHead};
use sluicegate_l7::http1::{Body, Fields, Framing, Limits};

use super::super::flow::Asker;
use super::super::office::Office;
use super::super::session::Peers;
use super::super::upstream::{Patience, Upstream};
use crate::registry::PoolId;
use crate::runtime::driver::Driver;
use crate::runtime::tasks::Inbox;
use crate::runtime::time::Time;

/// Bytes of an answer's body: it says who somebody is, or why not.
pub(super) const BODY_BYTES_MAX: usize = 64 << 10;

/// What a service said.
pub(super) struct Reply {
    pub status: u16,
    /// The head as received, in which `fields` are.
    pub head: Vec<u8>,
    pub fields: Fields,
    pub body: Vec<u8>,
}

/// Nobody answered, or not in time, or nothing that could be read.
pub(super) struct NoAnswer;

/// Sends `request`, a whole HTTP/1.1 request, to a server of the pool.
///
/// # Errors
/// When no answer came before `until`.
pub(super) async fn ask<D: Driver>(
    office: &Rc<Office<D>>,
    pool: usize,
    request: &[u8],
    until: Time,
) -> Result<Reply, NoAnswer> {
    let (shell, pool) = (Rc::clone(office.shell()), PoolId(pool as u16));
    let peers = Peers { source: None, local: None, tls: None, admission: None };
    let timeouts = {
        let plan = office.pool_plan(pool);
        plan.timeouts.over(plan.defaults)
    };
    let patience = Patience { connect: until, handshake: timeouts.handshake, whole: until };
    let mut fresh = false;
    loop {
        let place = office.reserve(pool, Asker::default(), &[]).map_err(|_| NoAnswer)?;
        let reached = office.reach(pool, place, fresh, &peers, patience).await;
        let mut upstream = reached.map_err(|_| NoAnswer)?;
        let reused = upstream.reused;
        let state = Arc::clone(&upstream.place.state);
        let answer = {
            let asking = pin!(exchange(&mut upstream, office, request));
            shell.timeout(until, asking).await
        };
        match answer {
            Ok(Ok((reply, whole))) => {
                office.count_attempt(&state, reply.status >= 500);
                if whole {
                    office.keep(pool, upstream);
                }
                return Ok(reply);
            }
            // It had been closed while it waited.
            Ok(Err(NoAnswer)) if reused => fresh = true,
            Ok(Err(NoAnswer)) | Err(_) => {
                office.count_attempt(&state, true);
                return Err(NoAnswer);
            }
        }
    }
}

/// The answer, and whether the connection can be used again.
async fn exchange<D: Driver>(
    upstream: &mut Upstream<D>,
    office: &Rc<Office<D>>,
    request: &[u8],
) -> Result<(Reply, bool), NoAnswer> {
    let limits = Limits::default().of_answers();
    upstream.stream.send(request).await.map_err(|_| NoAnswer)?;
    let mut inbox = Inbox::default();
    let mut fields = Fields::new();
    let result = read(upstream, &limits, &mut inbox, &mut fields).await;
    let clean = inbox.is_empty();
    office.shell().rest(&mut inbox);
    let (head, bytes, body) = result?;
    let reusable = clean && head.keep_alive && head.framing != Framing::UntilClose;
    Ok((Reply { status: head.status, head: bytes, fields, body }, reusable))
}

async fn read<D: Driver>(
    upstream: &mut Upstream<D>,
    limits: &Limits,
    inbox: &mut Inbox,
    fields: &mut Fields,
) -> Result<(ResponseHead, Vec<u8>, Vec<u8>), NoAnswer> {
    let head = loop {
        let parsed = response::parse(inbox.bytes(), limits, Asked::default(), fields);
        match parsed {
            Ok(Some(head)) if head.is_interim() => inbox.consume(head.len),
            Ok(Some(head)) => break head,
            Ok(None) => more(upstream, inbox).await?,
            Err(_) if inbox.is_empty() => more(upstream, inbox).await?,
            Err(_) => return Err(NoAnswer),
        }
    };
    let bytes = inbox.bytes()[..head.len].to_vec();
    inbox.consume(head.len);
    let mut decoder = Body::new(head.framing, limits);
    let mut body = Vec::new();
    while !decoder.is_done() {
        let piece = decoder.next(inbox.bytes()).map_err(|_| NoAnswer)?;
        if body.len() + piece.payload.len() > BODY_BYTES_MAX {
            return Err(NoAnswer);
        }
        body.extend_from_slice(&inbox.bytes()[piece.payload.clone()]);
        inbox.consume(piece.consumed);
        if piece.end {
            break;
        }
        if piece.consumed == 0 && more(upstream, inbox).await.is_err() {
            decoder.close().map_err(|_| NoAnswer)?;
            break;
        }
    }
    Ok((head, bytes, body))
}

async fn more<D: Driver>(upstream: &mut Upstream<D>, inbox: &mut Inbox) -> Result<(), NoAnswer> {
    match upstream.stream.recv(inbox).await {
        Ok(1..) => Ok(()),
        _ => Err(NoAnswer),
    }
}
