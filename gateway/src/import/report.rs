//! What people should know of an import.

use std::fmt;

use super::Table;

/// What stays in the kernel, what was taken for granted, what was left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Rules of other tables, a line each: they stay in the kernel.
    pub kernel: Vec<String>,
    /// Rules of the filter table that depend on those.
    pub depends: Vec<String>,
    /// What was taken for granted.
    pub notes: Vec<String>,
    /// Rules that mean nothing now, because they can't be expressed.
    pub left_out: Vec<String>,
}

impl Report {
    pub(super) fn kernel(&mut self, tables: &[Table<'_>]) {
        for table in tables.iter().filter(|table| table.name != "filter") {
            for (chain, words, origin) in &table.rules {
                self.kernel.push(format!("{origin}: {} {chain}: {words}", table.name));
            }
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            ("these rules stay in the kernel, as they are", &self.kernel),
            ("these rules depend on what stays in the kernel", &self.depends),
            ("to be known", &self.notes),
            ("LEFT OUT, since they can't be expressed", &self.left_out),
        ];
        for (head, lines) in parts.into_iter().filter(|(_, lines)| !lines.is_empty()) {
            writeln!(f, "{head}:")?;
            lines.iter().try_for_each(|line| writeln!(f, "  {line}"))?;
        }
        Ok(())
    }
}
