//! The fate of each packet that the kernel saw, beside what the rules say of it.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use dataplane::address::Address;
use gateway::judge::{Header, RuleAt, Verdict};
use gateway::model::{Hook, Limit, Per, RejectWith, Ruleset, States};

use crate::engine::Engine;
use crate::kernel::{Kernel, own};
use crate::observer::{Phase, Seen};
use crate::packet::{Packet, Read, read};

/// How many disagreements are told in full.
const TOLD: usize = 20;

/// A packet that is at the filter table.
struct Open {
    hook: Hook,
    bytes: Vec<u8>,
    read: Read,
    interfaces: [Option<String>; 2],
    state: States,
    expected: Verdict,
    /// For people: the packet and the rule that was expected to decide.
    story: String,
    refused: Option<RejectWith>,
    /// It came up because of another one.
    by_kernel: bool,
}

/// What became of a packet at a hook.
pub(crate) struct Fate {
    pub(crate) hook: Hook,
    pub(crate) read: Read,
    pub(crate) input: Option<String>,
    pub(crate) output: Option<String>,
    pub(crate) state: States,
    pub(crate) verdict: Verdict,
}

impl Fate {
    /// The packet as rules look at it.
    pub(crate) fn header(&self) -> Header<'_> {
        self.read.header(self.input.as_deref(), self.output.as_deref(), self.state)
    }
}

/// Figures, and what the kernel's counters have to be.
pub(crate) struct Fates<'a> {
    ruleset: &'a Ruleset,
    /// The gateway's addresses.
    own: Vec<Address>,
    engine: Option<&'a Engine>,
    tokens: HashMap<RuleAt, u32>,
    met: HashMap<u32, u64>,
    /// Packets that were sent.
    pub(crate) sent: u64,
    /// Packets that the filter table judged, each hook by itself.
    pub(crate) judged: BTreeMap<&'static str, u64>,
    /// Fates, as the kernel has them.
    pub(crate) fates: BTreeMap<String, u64>,
    /// Refusals that nobody is told of, by reason.
    pub(crate) silent: BTreeMap<&'static str, u64>,
    /// Packets that never reached the table, by kind.
    pub(crate) excluded: BTreeMap<String, u64>,
    /// The states that the kernel gave to the kinds of packets.
    pub(crate) states: BTreeMap<String, BTreeMap<&'static str, u64>>,
    /// Packets that passed a hook behind which they go out.
    pub(crate) passed_out: u64,
    /// Packets that the engine's rules were asked about, and why they were not asked about others.
    pub(crate) engine_asked: BTreeMap<&'static str, u64>,
    /// What became of what the last call sent, and of what came of that.
    pub(crate) last: Vec<Fate>,
    /// Packets that fared otherwise than was expected.
    pub(crate) disagreements: u64,
    told: String,
}

/// A state's name.
pub(crate) fn name(state: States) -> &'static str {
    States::NAMES.iter().find(|(_, of)| *of == state).map_or("none", |(name, _)| name)
}

impl<'a> Fates<'a> {
    pub(crate) fn new(ruleset: &'a Ruleset, engine: Option<&'a Engine>, kernel: &Kernel) -> Fates<'a> {
        Fates {
            ruleset,
            own: (0..kernel.interfaces.len() - 1).map(|index| own(kernel.family, index)).collect(),
            engine,
            tokens: HashMap::new(),
            met: HashMap::new(),
            sent: 0,
            judged: BTreeMap::new(),
            fates: BTreeMap::new(),
            silent: BTreeMap::new(),
            excluded: BTreeMap::new(),
            states: BTreeMap::new(),
            passed_out: 0,
            engine_asked: BTreeMap::new(),
            last: Vec::new(),
            disagreements: 0,
            told: String::new(),
        }
    }

    /// Sends a packet and compares. `kind` names it in the tables of what was excluded and of states. Answers its state.
    pub(crate) fn send(&mut self, kernel: &mut Kernel, kind: &str, packet: &Packet) -> Option<States> {
        self.sent += 1;
        self.last.clear();
        let seen = match kernel.send(packet) {
            Ok(seen) => seen,
            Err(error) => {
                *self.excluded.entry(format!("{kind}: not sent: {}", error.kind())).or_default() += 1;
                return None;
            }
        };
        let ours =
            |event: &&Seen| event.hook == packet.hook && read(&event.bytes).is_some_and(|read| read.is_of(packet));
        let state = seen.iter().filter(ours).find_map(|event| match event.phase {
            Phase::Before(state) => Some(state),
            _ => None,
        });
        self.take(kernel, seen, packet);
        match state {
            Some(state) => *self.states.entry(kind.to_owned()).or_default().entry(name(state)).or_default() += 1,
            None => *self.excluded.entry(kind.to_owned()).or_default() += 1,
        }
        state
    }

    /// Follows packets through the table. What is sent because of a packet comes while that packet is still there.
    fn take(&mut self, kernel: &Kernel, seen: Vec<Seen>, packet: &Packet) {
        let mut open: Vec<Open> = Vec::new();
        for event in seen {
            match event.phase {
                Phase::Before(state) => {
                    let opened = self.judge(kernel, event, state, packet);
                    open.extend(opened);
                }
                Phase::Sent => {
                    let (Some(last), Some(answer)) = (open.last_mut(), read(&event.bytes)) else { continue };
                    last.refused = last.refused.or_else(|| answer.refuses(&last.read));
                }
                Phase::After => {
                    let same = |one: &Open| one.hook == event.hook && one.bytes == event.bytes;
                    let Some(at) = open.iter().rposition(same) else {
                        self.disagree(|| format!("seen only behind the table: {event:?} of {packet:?}"));
                        continue;
                    };
                    for above in open.drain(at + 1..).collect::<Vec<_>>() {
                        self.close(above, false);
                    }
                    let passed = open.pop().expect("it was found");
                    self.passed_out += u64::from(kernel.interface(event.output).is_some_and(|name| name != "lo"));
                    self.close(passed, true);
                }
            }
        }
        for rest in open {
            self.close(rest, false);
        }
    }

    fn judge(&mut self, kernel: &Kernel, event: Seen, state: States, packet: &Packet) -> Option<Open> {
        let read = read(&event.bytes)?;
        let (input, output) = (kernel.interface(event.input), kernel.interface(event.output));
        let header = read.header(input, output, state);
        let (tokens, mut answers) = (&mut self.tokens, Vec::new());
        let judgement = self.ruleset.judge(event.hook, &header, &mut |at, limit| {
            let answer = token(tokens, at, limit);
            answers.extend((limit.per != Per::Second).then_some(answer));
            answer
        });
        for at in &judgement.met {
            *self.met.entry(self.ruleset.chains[at.chain].rules[at.rule].origin.line).or_default() += 1;
        }
        let rule = judgement.rule.map_or("the policy".to_owned(), |at| {
            let chain = &self.ruleset.chains[at.chain];
            format!("rule {} of {} ({})", at.rule + 1, chain.name, chain.rules[at.rule].origin)
        });
        *self.judged.entry(event.hook.name()).or_default() += 1;
        let story = format!("{} {header:?}: by {rule}", event.hook.name());
        if let Some(engine) = self.engine {
            let told = engine.judge(event.hook, &header, &answers);
            *self.engine_asked.entry(told.err().unwrap_or("asked")).or_default() += 1;
            if let Ok(told) = told
                && told != (judgement.verdict, judgement.rule)
            {
                self.disagree(|| format!("{story}: expected {:?}, the engine's rules say {told:?}", judgement.verdict));
            }
        }
        let by_kernel = !read.is_of(packet);
        let (hook, bytes, expected) = (event.hook, event.bytes, judgement.verdict);
        let interfaces = [input, output].map(|name| name.map(str::to_owned));
        Some(Open { hook, bytes, read, interfaces, state, expected, story, refused: None, by_kernel })
    }

    fn close(&mut self, open: Open, passed: bool) {
        let fate = match (passed, open.refused) {
            (true, _) => Verdict::Allow,
            (false, Some(with)) => Verdict::Reject(with),
            (false, None) => Verdict::Drop,
        };
        *self.fates.entry(format!("{fate:?}")).or_default() += 1;
        self.last.push(Fate {
            hook: open.hook,
            read: open.read.clone(),
            input: open.interfaces[0].clone(),
            output: open.interfaces[1].clone(),
            state: open.state,
            verdict: fate,
        });
        if fate == open.expected {
            return;
        }
        if let (Verdict::Drop, Verdict::Reject(with)) = (fate, open.expected)
            && let Some(reason) = open.read.silence(open.hook, with, open.by_kernel, &self.own)
        {
            *self.silent.entry(reason).or_default() += 1;
            return;
        }
        let Open { story, expected, .. } = open;
        self.disagree(|| format!("{story}: expected {expected:?}, the kernel says {fate:?}"));
    }

    fn disagree(&mut self, story: impl FnOnce() -> String) {
        self.disagreements += 1;
        if self.disagreements <= TOLD as u64 {
            writeln!(self.told, "  {}", story()).expect("writing to a string");
        }
    }

    /// Whether a packet has met the rule.
    pub(crate) fn has_met(&self, at: RuleAt) -> bool {
        self.met.contains_key(&self.ruleset.chains[at.chain].rules[at.rule].origin.line)
    }

    /// Packets that the filter table judged.
    pub(crate) fn total(&self) -> u64 {
        self.judged.values().sum()
    }

    /// All disagreements: of fates, of counters, and rules that no packet met although they are not among the `unreachable`
    /// (beginnings of their lines).
    pub(crate) fn complaints(&self, dump: &str, kernel: &Kernel, unreachable: &[(&str, &str)]) -> String {
        let mut text = self.told.clone();
        if self.disagreements > 0 {
            writeln!(text, "{} packets of {:?} fare otherwise", self.disagreements, self.judged).expect("a string");
        }
        let counters = kernel.counters();
        let mut places: HashMap<&str, usize> = HashMap::new();
        for (number, line) in dump.lines().enumerate() {
            let Some(chain) = line.strip_prefix("-A ").and_then(|rest| rest.split(' ').next()) else { continue };
            let place = places.entry(chain).or_default();
            let counted = counters.get(&(chain.to_owned(), *place)).copied().unwrap_or(0);
            *place += 1;
            let met = self.met.get(&(number as u32 + 1)).copied().unwrap_or(0);
            if counted != met {
                writeln!(text, "  {}: {line}: the kernel counts {counted}, we {met}", number + 1).expect("a string");
            }
            let known = unreachable.iter().any(|(beginning, _)| line.starts_with(beginning));
            if (counted == 0) != known {
                let what = if known { "was met, though it is taken as unreachable" } else { "no packet met it" };
                writeln!(text, "  {}: {line}: {what}", number + 1).expect("a string");
            }
        }
        text
    }

    /// Figures for people.
    pub(crate) fn summary(&self, kernel: &Kernel, rules: usize) -> String {
        format!(
            "{} sent; {} judged {:?}; {} disagreements; fates {:?}; refused in silence {:?}; {} of {rules} rules met; the engine's rules {:?}; \
             excluded before the table {} {:?}; the IP layer's counters {:?}; states {:?}; passed out {}, came out {}",
            self.sent,
            self.total(),
            self.judged,
            self.disagreements,
            self.fates,
            self.silent,
            self.met.len(),
            self.engine_asked,
            self.excluded.values().sum::<u64>(),
            self.excluded,
            kernel.refusals(),
            self.states,
            self.passed_out,
            kernel.came_out,
        )
    }
}

/// A token, if there is one. Limits are either so slow that no token comes back while a test runs, or so fast that there is
/// always one (see `slow_limits`).
fn token(tokens: &mut HashMap<RuleAt, u32>, at: RuleAt, limit: &Limit) -> bool {
    if limit.per == Per::Second {
        return true;
    }
    let left = tokens.entry(at).or_insert(limit.burst);
    let some = *left > 0;
    *left = left.saturating_sub(1);
    some
}

/// A dump whose limits give their burst and then nothing for as long as a test runs. Fast ones (thousands a second) stay.
pub(crate) fn slow_limits(dump: &str) -> String {
    dump.lines()
        .map(|line| {
            let mut words: Vec<&str> = line.split(' ').collect();
            for at in 1..words.len() {
                let fast = words[at].split_once('/').is_some_and(|(packets, _)| packets.len() > 3);
                if words[at - 1] == "--limit" && !fast {
                    words[at] = "1/hour";
                }
            }
            words.join(" ") + "\n"
        })
        .collect()
}
