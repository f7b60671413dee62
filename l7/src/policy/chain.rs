//! Which policies run for a route, and in which order.

use super::spec::{Phase, PolicySpec};

/// One mention in a list of policies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mention {
    Add(usize),
    /// `"!name"`
    Drop(usize),
    /// `"!*"`
    DropAll,
}

/// The policies of one route, or of a listener where no route was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    steps: Vec<usize>,
}

impl Chain {
    /// The listener's and then the route's, each once, in the order in which they run: by
    /// phase, then as written.
    #[must_use]
    pub fn of(listener: &[Mention], route: &[Mention], policies: &[PolicySpec]) -> Self {
        let mut steps: Vec<usize> = Vec::new();
        for mention in listener.iter().chain(route) {
            match mention {
                Mention::Add(policy) if !steps.contains(policy) => steps.push(*policy),
                Mention::Add(_) => {}
                Mention::Drop(policy) => steps.retain(|step| step != policy),
                Mention::DropAll => steps.clear(),
            }
        }
        steps.sort_by_key(|&step| policies[step].phase());
        Self { steps }
    }

    /// Only those that need no route.
    #[must_use]
    pub fn early(&self, policies: &[PolicySpec]) -> Self {
        let early = |&&step: &&usize| policies[step].phase().is_early();
        Self { steps: self.steps.iter().filter(early).copied().collect() }
    }

    #[must_use]
    pub fn steps(&self) -> &[usize] {
        &self.steps
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// The steps of one phase.
    pub fn of_phase<'c>(
        &'c self,
        phase: Phase,
        policies: &'c [PolicySpec],
    ) -> impl Iterator<Item = usize> + 'c {
        self.steps.iter().copied().filter(move |&step| policies[step].phase() == phase)
    }
}

#[cfg(test)]
mod tests {
    use super::super::spec::Kind;
    use super::*;
    use crate::route::spec::HeaderSpec;

    fn policies() -> Vec<PolicySpec> {
        let of = |kind| PolicySpec { name: String::new(), dry_run: false, retired: false, kind };
        vec![
            of(Kind::Headers { request: HeaderSpec::default(), response: HeaderSpec::default() }),
            of(Kind::Size { body: 1, header: None }),
            of(Kind::Ip { allow: Vec::new(), deny: Vec::new() }),
            of(Kind::Size { body: 2, header: None }),
        ]
    }

    #[test]
    fn they_run_by_phase_whatever_the_order_they_are_named_in() {
        let all = [Mention::Add(0), Mention::Add(1)];
        let own = [Mention::Add(3), Mention::Add(2), Mention::Add(1)];
        assert_eq!(Chain::of(&all, &own, &policies()).steps(), [2, 1, 3, 0]);
        assert_eq!(Chain::of(&all, &own, &policies()).early(&policies()).steps(), [2]);
    }

    #[test]
    fn a_route_drops_what_the_listener_has() {
        let all = [Mention::Add(0), Mention::Add(1)];
        assert_eq!(Chain::of(&all, &[Mention::Drop(0)], &policies()).steps(), [1]);
        let own = [Mention::DropAll, Mention::Add(3)];
        assert_eq!(Chain::of(&all, &own, &policies()).steps(), [3]);
    }
}
