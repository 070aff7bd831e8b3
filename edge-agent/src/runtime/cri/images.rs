//! Images that this agent has pulled: when the disk fills up, one that nothing needs can go.
//!
//! Needed are images that a workload names, or named before its last change of images, and those of any container
//! that the runtime has. What was imported by hand is never removed: neither an image that this agent has not
//! pulled, nor one that has a further name, nor one that has become another since. All of it is remembered in a file
//! beside the folder of pods. Where that is lost nothing is removed, so a file that can't be written is removed
//! itself rather than left behind as it was.

use super::Shared;
use super::api;
use super::client::CallError;
use super::note::Pairs;
use crate::ports::NamedImages;
use serde::{Deserialize, Serialize};
use shared::in_words;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tracing::{info, warn};

/// The file beside the folder of pods.
const FILE: &str = "images.json";

/// Its size at most: names of the images of as many workloads as a node may have, twice.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// Images that are remembered; the oldest are forgotten first, and then kept for ever.
const PULLED_MAX: usize = 1024;

/// What is known of images, and the file that holds it.
#[derive(Debug)]
pub(super) struct Images {
    file: PathBuf,
    known: Mutex<Known>,
    /// Held by whoever writes the file.
    saving: Mutex<()>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Known {
    /// The oldest first.
    pulled: Vec<Pulled>,
    /// By workload.
    named: BTreeMap<String, Named>,
}

/// An image as it was pulled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Pulled {
    image: String,
    id: String,
}

/// What a workload names, and what it named before.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Named {
    present: BTreeSet<String>,
    previous: BTreeSet<String>,
}

impl Known {
    fn name(&mut self, named: &NamedImages) {
        let mut before = std::mem::take(&mut self.named);
        for (workload, images) in named {
            let key = workload.to_string();
            let mut known = before.remove(&key).unwrap_or_default();
            if known.present != *images {
                known.previous = std::mem::replace(&mut known.present, images.clone());
            }
            self.named.insert(key, known);
        }
    }

    fn pulled(&mut self, image: &str, id: &str) {
        self.forget(image);
        let (image, id) = (image.to_owned(), id.to_owned());
        self.pulled.push(Pulled { image, id });
        let over = self.pulled.len().saturating_sub(PULLED_MAX);
        self.pulled.drain(..over);
    }

    fn forget(&mut self, image: &str) {
        self.pulled.retain(|pulled| pulled.image != image);
    }

    fn needed(&self) -> BTreeSet<String> {
        let named = self.named.values();
        named.flat_map(|named| named.present.union(&named.previous)).cloned().collect()
    }
}

impl Images {
    /// Reads what is known beside the folder of pods.
    pub(super) fn beside(pods: &Path) -> Self {
        let file = pods.with_file_name(FILE);
        let known = Mutex::new(read(&file).unwrap_or_default());
        Self { file, known, saving: Mutex::default() }
    }

    /// From now on these are named.
    pub(super) fn name(&self, named: &NamedImages) {
        self.known().name(named);
    }

    /// It was pulled just now, and is this one.
    pub(super) fn pulled(&self, image: &str, id: &str) {
        self.known().pulled(image, id);
    }

    /// Makes the file say what is known.
    pub(super) fn save(&self) {
        let _turn = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.known().clone();
        if read(&self.file).as_ref() == Some(&known) {
            return;
        }
        if let Err(error) = write(&self.file, &known) {
            let file = self.file.display();
            warn!(%file, %error, "was not written, and is removed: no image is removed by it");
            let _ = fs::remove_file(&self.file);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Nothing is left half done by a panic: it changes as a whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(file: &Path) -> Option<Known> {
    let mut text = Vec::new();
    File::open(file).ok()?.take(FILE_BYTES_MAX).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Synced: what the file says after a power cut was true at some moment.
fn write(file: &Path, known: &Known) -> io::Result<()> {
    let new = file.with_extension("new");
    let mut opened = File::create(&new)?;
    opened.write_all(&serde_json::to_vec(known)?)?;
    opened.sync_all()?;
    fs::rename(&new, file)
}

impl Shared {
    /// Removes the oldest image that can go, and says which; or why that is not known.
    pub(super) async fn remove_image(&self) -> Result<Option<String>, String> {
        match self.try_to_remove_image().await {
            Ok(image) => Ok(image),
            Err(error) => {
                let words = in_words(&error);
                warn!(error = words, "no image is removed");
                // What is refused for good is refused the next time too: pods must make room.
                if error.may_pass() { Err(words) } else { Ok(None) }
            }
        }
    }

    async fn try_to_remove_image(&self) -> Result<Option<String>, CallError> {
        let known = self.images.known().clone();
        let needed = known.needed();
        let used = self.used(&needed).await?;
        for Pulled { image, id } in known.pulled.iter().filter(|one| !needed.contains(&one.image)) {
            let found = self.client.image(image).await?;
            let is_it = found.as_ref().is_some_and(|found| found.id == *id);
            let can_go = found.is_some_and(|found| can_go(&found, image, &used));
            if !is_it {
                // Gone, or another one by now.
                self.images.known().forget(image);
            } else if can_go {
                match self.client.remove_image(id).await {
                    Err(error) if error.may_pass() => return Err(error),
                    Err(error) => warn!(image, id, error = in_words(&error), "is not removed"),
                    Ok(()) => {
                        info!(image, id, "was removed: the disk fills up");
                        self.images.known().forget(image);
                        return Ok(Some(image.clone()));
                    }
                }
            }
        }
        Ok(None)
    }

    /// What the images are called that are needed, whatever they are called by: the ids of these, and what the
    /// containers say that they are of.
    async fn used(&self, needed: &BTreeSet<String>) -> Result<BTreeSet<String>, CallError> {
        let mut used = BTreeSet::new();
        for image in needed {
            used.extend(self.client.image(image).await?.map(|found| found.id));
        }
        // Those of everybody.
        for container in self.client.containers(Pairs::new()).await? {
            used.insert(container.image_ref);
            used.extend(container.image.map(|image| image.image));
        }
        Ok(used)
    }
}

/// Whether nothing uses it and it has no name but the one by which it was pulled.
fn can_go(found: &api::Image, image: &str, used: &BTreeSet<String>) -> bool {
    let api::Image { id, repo_tags, repo_digests, .. } = found;
    let mut names = [id].into_iter().chain(repo_tags).chain(repo_digests);
    let is_own = |tag: &String| {
        // The runtime writes out what may be left off.
        let tag = tag.strip_suffix(":latest").unwrap_or(tag);
        let image = image.strip_suffix(":latest").unwrap_or(image);
        tag == image || tag.ends_with(&format!("/{image}"))
    };
    let is_alone = repo_tags.len() <= 1 && repo_digests.len() <= 1 && repo_tags.iter().all(is_own);
    is_alone && !names.any(|name| used.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(of: &[(&str, &[&str])]) -> NamedImages {
        let one = |(key, images): &(&str, &[&str])| {
            (key.parse().unwrap(), images.iter().map(|image| (*image).to_owned()).collect())
        };
        of.iter().map(one).collect()
    }

    fn needed(known: &Known) -> Vec<String> {
        known.needed().into_iter().collect()
    }

    #[test]
    fn images_of_the_present_and_the_previous_generation_are_needed() {
        let mut known = Known::default();
        known.name(&named(&[("default/a", &["a:1"]), ("default/b", &["b:1"])]));
        known.name(&named(&[("default/a", &["a:2"]), ("default/b", &["b:1"])]));
        assert_eq!(needed(&known), ["a:1", "a:2", "b:1"]);
        known.name(&named(&[("default/a", &["a:2"]), ("default/b", &["b:1"])]));
        assert_eq!(needed(&known), ["a:1", "a:2", "b:1"], "the same is no change");
        known.name(&named(&[("default/a", &["a:3", "p:1"])]));
        assert_eq!(needed(&known), ["a:2", "a:3", "p:1"], "one is not assigned any more");
    }

    #[test]
    fn an_image_that_is_pulled_again_is_the_newest_and_so_many_are_remembered() {
        let mut known = Known::default();
        for image in ["a", "b", "a"] {
            known.pulled(image, "sha256:1");
        }
        let order: Vec<&str> = known.pulled.iter().map(|one| one.image.as_str()).collect();
        assert_eq!(order, ["b", "a"]);
        (0..2000).for_each(|number| known.pulled(&number.to_string(), ""));
        assert_eq!((known.pulled.len(), known.pulled[0].image.as_str()), (PULLED_MAX, "976"));
    }

    #[test]
    fn what_is_known_survives_and_what_can_t_be_written_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let pods = folder.path().join("pods");
        let images = Images::beside(&pods);
        images.pulled("a:1", "sha256:1");
        images.name(&named(&[("default/a", &["a:2"])]));
        images.save();
        let again = Images::beside(&pods);
        assert_eq!(*again.known(), *images.known());
        assert_eq!(again.known().pulled.len(), 1);
        // Where a folder stands nothing can be written.
        fs::create_dir(folder.path().join("images.new")).unwrap();
        images.pulled("b:1", "sha256:2");
        images.save();
        assert_eq!(*Images::beside(&pods).known(), Known::default());
        fs::write(folder.path().join(FILE), "{").unwrap();
        assert_eq!(*Images::beside(&pods).known(), Known::default());
    }

    #[test]
    fn an_image_that_is_used_or_has_a_further_name_stays() {
        let image = |tags: &[&str], digests: &[&str]| api::Image {
            id: "sha256:1".to_owned(),
            repo_tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            repo_digests: digests.iter().map(|digest| (*digest).to_owned()).collect(),
            ..api::Image::default()
        };
        let nothing = BTreeSet::new();
        let one = image(&["docker.io/library/ocr:latest"], &["docker.io/library/ocr@sha256:2"]);
        assert!(can_go(&one, "ocr", &nothing) && can_go(&one, "ocr:latest", &nothing));
        for used in ["sha256:1", "docker.io/library/ocr:latest", "docker.io/library/ocr@sha256:2"] {
            assert!(!can_go(&one, "ocr", &BTreeSet::from([used.to_owned()])), "{used}");
        }
        assert!(!can_go(&image(&["a/ocr:1", "b/ocr:1"], &[]), "a/ocr:1", &nothing));
        assert!(!can_go(&image(&["a/ocr:1"], &[]), "a/ocr@sha256:2", &nothing), "imported as well");
        assert!(!can_go(
            &image(&[], &["a/ocr@sha256:2", "b@sha256:2"]),
            "a/ocr@sha256:2",
            &nothing
        ));
        assert!(can_go(&image(&[], &["a/ocr@sha256:2"]), "a/ocr@sha256:2", &nothing));
    }
}
