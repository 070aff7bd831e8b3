//! Images in the way of a disk that fills up: which ones are needed, and that one goes before a pod does.

use super::{AgentCore, Effect};
use crate::ports::NamedImages;
use shared::model::Now;
use std::collections::BTreeSet;

/// What is known of images.
#[derive(Debug, Default)]
pub(super) struct Images {
    /// Those that the runtime was told to keep.
    named: NamedImages,
    room: Room,
}

/// Whether an image can make room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Room {
    /// One may be there that can go.
    #[default]
    Perhaps,
    /// The runtime removes one.
    Begun,
    /// There is none while the disk is as full as it is and the same images are named.
    None,
}

impl AgentCore {
    /// Tells the runtime which images are needed, when they are others than before. While the desired state is not
    /// known as a whole it is not told: what is missing from it must not be taken for gone.
    pub(super) fn keep_images(&mut self) {
        if self.must_hold() {
            return;
        }
        let named = self.workloads.iter().map(|(key, workload)| {
            let containers = workload.template.spec.in_order();
            let images = containers.filter_map(|one| one.container.image.clone()).collect();
            (key.clone(), images)
        });
        let named: NamedImages =
            named.filter(|(_, images): &(_, BTreeSet<_>)| !images.is_empty()).collect();
        if self.images.named != named {
            self.images.named.clone_from(&named);
            if self.images.room == Room::None {
                self.images.room = Room::Perhaps;
            }
            self.effects.push_back(Effect::KeepImages(named));
        }
    }

    /// Whether pods have to go because the disk fills up: before, images do, one with each sample.
    pub(super) fn must_pods_make_room(&mut self) -> bool {
        match (self.disk_pressure, self.images.room) {
            (false, _) => self.images.room = Room::Perhaps,
            (true, Room::Perhaps) => {
                self.images.room = Room::Begun;
                self.effects.push_back(Effect::RemoveImage);
            }
            (true, Room::Begun) => {}
            (true, Room::None) => return true,
        }
        false
    }

    /// The runtime has removed an image, has none that can go, or does not answer: then it is asked again, and pods
    /// stay until it does, because it could not stop them either.
    pub(super) fn handle_image_removed(&mut self, image: Result<Option<String>, String>, now: Now) {
        self.images.room = if image == Ok(None) { Room::None } else { Room::Perhaps };
        if let Ok(Some(image)) = image {
            let message = format!("the disk fills up, and nothing needs the image {image}");
            self.record_event("node", "ImageRemoved", &message, now);
        }
    }
}
