//! Tokens made here, each with one thing wrong. The recorded ones are in `tests/`.

use std::sync::LazyLock;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::policy::claims::Selector;

const NOW: UnixTime = UnixTime::seconds(1_000);
const SECRET: &[u8; 64] = b"a secret for tests, as long as the longest hash asks for: 64 oct";

static PAIR: LazyLock<EcdsaKeyPair> =
    LazyLock::new(|| EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key pair"));

/// The public half of [`PAIR`], with members changed or, by null, taken away.
fn jwk(changes: Value) -> Value {
    let point = PAIR.public_key().as_ref();
    let (x, y) = point[1..].split_at(32);
    let mut key = json!({"kty": "EC", "crv": "P-256", "kid": "k1", "x": encode(x), "y": encode(y)});
    let Value::Object(changes) = changes else { panic!("an object of changes") };
    let members = key.as_object_mut().expect("an object");
    for (name, value) in changes {
        match value {
            Value::Null => members.remove(&name),
            value => members.insert(name, value),
        };
    }
    key
}

fn set(keys: &[Value]) -> KeySet {
    KeySet::parse_jwks(json!({ "keys": keys }).to_string().as_bytes()).expect("keys")
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn signed(header: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) -> String {
    let message = format!("{}.{}", encode(header), encode(payload));
    let signature = PAIR.sign(&SystemRandom::new(), message.as_bytes()).expect("a signature");
    format!("{message}.{}", encode(signature))
}

fn tagged(header: &Value, payload: &Value) -> String {
    let message = format!("{}.{}", encode(header.to_string()), encode(payload.to_string()));
    let hash = match header["alg"].as_str() {
        Some("HS384") => hmac::HMAC_SHA384,
        Some("HS512") => hmac::HMAC_SHA512,
        _ => hmac::HMAC_SHA256,
    };
    let tag = hmac::sign(&hmac::Key::new(hash, SECRET), message.as_bytes());
    format!("{message}.{}", encode(tag))
}

fn spec(algorithms: &[Algorithm]) -> JwtSpec {
    JwtSpec { algorithms: algorithms.to_vec(), ..JwtSpec::default() }
}

fn judge(keys: &KeySet, token: &str) -> Result<Claims, Refusal> {
    let all = Algorithm::ALL.map(|(_, algorithm)| algorithm);
    verify(&spec(&all), keys, token.as_bytes(), NOW)
}

#[test]
fn a_good_token_gives_its_claims() {
    let token = signed(r#"{"alg":"ES256","kid":"k1"}"#, r#"{"sub":"u1","exp":2000}"#);
    let claims = judge(&set(&[jwk(json!({}))]), &token).expect("good");
    assert_eq!(claims.text(&Selector::parse("sub").expect("a name")).as_deref(), Some("u1"));
    assert_eq!(claims.expires_at(), Some(UnixTime::seconds(2_000)));
}

#[test]
fn nothing_is_accepted_that_the_policy_does_not_list() {
    let keys = set(&[jwk(json!({}))]);
    let token = signed(r#"{"alg":"ES256","kid":"k1"}"#, "{}");
    for algorithms in [&[][..], &[Algorithm::Rs256], &[Algorithm::Es384, Algorithm::Hs256]] {
        let verdict = verify(&spec(algorithms), &keys, token.as_bytes(), NOW);
        assert_eq!(verdict, Err(Refusal::Algorithm), "{algorithms:?}");
    }
}

#[test]
fn a_header_that_could_be_read_in_two_ways_is_refused() {
    let keys = set(&[jwk(json!({}))]);
    for header in [
        r#"{"alg":"ES256","kid":"k1","kid":"k1"}"#,
        r#"{"alg":"ES256","kid":"k1","x":{"a":1,"a":1}}"#,
        r#"{"alg":"ES256","kid":["k1"]}"#,
        r#"{"alg":"ES256","kid":null}"#,
        r#"{"alg":["ES256"],"kid":"k1"}"#,
        r#"{"kid":"k1"}"#,
        r#"{"alg":"ES256","kid":"k1","crit":[]}"#,
        r#"{"alg":"ES256","kid":"k1","crit":["exp"],"exp":1}"#,
        r#"{"alg":"ES256","kid":"k1","b64":false}"#,
        r#"{"alg":"ES256","kid":"k1","typ":7}"#,
        r#"["ES256"]"#,
        r#""ES256""#,
        "\u{feff}{\"alg\":\"ES256\",\"kid\":\"k1\"}",
        "",
    ] {
        let verdict = judge(&keys, &signed(header, "{}"));
        assert!(matches!(verdict, Err(Refusal::Malformed(_))), "{header}: {verdict:?}");
    }
}

#[test]
fn keys_that_a_token_brings_are_not_used() {
    let own = jwk(json!({}));
    let other = json!({"kty": "OKP", "crv": "Ed25519", "kid": "k1", "x": encode([
        0x3d, 0x40, 0x17, 0xc3, 0xe8, 0x43, 0x89, 0x5a, 0x92, 0xb7, 0x0a, 0xa7, 0x4d, 0x1b, 0x7e,
        0xbc, 0x9c, 0x98, 0x2c, 0xcf, 0x2e, 0xc4, 0x96, 0x8c, 0xc0, 0xcd, 0x55, 0xf1, 0x2a, 0xf4,
        0x66, 0x0c,
    ])});
    let header = json!({"alg": "ES256", "kid": "k1", "jwk": own, "jku": "http://127.0.0.1/"});
    let token = signed(header.to_string(), "{}");
    assert_eq!(judge(&set(&[other]), &token), Err(Refusal::Algorithm));
}

#[test]
fn each_part_has_exactly_one_spelling() {
    let keys = set(&[jwk(json!({}))]);
    let token = signed(r#"{"alg":"ES256","kid":"k1"}"#, r#"{"sub":"u1"}"#);
    assert!(judge(&keys, &token).is_ok());
    let parts: Vec<&str> = token.split('.').collect();
    let (header, payload, signature) = (parts[0], parts[1], parts[2]);
    for other in [
        format!("{token}="),
        format!("{token}=="),
        format!("{header}=.{payload}.{signature}"),
        format!(" {token}"),
        format!("{token} "),
        format!("{token}\n"),
        format!("{header}.{payload}.{signature}."),
        format!("{header}.{payload}.{signature}.{signature}.{signature}"),
        format!("{header}.{payload}."),
        format!("{header}.{payload}"),
        format!("{header}..{signature}"),
        format!(".{payload}.{signature}"),
        "..".into(),
        String::new(),
    ] {
        assert!(judge(&keys, &other).is_err(), "{other:?}");
    }
    // 64 bytes leave four bits in the last character; other values of them are other texts.
    let (last, alphabet) = (signature.as_bytes()[85], "AQgw");
    assert!(alphabet.contains(char::from(last)));
    let twin = format!("{}{}", &token[..token.len() - 1], char::from(last + 1));
    assert!(matches!(judge(&keys, &twin), Err(Refusal::Malformed(_))));
}

#[test]
fn claims_must_be_one_object_even_when_they_are_signed() {
    let keys = set(&[jwk(json!({}))]);
    for payload in ["", "[]", "7", "{}x", r#"{"sub":"a","sub":"b"}"#, "\u{feff}{}"] {
        let verdict = judge(&keys, &signed(r#"{"alg":"ES256","kid":"k1"}"#, payload));
        assert!(matches!(verdict, Err(Refusal::Malformed(_))), "{payload:?}: {verdict:?}");
    }
}

#[test]
fn a_key_is_chosen_by_id_and_then_by_algorithm() {
    let with_id = r#"{"alg":"ES256","kid":"k1"}"#;
    let without_id = r#"{"alg":"ES256"}"#;
    let rsa_name = r#"{"alg":"ES384","kid":"k1"}"#;
    let (named, nameless) = (set(&[jwk(json!({}))]), set(&[jwk(json!({"kid": null}))]));
    let other = set(&[jwk(json!({"kid": "k2"}))]);
    assert!(judge(&named, &signed(with_id, "{}")).is_ok());
    assert!(judge(&named, &signed(without_id, "{}")).is_ok());
    assert!(judge(&nameless, &signed(with_id, "{}")).is_ok());
    assert_eq!(judge(&other, &signed(with_id, "{}")), Err(Refusal::UnknownKey));
    // The key is known; looking for newer keys would not change the verdict.
    assert_eq!(judge(&named, &signed(rsa_name, "{}")), Err(Refusal::Algorithm));
}

#[test]
fn a_key_serves_only_what_it_says_it_is_for() {
    let header = r#"{"alg":"ES256","kid":"k1"}"#;
    for fitting in
        [json!({"alg": "ES256"}), json!({"use": "sig"}), json!({"key_ops": ["sign", "verify"]})]
    {
        assert!(judge(&set(&[jwk(fitting.clone())]), &signed(header, "{}")).is_ok(), "{fitting}");
    }
    for unfit in [
        json!({"alg": "ES384"}),
        json!({"alg": "RS256"}),
        json!({"alg": "HS256"}),
        json!({"alg": "ECDH-ES"}),
        json!({"alg": 7}),
        json!({"use": "enc"}),
        json!({"use": ["sig"]}),
        json!({"key_ops": ["encrypt"]}),
        json!({"key_ops": "verify"}),
        json!({"crv": "P-384"}),
        json!({"crv": "secp256k1"}),
        json!({"kid": 1}),
        json!({"kty": "RSA"}),
        json!({"kty": null}),
        json!({"x": encode([1; 32])}),
        json!({"y": encode([0; 31])}),
        json!({"x": "AA=="}),
    ] {
        let document = json!({"keys": [jwk(unfit.clone())]}).to_string();
        let error = KeySet::parse_jwks(document.as_bytes()).expect_err("no key");
        assert!(matches!(error, super::super::jwks::JwksError::NoKey(_)), "{unfit}: {error}");
    }
}

#[test]
fn one_bad_key_does_not_take_the_good_ones_with_it() {
    let keys = set(&[json!(7), jwk(json!({"use": "enc", "kid": "e\n1"})), jwk(json!({}))]);
    assert_eq!(keys.len(), 1);
    let remarks: Vec<_> = keys.remarks().iter().map(ToString::to_string).collect();
    let expected =
        ["key 1: not an object", "key 2 (kid \"e\\n1\"): it is not for signatures (use)"];
    assert_eq!(remarks, expected);
    assert!(judge(&keys, &signed(r#"{"alg":"ES256","kid":"k1"}"#, "{}")).is_ok());
}

#[test]
fn a_shared_secret_verifies_hmac_and_nothing_else() {
    let keys = KeySet::of_secret(SECRET).expect("long enough");
    for alg in ["HS256", "HS384", "HS512"] {
        assert!(judge(&keys, &tagged(&json!({"alg": alg, "kid": "any"}), &json!({}))).is_ok());
    }
    let wrong = tagged(&json!({"alg": "HS256"}), &json!({}));
    let other = KeySet::of_secret(&[7; 64]).expect("long enough");
    assert_eq!(judge(&other, &wrong), Err(Refusal::Signature));
    let foreign = signed(r#"{"alg":"ES256"}"#, "{}");
    assert_eq!(judge(&keys, &foreign), Err(Refusal::Algorithm));
}

#[test]
fn a_secret_is_as_long_as_the_hash() {
    assert!(KeySet::of_secret(&SECRET[..31]).is_err());
    let keys = KeySet::of_secret(&SECRET[..32]).expect("long enough for one");
    let serves = [Algorithm::Hs256, Algorithm::Hs384, Algorithm::Rs256].map(|a| keys.serves(a));
    assert_eq!(serves, [true, false, false]);
}

#[test]
fn no_dump_shows_a_secret() {
    let keys = KeySet::of_secret(SECRET).expect("long enough");
    let shown = format!("{keys:?}");
    assert!(!shown.contains("secret for") && !shown.contains("97, 32"), "{shown}");
}

#[test]
fn the_length_is_judged_before_anything_else() {
    let keys = set(&[jwk(json!({}))]);
    let token = signed(r#"{"alg":"ES256","kid":"k1"}"#, "{}");
    let mut spec = spec(&[Algorithm::Es256]);
    spec.token_bytes_max = token.len();
    assert!(verify(&spec, &keys, token.as_bytes(), NOW).is_ok());
    spec.token_bytes_max = token.len() - 1;
    assert_eq!(verify(&spec, &keys, token.as_bytes(), NOW), Err(Refusal::TooLong));
}

#[test]
fn every_refusal_can_stand_in_a_quoted_string() {
    let fixed = [Refusal::TooLong, Refusal::Algorithm, Refusal::UnknownKey, Refusal::Signature];
    let claims = [Refusal::NoExpiry, Refusal::Expired, Refusal::NotYetValid, Refusal::Issuer];
    let last = [Refusal::Audience, Refusal::Inactive, Refusal::Required];
    for refusal in fixed.into_iter().chain(claims).chain(last) {
        let plain = |byte: u8| matches!(byte, b' ' | b'a'..=b'z');
        assert!(refusal.detail().bytes().all(plain), "{refusal}");
        assert_eq!(refusal.status() == 403, refusal.error() == "insufficient_scope");
    }
}

/// A token by each kind of key, with its keys.
static GOOD: LazyLock<[(KeySet, String); 2]> = LazyLock::new(|| {
    let claims = json!({"sub": "u1", "exp": 2_000, "aud": ["api"]});
    let header = json!({"alg": "ES256", "kid": "k1", "typ": "JWT"});
    [
        (set(&[jwk(json!({}))]), signed(header.to_string(), claims.to_string())),
        (KeySet::of_secret(SECRET).expect("keys"), tagged(&json!({"alg": "HS256"}), &claims)),
    ]
});

proptest! {
    #[test]
    fn any_flipped_bit_is_refused(which in 0_usize..2, at: prop::sample::Index, bit in 0_u8..8) {
        let (keys, token) = &GOOD[which];
        let all = spec(&Algorithm::ALL.map(|(_, algorithm)| algorithm));
        prop_assert!(verify(&all, keys, token.as_bytes(), NOW).is_ok());
        let mut bytes = token.clone().into_bytes();
        bytes[at.index(token.len())] ^= 1 << bit;
        prop_assert!(verify(&all, keys, &bytes, NOW).is_err());
    }

    #[test]
    fn no_bytes_are_a_panic_or_a_token(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let all = spec(&Algorithm::ALL.map(|(_, algorithm)| algorithm));
        for (keys, _) in &*GOOD {
            prop_assert!(verify(&all, keys, &bytes, NOW).is_err());
        }
        let _ = KeySet::parse_jwks(&bytes);
    }

    #[test]
    fn no_header_and_claims_are_a_panic(
        header in r#"\{("(alg|kid|crit|typ)":("ES256"|"HS256"|"k1"|null|[0-9]{1,3}|\[\]),?){0,4}\}"#,
        payload in r#"\{("(exp|nbf|aud|iss|sub)":("x"|-?[0-9]{1,20}|1e[0-9]{1,3}|\["x"\]|\{\}),?){0,5}\}"#,
    ) {
        let token = signed(header, payload);
        let _ = judge(&GOOD[0].0, &token);
    }
}
