//! A disk under a page cache: what was written, what of it is durable, and what a power cut may leave.
//!
//! What a cut may do here is what POSIX lets a file system do:
//! - each 4 KiB page that was written since its file's last sync is, by itself, as it was then, as it is
//!   now, or as it was after any write between;
//! - a page of the very last write may be torn at a sector of 512 bytes;
//! - a file's size is, by itself, any that it had since the last sync;
//! - names that were made, renamed or removed since their folder's last sync are kept or not, in order
//!   (as journals do it) or each by itself; in a folder with `chattr +D` they are durable at once.

use super::Random;
use ::tests::real::recording::Operation;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const PAGE: usize = 4096;
const SECTOR: usize = 512;

#[derive(Debug, Clone, Default)]
pub(super) struct Disk {
    files: Vec<File>,
    by_number: BTreeMap<u64, usize>,
    now: Names,
    durable: Names,
    /// By folder, since its last sync.
    unsynced: BTreeMap<PathBuf, Vec<NameChange>>,
    last_written: Option<usize>,
    /// Folders of which the file system was asked to make names durable as they change.
    name_synced: BTreeSet<PathBuf>,
}

#[derive(Debug, Clone, Default)]
struct File {
    durable: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Resize { size: usize },
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Names {
    files: BTreeMap<PathBuf, usize>,
    folders: BTreeSet<PathBuf>,
}

#[derive(Debug, Clone)]
enum NameChange {
    Link(PathBuf, usize),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf),
    Folder(PathBuf),
}

/// How a cut treats what is not durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// All of it is gone.
    LosesAll,
    /// All of it is there, but for the page that was being written.
    KeepsAll,
    /// Each page and each name by itself.
    Mixes,
}

impl Disk {
    /// A disk with what is below `root`, all of it durable.
    pub(super) fn read(root: &Path) -> Self {
        let mut disk = Self::default();
        disk.read_folder(root, Path::new(""));
        disk.durable = disk.now.clone();
        disk
    }

    fn read_folder(&mut self, root: &Path, folder: &Path) {
        for entry in fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap()) {
            let path = folder.join(entry.file_name());
            if entry.path().is_dir() {
                self.now.folders.insert(path.clone());
                self.read_folder(root, &path);
            } else {
                let file = self.new_file(entry.metadata().unwrap().ino());
                self.files[file].durable = fs::read(entry.path()).unwrap();
                self.now.files.insert(path, file);
            }
        }
    }

    fn new_file(&mut self, number: u64) -> usize {
        self.files.push(File::default());
        self.by_number.insert(number, self.files.len() - 1);
        self.files.len() - 1
    }

    /// From now on, names in this folder are durable as they change (`chattr +D`).
    pub(super) fn sync_names_of(mut self, folder: &str) -> Self {
        self.name_synced.insert(folder.into());
        self
    }

    pub(super) fn perform(&mut self, operation: &Operation) {
        match operation {
            Operation::Create { file, path } => {
                let file = self.new_file(*file);
                self.change_name(NameChange::Link(path.clone(), file), path);
            }
            Operation::Write { file, at, bytes } => {
                let file = self.by_number[file];
                self.last_written = Some(file);
                self.files[file].unsynced.push(Change::Write { at: *at, bytes: bytes.clone() });
            }
            Operation::Resize { file, size } => {
                self.files[self.by_number[file]].unsynced.push(Change::Resize { size: *size });
            }
            Operation::SyncFile { file } => {
                let file = &mut self.files[self.by_number[file]];
                for change in std::mem::take(&mut file.unsynced) {
                    change.apply(&mut file.durable);
                }
            }
            Operation::SyncFolder { path } => {
                for change in self.unsynced.remove(path).unwrap_or_default() {
                    self.durable.apply(&change);
                }
            }
            Operation::Rename { from, to } => {
                assert_eq!(from.parent(), to.parent(), "a rename between folders is not replayed");
                self.change_name(NameChange::Rename(from.clone(), to.clone()), from);
            }
            Operation::Remove { path } => {
                self.change_name(NameChange::Unlink(path.clone()), path);
            }
            Operation::MakeFolder { path } => {
                self.change_name(NameChange::Folder(path.clone()), path);
            }
            // Neither says anything about power.
            Operation::Promise(_) | Operation::Flush { .. } => {}
        }
    }

    fn change_name(&mut self, change: NameChange, path: &Path) {
        self.now.apply(&change);
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        if self.name_synced.contains(&folder) {
            self.durable.apply(&change);
        } else {
            self.unsynced.entry(folder).or_default().push(change);
        }
    }

    /// Writes what a power cut now may leave into `root`, which is made.
    pub(super) fn cut_into(&self, root: &Path, cut: Cut, random: &mut Random) {
        let names = self.surviving_names(cut, random);
        self.write_out(&names, root, |file, is_last| match cut {
            Cut::LosesAll => file.durable.clone(),
            Cut::KeepsAll if !is_last => file.newest(),
            _ => file.surviving(cut, is_last, random),
        });
    }

    /// Writes what a process sees into `root`, which is made.
    pub(super) fn all_into(&self, root: &Path) {
        self.write_out(&self.now, root, |file, _| file.newest());
    }

    fn write_out(
        &self,
        names: &Names,
        root: &Path,
        mut content: impl FnMut(&File, bool) -> Vec<u8>,
    ) {
        fs::create_dir_all(root).unwrap();
        names.folders.iter().for_each(|folder| fs::create_dir_all(root.join(folder)).unwrap());
        for (path, index) in &names.files {
            let bytes = content(&self.files[*index], self.last_written == Some(*index));
            fs::write(root.join(path), bytes).unwrap();
        }
    }

    fn surviving_names(&self, cut: Cut, random: &mut Random) -> Names {
        let mut names = self.durable.clone();
        let in_order = cut != Cut::Mixes || random.below(3) > 0;
        for changes in self.unsynced.values() {
            let kept = match cut {
                Cut::LosesAll => 0,
                Cut::KeepsAll => changes.len(),
                Cut::Mixes => random.index(changes.len() + 1),
            };
            let is_kept = |number: usize, random: &mut Random| {
                if in_order { number < kept } else { random.below(2) == 0 }
            };
            for (number, change) in changes.iter().enumerate() {
                if is_kept(number, random) {
                    names.apply(change);
                }
            }
        }
        names.drop_what_has_no_folder();
        names
    }
}

impl Names {
    /// What a change needs and a cut took makes it no change.
    fn apply(&mut self, change: &NameChange) {
        match change {
            NameChange::Link(path, file) => {
                self.files.insert(path.clone(), *file);
            }
            NameChange::Unlink(path) => {
                self.files.remove(path);
            }
            NameChange::Rename(from, to) => {
                if let Some(file) = self.files.remove(from) {
                    self.files.insert(to.clone(), file);
                }
            }
            NameChange::Folder(path) => {
                self.folders.insert(path.clone());
            }
        }
    }

    fn drop_what_has_no_folder(&mut self) {
        let folders = self.folders.clone();
        let is_there = |path: &Path| {
            path.ancestors().skip(1).all(|a| a == Path::new("") || folders.contains(a))
        };
        self.folders.retain(|path| is_there(path));
        self.files.retain(|path, _| is_there(path));
    }
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write { at, bytes } => {
                content.resize(content.len().max(at + bytes.len()), 0);
                content[*at..at + bytes.len()].copy_from_slice(bytes);
            }
            Self::Resize { size } => content.resize(*size, 0),
        }
    }

    /// Whether it changes page `page`.
    fn touches(&self, page: usize) -> bool {
        match self {
            Self::Write { at, bytes } => at / PAGE <= page && page * PAGE < at + bytes.len(),
            Self::Resize { size } => *size < (page + 1) * PAGE,
        }
    }
}

impl File {
    fn newest(&self) -> Vec<u8> {
        let mut content = self.durable.clone();
        self.unsynced.iter().for_each(|change| change.apply(&mut content));
        content
    }

    /// The content after each change, the durable one first.
    fn versions(&self) -> Vec<Vec<u8>> {
        let mut versions = vec![self.durable.clone()];
        for change in &self.unsynced {
            let mut next = versions[versions.len() - 1].clone();
            change.apply(&mut next);
            versions.push(next);
        }
        versions
    }

    fn surviving(&self, cut: Cut, is_last: bool, random: &mut Random) -> Vec<u8> {
        if self.unsynced.is_empty() {
            return self.durable.clone();
        }
        let versions = self.versions();
        let newest = versions.len() - 1;
        let pages = versions.iter().map(Vec::len).max().unwrap_or(0).div_ceil(PAGE);
        let mut content = Vec::with_capacity(pages * PAGE);
        for page in 0..pages {
            let is_touched = self.unsynced.iter().any(|change| change.touches(page));
            let version = match cut {
                Cut::Mixes if is_touched => pick_version(newest, random),
                _ => newest,
            };
            content.extend(page_of(&versions[version], page));
        }
        if is_last && random.below(2) == 0 {
            self.tear(&mut content, &versions, random);
        }
        let size = if cut == Cut::Mixes { pick_version(newest, random) } else { newest };
        content.resize(versions[size].len(), 0);
        content
    }

    /// A page of the last write has its new bytes up to a sector, or behind it.
    fn tear(&self, content: &mut [u8], versions: &[Vec<u8>], random: &mut Random) {
        let Some(Change::Write { at, bytes }) = self.unsynced.last() else { return };
        let pages = at / PAGE..(at + bytes.len()).div_ceil(PAGE);
        let page = pages.start + random.index(pages.len());
        let (new, old) = (versions.len() - 1, pick_version(versions.len() - 2, random));
        let (head, tail) = if random.below(2) == 0 { (new, old) } else { (old, new) };
        let split = SECTOR * (1 + random.index(PAGE / SECTOR - 1));
        let mut torn = page_of(&versions[head], page);
        torn[split..].copy_from_slice(&page_of(&versions[tail], page)[split..]);
        content[page * PAGE..(page + 1) * PAGE].copy_from_slice(&torn);
    }
}

/// The oldest, the newest, or any.
fn pick_version(newest: usize, random: &mut Random) -> usize {
    match random.below(3) {
        0 => 0,
        1 => newest,
        _ => random.index(newest + 1),
    }
}

/// A page, with zeros where the content ends.
fn page_of(content: &[u8], page: usize) -> Vec<u8> {
    let begin = (page * PAGE).min(content.len());
    let end = (begin + PAGE).min(content.len());
    let mut bytes = content[begin..end].to_vec();
    bytes.resize(PAGE, 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> PathBuf {
        PathBuf::from(path)
    }

    fn write(at: usize, fill: u8, length: usize) -> Operation {
        Operation::Write { file: 1, at, bytes: vec![fill; length] }
    }

    fn left(disk: &Disk, cut: Cut, seed: u64) -> Option<Vec<u8>> {
        let root = tempfile::tempdir().unwrap();
        disk.cut_into(root.path(), cut, &mut Random::new(seed));
        fs::read(root.path().join("f")).ok()
    }

    #[test]
    fn what_was_synced_survives_every_cut_and_what_was_not_survives_some() {
        let mut disk = Disk::default();
        let create = Operation::Create { file: 1, path: file("f") };
        let folder = Operation::SyncFolder { path: file("") };
        let sync = Operation::SyncFile { file: 1 };
        for operation in [create, write(0, 1, 3 * PAGE), sync, folder, write(PAGE, 2, PAGE)] {
            disk.perform(&operation);
        }
        assert_eq!(left(&disk, Cut::LosesAll, 1), Some(vec![1; 3 * PAGE]));
        let mut middles = BTreeSet::new();
        for seed in 0..40 {
            let found = left(&disk, Cut::Mixes, seed).unwrap();
            assert_eq!(found.len(), 3 * PAGE);
            assert!(found[..PAGE].iter().chain(&found[2 * PAGE..]).all(|byte| *byte == 1));
            middles.insert(found[PAGE..2 * PAGE].to_vec());
        }
        assert!(middles.contains(&vec![1; PAGE]) && middles.contains(&vec![2; PAGE]));
        assert!(middles.iter().any(|page| page.contains(&1) && page.contains(&2)), "no torn page");
    }

    #[test]
    fn a_name_that_was_not_synced_may_be_gone_whatever_its_file_holds() {
        let mut disk = Disk::default();
        disk.perform(&Operation::Create { file: 1, path: file("f") });
        disk.perform(&write(0, 1, 10));
        disk.perform(&Operation::SyncFile { file: 1 });
        assert_eq!(left(&disk, Cut::LosesAll, 1), None);
        assert_eq!(left(&disk, Cut::KeepsAll, 1), Some(vec![1; 10]));
    }
}
