//! The keys that tokens are verified with: a JSON Web Key Set (RFC 7517) or a shared secret.
//!
//! One bad key does not take the good ones with it: it is left out and remarked upon. Refused
//! are keys that say they are for something else, RSA keys that are too weak or so large that
//! verifying is an attack on us, points off their curve, and symmetric keys: what a public
//! document says is no secret. Of a private key only the public half is read.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::algorithm::{Algorithm, Family, Verifier};
use super::json;

/// The largest document. Real ones have a few kilobytes.
pub const JWKS_BYTES_MAX: usize = 1024 * 1024;

/// Keys in one set; past it somebody publishes something else.
pub const KEYS_MAX: usize = 128;

/// Keys that one token is tried with: bounds what a request without `kid` may cost.
pub const TRIES_MAX: usize = 16;

/// RSA moduli in bits: below can be factored, above is slow to verify.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// RSA exponents in bytes. Everybody has 65537; the time to verify grows with the exponent.
const RSA_EXPONENT_BYTES_MAX: usize = 4;

/// What is shown of a `kid` in words to the operator.
const KID_CHARS_SHOWN: usize = 64;

/// Keys ready to verify with. Never empty.
pub struct KeySet {
    keys: Vec<Key>,
    /// One shared secret: no other key can be meant, whatever a token calls it.
    shared: bool,
    remarks: Vec<Remark>,
}

struct Key {
    id: Option<String>,
    verifiers: Vec<(Algorithm, Verifier)>,
}

impl fmt::Debug for KeySet {
    /// Numbers only: a shared secret must not get into a dump.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = out.debug_struct("KeySet");
        shown
            .field("keys", &self.keys.len())
            .field("remarks", &self.remarks)
            .finish_non_exhaustive()
    }
}

/// Something the operator should know about one key of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// Which key, from 0.
    pub index: usize,
    /// The beginning of its `kid`, escaped.
    pub id: Option<String>,
    pub what: &'static str,
}

impl fmt::Display for Remark {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "key {}", self.index + 1)?;
        if let Some(id) = &self.id {
            write!(out, " (kid \"{id}\")")?;
        }
        write!(out, ": {}", self.what)
    }
}

/// Why a document gives no keys. The keys in use stay in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JwksError {
    TooLarge,
    /// Not JSON, or an object that says a thing twice.
    NotJson,
    /// JSON without a list `keys`.
    NoList,
    TooMany,
    /// The list is empty, or each key in it was left out.
    NoKey(Vec<Remark>),
}

impl fmt::Display for JwksError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge => write!(out, "larger than {} KiB", JWKS_BYTES_MAX / 1024),
            Self::NotJson => out.write_str("not a JSON document, or one with a name given twice"),
            Self::NoList => out.write_str("no list \"keys\" in it; is this a JSON Web Key Set?"),
            Self::TooMany => write!(out, "more than {KEYS_MAX} keys"),
            Self::NoKey(remarks) => {
                out.write_str("no key in it can be used")?;
                for (at, remark) in remarks.iter().enumerate() {
                    write!(out, "{}{remark}", if at == 0 { ": " } else { "; " })?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for JwksError {}

/// A secret that can be guessed from one token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeakSecret;

impl fmt::Display for WeakSecret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let min = Algorithm::Hs256.secret_bytes_min();
        write!(out, "a secret for HS256 has at least {min} bytes (48 for HS384, 64 for HS512)")
    }
}

impl std::error::Error for WeakSecret {}

impl KeySet {
    /// Reads a JSON Web Key Set.
    ///
    /// # Errors
    ///
    /// The document is none, or no key in it can be used.
    pub fn parse_jwks(document: &[u8]) -> Result<Self, JwksError> {
        if document.len() > JWKS_BYTES_MAX {
            return Err(JwksError::TooLarge);
        }
        let mut members = json::parse_object(document).ok_or(JwksError::NotJson)?;
        let Some(Value::Array(list)) = members.remove("keys") else {
            return Err(JwksError::NoList);
        };
        if list.len() > KEYS_MAX {
            return Err(JwksError::TooMany);
        }
        let (mut keys, mut remarks) = (Vec::new(), Vec::new());
        for (index, entry) in list.iter().enumerate() {
            let shown = |id: &str| id.chars().take(KID_CHARS_SHOWN).collect::<String>();
            let id = entry.get("kid").and_then(Value::as_str);
            let id = id.map(|id| shown(id).escape_debug().to_string());
            let mut remark = |what| remarks.push(Remark { index, id: id.clone(), what });
            match entry.as_object().ok_or("not an object").and_then(read_key) {
                Ok(key) => {
                    if entry.get("d").is_some() {
                        remark("published with its private half: anybody can sign, replace it");
                    }
                    keys.push(key);
                }
                Err(why) => remark(why),
            }
        }
        if keys.is_empty() {
            return Err(JwksError::NoKey(remarks));
        }
        Ok(Self { keys, shared: false, remarks })
    }

    /// One shared secret, for the HMAC algorithms it is long enough for.
    ///
    /// # Errors
    ///
    /// It is too short for all of them.
    pub fn of_secret(secret: &[u8]) -> Result<Self, WeakSecret> {
        let algorithms = Algorithm::ALL.into_iter().map(|(_, algorithm)| algorithm);
        let ready = |algorithm| Some((algorithm, Verifier::secret(algorithm, secret)?));
        let verifiers: Vec<_> = algorithms.filter_map(ready).collect();
        if verifiers.is_empty() {
            return Err(WeakSecret);
        }
        Ok(Self { keys: vec![Key { id: None, verifiers }], shared: true, remarks: Vec::new() })
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// What was odd about the document, in its order.
    #[must_use]
    pub fn remarks(&self) -> &[Remark] {
        &self.remarks
    }

    /// Whether a key can verify `algorithm`. To tell the operator that none ever will.
    #[must_use]
    pub fn serves(&self, algorithm: Algorithm) -> bool {
        self.keys.iter().any(|key| key.verifier(algorithm).is_some())
    }

    /// The keys that a token may have been signed with.
    pub(super) fn candidates(&self, algorithm: Algorithm, id: Option<&str>) -> Candidates<'_> {
        let named = |key: &Key| id.is_some() && key.id.as_deref() == id;
        let by_id = self.keys.iter().any(named);
        // A key without an id may be the one that any id means: so a secret has none.
        let fits = |key: &&Key| match id {
            Some(_) if by_id => named(key),
            Some(_) => key.id.is_none(),
            None => true,
        };
        let verifiers = self.keys.iter().filter(fits);
        let verifiers = verifiers.filter_map(|key| key.verifier(algorithm));
        Candidates {
            verifiers: verifiers.take(TRIES_MAX).collect(),
            surely_meant: by_id || self.shared,
        }
    }
}

pub(super) struct Candidates<'k> {
    pub verifiers: Vec<&'k Verifier>,
    /// The token means one of these, whether they fit its algorithm or not: no newer set would
    /// help.
    pub surely_meant: bool,
}

impl Key {
    fn verifier(&self, algorithm: Algorithm) -> Option<&Verifier> {
        self.verifiers.iter().find(|(own, _)| *own == algorithm).map(|(_, verifier)| verifier)
    }
}

fn read_key(key: &Map<String, Value>) -> Result<Key, &'static str> {
    let id = text(key, "kid", "its kid is not a string")?;
    let kind = text(key, "kty", "its kty is not a string")?.ok_or("it has no kty")?;
    check_purpose(key)?;
    let asked = text(key, "alg", "its alg is not a string")?.map(Algorithm::parse);
    let algorithms: Vec<Algorithm> = match asked {
        Some(None) => return Err("its alg is none that tokens are verified with"),
        Some(Some(algorithm)) => vec![algorithm],
        None => Algorithm::ALL.into_iter().map(|(_, algorithm)| algorithm).collect(),
    };
    let verifiers = match kind {
        "RSA" => read_rsa(key, &algorithms)?,
        "EC" => read_ec(key, &algorithms)?,
        "OKP" => read_okp(key, &algorithms)?,
        "oct" => return Err("symmetric, which a published key must not be; use `secret`"),
        _ => return Err("its kty is none of RSA, EC and OKP"),
    };
    if verifiers.is_empty() {
        return Err("its alg does not fit its kty or curve");
    }
    Ok(Key { id: id.map(str::to_owned), verifiers })
}

/// RFC 7517 §4.2 and §4.3.
fn check_purpose(key: &Map<String, Value>) -> Result<(), &'static str> {
    if text(key, "use", "its use is not a string")?.is_some_and(|purpose| purpose != "sig") {
        return Err("it is not for signatures (use)");
    }
    let allowed = match key.get("key_ops") {
        None => true,
        Some(Value::Array(items)) => items.iter().any(|item| item == "verify"),
        Some(_) => return Err("its key_ops is not a list"),
    };
    if allowed { Ok(()) } else { Err("it is not for verifying (key_ops)") }
}

type Verifiers = Vec<(Algorithm, Verifier)>;

fn read_rsa(key: &Map<String, Value>, algorithms: &[Algorithm]) -> Result<Verifiers, &'static str> {
    let modulus = number(key, "n", "its n is not a number in base64url")?;
    let exponent = number(key, "e", "its e is not a number in base64url")?;
    let zeros = modulus.first().map_or(0, |first| first.leading_zeros() as usize);
    if modulus.len() * 8 - zeros < *RSA_BITS.start() {
        return Err("RSA with less than 2048 bits is too weak");
    }
    if modulus.len() * 8 - zeros > *RSA_BITS.end() {
        return Err("RSA with more than 8192 bits takes too long to verify");
    }
    let odd = |number: &[u8]| number.last().is_some_and(|last| last % 2 == 1);
    if exponent.len() > RSA_EXPONENT_BYTES_MAX {
        return Err("an RSA exponent of more than 32 bits takes too long to verify");
    }
    if !odd(&modulus) || !odd(&exponent) || *exponent == [1] {
        return Err("its numbers are no RSA key");
    }
    collect(algorithms, Family::Rsa, |algorithm| Verifier::rsa(algorithm, &modulus, &exponent))
}

fn read_ec(key: &Map<String, Value>, algorithms: &[Algorithm]) -> Result<Verifiers, &'static str> {
    let curve = text(key, "crv", "its crv is not a string")?.ok_or("it has no crv")?;
    let (curve, len) = match curve {
        "P-256" => ("P-256", 32),
        "P-384" => ("P-384", 48),
        "P-521" => ("P-521", 66),
        _ => return Err("its curve is none of P-256, P-384 and P-521"),
    };
    let x = bytes(key, "x", "its x is not base64url")?;
    let y = bytes(key, "y", "its y is not base64url")?;
    // RFC 7518 §6.2.1.2: the full length, zeros and all.
    if x.len() != len || y.len() != len {
        return Err("its point does not have the length of its curve");
    }
    collect(algorithms, Family::Ec(curve), |algorithm| Verifier::ec(algorithm, &x, &y))
}

fn read_okp(key: &Map<String, Value>, algorithms: &[Algorithm]) -> Result<Verifiers, &'static str> {
    if text(key, "crv", "its crv is not a string")? != Some("Ed25519") {
        return Err("its curve is not Ed25519");
    }
    let x = bytes(key, "x", "its x is not base64url")?;
    collect(algorithms, Family::Ed25519, |_| Verifier::ed25519(&x))
}

/// The key for each of its algorithms that take such keys.
fn collect(
    algorithms: &[Algorithm],
    family: Family,
    verifier: impl Fn(Algorithm) -> Option<Verifier>,
) -> Result<Verifiers, &'static str> {
    let fitting = algorithms.iter().filter(|algorithm| algorithm.family() == family);
    let verifiers = fitting.map(|&algorithm| Some((algorithm, verifier(algorithm)?)));
    verifiers.collect::<Option<_>>().ok_or("its numbers are no public key")
}

fn text<'k>(
    key: &'k Map<String, Value>,
    name: &str,
    wrong: &'static str,
) -> Result<Option<&'k str>, &'static str> {
    match key.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(wrong),
    }
}

fn bytes(
    key: &Map<String, Value>,
    name: &str,
    wrong: &'static str,
) -> Result<Vec<u8>, &'static str> {
    let encoded = text(key, name, wrong)?.ok_or(wrong)?;
    URL_SAFE_NO_PAD.decode(encoded).map_err(|_| wrong)
}

/// Big-endian. Some publishers put a zero in front, as if the number had a sign.
fn number(
    key: &Map<String, Value>,
    name: &str,
    wrong: &'static str,
) -> Result<Vec<u8>, &'static str> {
    let bytes = bytes(key, name, wrong)?;
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    if zeros == bytes.len() { Err(wrong) } else { Ok(bytes[zeros..].to_vec()) }
}
