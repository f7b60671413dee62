//! The recorded bad tokens and key sets of `tests/corpus/{jwt,jwks}.jsonl`.
//!
//! A token is `{id, why, token, expect}` or `{id, why, pending}`; `expect` is `accepted` or the
//! word of the refusal, and `required` what claims the policy asks for besides. A key set is
//! `{id, why, document, expect}`: an error, or what became of each of its keys. A text may be a
//! list of texts with how often each comes. What is pending needs more than one function.

use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use sluicegate_l7::policy::algorithm::Algorithm;
use sluicegate_l7::policy::claims::{ClaimRules, Selector, UnixTime};
use sluicegate_l7::policy::jwks::{JwksError, KeySet};
use sluicegate_l7::policy::jwt::{JwtSpec, Refusal, verify};

/// When the corpus is judged; its good tokens last until 2100.
const NOW: UnixTime = UnixTime::seconds(1_800_000_000);

fn keys() -> KeySet {
    KeySet::parse_jwks(include_bytes!("../../tests/corpus/keys/jwks.json")).expect("the keys")
}

/// RS256, ES256 and EdDSA by the corpus's keys, its issuer and audience, half a minute of leeway.
fn spec(case: &Value) -> JwtSpec {
    let required = case["required"].as_object().into_iter().flatten();
    let required = required.map(|(name, value)| {
        let selector = Selector::parse(name).expect("a selector");
        (selector, value.as_str().expect("a text").to_owned())
    });
    JwtSpec {
        algorithms: vec![Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa],
        claims: ClaimRules {
            issuer: Some("https://idp.test/".into()),
            audience: vec!["api".into()],
            leeway: Duration::from_secs(30),
            require_exp: true,
            required: required.collect(),
        },
        ..JwtSpec::default()
    }
}

fn cases(corpus: &str) -> Vec<Value> {
    corpus.lines().map(|line| serde_json::from_str(line).expect("a case is JSON")).collect()
}

fn bytes(value: &Value) -> Vec<u8> {
    match value {
        Value::String(text) => text.clone().into_bytes(),
        Value::Array(parts) => {
            let part = |part: &Value| {
                let times = part[1].as_u64().expect("a number") as usize;
                part[0].as_str().expect("a text").repeat(times)
            };
            parts.iter().map(part).collect::<String>().into_bytes()
        }
        other => panic!("neither text nor parts: {other}"),
    }
}

#[test]
fn every_recorded_token_gets_its_verdict() {
    let (keys, mut judged, mut wrong) = (keys(), 0, Vec::new());
    for case in cases(include_str!("../../tests/corpus/jwt.jsonl")) {
        if case.get("pending").is_some() {
            continue;
        }
        judged += 1;
        let verdict = verify(&spec(&case), &keys, &bytes(&case["token"]), NOW);
        let found = verdict.map_or_else(Refusal::word, |_| "accepted");
        if case["expect"] != found {
            wrong
                .push(format!("{} ({}): {found}, not {}", case["id"], case["why"], case["expect"]));
        }
    }
    assert!(judged >= 40, "the corpus has been cut to {judged}");
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn no_recorded_token_gets_further_by_allowing_every_algorithm() {
    let keys = keys();
    for case in cases(include_str!("../../tests/corpus/jwt.jsonl")) {
        if case.get("pending").is_some() || case["expect"] == "accepted" {
            continue;
        }
        let algorithms = Algorithm::ALL.map(|(_, algorithm)| algorithm).to_vec();
        let spec = JwtSpec { algorithms, ..spec(&case) };
        assert!(verify(&spec, &keys, &bytes(&case["token"]), NOW).is_err(), "{}", case["id"]);
    }
}

/// Signed by the corpus's RSA key, which is in every good set.
fn rsa1_token() -> Vec<u8> {
    let cases = cases(include_str!("../../tests/corpus/jwt.jsonl"));
    let case = cases.iter().find(|case| case["id"] == "jwt-042").expect("a token by rsa1");
    bytes(&case["token"])
}

/// An HS256 token by the symmetric key that one of the sets has.
fn oct_token() -> Vec<u8> {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let claims = br#"{"iss":"https://idp.test/","aud":"api","exp":4102444800}"#;
    let signed = format!("{}.{}", encode(br#"{"alg":"HS256","kid":"rsa1"}"#), encode(claims));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &[b'x'; 32]), signed.as_bytes());
    format!("{signed}.{}", encode(tag.as_ref())).into_bytes()
}

#[test]
fn every_recorded_key_set_is_read_or_refused_as_it_should() {
    let everything = Algorithm::ALL.map(|(_, algorithm)| algorithm).to_vec();
    let spec = JwtSpec { algorithms: everything, ..spec(&Value::Null) };
    let mut judged = 0;
    for case in cases(include_str!("../../tests/corpus/jwks.jsonl")) {
        let (id, expect) = (&case["id"], &case["expect"]);
        if case.get("pending").is_some() {
            continue;
        }
        judged += 1;
        let found = KeySet::parse_jwks(&bytes(&case["document"]));
        if let Some(error) = expect["error"].as_str() {
            let found = found.expect_err("bad").to_string();
            assert!(found.contains(error), "{id}: {found}");
            continue;
        }
        let keys = found.unwrap_or_else(|error: JwksError| panic!("{id}: {error}"));
        assert_eq!(expect["keys"], keys.len(), "{id}");
        let remarks: Vec<_> = keys.remarks().iter().map(ToString::to_string).collect();
        let wanted = expect["remarks"].as_array().expect("a list");
        assert_eq!(remarks.len(), wanted.len(), "{id}: {remarks:?}");
        for (remark, wanted) in remarks.iter().zip(wanted) {
            assert!(remark.starts_with(wanted.as_str().expect("a text")), "{id}: {remark}");
        }
        for (name, token) in [("rsa1", rsa1_token()), ("oct", oct_token())] {
            let verdict =
                verify(&spec, &keys, &token, NOW).map_or_else(Refusal::word, |_| "accepted");
            let wanted = expect.get(name).map_or(verdict, |word| word.as_str().expect("a word"));
            assert_eq!(verdict, wanted, "{id}: {name}");
        }
    }
    assert!(judged >= 7, "the corpus has been cut to {judged}");
}
