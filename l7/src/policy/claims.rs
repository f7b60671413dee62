//! What a token says about its bearer, and which of it a policy asks for.
//!
//! Claims come from a verified token or from an introspection answer; the rules for them are the
//! same. A claim that a rule reads and that has the wrong type is refused, never passed over: an
//! `exp` in quotes is no token without an end.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value};

use super::jwt::Refusal;

/// The longest id of a consumer.
pub const CONSUMER_BYTES_MAX: usize = 256;

/// A moment on the wall clock, as the time since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnixTime(pub Duration);

impl UnixTime {
    /// Whole seconds.
    #[must_use]
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    #[must_use]
    pub const fn saturating_add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span))
    }
}

/// Where in the claims something stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Selector(Place);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Place {
    /// A member, whatever characters its name has.
    Name(String),
    /// A JSON pointer (RFC 6901), which begins with a slash.
    Pointer(String),
}

impl Selector {
    /// Reads what follows `claim:`, such as `sub` or `/realm_access/roles`; `None` if it is empty
    /// or a pointer with a wrong escape.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if !text.starts_with('/') {
            return (!text.is_empty()).then(|| Self(Place::Name(text.to_owned())));
        }
        // RFC 6901 §3: a tilde stands only before 0 and 1.
        let mut escapes = text.split('~').skip(1);
        let right = escapes.all(|rest| rest.starts_with(['0', '1']));
        right.then(|| Self(Place::Pointer(text.to_owned())))
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Place::Name(text) | Place::Pointer(text)) = &self.0;
        out.write_str(text)
    }
}

/// Verified claims.
#[derive(Clone, PartialEq)]
pub struct Claims {
    /// Always an object.
    object: Value,
    expires_at: Option<UnixTime>,
}

impl fmt::Debug for Claims {
    /// Claims are about people, so a dump shows how many there are and no more.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members = self.object.as_object().map_or(0, Map::len);
        out.debug_struct("Claims").field("members", &members).finish_non_exhaustive()
    }
}

impl Claims {
    /// Judges the members of a token or an answer by `rules`.
    ///
    /// # Errors
    ///
    /// The first rule that they break.
    pub(super) fn judge(
        members: Map<String, Value>,
        rules: &ClaimRules,
        now: UnixTime,
    ) -> Result<Self, Refusal> {
        let expires_at = rules.check_times(&members, now)?;
        rules.check_issuer(&members)?;
        rules.check_audience(&members)?;
        let claims = Self { object: Value::Object(members), expires_at };
        for (selector, wanted) in &rules.required {
            if !claims.says(selector, wanted) {
                return Err(Refusal::Required);
            }
        }
        Ok(claims)
    }

    #[must_use]
    pub fn get(&self, selector: &Selector) -> Option<&Value> {
        match &selector.0 {
            Place::Name(name) => self.object.get(name),
            Place::Pointer(pointer) => self.object.pointer(pointer),
        }
    }

    /// When they stop to hold, leeway not counted.
    #[must_use]
    pub const fn expires_at(&self) -> Option<UnixTime> {
        self.expires_at
    }

    /// A string or an integer, as text.
    #[must_use]
    pub fn text(&self, selector: &Selector) -> Option<Cow<'_, str>> {
        text(self.get(selector)?)
    }

    /// The items of an array that are texts, or the words of a string. For groups and scopes.
    pub fn texts(&self, selector: &Selector) -> impl Iterator<Item = Cow<'_, str>> {
        let found = self.get(selector);
        let words = found.and_then(Value::as_str).unwrap_or_default().split(' ');
        let words = words.filter(|word| !word.is_empty()).map(Cow::Borrowed);
        let items = found.and_then(Value::as_array).into_iter().flatten();
        words.chain(items.filter_map(text))
    }

    /// Whom a token is about: a string or an integer of 1 to [`CONSUMER_BYTES_MAX`] visible ASCII
    /// characters, so that it can stand in a field and in a log.
    #[must_use]
    pub fn consumer_id(&self, selector: &Selector) -> Option<Cow<'_, str>> {
        let id = self.text(selector)?;
        let fits = (1..=CONSUMER_BYTES_MAX).contains(&id.len());
        (fits && id.bytes().all(|byte| byte.is_ascii_graphic())).then_some(id)
    }

    /// Whether a claim has a value: equal, or a word of it, or an item of it.
    #[must_use]
    pub fn says(&self, selector: &Selector, wanted: &str) -> bool {
        self.get(selector).is_some_and(|found| says(found, wanted))
    }
}

fn text(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(Cow::Borrowed(text)),
        Value::Number(number) if !number.is_f64() => Some(Cow::Owned(number.to_string())),
        _ => None,
    }
}

fn says(found: &Value, wanted: &str) -> bool {
    let equal = |value: &Value| match value {
        Value::Bool(value) => wanted == if *value { "true" } else { "false" },
        value => text(value).is_some_and(|text| text == wanted),
    };
    match found {
        Value::String(text) => text == wanted || text.split(' ').any(|word| word == wanted),
        Value::Array(items) => items.iter().any(equal),
        value => equal(value),
    }
}

/// What claims must say to be accepted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClaimRules {
    /// The only `iss`; `None` asks for none.
    pub issuer: Option<String>,
    /// One of these must be in `aud`; empty asks for none.
    pub audience: Vec<String>,
    /// How far the clock of the issuer may be from ours.
    pub leeway: Duration,
    /// Refuse claims without `exp`.
    pub require_exp: bool,
    /// Each claim must be the text, or have it as a word or an item.
    pub required: Vec<(Selector, String)>,
}

impl ClaimRules {
    /// RFC 7519 §4.1.4 to §4.1.6. `iat` only has to be a date: it says when, not until when.
    fn check_times(
        &self,
        members: &Map<String, Value>,
        now: UnixTime,
    ) -> Result<Option<UnixTime>, Refusal> {
        let date = |name: &str, refusal| match members.get(name) {
            None => Ok(None),
            Some(value) => date(value).map(Some).ok_or(refusal),
        };
        let expires_at = date("exp", Refusal::ClaimType("exp is not a date"))?;
        let not_before = date("nbf", Refusal::ClaimType("nbf is not a date"))?;
        date("iat", Refusal::ClaimType("iat is not a date"))?;
        match expires_at {
            None if self.require_exp => return Err(Refusal::NoExpiry),
            Some(end) if now >= end.saturating_add(self.leeway) => return Err(Refusal::Expired),
            _ => {}
        }
        if not_before.is_some_and(|start| now.saturating_add(self.leeway) < start) {
            return Err(Refusal::NotYetValid);
        }
        Ok(expires_at)
    }

    fn check_issuer(&self, members: &Map<String, Value>) -> Result<(), Refusal> {
        let found = match members.get("iss") {
            None => None,
            Some(Value::String(issuer)) => Some(issuer),
            Some(_) => return Err(Refusal::ClaimType("iss is not a string")),
        };
        match &self.issuer {
            Some(wanted) if found != Some(wanted) => Err(Refusal::Issuer),
            _ => Ok(()),
        }
    }

    fn check_audience(&self, members: &Map<String, Value>) -> Result<(), Refusal> {
        let wrong = Refusal::ClaimType("aud is neither a string nor a list of strings");
        let found: Vec<&str> = match members.get("aud") {
            None => Vec::new(),
            Some(Value::String(audience)) => vec![audience],
            Some(Value::Array(items)) => {
                items.iter().map(Value::as_str).collect::<Option<_>>().ok_or(wrong)?
            }
            Some(_) => return Err(wrong),
        };
        let meant = self.audience.iter().any(|wanted| found.contains(&wanted.as_str()));
        if self.audience.is_empty() || meant { Ok(()) } else { Err(Refusal::Audience) }
    }
}

/// A `NumericDate`: a JSON number of seconds, which may have a fraction (RFC 7519 §2). What lies
/// before the epoch is the epoch.
fn date(value: &Value) -> Option<UnixTime> {
    let Value::Number(number) = value else { return None };
    if let Some(seconds) = number.as_u64() {
        return Some(UnixTime::seconds(seconds));
    }
    let seconds = number.as_f64()?;
    Duration::try_from_secs_f64(seconds.max(0.0)).ok().map(UnixTime)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn judge(value: &Value, rules: &ClaimRules, now: u64) -> Result<Claims, Refusal> {
        let members = value.as_object().expect("an object").clone();
        Claims::judge(members, rules, UnixTime::seconds(now))
    }

    fn claims(value: &Value) -> Claims {
        judge(value, &ClaimRules::default(), 0).expect("no rules")
    }

    fn selector(text: &str) -> Selector {
        Selector::parse(text).expect("a selector")
    }

    #[test]
    fn a_token_ends_at_exp_plus_leeway_and_begins_at_nbf_less_leeway() {
        let rules = ClaimRules { leeway: Duration::from_secs(30), ..ClaimRules::default() };
        let token = json!({"exp": 1_000, "nbf": 500});
        for (now, expected) in [
            (469, Some(Refusal::NotYetValid)),
            (470, None),
            (1_029, None),
            (1_030, Some(Refusal::Expired)),
        ] {
            assert_eq!(judge(&token, &rules, now).err(), expected, "at {now}");
        }
        let fraction = json!({"exp": 1_000.5});
        assert!(judge(&fraction, &ClaimRules::default(), 1_000).is_ok());
        assert_eq!(judge(&fraction, &ClaimRules::default(), 1_001), Err(Refusal::Expired));
        let before_the_epoch = json!({"exp": -5});
        assert_eq!(judge(&before_the_epoch, &rules, 31), Err(Refusal::Expired));
    }

    #[test]
    fn a_claim_of_the_wrong_type_is_refused_even_if_nobody_asked_for_it() {
        for (name, value) in [
            ("exp", json!("4102444800")),
            ("exp", json!(null)),
            ("exp", json!([4_102_444_800_u64])),
            ("exp", json!(true)),
            ("exp", json!(1e300)),
            ("nbf", json!("0")),
            ("iat", json!({})),
            ("iss", json!(["a"])),
            ("iss", json!(null)),
            ("aud", json!(7)),
            ("aud", json!({"api": true})),
            ("aud", json!(["api", 7])),
            ("aud", json!(null)),
        ] {
            let token = json!({ name: value });
            let refusal = judge(&token, &ClaimRules::default(), 0).expect_err(name);
            assert!(matches!(refusal, Refusal::ClaimType(_)), "{token}: {refusal:?}");
        }
    }

    #[test]
    fn no_exp_is_refused_only_where_one_is_asked_for() {
        let rules = ClaimRules { require_exp: true, ..ClaimRules::default() };
        assert_eq!(judge(&json!({}), &rules, 0), Err(Refusal::NoExpiry));
        assert!(judge(&json!({}), &ClaimRules::default(), 0).is_ok());
    }

    #[test]
    fn issuer_and_audience_are_compared_whole() {
        let rules = ClaimRules {
            issuer: Some("https://idp/".into()),
            audience: vec!["api".into(), "web".into()],
            ..ClaimRules::default()
        };
        let with = |iss: &str, aud: Value| judge(&json!({"iss": iss, "aud": aud}), &rules, 0).err();
        assert_eq!(with("https://idp/", json!("api")), None);
        assert_eq!(with("https://idp/", json!(["x", "web"])), None);
        assert_eq!(with("https://idp", json!("api")), Some(Refusal::Issuer));
        assert_eq!(with("https://idp/x", json!("api")), Some(Refusal::Issuer));
        for other in [json!("ap"), json!("api2"), json!(""), json!([]), json!("api web")] {
            assert_eq!(with("https://idp/", other), Some(Refusal::Audience));
        }
        assert_eq!(judge(&json!({"aud": "api"}), &rules, 0), Err(Refusal::Issuer));
        assert_eq!(judge(&json!({"iss": "https://idp/"}), &rules, 0), Err(Refusal::Audience));
    }

    #[test]
    fn a_required_claim_is_equal_or_a_word_or_an_item() {
        let token = json!({
            "scope": "read:all adminx", "roles": ["ops", "on call", 7], "tier": 3, "mfa": true,
            "a": {"b": "deep"},
        });
        let claims = claims(&token);
        for (at, wanted, expected) in [
            ("scope", "read:all", true),
            ("scope", "read:all adminx", true),
            ("scope", "admin", false),
            ("scope", "read", false),
            ("roles", "ops", true),
            ("roles", "on call", true),
            ("roles", "call", false),
            ("roles", "7", true),
            ("tier", "3", true),
            ("mfa", "true", true),
            ("/a/b", "deep", true),
            ("a/b", "deep", false),
            ("/roles/0", "ops", true),
            ("absent", "", false),
        ] {
            assert_eq!(claims.says(&selector(at), wanted), expected, "{at} = {wanted}");
            let required = vec![(selector(at), wanted.to_owned())];
            let rules = ClaimRules { required, ..ClaimRules::default() };
            let refusal = judge(&token, &rules, 0).err();
            assert_eq!(refusal, (!expected).then_some(Refusal::Required), "{at} = {wanted}");
        }
    }

    #[test]
    fn a_selector_is_a_name_or_a_pointer() {
        let claims = claims(&json!({"https://x/roles": "a", "m~n": {"o/p": "b"}, "": "c"}));
        assert_eq!(claims.text(&selector("https://x/roles")).as_deref(), Some("a"));
        assert_eq!(claims.text(&selector("/m~0n/o~1p")).as_deref(), Some("b"));
        assert_eq!(claims.text(&selector("/")).as_deref(), Some("c"));
        for wrong in ["", "/a~", "/a~2"] {
            assert_eq!(Selector::parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_consumer_is_short_and_visible() {
        let id = |value: Value| {
            let claims = claims(&json!({ "sub": value }));
            claims.consumer_id(&selector("sub")).map(Cow::into_owned)
        };
        assert_eq!(id(json!("u1")).as_deref(), Some("u1"));
        assert_eq!(id(json!(42)).as_deref(), Some("42"));
        assert_eq!(id(json!("x".repeat(256))).map(|id| id.len()), Some(256));
        let refused = [json!(""), json!("a b"), json!("a\r\nb"), json!("é"), json!(1.5), json!([])];
        for value in refused.into_iter().chain([json!("x".repeat(257)), json!(null), json!(true)]) {
            assert_eq!(id(value.clone()), None, "{value}");
        }
    }

    #[test]
    fn groups_are_items_or_words() {
        let claims = claims(&json!({"g": ["a b", "c", 7, null, ["d"]], "s": " x  y ", "n": 5}));
        let texts = |at: &str| claims.texts(&selector(at)).map(Cow::into_owned).collect::<Vec<_>>();
        assert_eq!(texts("g"), ["a b", "c", "7"]);
        assert_eq!(texts("s"), ["x", "y"]);
        assert!(texts("n").is_empty() && texts("absent").is_empty());
    }

    #[test]
    fn a_dump_shows_no_claim() {
        let shown = format!("{:?}", claims(&json!({"sub": "alice"})));
        assert!(!shown.contains("alice") && !shown.contains("sub"), "{shown}");
    }
}
