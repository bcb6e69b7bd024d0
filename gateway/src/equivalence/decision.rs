//! What becomes of one packet, as it depends on tokens: by the rules' own meaning.

use crate::judge::{Header, RuleAt, Verdict};
use crate::model::{Hook, Limit, Ruleset};

/// A verdict, and what led to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Leaf {
    pub(super) verdict: Verdict,
    pub(super) rule: Option<RuleAt>,
    /// The limits that were asked, and whether they had a token.
    pub(super) tokens: Vec<(Limit, bool)>,
}

/// Verdicts by answers of limits. No two branches of a limit have the same.
#[derive(Clone, Debug)]
pub(super) enum Decision {
    Leaf(Leaf),
    Limit { limit: Limit, token: Box<Decision>, none: Box<Decision> },
}

impl Decision {
    /// What a rule set decides of a packet.
    pub(super) fn of(ruleset: &Ruleset, hook: Hook, packet: &Header<'_>) -> Decision {
        explore(ruleset, hook, packet, &mut Vec::new())
    }

    /// A verdict of each that are not the same, for answers that both can get.
    pub(super) fn differs<'d>(&'d self, other: &'d Decision) -> Option<(&'d Leaf, &'d Leaf)> {
        match (self, other) {
            (Decision::Leaf(one), Decision::Leaf(other)) => (one.verdict != other.verdict).then_some((one, other)),
            (Decision::Limit { limit, token, none }, Decision::Limit { limit: of, token: taken, none: missing })
                if limit == of =>
            {
                none.differs(missing).or_else(|| token.differs(taken))
            }
            (Decision::Limit { token, none, .. }, _) => none.differs(other).or_else(|| token.differs(other)),
            (Decision::Leaf(_), Decision::Limit { token, none, .. }) => {
                self.differs(none).or_else(|| self.differs(token))
            }
        }
    }

    /// Does not tell of a limit whose answer makes no difference.
    fn forget(&mut self, asked: usize) {
        match self {
            Decision::Leaf(leaf) => drop(leaf.tokens.remove(asked)),
            Decision::Limit { token, none, .. } => [token, none].into_iter().for_each(|branch| branch.forget(asked)),
        }
    }

    fn same(&self, other: &Decision) -> bool {
        match (self, other) {
            (Decision::Leaf(one), Decision::Leaf(other)) => one.verdict == other.verdict,
            (Decision::Limit { limit, token, none }, Decision::Limit { limit: of, token: taken, none: missing }) => {
                limit == of && token.same(taken) && none.same(missing)
            }
            _ => false,
        }
    }
}

/// Judges with the answers given, and then with either answer to the first question beyond them.
fn explore(ruleset: &Ruleset, hook: Hook, packet: &Header<'_>, answers: &mut Vec<(Limit, bool)>) -> Decision {
    let (mut asked, mut next) = (0, None);
    let judgement = ruleset.judge(hook, packet, &mut |_, limit| {
        asked += 1;
        match answers.get(asked - 1) {
            Some((_, answer)) => *answer,
            None => {
                next.get_or_insert(*limit);
                false
            }
        }
    });
    let Some(limit) = next else {
        let (verdict, rule) = (judgement.verdict, judgement.rule);
        return Decision::Leaf(Leaf { verdict, rule, tokens: answers.clone() });
    };
    let mut branch = |answer| {
        answers.push((limit, answer));
        let decision = explore(ruleset, hook, packet, answers);
        answers.pop();
        decision
    };
    let (mut none, token) = (branch(false), branch(true));
    if none.same(&token) {
        none.forget(answers.len());
        none
    } else {
        Decision::Limit { limit, token: token.into(), none: none.into() }
    }
}
