//! The signature algorithms of tokens (RFC 7518 §3.1, RFC 8037 §3.1), and keys made ready for
//! them.
//!
//! A key is bound to its algorithms when it is read, never when a token asks: no header can make
//! an RSA key serve as the secret of an HMAC. `none` is not in the table, in any spelling.

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{
    self, EcdsaVerificationAlgorithm, ParsedPublicKey, RsaParameters, RsaPublicKeyComponents,
};

/// How a token is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
    EdDsa,
    Hs256,
    Hs384,
    Hs512,
}

/// What keys an algorithm takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Rsa,
    /// The curve's name in a key.
    Ec(&'static str),
    Ed25519,
    Secret,
}

impl Algorithm {
    /// All of them by name, in the order of the documentation.
    pub const ALL: [(&'static str, Self); 13] = [
        ("RS256", Self::Rs256),
        ("RS384", Self::Rs384),
        ("RS512", Self::Rs512),
        ("PS256", Self::Ps256),
        ("PS384", Self::Ps384),
        ("PS512", Self::Ps512),
        ("ES256", Self::Es256),
        ("ES384", Self::Es384),
        ("ES512", Self::Es512),
        ("EdDSA", Self::EdDsa),
        ("HS256", Self::Hs256),
        ("HS384", Self::Hs384),
        ("HS512", Self::Hs512),
    ];

    /// By its name in a header or in the configuration; names are case-sensitive.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| *algorithm)
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].0
    }

    #[must_use]
    pub const fn family(self) -> Family {
        match self {
            Self::Rs256 | Self::Rs384 | Self::Rs512 | Self::Ps256 | Self::Ps384 | Self::Ps512 => {
                Family::Rsa
            }
            Self::Es256 => Family::Ec("P-256"),
            Self::Es384 => Family::Ec("P-384"),
            Self::Es512 => Family::Ec("P-521"),
            Self::EdDsa => Family::Ed25519,
            Self::Hs256 | Self::Hs384 | Self::Hs512 => Family::Secret,
        }
    }

    /// The shortest secret, in bytes: as long as the hash (RFC 7518 §3.2). A shorter one can be
    /// guessed from a single token.
    #[must_use]
    pub const fn secret_bytes_min(self) -> usize {
        match self {
            Self::Hs384 => 48,
            Self::Hs512 => 64,
            _ => 32,
        }
    }

    /// PSS has a salt as long as the hash, and no other (RFC 7518 §3.5).
    const fn rsa(self) -> Option<&'static RsaParameters> {
        Some(match self {
            Self::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            Self::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
            Self::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
            Self::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
            Self::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
            Self::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
            _ => return None,
        })
    }

    /// The fixed form, two numbers of the curve's length (RFC 7518 §3.4), never ASN.1.
    const fn ec(self) -> Option<&'static EcdsaVerificationAlgorithm> {
        Some(match self {
            Self::Es256 => &signature::ECDSA_P256_SHA256_FIXED,
            Self::Es384 => &signature::ECDSA_P384_SHA384_FIXED,
            Self::Es512 => &signature::ECDSA_P521_SHA512_FIXED,
            _ => return None,
        })
    }
}

/// A key made ready for one algorithm.
pub(super) enum Verifier {
    Public(ParsedPublicKey),
    /// In a box: its two half-done hashes are 1.2 KiB.
    Secret(Box<hmac::Key>),
}

impl Verifier {
    /// `None` if the numbers are no key, or `algorithm` is none of RSA. Big-endian, without
    /// leading zeros.
    pub fn rsa(algorithm: Algorithm, modulus: &[u8], exponent: &[u8]) -> Option<Self> {
        let numbers = RsaPublicKeyComponents { n: modulus, e: exponent };
        numbers.to_parsed_public_key(algorithm.rsa()?).ok().map(Self::Public)
    }

    /// `None` if the point is not on the curve of `algorithm`.
    pub fn ec(algorithm: Algorithm, x: &[u8], y: &[u8]) -> Option<Self> {
        let point = [&[4], x, y].concat();
        ParsedPublicKey::new(algorithm.ec()?, point).ok().map(Self::Public)
    }

    pub fn ed25519(key: &[u8]) -> Option<Self> {
        // Other lengths would be read as another encoding.
        let key = (key.len() == 32).then_some(key)?;
        ParsedPublicKey::new(&signature::ED25519, key).ok().map(Self::Public)
    }

    /// `None` if the secret is too short for `algorithm`, or that takes none.
    pub fn secret(algorithm: Algorithm, secret: &[u8]) -> Option<Self> {
        let hash = match algorithm {
            Algorithm::Hs256 => hmac::HMAC_SHA256,
            Algorithm::Hs384 => hmac::HMAC_SHA384,
            Algorithm::Hs512 => hmac::HMAC_SHA512,
            _ => return None,
        };
        let long_enough = secret.len() >= algorithm.secret_bytes_min();
        long_enough.then(|| Self::Secret(Box::new(hmac::Key::new(hash, secret))))
    }

    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Public(key) => key.verify_sig(message, signature).is_ok(),
            // In constant time, and of the hash's full length.
            Self::Secret(key) => hmac::verify(key, message, signature).is_ok(),
        }
    }
}

#[cfg(test)]
mod tests;
