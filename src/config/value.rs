//! One value of the file → one typed value, by the kind its key has.
//!
//! Scalars and text forms; tables and lists are the walk's. Every refusal says what the key
//! wants and what it found. Text is never trusted with more than its form: no line break gets
//! into a header field, no NUL into a path.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::address::{self, AddressError};
use super::code::{self, Code};
use super::keys::Text;
use super::plan::{AccessLog, BindAddr, Pem, Rate, ServerAddr, Verify};
use super::read::SecretFrom;
use super::text_http;
use super::text_policy;
use super::tree::Value;
use super::units::{self, UnitError};

/// A scalar that passed its check.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    Bool(bool),
    Integer(i64),
    Duration(Duration),
    /// "off" or "auto": said, and said to be nothing.
    Off,
    Rate(Rate),
    Share(u8),
    Word(&'static str),
    Text(String),
    Bind(BindAddr),
    Server(ServerAddr),
    Network {
        net: IpNet,
        host_bits: bool,
    },
    Ip(IpAddr),
    Socket(SocketAddr),
    Mode(u32),
    Log(AccessLog),
    Secret {
        value: String,
        plain: bool,
    },
    Statuses(RangeInclusive<u16>),
    /// Bytes.
    Size(u64),
    Pem {
        pem: Pem,
        plain: bool,
    },
    Verify(Verify),
    Json(serde_json::Value),
}

/// Why a value is refused: a clause that continues "`key` of thing …", and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: Code,
    pub problem: String,
    pub hint: String,
}

pub type Taken = Result<Scalar, Refusal>;

/// A refusal by its parts.
pub fn refuse(code: Code, problem: impl Into<String>, hint: impl Into<String>) -> Refusal {
    Refusal { code, problem: problem.into(), hint: hint.into() }
}

/// "must be a string, found a number".
#[must_use]
pub fn wrong_type(wanted: &str, found: &Value, hint: &str) -> Refusal {
    refuse(code::WRONG_TYPE, format!("must be {wanted}, found {}", found.kind()), hint)
}

/// # Errors
/// Anything but a boolean.
pub fn boolean(value: &Value) -> Taken {
    match value {
        Value::Bool(on) => Ok(Scalar::Bool(*on)),
        other => Err(wrong_type("true or false", other, "without quotes")),
    }
}

/// # Errors
/// Anything but an integer from `min` to `max`.
pub fn integer(value: &Value, min: i64, max: i64, hint: &str) -> Taken {
    match value {
        Value::Integer(number) => match i64::try_from(*number) {
            Ok(number) if (min..=max).contains(&number) => Ok(Scalar::Integer(number)),
            _ => {
                let range = if min == max {
                    format!("must be {min}")
                } else {
                    format!("must be between {min} and {max}")
                };
                Err(refuse(
                    code::OUT_OF_RANGE,
                    format!("{range}, found {}", shown_number(*number)),
                    hint,
                ))
            }
        },
        Value::Text(text) if text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() => {
            Err(wrong_type("a whole number", value, "write it without quotes"))
        }
        other => Err(wrong_type("a whole number", other, "")),
    }
}

fn shown_number(number: i128) -> String {
    match number {
        i128::MAX => "a larger number".to_owned(),
        i128::MIN => "a smaller number".to_owned(),
        number => number.to_string(),
    }
}

/// # Errors
/// Anything but an integer in the range or "auto".
pub fn integer_or_auto(value: &Value, min: i64, max: i64) -> Taken {
    match value {
        Value::Text(text) if text == "auto" => Ok(Scalar::Off),
        Value::Text(_) => Err(wrong_type("a whole number or \"auto\"", value, "")),
        other => integer(other, min, max, "or write \"auto\""),
    }
}

/// # Errors
/// Anything but a duration in the range (or "off", where that can be).
pub fn duration(value: &Value, min: Duration, max: Duration, off: bool) -> Taken {
    let text = match value {
        Value::Text(text) => text,
        Value::Integer(number) => {
            let unit = if *number >= 100 { "ms" } else { "s" };
            let number = (*number).clamp(1, 1_000_000);
            let hint = format!("write \"{number}{unit}\"; units are us, ms, s, m, h, d");
            return Err(refuse(code::BAD_UNIT, "is a bare number, which has no unit", hint));
        }
        other => return Err(wrong_type("a duration like \"10s\"", other, "")),
    };
    if text == "off" {
        let hint = "write a duration like \"10s\"";
        return if off {
            Ok(Scalar::Off)
        } else {
            Err(refuse(code::BAD_UNIT, "cannot be \"off\"", hint))
        };
    }
    let value = units::parse_duration(text).map_err(|error| unit_refusal(error, off))?;
    if value < min || value > max {
        let (min, max) = (units::duration_text(min), units::duration_text(max));
        return Err(refuse(
            code::BAD_UNIT,
            format!("must be between \"{min}\" and \"{max}\", found \"{text}\""),
            "",
        ));
    }
    Ok(Scalar::Duration(value))
}

fn unit_refusal(error: UnitError, off: bool) -> Refusal {
    // The unit reader mentions "off" for those who can have it.
    let hint = match (error.problem == "must not be zero", off) {
        (true, true) => "write \"off\" to switch it off".to_owned(),
        (true, false) => "write a duration like \"10s\"; this cannot be switched off".to_owned(),
        (false, _) => error.hint,
    };
    let says_value = error.problem.starts_with('"');
    let problem =
        if says_value { format!("cannot be read: {}", error.problem) } else { error.problem };
    refuse(code::BAD_UNIT, problem, hint)
}

/// # Errors
/// Anything but a size in the range, in bytes.
pub fn size(value: &Value, min: u64, max: u64) -> Taken {
    let text = match value {
        Value::Text(text) => text,
        Value::Integer(number) => {
            let hint =
                format!("write \"{}B\"; units are B, KiB, MiB, GiB", (*number).clamp(1, 1 << 40));
            return Err(refuse(code::BAD_UNIT, "is a bare number, which has no unit", hint));
        }
        other => return Err(wrong_type("a size like \"16KiB\"", other, "")),
    };
    let bytes = units::parse_size(text).map_err(|mut error| {
        if error.problem == "must not be zero" {
            "write a size like \"16KiB\"; this cannot be switched off".clone_into(&mut error.hint);
        }
        let says_value = error.problem.starts_with('"');
        let problem =
            if says_value { format!("cannot be read: {}", error.problem) } else { error.problem };
        refuse(code::BAD_UNIT, problem, error.hint)
    })?;
    if (min..=max).contains(&bytes) {
        return Ok(Scalar::Size(bytes));
    }
    let (min, max) = (units::size_text(min), units::size_text(max));
    let problem = format!("must be between \"{min}\" and \"{max}\", found \"{text}\"");
    Err(refuse(code::OUT_OF_RANGE, problem, ""))
}

/// # Errors
/// Anything but `"N/unit"` with an optional burst.
pub fn rate(value: &Value, off: bool) -> Taken {
    match value {
        Value::Text(text) if off && text == "off" => Ok(Scalar::Off),
        Value::Text(text) => {
            units::parse_rate(text).map(Scalar::Rate).map_err(|error| unit_refusal(error, false))
        }
        Value::Integer(n) => {
            let hint = format!(
                "write \"{}/s\" or \"{}/min\"",
                n.clamp(&1, &1_000_000),
                n.clamp(&1, &1_000_000)
            );
            Err(refuse(code::BAD_UNIT, "is a bare number, which has no unit", hint))
        }
        other => Err(wrong_type("a rate like \"20/s burst 40\"", other, "")),
    }
}

/// # Errors
/// Anything but `"1%"` to `"100%"`.
pub fn share(value: &Value) -> Taken {
    match value {
        Value::Text(text) => {
            units::parse_share(text).map(Scalar::Share).map_err(|error| unit_refusal(error, false))
        }
        Value::Integer(n) => {
            let hint = format!("write \"{}%\"", n.clamp(&1, &100));
            Err(refuse(code::BAD_UNIT, "is a bare number, which has no unit", hint))
        }
        other => Err(wrong_type("a share like \"50%\"", other, "")),
    }
}

/// # Errors
/// Anything but one of `words`.
pub fn word(value: &Value, words: &[&'static str]) -> Taken {
    let choices = || words.iter().map(|w| format!("\"{w}\"")).collect::<Vec<_>>().join(", ");
    let Value::Text(text) = value else {
        return Err(wrong_type(&format!("one of {}", choices()), value, ""));
    };
    if let Some(word) = words.iter().find(|word| *word == text) {
        return Ok(Scalar::Word(word));
    }
    let hint = match super::keys::nearest(text, words.iter().copied()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => String::new(),
    };
    let one_of = if words.len() == 1 { "" } else { "one of " };
    let problem = format!("must be {one_of}{}, found \"{}\"", choices(), clip(text));
    Err(refuse(code::NOT_A_CHOICE, problem, hint))
}

/// # Errors
/// Anything but a status code or a range of them.
pub fn statuses(value: &Value) -> Taken {
    const HINT: &str = "write 200, \"200-399\", or a list of these";
    let valid = |n: i128| u16::try_from(n).ok().filter(|n| (100..=599).contains(n));
    let range = match value {
        Value::Integer(number) => valid(*number).map(|n| n..=n),
        Value::Text(text) => {
            let (low, high) = text.split_once('-').unwrap_or((text, text));
            let number =
                |s: &str| Some(s).filter(|s| s.len() == 3).and_then(|s| valid(s.parse().ok()?));
            number(low)
                .zip(number(high))
                .filter(|(low, high)| low <= high)
                .map(|(low, high)| low..=high)
        }
        other => return Err(wrong_type("a status code or a range", other, HINT)),
    };
    range.map(Scalar::Statuses).ok_or_else(|| {
        refuse(code::OUT_OF_RANGE, "must be a status code from 100 to 599 or a range of them", HINT)
    })
}

/// # Errors
/// Anything but a text, a whole number, a boolean or null.
pub fn json(value: &Value) -> Taken {
    Ok(Scalar::Json(match value {
        Value::Text(text) => text.clone().into(),
        Value::Bool(on) => (*on).into(),
        Value::Integer(number) if i64::try_from(*number).is_ok() => (*number as i64).into(),
        Value::Null => serde_json::Value::Null,
        other => return Err(wrong_type("a string, a whole number or a boolean", other, "")),
    }))
}

/// # Errors
/// Anything but text of the form. `dir` is where relative paths start.
pub fn text(value: &Value, form: Text, dir: &std::path::Path) -> Taken {
    let Value::Text(text) = value else {
        return Err(wrong_type(wanted(form), value, ""));
    };
    match form {
        Text::Bind => address::bind(text)
            .map(Scalar::Bind)
            .map_err(|e| bad_address(code::BAD_ADDRESS, text, e)),
        Text::Server => address::server(text)
            .map(Scalar::Server)
            .map_err(|e| bad_address(code::BAD_ADDRESS, text, e)),
        Text::Ip => {
            address::ip(text).map(Scalar::Ip).map_err(|e| bad_address(code::BAD_ADDRESS, text, e))
        }
        Text::Resolver => address::resolver(text)
            .map(Scalar::Socket)
            .map_err(|e| bad_address(code::BAD_ADDRESS, text, e)),
        Text::Network => address::network(text)
            .map(|(net, host_bits)| Scalar::Network { net, host_bits })
            .map_err(|e| bad_address(code::BAD_NETWORK, text, e)),
        Text::Secret { min } => secret(text, min, dir),
        Text::Mode => mode(text),
        Text::LogTarget => log_target(text, dir),
        Text::PoolName | Text::Pattern => Ok(Scalar::Text(text.clone())),
        Text::Host => checked(
            text,
            address::is_host(text),
            "must be a host name or address",
            "write \"lb1.example.com\"",
        ),
        Text::Method => checked(
            text,
            text.len() <= 32 && is_token(text),
            "must be an HTTP method",
            "write \"GET\" or \"HEAD\"",
        ),
        Text::RequestPath => checked(
            text,
            text.starts_with('/')
                && text.bytes().all(|b| b.is_ascii_graphic())
                && !text.contains('#')
                && text.len() <= 4_096,
            "must be a path as a request has it",
            "begin with `/`; spaces and other characters are written as %XX",
        ),
        Text::FieldValue => checked(
            text,
            is_field_value(text),
            "must be the value of a header field",
            "no line break or other control character may stand in it, nor a space at its edges",
        ),
        Text::Free { max } => checked(
            text,
            !text.is_empty() && text.len() <= max && !text.contains('\0'),
            &format!("must be text of 1 to {max} bytes without NUL"),
            "",
        ),
        form if text_policy::has(form) => text_policy::text(text, form, dir),
        _ => text_http::text(text, form, dir),
    }
}

const fn wanted(form: Text) -> &'static str {
    match form {
        Text::Bind | Text::Server | Text::Resolver | Text::Ip => "an address in quotes",
        Text::Network => "a network like \"10.0.0.0/8\"",
        Text::Mode => "permission bits like \"0660\"",
        Text::LogTarget => "\"stdout\", \"file:/path\" or \"off\"",
        Text::PoolName => "the name of a pool",
        _ => "a string",
    }
}

fn bad_address(code: Code, text: &str, error: AddressError) -> Refusal {
    refuse(code, format!("\"{}\" {}", clip(text), error.problem), error.hint)
}

fn checked(text: &str, fits: bool, wanted: &str, hint: &str) -> Taken {
    if fits {
        return Ok(Scalar::Text(text.to_owned()));
    }
    Err(refuse(code::BAD_TEXT, format!("{wanted}, found \"{}\"", clip(text)), hint))
}

/// What signs with SHA-256 has no fewer bytes than it: only secrets of tokens are so long.
const HASH_BYTES_MIN: usize = 32;

fn secret(text: &str, min: usize, dir: &std::path::Path) -> Taken {
    let from = SecretFrom::parse(text, dir);
    let plain = matches!(from, SecretFrom::Plain(_));
    let hint = "write \"env:NAME\" or \"file:/path\"";
    let value = from
        .fetch()
        .map_err(|problem| refuse(code::BAD_SECRET, problem, if plain { hint } else { "" }))?;
    if value.len() < min {
        let (rule, hint) = if min >= HASH_BYTES_MIN {
            (
                " (RFC 7518 section 3.2: no fewer than the hash)",
                "make one with `openssl rand -hex 32`, and give it to whoever signs the tokens",
            )
        } else {
            ("", "make one with `openssl rand -hex 16`")
        };
        let found = value.len();
        let problem = format!("must have at least {min} bytes{rule}, this one has {found}");
        return Err(refuse(code::BAD_SECRET, problem, hint));
    }
    // It is sent in a header field or a protocol line, where a break would end it.
    if value.bytes().any(|b| b.is_ascii_control()) {
        return Err(refuse(
            code::BAD_SECRET,
            "must not have control characters or line breaks",
            "",
        ));
    }
    // A tokens's alphabet matters only where it travels as `Authorization: Bearer`.
    if min > 1 && !value.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(refuse(
            code::BAD_SECRET,
            "must have only visible ASCII characters, since it is a Bearer token",
            "",
        ));
    }
    Ok(Scalar::Secret { value, plain })
}

fn mode(text: &str) -> Taken {
    let octal = (3..=4).contains(&text.len()) && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
    let mode =
        u32::from_str_radix(text, 8).ok().filter(|mode| octal && *mode <= 0o777 && *mode > 0);
    mode.map(Scalar::Mode).ok_or_else(|| {
        let problem = format!("must be permission bits in octal, found \"{}\"", clip(text));
        refuse(code::BAD_TEXT, problem, "write \"0660\"")
    })
}

fn log_target(text: &str, dir: &std::path::Path) -> Taken {
    let target = match text {
        "off" => Some(AccessLog::Off),
        "stdout" => Some(AccessLog::Stdout),
        _ => text
            .strip_prefix("file:")
            .filter(|path| !path.is_empty() && !path.ends_with('/') && !path.contains('\0'))
            .map(|path| AccessLog::File(PathBuf::from(dir).join(path))),
    };
    target.map(Scalar::Log).ok_or_else(|| {
        let hint = if text.starts_with('/') {
            format!("write \"file:{}\"", clip(text))
        } else {
            String::new()
        };
        let problem =
            format!("must be \"stdout\", \"file:/path\" or \"off\", found \"{}\"", clip(text));
        refuse(code::NOT_A_CHOICE, problem, hint)
    })
}

/// RFC 9110 §5.6.2.
#[must_use]
pub fn is_token(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(fits)
}

/// RFC 9110 §5.5, without `obs-text`.
#[must_use]
pub fn is_field_value(text: &str) -> bool {
    let inside = text.bytes().all(|b| b.is_ascii_graphic() || b == b' ' || b == b'\t');
    inside && text.trim_matches([' ', '\t']) == text && text.len() <= 4_096
}

/// As much of a text as a message can bear.
#[must_use]
pub fn clip(text: &str) -> String {
    const CHARS_MAX: usize = 60;
    let clipped: String = text.chars().take(CHARS_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(CHARS_MAX).is_some() { clipped + "…" } else { clipped }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn read(form: Text, value: &str) -> Taken {
        text(&Value::Text(value.into()), form, Path::new("/etc/sg"))
    }

    #[test]
    fn no_line_break_gets_into_a_request() {
        for value in ["b\r\nX-C: d", "b\nc", "b\0c", " b", "b\r"] {
            assert!(read(Text::FieldValue, value).is_err(), "{value:?}");
            assert!(read(Text::RequestPath, &format!("/{value}")).is_err(), "{value:?}");
            assert!(read(Text::Host, value).is_err(), "{value:?}");
            assert!(read(Text::Method, value).is_err(), "{value:?}");
        }
        assert!(read(Text::FieldValue, "text/html; q=1").is_ok());
        assert!(read(Text::RequestPath, "/health?full=1").is_ok());
    }

    #[test]
    fn a_log_file_is_relative_to_the_naming_file() {
        let path = |p: &str| Ok(Scalar::Log(AccessLog::File(p.into())));
        assert_eq!(read(Text::LogTarget, "file:a.log"), path("/etc/sg/a.log"));
        assert_eq!(read(Text::LogTarget, "file:/var/log/a.log"), path("/var/log/a.log"));
        assert!(read(Text::LogTarget, "stderr").is_err());
    }

    #[test]
    fn a_short_or_odd_token_is_refused_without_being_told() {
        let token = Text::Secret { min: 16 };
        for value in
            ["changeme", "fifteen bytes..", "sixteen bytes, with blanks", "línea-con-acentos-larga"]
        {
            let refusal = read(token, value).unwrap_err();
            assert!(!refusal.problem.contains(value), "{refusal:?}");
        }
        assert!(read(token, "0123456789abcdef").is_ok());
    }

    #[test]
    fn statuses_are_codes_and_ranges() {
        let statuses = |v: &str| statuses(&Value::Text(v.into()));
        assert_eq!(statuses("200-399"), Ok(Scalar::Statuses(200..=399)));
        for text in ["", "2xx", "399-200", "99", "200-", "200-600", "+20-300"] {
            assert!(statuses(text).is_err(), "{text}");
        }
        assert!(super::statuses(&Value::Integer(600)).is_err());
    }

    #[test]
    fn a_bare_number_is_no_duration() {
        let read = |n| duration(&Value::Integer(n), Duration::ZERO, units::DURATION_MAX, true);
        assert!(read(5).unwrap_err().hint.contains("\"5s\""));
        assert!(read(500).unwrap_err().hint.contains("\"500ms\""));
        assert!(read(i128::MIN).is_err());
    }

    #[test]
    fn zero_says_off_only_where_off_can_be() {
        let read = |off| {
            duration(&Value::Text("0s".into()), Duration::ZERO, units::DURATION_MAX, off)
                .unwrap_err()
        };
        assert!(read(true).hint.contains("\"off\""));
        assert!(!read(false).hint.contains("\"off\""));
    }
}
