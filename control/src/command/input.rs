//! Manifests as every command takes them.

use std::io::IsTerminal;
use std::path::PathBuf;

use anstyle::{AnsiColor, Style};

use super::exit::Failure;
use crate::policy::cluster::Cluster;
use crate::policy::manifest;

/// How a command answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// Where the objects are.
#[derive(Clone, Debug, clap::Args)]
pub struct ManifestArgs {
    /// Kubernetes manifests: a file, a directory, or - for standard input; repeatable
    #[arg(short = 'f', long = "filename", value_name = "FILE|DIR|-", required = true)]
    pub paths: Vec<PathBuf>,
}

impl ManifestArgs {
    /// Reads the objects; warnings go to stderr.
    ///
    /// # Errors
    /// Bad input, one sentence for each object that is.
    pub fn load(&self) -> Result<Cluster, Failure> {
        load(&self.paths)
    }
}

/// Reads manifests; warnings go to stderr.
///
/// # Errors
/// Bad input, one sentence for each object that is.
pub fn load(paths: &[PathBuf]) -> Result<Cluster, Failure> {
    let loaded = manifest::load(paths).map_err(Failure::input)?;
    for warning in &loaded.warnings {
        eprintln!("penstock: warning: {warning}");
    }
    Ok(loaded.cluster)
}

/// Colours for a terminal; none for a file or a pipe, or when `NO_COLOR` is set.
#[derive(Clone, Copy, Debug)]
pub struct Palette {
    /// What is allowed.
    pub allow: Style,
    /// What is denied.
    pub deny: Style,
    /// What matters.
    pub strong: Style,
    /// What matters less.
    pub faint: Style,
}

impl Palette {
    /// The palette that suits standard output.
    pub fn of_stdout() -> Palette {
        let coloured = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
        if !coloured {
            return Palette { allow: Style::new(), deny: Style::new(), strong: Style::new(), faint: Style::new() };
        }
        Palette {
            allow: AnsiColor::Green.on_default(),
            deny: AnsiColor::Red.on_default(),
            strong: Style::new().bold(),
            faint: Style::new().dimmed(),
        }
    }
}
