//! `introspection`: whoever issued an opaque token is asked whether it is good (RFC 7662).
//!
//! The question and the answer as bytes; asking is the shell's work. The claims of an answer come
//! under the same rules as those of a signed token.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::claims::{ClaimRules, Claims, UnixTime};
use super::json;
use super::jwt::Refusal;

/// The largest answer that is read: room for the claims of the longest token.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// The media type of [`question`].
pub const CONTENT_TYPE: &str = "application/x-www-form-urlencoded";

/// The body of the request (RFC 7662 §2.1).
#[must_use]
pub fn question(token: &[u8]) -> Vec<u8> {
    let mut body = b"token=".to_vec();
    form_encode(token, &mut body);
    body.extend_from_slice(b"&token_type_hint=access_token");
    body
}

/// The `Authorization` of the request. Id and secret are form-encoded before they are joined, so
/// that a colon in the id is not the one between them (RFC 6749 §2.3.1).
#[must_use]
pub fn authorization(client_id: &[u8], client_secret: &[u8]) -> Vec<u8> {
    let mut pair = Vec::new();
    form_encode(client_id, &mut pair);
    pair.push(b':');
    form_encode(client_secret, &mut pair);
    ["Basic ", &STANDARD.encode(pair)].concat().into_bytes()
}

/// What came back.
#[derive(Debug, PartialEq)]
pub enum Answer {
    /// The token is good, for us too.
    Active(Claims),
    /// It is not, or not for this policy. The answer may be kept for a short while.
    Refused(Refusal),
    /// No answer to the question: the endpoint is broken, and the token is not judged.
    Unusable(&'static str),
}

/// Reads the body of a 200 answer (RFC 7662 §2.2).
#[must_use]
pub fn read(body: &[u8], rules: &ClaimRules, now: UnixTime) -> Answer {
    if body.len() > ANSWER_BYTES_MAX {
        return Answer::Unusable("the answer is too long");
    }
    let Some(members) = json::parse_object(body) else {
        return Answer::Unusable("the answer is not a JSON object");
    };
    match members.get("active") {
        Some(Value::Bool(true)) => match Claims::judge(members, rules, now) {
            Ok(claims) => Answer::Active(claims),
            Err(refusal) => Answer::Refused(refusal),
        },
        Some(Value::Bool(false)) => Answer::Refused(Refusal::Inactive),
        _ => Answer::Unusable("the answer does not say whether the token is active"),
    }
}

/// `application/x-www-form-urlencoded` as forms send it.
fn form_encode(text: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in text {
        match byte {
            b' ' => out.push(b'+'),
            b'*' | b'-' | b'.' | b'_' => out.push(byte),
            byte if byte.is_ascii_alphanumeric() => out.push(byte),
            byte => {
                let digits = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
                out.extend_from_slice(&[b'%', digits[0], digits[1]]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: UnixTime = UnixTime::seconds(1_000);

    fn rules() -> ClaimRules {
        ClaimRules {
            issuer: Some("https://idp/".into()),
            audience: vec!["api".into()],
            leeway: Duration::from_secs(30),
            ..ClaimRules::default()
        }
    }

    #[test]
    fn no_token_can_add_a_parameter_to_the_question() {
        let body = question(b"a b&token_type_hint=x%+/=~\xff");
        let expected =
            b"token=a+b%26token_type_hint%3Dx%25%2B%2F%3D%7E%FF&token_type_hint=access_token";
        assert_eq!(String::from_utf8_lossy(&body), String::from_utf8_lossy(expected));
    }

    #[test]
    fn id_and_secret_are_encoded_before_they_are_joined() {
        let header = authorization(b"my:app", "p\u{e4} ss".as_bytes());
        let encoded = header.strip_prefix(b"Basic ").expect("the scheme");
        assert_eq!(STANDARD.decode(encoded).expect("base64"), b"my%3Aapp:p%C3%A4+ss");
    }

    #[test]
    fn only_a_true_active_lets_a_token_pass() {
        let with = |active: &str| {
            let body = format!(r#"{{"active":{active},"iss":"https://idp/","aud":"api"}}"#);
            read(body.as_bytes(), &rules(), NOW)
        };
        assert!(matches!(with("true"), Answer::Active(_)));
        assert_eq!(with("false"), Answer::Refused(Refusal::Inactive));
        for other in [r#""true""#, "1", "null", "[true]", r#"{"active":true}"#] {
            assert!(matches!(with(other), Answer::Unusable(_)), "{other}");
        }
        for body in ["{}", "", "[]", "true", r#"{"active":false,"active":true}"#, "<html>"] {
            let answer = read(body.as_bytes(), &rules(), NOW);
            assert!(matches!(answer, Answer::Unusable(_)), "{body}");
        }
    }

    #[test]
    fn an_active_answer_is_judged_like_a_token() {
        for (more, refusal) in [
            (r#","exp":900"#, Refusal::Expired),
            (r#","nbf":2000"#, Refusal::NotYetValid),
            (r#","exp":"9999""#, Refusal::ClaimType("exp is not a date")),
        ] {
            let body = format!(r#"{{"active":true,"iss":"https://idp/","aud":"api"{more}}}"#);
            assert_eq!(read(body.as_bytes(), &rules(), NOW), Answer::Refused(refusal), "{more}");
        }
        let other = br#"{"active":true,"iss":"https://idp/","aud":["web"]}"#;
        assert_eq!(read(other, &rules(), NOW), Answer::Refused(Refusal::Audience));
    }

    #[test]
    fn a_long_answer_is_not_read() {
        let body = format!(r#"{{"active":true,"x":"{}"}}"#, "x".repeat(ANSWER_BYTES_MAX));
        assert!(matches!(read(body.as_bytes(), &rules(), NOW), Answer::Unusable(_)));
    }
}
