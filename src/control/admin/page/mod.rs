//! The dashboard: one page that brings everything with it, and nothing that anybody told us.
//!
//! What is on it comes from the API, by the script and with the token of whoever looks, so the
//! page itself is for everybody who reaches the admin address. The policy that goes with it
//! names its one script and its one style by their hashes: even if a name out of the
//! configuration became markup, it could not become code, and the page can talk to nobody else.
//! The script sets texts as texts all the same.

use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::StatusCode;
use hyper::header::{
    CONTENT_SECURITY_POLICY, HeaderName, HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};

use super::answers::{Answer, text};

const MARKUP: &str = include_str!("index.html");
const STYLE: &str = concat!(include_str!("style.css"), include_str!("elements.css"));

/// One script of several files, in the order they stand on each other.
const SCRIPT: &str = concat!(
    include_str!("text.js"),
    include_str!("dom.js"),
    include_str!("history.js"),
    include_str!("api.js"),
    include_str!("actions.js"),
    include_str!("head.js"),
    include_str!("pools.js"),
    include_str!("traffic.js"),
    include_str!("heat.js"),
    include_str!("events.js"),
    include_str!("main.js"),
);

/// Where style and script stand in the markup.
const STYLE_PLACE: &str = "/* style */";
const SCRIPT_PLACE: &str = "/* script */";

static PAGE: LazyLock<Page> = LazyLock::new(Page::new);

#[derive(Debug)]
struct Page {
    text: String,
    policy: HeaderValue,
}

impl Page {
    fn new() -> Self {
        let text = MARKUP.replace(STYLE_PLACE, STYLE).replace(SCRIPT_PLACE, SCRIPT);
        let policy = format!(
            "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; \
             connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
             frame-ancestors 'none'",
            hash(SCRIPT),
            hash(STYLE)
        );
        let policy = HeaderValue::try_from(policy).expect("hashes and words are visible ASCII");
        Self { text, policy }
    }
}

fn hash(text: &str) -> String {
    STANDARD.encode(digest(&SHA256, text.as_bytes()))
}

/// `GET /`.
pub(super) fn answer() -> Answer {
    // Not to be kept by anybody, as all answers: after an upgrade there is another one.
    let mut answer = text(StatusCode::OK, "text/html; charset=utf-8", PAGE.text.clone());
    let headers = answer.headers_mut();
    let fixed: [(HeaderName, &'static str); 4] = [
        (X_FRAME_OPTIONS, "DENY"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(CONTENT_SECURITY_POLICY, PAGE.policy.clone());
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_one_response_with_everything_in_it() {
        let text = &PAGE.text;
        assert!(text.contains(SCRIPT) && text.contains(STYLE));
        assert!(!text.contains(STYLE_PLACE) && !text.contains(SCRIPT_PLACE));
        for elsewhere in ["http://", "https://", " src=", "@import", "url("] {
            let others = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!others.contains(elsewhere), "the page asks for `{elsewhere}`");
        }
    }

    #[test]
    fn what_the_hashes_are_of_is_all_that_stands_in_the_elements() {
        for (text, end) in [(SCRIPT, "</script"), (STYLE, "</style")] {
            assert!(!text.contains(end) && !text.contains("<!--"), "it would end early");
        }
        let text = &PAGE.text;
        assert!(text.contains(&format!("<style>{STYLE}</style>")));
        assert!(text.contains(&format!("<script type=\"module\">{SCRIPT}</script>")));
        assert_eq!(text.matches("<script").count(), 1);
    }

    #[test]
    fn the_policy_lets_nothing_in_but_by_hash() {
        let answer = answer();
        let policy = answer.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"), "{policy}");
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
        assert_eq!(answer.headers()[X_FRAME_OPTIONS], "DENY");
    }

    #[test]
    fn texts_are_never_parsed_as_markup() {
        for way in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
            assert!(!SCRIPT.contains(way), "`{way}` makes markup of what may be hostile");
        }
    }
}
