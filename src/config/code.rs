//! The codes of everything that can be wrong with a configuration: one table, stable for ever.
//!
//! `E0xx` the file, `E1xx` one key or value, `E2xx` things that contradict each other, `E3xx`
//! includes, `W4xx` lints. A number is never given a second meaning; one that is no longer
//! reported stays unused. The reference page prints this table.

/// Whether the configuration can be used in spite of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Error,
    Warning,
}

impl Severity {
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// One row: what is printed in brackets, and what it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// For example `E103`.
    pub id: &'static str,
    /// One line for the reference page.
    pub title: &'static str,
}

impl Code {
    #[must_use]
    pub const fn severity(self) -> Severity {
        if self.id.as_bytes()[0] == b'W' { Severity::Warning } else { Severity::Error }
    }

    /// It says that something is not there (or not used), so it means nothing in a file that
    /// could not be read to its end.
    #[must_use]
    pub fn is_about_absence(self) -> bool {
        [MISSING_KEY, NO_SUCH_POOL, NO_SUCH_POLICY, NO_SERVERS, NO_LISTENER, ADMIN_OPEN]
            .contains(&self)
            || self.severity() == Severity::Warning
    }
}

macro_rules! codes {
    ($($name:ident $id:literal $title:literal;)*) => {
        $(pub const $name: Code = Code { id: $id, title: $title };)*
        /// Every code, in order.
        pub static CODES: &[Code] = &[$($name),*];
    };
}

codes! {
    UNREADABLE "E001" "the file is missing or may not be read";
    NOT_A_FILE "E002" "a directory, pipe, socket or device where a regular file is needed";
    TOO_LARGE "E003" "the file is larger than the reader takes";
    NOT_UTF8 "E004" "the file is not UTF-8 text";
    EMPTY "E005" "the file has nothing in it";
    SYNTAX "E006" "not valid TOML or JSON";
    DUPLICATE_KEY "E007" "the same key twice in one table";

    WRONG_TYPE "E101" "a value of another type than the key takes";
    MISSING_KEY "E102" "a key that must be there is not";
    UNKNOWN_KEY "E103" "a key that this version does not know";
    NOT_A_CHOICE "E104" "a word that is not one of the possible ones";
    OUT_OF_RANGE "E105" "a number outside its range";
    BAD_UNIT "E106" "a duration, size, rate or share that cannot be read, or is zero or too large";
    BAD_ADDRESS "E107" "an address that cannot be read, or cannot be used there";
    BAD_NETWORK "E108" "a network that cannot be read";
    BAD_NAME "E109" "a name that cannot be a label in metrics and logs";
    BAD_SECRET "E110" "a secret that is missing, empty, too short or has forbidden characters";
    TOO_MANY "E112" "more entries than the bound";
    BAD_TEXT "E113" "text with a form or characters that are not possible there";
    NOT_HERE "E114" "a key that does not go with another one beside it";
    LOGS_SECRET "E115" "a setting of the log that would write credentials or cookies to it";

    NO_SUCH_POOL "E201" "a listener or a route sends to a pool that does not exist";
    ADDRESS_TAKEN "E202" "two things bind the same address";
    NO_SERVERS "E203" "a pool without servers";
    NO_LISTENER "E204" "a configuration without a listener";
    ADMIN_AS_SERVER "E205" "a server's address is the admin address";
    CIRCLE "E206" "listeners that send to each other in a circle";
    ADMIN_OPEN "E207" "an admin address that others can reach, without a token";
    CONFLICT "E208" "settings that contradict each other";
    SAME_ROUTE "E209" "two routes of a listener that match the same requests";
    BAD_PEM "E210" "a certificate, key, authority or revocation list that cannot be used";
    WRONG_KEY "E211" "a private key that does not belong to its certificate";
    CHAIN_ORDER "E212" "certificates in a file that do not stand in the order they were issued";
    NO_SUCH_POLICY "E213" "a listener, a route or a policy names a policy that does not exist";
    BAD_CHAIN "E214" "policies that cannot work together, or where they are named";

    BAD_INCLUDE "E301" "an include pattern that cannot be read or finds nothing";
    NESTED_INCLUDE "E302" "an included file that includes others";
    SELF_INCLUDE "E303" "a file that includes itself";
    SAME_NAME "E304" "the same name in two files";

    UNUSED_POOL "W401" "a pool that no listener uses";
    CHECK_TOO_SLOW "W402" "a check whose timeout is not below its period";
    TIMEOUT_ORDER "W403" "timeouts or limits of which one never takes effect";
    NEVER_DOWN "W404" "a setting for servers that go down or come up, where nothing notices that";
    PER_IP_ON_UNIX "W405" "a per-address setting on a listener without client addresses";
    PLAIN_SECRET "W406" "a secret in plain text in the file";
    SERVER_TWICE "W407" "the same server address twice in a pool";
    OVERLAP "W408" "a wildcard address and a specific one with the same port";
    HOST_BITS "W409" "a network with bits set after its prefix";
    ONLY_BACKUPS "W410" "a pool in which every server is a backup";
    SHADOWED_ROUTE "W411" "a route that no request takes, because another comes before it";
    CERT_DATES "W412" "a certificate that has expired, or is not valid yet";
    CERT_NAMES "W413" "a certificate that is not for the names it is chosen by";
    TRUSTS_ALL "W414" "everybody is trusted, or nobody verified";
    NO_EFFECT "W415" "a setting that has no effect where it stands";
    UNUSED_POLICY "W416" "a policy that no listener or route uses";
    NO_STARTTLS "W417" "a listener that cannot answer PostgreSQL clients who ask for TLS";
    SAME_TOKEN "W418" "one secret where two are meant";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_code_has_two_meanings_and_they_stand_in_order() {
        let mut before = "";
        for code in CODES {
            let digits = &code.id[1..];
            assert!(before < digits, "{} follows {before}", code.id);
            assert_eq!(code.id.starts_with('W'), digits.starts_with('4'), "{}", code.id);
            before = digits;
        }
    }
}
