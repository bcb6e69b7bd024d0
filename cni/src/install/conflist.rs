//! Our configuration: a copy of the primary's, with us last.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::plugin::VERSIONS;

/// The type of our plugin, which is the name of its binary.
const PLUGIN: &str = "penstock-cni";

/// Why there is no configuration to write.
#[derive(Debug, thiserror::Error)]
pub enum ConflistError {
    /// No other plugin has written one yet.
    #[error(
        "there is no CNI configuration of another plugin in {}: Penstock is chained behind one; it is written when that one is there",
        .0.display()
    )]
    NoPrimary(PathBuf),
    /// One cannot be used.
    #[error("{}: {reason}; mend it, or take it away", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The system refused.
    #[error("{}: {source}", path.display())]
    System {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn system(path: &Path) -> impl FnOnce(io::Error) -> ConflistError {
    let path = path.to_owned();
    |source| ConflistError::System { path, source }
}

/// The configuration that a runtime would take if ours were not there: the first by name.
///
/// # Errors
/// When there is none, or the directory cannot be read.
pub fn primary(directory: &Path, own: &str) -> Result<PathBuf, ConflistError> {
    let others = configurations(directory)?.into_iter().filter(|path| path.file_name().is_some_and(|name| name != own));
    // What names us already is a copy that somebody made, or an older one of ours.
    others.into_iter().find(|path| !names_us(path)).ok_or_else(|| ConflistError::NoPrimary(directory.to_owned()))
}

/// Whether the configuration that a runtime takes, the first by name, names us.
///
/// # Errors
/// When the directory cannot be read.
pub fn is_chained(directory: &Path) -> Result<bool, ConflistError> {
    Ok(configurations(directory)?.first().is_some_and(|first| names_us(first)))
}

/// All configurations, by name.
fn configurations(directory: &Path) -> Result<Vec<PathBuf>, ConflistError> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(system(directory))?,
    };
    let is_config = |path: &PathBuf| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        matches!(extension, Some("conf" | "conflist" | "json"))
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_config).collect();
    paths.sort();
    Ok(paths)
}

fn names_us(path: &Path) -> bool {
    fs::read(path).is_ok_and(|text| plugins(&text).is_ok_and(|all| all.iter().any(is_ours)))
}

fn is_ours(plugin: &Value) -> bool {
    plugin["type"] == PLUGIN
}

/// The plugins of a configuration, whether it is a list or a single one.
fn plugins(text: &[u8]) -> Result<Vec<Value>, String> {
    let config: Map<String, Value> = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    match config.get("plugins") {
        Some(Value::Array(plugins)) => Ok(plugins.clone()),
        Some(_) => Err("plugins is no list".to_owned()),
        None if config.contains_key("type") => Ok(vec![Value::Object(config)]),
        None => Err("it has neither plugins nor a type".to_owned()),
    }
}

/// A primary's configuration with us behind it.
///
/// # Errors
/// What is wrong with it, in words.
pub fn chained(text: &[u8]) -> Result<String, String> {
    let mut config: Map<String, Value> = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let mut plugins = plugins(text)?;
    if plugins.is_empty() {
        return Err("it names no plugin".to_owned());
    }
    // What a runtime, or we, would refuse for every new pod.
    if let Some(at) = plugins.iter().position(|plugin| plugin["type"].as_str().is_none_or(str::is_empty)) {
        return Err(format!("plugins[{at}] has no type"));
    }
    if config.get("name").and_then(Value::as_str).is_none_or(str::is_empty) {
        return Err("it has no name".to_owned());
    }
    match config.get("cniVersion").and_then(Value::as_str) {
        Some(version) if VERSIONS.contains(&version) => {}
        other => {
            let (other, known) = (other.unwrap_or_default(), VERSIONS.join(", "));
            return Err(format!("cniVersion {other:?} is not one that penstock-cni speaks ({known})"));
        }
    }
    if !config.contains_key("plugins") {
        // A single plugin: what a list says of the network, it says beside the plugin's own settings.
        let name = config.get("name").cloned().ok_or("it has no name")?;
        let mut list = Map::from_iter([("name".to_owned(), name)]);
        list.extend(config.get("cniVersion").map(|version| ("cniVersion".to_owned(), version.clone())));
        config = list;
    }
    plugins.push(json!({ "type": PLUGIN }));
    config.insert("plugins".to_owned(), Value::Array(plugins));
    serde_json::to_string_pretty(&config).map(|text| text + "\n").map_err(|error| error.to_string())
}

/// Brings our configuration in step with the primary's. Answers whether it was written.
///
/// # Errors
/// See [`ConflistError`]. Without a primary ours is taken away: it would start pods without a network.
pub fn follow(directory: &Path, own: &str) -> Result<bool, ConflistError> {
    let path = match primary(directory, own) {
        Ok(path) => path,
        Err(error) => {
            if matches!(error, ConflistError::NoPrimary(_)) {
                remove(&directory.join(own)).map_err(system(&directory.join(own)))?;
            }
            return Err(error);
        }
    };
    let text = fs::read(&path).map_err(system(&path))?;
    // It may hold secrets.
    let mode = fs::metadata(&path).map_or(0o644, |metadata| metadata.permissions().mode() & 0o644);
    // A file that is being written is whole in a moment; until then ours stays as it is.
    let wanted = chained(&text).map_err(|reason| ConflistError::Broken { path, reason })?;
    let own = directory.join(own);
    if fs::read(&own).is_ok_and(|there| there == wanted.as_bytes()) {
        return Ok(false);
    }
    replace(&own, wanted.as_bytes(), mode).map(|()| true).map_err(system(&own))
}

/// Removes a file that need not be there.
///
/// # Errors
/// When the system refuses.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Puts a file in the place of another one, so that a reader sees the old or the new whole, also after a crash. The fresh one lies in
/// the same directory, under a name that no runtime takes for a configuration.
///
/// # Errors
/// When the system refuses.
pub(super) fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let fresh = path.with_file_name(format!(".{name}.new"));
    let written = File::create(&fresh).and_then(|mut file| {
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&fresh, path)
    });
    if let Err(error) = written {
        // Half a file is of no use to anybody.
        let _as_far_as_possible = fs::remove_file(&fresh);
        return Err(error);
    }
    // The name is on the disk once its directory is.
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}
