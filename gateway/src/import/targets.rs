//! What a rule does.

use super::Importer;
use super::rule::Reading;
use crate::model::{Action, Log, RejectWith};
use crate::values;

/// iptables' words for ways to reject, of both families, with ours.
const REJECTS: [(&str, RejectWith); 24] = [
    ("icmp-net-unreachable", RejectWith::NetUnreachable),
    ("net-unreach", RejectWith::NetUnreachable),
    ("icmp-host-unreachable", RejectWith::HostUnreachable),
    ("host-unreach", RejectWith::HostUnreachable),
    ("icmp-proto-unreachable", RejectWith::ProtocolUnreachable),
    ("proto-unreach", RejectWith::ProtocolUnreachable),
    ("icmp-port-unreachable", RejectWith::PortUnreachable),
    ("port-unreach", RejectWith::PortUnreachable),
    ("icmp-net-prohibited", RejectWith::NetProhibited),
    ("net-prohib", RejectWith::NetProhibited),
    ("icmp-host-prohibited", RejectWith::HostProhibited),
    ("host-prohib", RejectWith::HostProhibited),
    ("icmp-admin-prohibited", RejectWith::AdminProhibited),
    ("admin-prohib", RejectWith::AdminProhibited),
    ("tcp-reset", RejectWith::TcpReset),
    ("tcp-rst", RejectWith::TcpReset),
    ("icmp6-no-route", RejectWith::NetUnreachable),
    ("no-route", RejectWith::NetUnreachable),
    ("icmp6-adm-prohibited", RejectWith::AdminProhibited),
    ("icmp6-addr-unreachable", RejectWith::HostUnreachable),
    ("addr-unreach", RejectWith::HostUnreachable),
    ("icmp6-port-unreachable", RejectWith::PortUnreachable),
    ("icmp6-policy-fail", RejectWith::PolicyFail),
    ("icmp6-reject-route", RejectWith::RejectRoute),
];

impl Importer<'_> {
    pub(super) fn target(&mut self, reading: &mut Reading<'_>, option: &str) -> Result<(), String> {
        let name = reading.value(option)?;
        if let Some(chain) = reading.chains.get(name.as_str()) {
            let chain = chain.clone();
            reading.action = Some(match option {
                "-g" | "--goto" => Action::Goto(chain),
                _ => Action::Jump(chain),
            });
            return Ok(());
        }
        reading.action = Some(match name.as_str() {
            "ACCEPT" => Action::Allow,
            "DROP" => Action::Drop,
            "RETURN" => Action::Return,
            "REJECT" => Action::Reject(RejectWith::PortUnreachable),
            "LOG" | "NFLOG" => {
                reading.log = Some(Log::default());
                Action::Continue
            }
            _ => {
                return Err(format!(
                    "target {name} can't be expressed: there is no chain of this name in the dump, and penstock allows, drops, rejects, logs, \
                     returns and jumps"
                ));
            }
        });
        Ok(())
    }

    /// An option of a target; `false` if it is none.
    pub(super) fn target_option(&mut self, reading: &mut Reading<'_>, word: &str) -> Result<bool, String> {
        match word {
            "--reject-with" => {
                let text = reading.value(word)?;
                let found = REJECTS.iter().find(|(name, _)| *name == text).map(|(_, with)| *with);
                let with = found.ok_or_else(|| format!("{word} {text} is no way to reject that is known here"))?;
                reading.action = Some(Action::Reject(with));
            }
            "--log-prefix" | "--nflog-prefix" => {
                let prefix = reading.value(word)?;
                reading.log.get_or_insert_default().prefix = prefix;
            }
            "--log-level" => {
                let text = reading.value(word)?;
                let level = values::level(
                    &text.replace("panic", "emerg").replace("warn", "warning").replace("warninging", "warning"),
                )?;
                reading.log.get_or_insert_default().level = Some(level);
            }
            "--log-tcp-sequence" | "--log-tcp-options" | "--log-ip-options" | "--log-uid" | "--log-macdecode" => {
                self.report
                    .notes
                    .push(format!("{}: {word} is left away: a log line has what penstock logs", reading.origin));
            }
            "--nflog-group" | "--nflog-range" | "--nflog-size" | "--nflog-threshold" => {
                reading.value(word)?;
                self.report
                    .notes
                    .push(format!("{}: {word} is left away: what it logs is a line of penstock's log", reading.origin));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}
