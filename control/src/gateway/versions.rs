//! The versions of a gateway's rules that were in force, so that a restart goes on with the last one and any can be put back.
//!
//! A directory holds `0001.yaml`, `0002.yaml` … and `current`, which has the number of the one that a restart enforces. A file is written
//! beside, synced and moved into place: after a power cut there is the old version or the new one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// How many versions are kept.
const KEPT: usize = 20;

/// The versions in a directory.
#[derive(Debug)]
pub(crate) struct Versions {
    directory: PathBuf,
}

/// A kept version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    /// Its number: the later, the greater.
    pub(crate) number: u32,
    /// Its file.
    pub(crate) path: PathBuf,
}

impl Versions {
    /// The versions in a directory, which is made if it is not there.
    ///
    /// # Errors
    /// When it can't be made or read; a sentence with the remedy.
    pub(crate) fn open(directory: &Path) -> Result<Versions, String> {
        let versions = Versions { directory: directory.to_owned() };
        fs::create_dir_all(directory).and_then(|()| versions.list()).map_err(|error| versions.complaint(&error))?;
        Ok(versions)
    }

    /// What is wrong with the directory, with the remedy.
    pub(crate) fn complaint(&self, error: &io::Error) -> String {
        format!(
            "state: versions of the rules can't be kept in {} ({error}); name a directory that penstock may write to, with room in it",
            self.directory.display()
        )
    }

    fn path(&self, number: u32) -> PathBuf {
        self.directory.join(format!("{number:04}.yaml"))
    }

    /// All versions that are kept, oldest first.
    ///
    /// # Errors
    /// When the directory can't be read.
    pub(crate) fn list(&self) -> io::Result<Vec<Version>> {
        let mut versions = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            let number = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".yaml")?.parse().ok());
            versions.extend(number.map(|number| Version { number, path }));
        }
        versions.sort_by_key(|version| version.number);
        Ok(versions)
    }

    /// The version that a restart enforces; `None` before the first.
    ///
    /// # Errors
    /// When it is named and can't be found: what would be enforced is not known.
    pub(crate) fn current(&self) -> Result<Option<Version>, String> {
        let file = self.directory.join("current");
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("{} can't be read ({error})", file.display())),
        };
        let number = text.trim().parse().ok().filter(|&number| self.path(number).is_file());
        match number {
            Some(number) => Ok(Some(Version { number, path: self.path(number) })),
            None => Err(format!(
                "{} names version {:?}, which is not there; write the number of one that is, or remove the file to begin with the rules \
                 that the configuration names",
                file.display(),
                text.trim()
            )),
        }
    }

    /// Keeps a text as the next version, not yet as the one that a restart enforces.
    ///
    /// # Errors
    /// When it can't be written; nothing has changed then.
    pub(crate) fn keep(&self, text: &str) -> io::Result<Version> {
        let number = self.list()?.last().map_or(1, |last| last.number + 1);
        let path = self.path(number);
        self.write(&path, text)?;
        Ok(Version { number, path })
    }

    /// From now on a restart enforces this version. The oldest ones are forgotten beyond what is kept.
    ///
    /// # Errors
    /// When it can't be written; the version before stays.
    pub(crate) fn confirm(&self, number: u32) -> io::Result<()> {
        self.write(&self.directory.join("current"), &format!("{number}\n"))?;
        let versions = self.list()?;
        let old = versions.len().saturating_sub(KEPT);
        for version in versions.iter().take(old).filter(|version| version.number != number) {
            // Next time, then.
            let _kept = fs::remove_file(&version.path);
        }
        Ok(())
    }

    /// Writes another text for a version.
    ///
    /// # Errors
    /// When it can't be written; the text before stays.
    pub(crate) fn replace(&self, number: u32, text: &str) -> io::Result<()> {
        self.write(&self.path(number), text)
    }

    /// Forgets a version that did not come into force.
    pub(crate) fn discard(&self, number: u32) {
        // It does no harm.
        let _kept = fs::remove_file(self.path(number));
    }

    fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        let beside = path.with_extension("new");
        let mut file = File::create(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        File::open(&self.directory)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_kept_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let versions = Versions::open(&directory.path().join("rules")).unwrap();
        assert_eq!(versions.current(), Ok(None));
        let one = versions.keep("one").unwrap();
        assert_eq!(versions.current(), Ok(None), "kept is not confirmed");
        versions.confirm(one.number).unwrap();
        assert_eq!(versions.current(), Ok(Some(one.clone())));
        assert_eq!(fs::read_to_string(&one.path).unwrap(), "one");
        let two = versions.keep("two").unwrap();
        assert_eq!(two.number, 2);
        versions.discard(two.number);
        assert_eq!(versions.list().unwrap(), std::slice::from_ref(&one));
        for _ in 0..2 * KEPT {
            versions.keep("more").unwrap();
        }
        versions.confirm(one.number).unwrap();
        let kept: Vec<u32> = versions.list().unwrap().iter().map(|version| version.number).collect();
        assert_eq!((kept[0], kept.len()), (1, KEPT + 1), "what is in force is kept, whatever its age");
    }

    #[test]
    fn a_version_that_is_gone_is_no_reason_to_guess() {
        let directory = tempfile::tempdir().unwrap();
        let versions = Versions::open(directory.path()).unwrap();
        fs::write(directory.path().join("current"), "7\n").unwrap();
        let error = versions.current().unwrap_err();
        assert!(error.contains("names version \"7\", which is not there"), "{error}");
    }
}
