//! Who may ask: declared consumers with their keys and passwords, and who a request was found to
//! come from.
//!
//! A key is looked up by its SHA-256, so that how long a search takes says nothing about a key;
//! what is found is compared once more in constant time. Passwords are slow hashes, which the
//! shell works out beside its workers.

use std::collections::HashMap;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest;

use super::claims::Claims;

/// SHA-256 of a key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyHash([u8; 32]);

impl std::fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyHash(…)")
    }
}

impl KeyHash {
    #[must_use]
    pub fn of(key: &[u8]) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, key).as_ref());
        Self(hash)
    }

    /// From `sha256:` and 64 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("sha256:").filter(|digits| digits.len() == 64)?;
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(digits.as_bytes().chunks(2)) {
            let nibble = |digit: u8| char::from(digit).to_digit(16);
            *byte = (nibble(pair[0])? << 4 | nibble(pair[1])?) as u8;
        }
        Some(Self(hash))
    }

    /// As a configuration has it.
    #[must_use]
    pub fn text(&self) -> String {
        use std::fmt::Write as _;
        let mut text = String::from("sha256:");
        for byte in self.0 {
            let _ = write!(text, "{byte:02x}");
        }
        text
    }
}

/// A slow hash of a password, by argon2 or bcrypt.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(String);

impl std::fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PasswordHash(…)")
    }
}

impl PasswordHash {
    /// From the PHC string of argon2 or the modular crypt string of bcrypt.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let good = if text.starts_with("$argon2") {
            argon2::PasswordHash::new(text).is_ok_and(|hash| hash.hash.is_some())
        } else {
            text.parse::<bcrypt::HashParts>().is_ok()
        };
        good.then(|| Self(text.to_owned()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is of this password. Takes tens of milliseconds, as it should.
    #[must_use]
    pub fn verify(&self, password: &[u8]) -> bool {
        use argon2::PasswordVerifier as _;
        if self.0.starts_with("$argon2") {
            return argon2::PasswordHash::new(&self.0).is_ok_and(|hash| {
                argon2::Argon2::default().verify_password(password, &hash).is_ok()
            });
        }
        bcrypt::verify(password, &self.0).unwrap_or(false)
    }
}

/// One key of a consumer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KeySpec {
    pub hash: KeyHash,
    /// Seconds since 1970; from then on it is a bad one.
    pub expires: Option<i64>,
}

/// One `[consumer.NAME]`.
#[derive(Clone, Debug, PartialEq)]
pub struct ConsumerSpec {
    pub name: String,
    pub keys: Vec<KeySpec>,
    pub groups: Vec<String>,
    pub basic: Option<PasswordHash>,
    pub enabled: bool,
}

/// Who a request comes from.
#[derive(Clone, Debug)]
pub struct Principal {
    /// What servers get as `X-Consumer-Id`.
    pub id: String,
    pub groups: Vec<String>,
    /// The number of the declared consumer, if it is one.
    pub declared: Option<u32>,
    pub claims: Option<Claims>,
    /// Lines for the servers, each with its CRLF: claims, what an auth service said.
    pub lines: Vec<u8>,
}

impl Principal {
    #[must_use]
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }
}

/// Ids travel in header fields: 1 to 256 visible ASCII characters.
#[must_use]
pub fn is_id(text: &str) -> bool {
    (1..=256).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Whether this can be a group: `X-Consumer-Groups` is a list, and a name with a comma would be two
/// groups there.
#[must_use]
pub fn is_group(text: &str) -> bool {
    is_id(text) && !text.contains(',')
}

/// The declared consumers.
#[derive(Debug, Default)]
pub struct Consumers {
    specs: Vec<ConsumerSpec>,
    by_key: HashMap<KeyHash, (u32, u32)>,
    by_name: HashMap<String, u32>,
    /// By consumer, made once.
    principals: Vec<Arc<Principal>>,
}

impl Consumers {
    /// `number` says what stands for a name in [`Principal::declared`].
    #[must_use]
    pub fn new(specs: Vec<ConsumerSpec>, mut number: impl FnMut(&str) -> u32) -> Self {
        let mut consumers = Self::default();
        for (at, spec) in specs.iter().enumerate() {
            let at = at as u32;
            for (key, hash) in spec.keys.iter().enumerate() {
                consumers.by_key.insert(hash.hash, (at, key as u32));
            }
            consumers.by_name.insert(spec.name.clone(), at);
            consumers.principals.push(Arc::new(Principal {
                id: spec.name.clone(),
                groups: spec.groups.clone(),
                declared: Some(number(&spec.name)),
                claims: None,
                lines: Vec::new(),
            }));
        }
        consumers.specs = specs;
        consumers
    }

    /// Whose key it is; `now` in seconds since 1970.
    #[must_use]
    pub fn by_key(&self, key: &[u8], now: i64) -> Option<Arc<Principal>> {
        let hash = KeyHash::of(key);
        let &(at, key) = self.by_key.get(&hash)?;
        let spec = &self.specs[at as usize];
        let known = &spec.keys[key as usize];
        let same = verify_slices_are_equal(&known.hash.0, &hash.0).is_ok();
        let valid = spec.enabled && known.expires.is_none_or(|expires| now < expires);
        (same && valid).then(|| Arc::clone(&self.principals[at as usize]))
    }

    /// The declared consumer of that name, if it is enabled.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<Arc<Principal>> {
        let &at = self.by_name.get(name)?;
        self.specs[at as usize].enabled.then(|| Arc::clone(&self.principals[at as usize]))
    }

    /// Whether a consumer of that name is declared and switched off.
    #[must_use]
    pub fn is_disabled(&self, name: &str) -> bool {
        self.by_name.get(name).is_some_and(|&at| !self.specs[at as usize].enabled)
    }

    /// The hash that the name's password must have.
    #[must_use]
    pub fn password(&self, name: &str) -> Option<&PasswordHash> {
        let &at = self.by_name.get(name)?;
        let spec = &self.specs[at as usize];
        spec.basic.as_ref().filter(|_| spec.enabled)
    }

    /// Any hash that is declared: what an unknown name is compared with, so that it takes as
    /// long as a known one.
    #[must_use]
    pub fn any_password(&self) -> Option<&PasswordHash> {
        self.specs.iter().find_map(|spec| spec.basic.as_ref())
    }

    #[must_use]
    pub fn specs(&self) -> &[ConsumerSpec] {
        &self.specs
    }

    #[must_use]
    pub fn name(&self, at: u32) -> &str {
        &self.specs[at as usize].name
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.specs.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.specs.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alice() -> Consumers {
        let spec = ConsumerSpec {
            name: "alice".to_owned(),
            keys: vec![
                KeySpec { hash: KeyHash::of(b"k-0123456789abcdef"), expires: None },
                KeySpec { hash: KeyHash::of(b"k-old"), expires: Some(1_000) },
            ],
            groups: vec!["gold".to_owned()],
            basic: None,
            enabled: true,
        };
        Consumers::new(vec![spec], |_| 0)
    }

    #[test]
    fn only_the_very_key_is_a_key() {
        let consumers = alice();
        assert_eq!(consumers.by_key(b"k-0123456789abcdef", 0).unwrap().id, "alice");
        for bad in [&b""[..], b"k-0123456789abcde", b"k-0123456789abcdef0", b"K-0123456789ABCDEF"] {
            assert!(consumers.by_key(bad, 0).is_none());
        }
    }

    #[test]
    fn a_key_is_good_until_the_second_it_expires_in() {
        let consumers = alice();
        assert!(consumers.by_key(b"k-old", 999).is_some());
        assert!(consumers.by_key(b"k-old", 1_000).is_none());
    }

    #[test]
    fn a_hash_reads_back_as_it_was_written_and_is_never_shown() {
        let hash = KeyHash::of(b"secret");
        assert_eq!(KeyHash::parse(&hash.text()), Some(hash));
        for bad in ["sha256:", "sha256:zz", &hash.text()[..70], &format!("{}0", hash.text())] {
            assert_eq!(KeyHash::parse(bad), None);
        }
        assert!(!format!("{hash:?}").contains(&hash.text()[8..]));
    }

    #[test]
    fn passwords_are_compared_with_either_kind_of_hash() {
        // bcrypt of "open sesame" with the least cost; argon2 of the same.
        let bcrypt = bcrypt::hash_with_salt("open sesame", 4, [7; 16]).unwrap().to_string();
        let hash = PasswordHash::parse(&bcrypt).unwrap();
        assert!(hash.verify(b"open sesame"));
        assert!(!hash.verify(b"Open sesame"));
        assert!(!format!("{hash:?}").contains("$2"));
        use argon2::PasswordHasher as _;
        let salt = argon2::password_hash::SaltString::encode_b64(&[9; 16]).unwrap();
        let params = argon2::Params::new(64, 1, 1, None).unwrap();
        let slow = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
        let argon = slow.hash_password(b"open sesame", &salt).unwrap().to_string();
        let hash = PasswordHash::parse(&argon).unwrap();
        assert!(hash.verify(b"open sesame") && !hash.verify(b""));
        for bad in ["", "open sesame", "$argon2id$", "$2b$", "$1$abc"] {
            assert!(PasswordHash::parse(bad).is_none(), "{bad}");
        }
    }
}
