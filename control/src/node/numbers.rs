//! The numbers of wires. They are kept in a file, so that a new engine, or a new control, finds the flows of each wire under the
//! number that they have in the flows' files. A number is never given twice while the machine runs.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use dataplane::rules::WireId;
use serde::{Deserialize, Serialize};

/// A wire: the container and the interface in it.
type Place = (String, String);

/// Which wire has which number.
#[derive(Debug)]
pub(super) struct Numbers {
    file: PathBuf,
    wires: BTreeMap<Place, u32>,
    next: u32,
    dirty: bool,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    next: u32,
    /// Container, interface, number.
    wires: Vec<(String, String, u32)>,
}

impl Numbers {
    /// Those of the file; none if it cannot be read, and why not.
    pub(super) fn read(file: &Path) -> (Numbers, Option<String>) {
        let (kept, trouble) = match std::fs::read(file) {
            Ok(bytes) => match serde_json::from_slice::<Kept>(&bytes) {
                Ok(kept) => (kept, None),
                Err(error) => (Kept::default(), Some(error.to_string())),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => (Kept::default(), None),
            Err(error) => (Kept::default(), Some(error.to_string())),
        };
        let trouble = trouble.map(|reason| {
            let file = file.display();
            format!(
                "{file}: the wires' numbers cannot be read ({reason}): they get new ones, and their flows begin anew"
            )
        });
        let after = kept.wires.iter().map(|(_, _, number)| number + 1).max().unwrap_or(0);
        // Without the file, what flows' files hold must not be taken for that of other wires.
        let next = if trouble.is_some() { unlikely() } else { kept.next.max(after) };
        let wires = kept.wires.into_iter().map(|(container, interface, number)| ((container, interface), number));
        (Numbers { file: file.to_owned(), wires: wires.collect(), next, dirty: false }, trouble)
    }

    /// The number of a wire, a new one if it has none.
    pub(super) fn of(&mut self, container: &str, interface: &str) -> WireId {
        let next = &mut self.next;
        let dirty = &mut self.dirty;
        let number = self.wires.entry((container.to_owned(), interface.to_owned())).or_insert_with(|| {
            *dirty = true;
            let number = *next;
            *next = next.wrapping_add(1);
            number
        });
        WireId(*number)
    }

    /// A wire is no more.
    pub(super) fn forget(&mut self, container: &str, interface: &str) {
        self.dirty |= self.wires.remove(&(container.to_owned(), interface.to_owned())).is_some();
    }

    /// Writes down what changed.
    ///
    /// # Errors
    /// When the file cannot be written; a sentence.
    pub(super) fn write(&mut self) -> Result<(), String> {
        if !self.dirty {
            return Ok(());
        }
        let wires =
            self.wires.iter().map(|((container, interface), number)| (container.clone(), interface.clone(), *number));
        let kept = Kept { next: self.next, wires: wires.collect() };
        let temporary = self.file.with_extension("json.new");
        let text = serde_json::to_vec(&kept).unwrap_or_default();
        let directory = self.file.parent().map_or(Ok(()), std::fs::create_dir_all);
        let written = directory.and_then(|()| std::fs::write(&temporary, text));
        written.and_then(|()| std::fs::rename(&temporary, &self.file)).map_err(|error| {
            let file = self.file.display();
            format!("{file}: the wires' numbers cannot be written ({error}): after a restart flows begin anew")
        })?;
        self.dirty = false;
        Ok(())
    }
}

/// A number that is far from those that were given before.
fn unlikely() -> u32 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    // The seconds of some years, in steps of a few.
    u32::try_from(now.as_secs() % (1 << 28)).unwrap_or(0) << 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_outlive_control_and_are_never_given_twice() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("wires.json");
        let (mut numbers, trouble) = Numbers::read(&file);
        assert_eq!(trouble, None);
        let (a, b) = (numbers.of("c1", "eth0"), numbers.of("c2", "eth0"));
        assert_ne!(a, b);
        numbers.forget("c2", "eth0");
        numbers.write().unwrap();
        let (mut again, _) = Numbers::read(&file);
        assert_eq!(again.of("c1", "eth0"), a);
        assert!(![a, b].contains(&again.of("c2", "eth0")), "the container came back, its flows are others");
        std::fs::write(&file, "{").unwrap();
        let (mut anew, trouble) = Numbers::read(&file);
        assert!(trouble.unwrap().contains("wires.json: the wires' numbers cannot be read"));
        assert!(![a, b].contains(&anew.of("c1", "eth0")));
    }
}
