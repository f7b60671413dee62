//! The static table of every section, key, type, range, default and explanation.
//!
//! One table, four readers: [`walk`](super::walk) checks a file by it and suggests from it,
//! [`schema`](super::schema) prints it for machines, [`reference`](super::reference) for
//! people. A key that is not here does not exist. The sections themselves are in
//! [`table`](super::table), this file says what a row can be.
//!
//! To add a key: add its row in one of the `table` files, read it in a `build` file, run
//! `SLUICEGATE_UPDATE=1 cargo test reference`, and put it into `config/full.toml`.

use std::time::Duration;

/// A table of the file: `[runtime]`, every `[pool.NAME]`, an inline `check = { … }`.
#[derive(Debug)]
pub struct Section {
    /// What messages call it: "pool".
    pub noun: &'static str,
    /// How it is written, for the reference: `[pool.NAME]`.
    pub heading: &'static str,
    pub doc: &'static str,
    pub keys: &'static [Key],
    /// The key whose word decides which others may stand beside it.
    pub tag: Option<&'static str>,
    /// The key whose value alone may stand for the whole table.
    pub short: Option<&'static str>,
    /// The word in the tag says which of these the table is; each has the tag as its first key,
    /// with that one word. Then `keys` has only the tag.
    pub variants: &'static [&'static Section],
}

/// One key of a section.
#[derive(Debug)]
pub struct Key {
    pub name: &'static str,
    pub kind: Kind,
    pub fallback: Fallback,
    pub required: bool,
    /// Only with one of these words in the section's tag; empty: always.
    pub only: &'static [&'static str],
    /// Sentences for the reference and the schema.
    pub doc: &'static str,
    /// What to do instead of a number that is out of range; empty: the range says it.
    pub range_hint: &'static str,
}

/// What holds when the key is absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// Nothing: the thing is then not there.
    Absent,
    Bool(bool),
    Integer(i64),
    /// A value as it would be written.
    Text(&'static str),
    /// A list of words as they would be written.
    Words(&'static [&'static str]),
    /// Decided elsewhere; in words for the reference.
    Described(&'static str),
}

/// What a value may be.
#[derive(Debug)]
pub enum Kind {
    Bool,
    Integer {
        min: i64,
        max: i64,
    },
    /// An integer, or the word "auto", which counts as absent.
    IntegerOrAuto {
        min: i64,
        max: i64,
    },
    /// "10s"; with `off` also the word "off".
    Duration {
        min: Duration,
        max: Duration,
        off: bool,
    },
    /// "16KiB", in bytes.
    Size {
        min: u64,
        max: u64,
    },
    /// "20/s burst 40"
    Rate,
    /// The same, or the word "off".
    RateOrOff,
    /// A value of JSON without members or items.
    Json,
    /// "50%"
    Share,
    /// One of a closed set.
    Word {
        words: &'static [&'static str],
    },
    Text(Text),
    /// A list of at most `max` items.
    List {
        of: &'static Kind,
        max: usize,
    },
    /// One item, or a list of `min` to `max`.
    OneOrList {
        of: &'static Kind,
        min: usize,
        max: usize,
    },
    /// A status code, or a range of them: 200, "200-399".
    Statuses,
    /// A table; where the section has a short form, also that value alone.
    Table(&'static Section),
    /// A table, or `false` for none.
    TableOrFalse(&'static Section),
    /// A list of at most `max` tables: `[[listener.NAME.route]]`.
    Tables {
        section: &'static Section,
        max: usize,
    },
    /// A table whose keys are names, at most `max`.
    Named {
        section: &'static Section,
        max: usize,
    },
    /// A table of at most `max` free names, each with a value of one kind: header fields.
    Fields {
        names: Names,
        of: &'static Kind,
        max: usize,
    },
}

/// What the free names of a table are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// Header fields that are written: not those that frame the message.
    HeaderWritten,
    /// Header fields that are looked at.
    HeaderRead,
    /// Parameters of a query.
    Query,
    Cookie,
    /// `"db.example.com"`, `"*.example.com"`, `"*"`
    ServerName,
    Pool,
    /// A claim of a token, or a JSON pointer into its claims.
    Claim,
    /// A group of consumers.
    Group,
    /// A member of a JSON object, or a JSON pointer.
    JsonMember,
}

/// Forms of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Text {
    /// `"0.0.0.0:5432"`, `"[::]:5432"`, `"unix:/path"`
    Bind,
    /// as `Bind`, or "dns:host:port", "srv:_service._proto.name"
    Server,
    /// "10.0.0.0/8", "10.0.0.1"
    Network,
    /// An address without port.
    Ip,
    /// "9.9.9.9" or "9.9.9.9:53"
    Resolver,
    /// A host name or address, perhaps with a port, as a Host header has it.
    Host,
    /// Text, `"env:NAME"` or `"file:/path"`, of at least `min` bytes.
    Secret {
        min: usize,
    },
    /// Permission bits in octal: "0660"
    Mode,
    /// `"stdout"`, `"off"` or `"file:/path"`
    LogTarget,
    /// A path relative to this file; `*` and `?` in the last part.
    Pattern,
    /// A name of a pool.
    PoolName,
    /// An HTTP method.
    Method,
    /// The path and query of an HTTP request.
    RequestPath,
    /// A value of a header field.
    FieldValue,
    /// Free text of 1 to `max` bytes without NUL.
    Free {
        max: usize,
    },
    /// `"file:/path"`, `"env:NAME"`, or PEM itself; `private`: a key.
    Pem {
        private: bool,
    },
    /// `"system"`, `"file:ca.pem"` or `"insecure"`
    Verify,
    /// A host name without port, as a certificate has it.
    ServerName,
    /// A protocol in ALPN.
    Alpn,
    /// `"api.example.com"` or `"*.example.com"`
    HostPattern,
    /// `"/v1/users/*"`, `"/o/{id}/items"`
    PathPattern,
    /// A regular expression.
    Regex,
    /// Text with variables, for a header field.
    Template,
    /// A path with variables.
    PathTemplate,
    /// A host with variables.
    HostTemplate,
    /// A path or an address of the web with variables.
    AddressTemplate,
    /// The beginning of a path.
    Prefix,
    /// Name of a header field; `written`: not one that frames the message.
    Header {
        written: bool,
    },
    /// One of the few header fields of clients that can be spared.
    KeptHeader,
    /// A header field that may stand in a log.
    LoggedHeader,
    Cookie,
    /// `"text/html; charset=utf-8"`
    ContentType,
    /// `"text/*"`
    MediaRange,
    /// Text, or `"file:/path"` of at most `max` bytes.
    Body {
        max: u64,
    },
    /// "connect", "reset", "timeout", or a status code.
    RetryOn,
    /// A label in metrics and logs.
    Label,
    /// A policy, `"!name"` or `"!*"`.
    PolicyRef,
    /// A name of a policy.
    PolicyName,
    /// `"claim:sub"`, or a JSON pointer `"claim:/a/b"`.
    Claim,
    /// `"header:X-User"`
    FromHeader,
    /// `"bearer"`, `"header:NAME"` or `"cookie:NAME"`
    TokenFrom,
    /// `"group:gold"`, `"consumer:alice"` or `"claim:tier=gold"`
    AclEntry,
    /// `"consumer"`, `"ip"`, `"route"`, `"listener"` or `"header:NAME"`
    LimitKey,
    /// `"ip"`, `"consumer"`, `"path"`, `"header:NAME"` or `"cookie:NAME"`
    HashKey,
    /// `"10000/day"`
    Quota,
    /// `"https://app.example.com"` or `"*"`
    Origin,
    /// An address of HTTP or HTTPS.
    Url,
    /// `"redis://…"` or `"rediss://…"`, perhaps with a password, or `"env:NAME"`.
    RedisUrl,
    /// A JSON Web Key Set: `"file:/path"`, `"env:NAME"`.
    Jwks,
    /// `"sha256:…"`
    KeyHash,
    /// A hash by argon2 or bcrypt, `"env:NAME"` or `"file:/path"`.
    PasswordHash,
    /// A member of a JSON object, or a JSON pointer.
    JsonMember,
    /// A moment by RFC 3339.
    Moment,
}

impl Text {
    /// Whether `"file:/path"` stands for what the file says when it is read. Certificates and
    /// their keys are no such form: whoever serves them reads them, and looks at them for itself.
    #[must_use]
    pub const fn is_in_file(self) -> bool {
        matches!(
            self,
            Self::Secret { .. }
                | Self::RedisUrl
                | Self::Jwks
                | Self::PasswordHash
                | Self::Body { .. }
        )
    }
}

impl Key {
    #[must_use]
    pub const fn new(name: &'static str, kind: Kind, doc: &'static str) -> Self {
        let (fallback, only): (_, &[&str]) = (Fallback::Absent, &[]);
        Self { name, kind, fallback, required: false, only, doc, range_hint: "" }
    }

    /// The default as text.
    #[must_use]
    pub const fn or(mut self, text: &'static str) -> Self {
        self.fallback = Fallback::Text(text);
        self
    }

    #[must_use]
    pub const fn or_integer(mut self, number: i64) -> Self {
        self.fallback = Fallback::Integer(number);
        self
    }

    #[must_use]
    pub const fn or_bool(mut self, on: bool) -> Self {
        self.fallback = Fallback::Bool(on);
        self
    }

    #[must_use]
    pub const fn or_words(mut self, words: &'static [&'static str]) -> Self {
        self.fallback = Fallback::Words(words);
        self
    }

    #[must_use]
    pub const fn or_described(mut self, words: &'static str) -> Self {
        self.fallback = Fallback::Described(words);
        self
    }

    #[must_use]
    pub const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    #[must_use]
    pub const fn only(mut self, words: &'static [&'static str]) -> Self {
        self.only = words;
        self
    }

    #[must_use]
    pub const fn range_hint(mut self, hint: &'static str) -> Self {
        self.range_hint = hint;
        self
    }

    /// Its value must not be printed.
    #[must_use]
    pub const fn is_secret(&self) -> bool {
        matches!(
            self.kind,
            Kind::Text(
                Text::Secret { .. }
                    | Text::Pem { private: true }
                    | Text::RedisUrl
                    | Text::KeyHash
                    | Text::PasswordHash
            )
        )
    }
}

impl Kind {
    /// The section below, if there is one.
    #[must_use]
    pub const fn section(&self) -> Option<&'static Section> {
        match self {
            Self::Table(section)
            | Self::TableOrFalse(section)
            | Self::Tables { section, .. }
            | Self::Named { section, .. } => Some(section),
            Self::List { of, .. } | Self::OneOrList { of, .. } | Self::Fields { of, .. } => {
                of.section()
            }
            _ => None,
        }
    }
}

impl Section {
    /// The variant for a word in the tag.
    #[must_use]
    pub fn variant(&self, word: &str) -> Option<&'static Section> {
        self.variants.iter().copied().find(|section| section.tag_word() == Some(word))
    }

    /// The one word that the tag of a variant has.
    #[must_use]
    pub fn tag_word(&self) -> Option<&'static str> {
        match self.keys.first()?.kind {
            Kind::Word { words: [word], .. } => Some(word),
            _ => None,
        }
    }

    /// The index of a key, as [`Fields`](super::walk::Fields) counts them.
    #[must_use]
    pub fn index(&self, name: &str) -> Option<usize> {
        self.keys.iter().position(|key| key.name == name)
    }

    /// This section and all below it, each once, in reading order.
    #[must_use]
    pub fn all_below(&'static self) -> Vec<&'static Section> {
        let mut all = vec![self];
        let below = self.keys.iter().filter_map(|key| key.kind.section());
        for section in self.variants.iter().copied().chain(below) {
            for below in section.all_below() {
                if !all.iter().any(|seen| std::ptr::eq(*seen, below)) {
                    all.push(below);
                }
            }
        }
        all
    }
}

/// Names of keys whose values are secrets.
pub fn secret_names() -> impl Iterator<Item = &'static str> {
    let keys = super::table::ROOT.all_below().into_iter().flat_map(|section| section.keys);
    keys.filter(|key| key.is_secret()).map(|key| key.name)
}

/// The known name that the operator most likely meant, if one is near enough.
pub fn nearest<'a>(found: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    /// Below this, a suggestion is a guess: `pg` is not a misspelled `users`.
    const LIKENESS_MIN: f64 = 0.6;
    nearest_over(LIKENESS_MIN, found, known)
}

/// The nearest that is at least so alike; 1 is the same.
pub(super) fn nearest_over<'a>(
    likeness_min: f64,
    found: &str,
    known: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    /// Comparing costs the product of the lengths; nobody misspells a name this long.
    const CHARS_MAX: usize = 64;
    if found.len() > CHARS_MAX {
        return None;
    }
    let found = found.to_lowercase();
    known
        .filter(|name| name.len() <= CHARS_MAX)
        .map(|name| (likeness(&found, name), name))
        .filter(|(likeness, _)| *likeness >= likeness_min)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

fn likeness(found: &str, name: &str) -> f64 {
    // `timeout_idle` for `idle_timeout` is the same words in another order.
    let words = |s: &str| {
        let mut words: Vec<String> = s.split(['_', '-', '.']).map(str::to_owned).collect();
        words.sort_unstable();
        words
    };
    if found != name && words(found) == words(name) {
        return 0.99;
    }
    strsim::normalized_damerau_levenshtein(found, &name.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_suggested_and_nothing_far_away() {
        let known = ["balance", "check", "servers", "idle_timeout"];
        let near = |found| nearest(found, known.into_iter());
        assert_eq!(near("blance"), Some("balance"));
        assert_eq!(near("Servers"), Some("servers"));
        assert_eq!(near("timeout_idle"), Some("idle_timeout"));
        assert_eq!(near("idle-timeout"), Some("idle_timeout"));
        assert_eq!(near("colour"), None);
        assert_eq!(near(&"x".repeat(100_000)), None);
    }
}
