//! What a consumer must be.

use super::claims::Selector;
use super::consumer::Principal;

/// One entry of `allow` or `deny`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    Group(String),
    Consumer(String),
    /// The claim is that text, has it as a word, or as an item.
    Claim(Selector, String),
}

/// `deny` wins; an empty `allow` is every consumer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Acl {
    pub allow: Vec<Entry>,
    pub deny: Vec<Entry>,
}

impl Entry {
    fn fits(&self, principal: &Principal) -> bool {
        match self {
            Self::Group(group) => principal.is_in(group),
            Self::Consumer(name) => principal.id == *name,
            Self::Claim(selector, wanted) => {
                principal.claims.as_ref().is_some_and(|claims| claims.says(selector, wanted))
            }
        }
    }
}

impl Acl {
    /// Nobody known is nobody who may.
    #[must_use]
    pub fn permits(&self, principal: Option<&Principal>) -> bool {
        let Some(principal) = principal else { return false };
        let any = |entries: &[Entry]| entries.iter().any(|entry| entry.fits(principal));
        !any(&self.deny) && (self.allow.is_empty() || any(&self.allow))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn principal(id: &str, groups: &[&str]) -> Principal {
        Principal {
            id: id.to_owned(),
            groups: groups.iter().map(|&group| group.to_owned()).collect(),
            declared: None,
            claims: None,
            lines: Vec::new(),
        }
    }

    #[test]
    fn one_entry_is_enough_and_deny_wins() {
        let acl = Acl {
            allow: vec![Entry::Group("gold".into()), Entry::Consumer("bob".into())],
            deny: vec![Entry::Consumer("eve".into())],
        };
        assert!(acl.permits(Some(&principal("alice", &["gold"]))));
        assert!(acl.permits(Some(&principal("bob", &[]))));
        assert!(!acl.permits(Some(&principal("eve", &["gold"]))));
        assert!(!acl.permits(Some(&principal("carol", &["silver"]))));
        assert!(!acl.permits(None));
    }

    #[test]
    fn without_allow_every_consumer_may_and_nobody_unknown() {
        let acl = Acl { allow: Vec::new(), deny: vec![Entry::Group("out".into())] };
        assert!(acl.permits(Some(&principal("alice", &[]))));
        assert!(!acl.permits(Some(&principal("bob", &["out"]))));
        assert!(!acl.permits(None));
    }
}
