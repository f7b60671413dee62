//! The signed envelope of a token: JWS in its compact form (RFC 7515 §7.1).
//!
//! Parsed here and not by a JWT library, over `aws-lc-rs`, which TLS uses anyway. What is wrong
//! with tokens in practice lies around the signature: a header member given twice, bits left over
//! in base64url, `crit`, an `alg` that is a list. Such libraries read headers through a derived
//! struct and leave no say in that.
//!
//! The header can choose among our keys, and nothing else: no key and no address in it is ever
//! used (`jwk`, `jku`, `x5c`, `x5u`; RFC 8725 §3.10).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::algorithm::Algorithm;
use super::json;
use super::jwks::{Candidates, KeySet};
use super::jwt::Refusal;

/// Returns the payload of a token whose signature is right.
///
/// # Errors
///
/// It is malformed, or signed with none of the keys in one of the `allowed` ways.
pub(super) fn open(allowed: &[Algorithm], keys: &KeySet, token: &[u8]) -> Result<Vec<u8>, Refusal> {
    let envelope = Envelope::parse(token)?;
    let header = json::parse_object(&decode(envelope.header)?);
    let header = Header::read(&header.ok_or(Refusal::Malformed("its header is not JSON"))?)?;
    if !allowed.contains(&header.algorithm) {
        return Err(Refusal::Algorithm);
    }
    let signature = decode(envelope.signature)?;
    let candidates = keys.candidates(header.algorithm, header.key_id.as_deref());
    if candidates.verifiers.iter().any(|key| key.verifies(envelope.signed, &signature)) {
        return decode(envelope.payload);
    }
    Err(match candidates {
        Candidates { surely_meant: false, .. } => Refusal::UnknownKey,
        Candidates { verifiers, .. } if verifiers.is_empty() => Refusal::Algorithm,
        Candidates { .. } => Refusal::Signature,
    })
}

/// The three parts, still encoded.
struct Envelope<'t> {
    header: &'t [u8],
    payload: &'t [u8],
    signature: &'t [u8],
    /// What the signature is over: header, dot, payload.
    signed: &'t [u8],
}

impl<'t> Envelope<'t> {
    fn parse(token: &'t [u8]) -> Result<Self, Refusal> {
        let mut dots = memchr::memchr_iter(b'.', token);
        match (dots.next(), dots.next(), dots.next()) {
            (Some(first), Some(second), None) => Ok(Self {
                header: &token[..first],
                payload: &token[first + 1..second],
                signature: &token[second + 1..],
                signed: &token[..second],
            }),
            // RFC 7516 §3.1 has five.
            (_, _, Some(_)) => Err(Refusal::Malformed("more than three parts; is it encrypted?")),
            _ => Err(Refusal::Malformed("not three parts")),
        }
    }
}

/// Base64url without padding, line breaks or left-over bits (RFC 7515 §2): one text for one
/// value, so that a token has no second spelling.
fn decode(part: &[u8]) -> Result<Vec<u8>, Refusal> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| Refusal::Malformed("not base64url"))
}

struct Header {
    algorithm: Algorithm,
    key_id: Option<String>,
}

impl Header {
    fn read(members: &Map<String, Value>) -> Result<Self, Refusal> {
        // RFC 7515 §4.1.11: extensions that must be understood, and none is. `b64` without
        // `crit` would be one by stealth (RFC 7797 §6).
        if members.contains_key("crit") || members.get("b64").is_some_and(|value| value != true) {
            return Err(Refusal::Malformed("its header asks for an extension"));
        }
        let text = |name: &str, wrong| match members.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err(Refusal::Malformed(wrong)),
        };
        text("typ", "its typ is not a string")?;
        text("cty", "its cty is not a string")?;
        let key_id = text("kid", "its kid is not a string")?.map(str::to_owned);
        let algorithm = text("alg", "its alg is not a string")?;
        let algorithm = algorithm.ok_or(Refusal::Malformed("its header has no alg"))?;
        let algorithm = Algorithm::parse(algorithm).ok_or(Refusal::Algorithm)?;
        Ok(Self { algorithm, key_id })
    }
}
