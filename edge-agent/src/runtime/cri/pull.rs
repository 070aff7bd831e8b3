//! The image of a container: the one that is here, or brought by the runtime for as long as it takes.
//!
//! An image that is here is never asked for at a registry, so that a pod starts without one in reach. Two images
//! come at a time. Refuses to pull where the node's configuration or the template says so, and
//! says what can be done instead.

use super::api::{self, AuthConfig};
use super::calls::until_answered;
use super::client::CallError;
use super::credentials::credentials_for;
use super::life::{Life, START_PATIENCE, failure_of};
use super::progress;
use super::{CriOptions, blocking};
use crate::config::PullPolicy;
use crate::ports::{PullTerms, RuntimeEvent};
use crate::runtime::{Secrets, StartFailure};
use shared::in_words;
use shared::model::{DOCKER_CONFIG_KEY, ImagePullPolicy};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info, warn};

/// Between two attempts: at first, and at most. As the kubelet.
const PAUSE_MIN: Duration = Duration::from_secs(10);
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// What a pod is told to wait for is said anew this often, so that its start is not given up.
const SAID_EVERY: Duration = Duration::from_secs(30);

/// Why an image that is not here is not pulled, if it is not; with what can be done.
pub(super) fn why_not(
    options: &CriOptions,
    policy: Option<ImagePullPolicy>,
    terms: &PullTerms,
) -> Option<&'static str> {
    if policy == Some(ImagePullPolicy::Never) {
        return Some("its imagePullPolicy is Never: import it into the runtime");
    }
    match options.pulls {
        PullPolicy::Never => Some(
            "`images.pull` of this node's configuration is \"never\": import it into the runtime",
        ),
        PullPolicy::Unmetered if terms.is_metered => Some(
            "the link has a budget of bytes, and `images.pull` of this node's configuration is \
             \"unmetered\": import it into the runtime, or set it to \"always\"",
        ),
        PullPolicy::Unmetered | PullPolicy::Always => None,
    }
}

impl Life {
    /// A container's image, once it is here.
    pub(super) async fn image(
        &mut self,
        image: Option<&str>,
        policy: Option<ImagePullPolicy>,
        terms: &PullTerms,
    ) -> Result<api::Image, StartFailure> {
        let image = named(image)?;
        if let Some(found) = self.found(image).await? {
            return Ok(found);
        }
        if let Some(why) = why_not(&self.shared.options, policy, terms) {
            let message =
                format!("the image {image} is not on this node, and is not pulled: {why}");
            return Err(StartFailure::new("ImageMissing", message));
        }
        let auths = credentials(image, terms, self.shared.secrets.get())?;
        self.pulled(image, &auths).await
    }

    /// An image that was here when the pod was started.
    pub(super) async fn image_here(&self, image: Option<&str>) -> Result<api::Image, StartFailure> {
        let image = named(image)?;
        self.found(image).await?.ok_or_else(|| gone(image))
    }

    async fn found(&self, image: &str) -> Result<Option<api::Image>, StartFailure> {
        let found = until_answered(Some(START_PATIENCE), || self.shared.client.image(image)).await;
        found.map_err(|error| failure_of(&error))
    }

    /// Tries until it is here or the pod shall stop.
    async fn pulled(
        &mut self,
        image: &str,
        auths: &[AuthConfig],
    ) -> Result<api::Image, StartFailure> {
        let mut pause = PAUSE_MIN;
        loop {
            let shared = self.shared.clone();
            let waits =
                ("ImagePulling", format!("the image {image} waits for another to be pulled"));
            let turn = self.while_saying(waits, shared.pulling.acquire()).await?;
            // It may have come for another pod, or by hand.
            if let Some(found) = self.found(image).await? {
                return Ok(found);
            }
            info!(pod = %self.pod, image, "is being pulled");
            let (says, said) = watch::channel(format!("the image {image} is being pulled"));
            let attempt = async {
                let before = progress::layers(&shared.client).await;
                tokio::select! {
                    ended = pull_as_any(&shared.client, image, auths) => ended,
                    never = progress::follow(&shared.client, before, image, &says) => match never {},
                }
            };
            let ended = self.while_telling("ImagePulling", said, attempt).await?;
            drop(turn);
            match ended {
                Ok(()) => {
                    let found = self.found(image).await?.ok_or_else(|| gone(image))?;
                    shared.images.pulled(image, &found.id);
                    blocking(move || shared.images.save()).await;
                    return Ok(found);
                }
                Err(error) => {
                    let error = in_words(&error);
                    warn!(pod = %self.pod, image, error, "was not pulled");
                    let seconds = pause.as_secs();
                    let why =
                        format!("the image {image}: {error}; is tried again after {seconds} s");
                    self.while_saying(("ImagePullBackOff", why), sleep(pause)).await?;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    /// Does something long; meanwhile says why the pod waits. Ends as a failure when it shall stop.
    pub(super) async fn while_saying<T>(
        &mut self,
        (reason, message): (&str, String),
        work: impl Future<Output = T>,
    ) -> Result<T, StartFailure> {
        self.while_telling(reason, watch::channel(message).1, work).await
    }

    /// The same, with words that change.
    async fn while_telling<T>(
        &mut self,
        reason: &str,
        mut words: watch::Receiver<String>,
        work: impl Future<Output = T>,
    ) -> Result<T, StartFailure> {
        tokio::pin!(work);
        loop {
            let (pod, instance) = (self.pod.clone(), self.instance);
            let (reason, message) = (reason.to_owned(), words.borrow_and_update().clone());
            self.shared.tell(RuntimeEvent::Preparing { pod, instance, reason, message });
            tokio::select! {
                done = &mut work => return Ok(done),
                _ = super::life::ordered(&mut self.orders) => {
                    return Err(StartFailure::new("Stopped", "it was stopped while it waited"));
                }
                Ok(()) = words.changed() => {}
                () = sleep(SAID_EVERY) => {}
            }
        }
    }
}

fn named(image: Option<&str>) -> Result<&str, StartFailure> {
    image.filter(|image| !image.is_empty()).ok_or_else(|| {
        StartFailure::new("NoImage", "the CRI runtime needs `image`, and there is none")
    })
}

fn gone(image: &str) -> StartFailure {
    StartFailure::new("ImageMissing", format!("the image {image} was here, and is not any more"))
}

/// As nobody where there are no credentials, else as the first that is let in.
async fn pull_as_any(
    client: &super::CriClient,
    image: &str,
    auths: &[AuthConfig],
) -> Result<(), CallError> {
    let mut ended = match auths {
        [] => return client.pull(image, None).await,
        [first, ..] => client.pull(image, Some(first.clone())).await,
    };
    for auth in auths.iter().skip(1) {
        if ended.is_ok() {
            break;
        }
        ended = client.pull(image, Some(auth.clone())).await;
    }
    ended
}

/// Those of the template's `imagePullSecrets` that are for this image.
fn credentials(
    image: &str,
    terms: &PullTerms,
    secrets: Option<&Secrets>,
) -> Result<Vec<AuthConfig>, StartFailure> {
    let unreadable = |message| StartFailure::new("SecretUnreadable", message);
    let mut found = Vec::new();
    for (name, item) in &terms.secrets {
        let secrets = secrets.ok_or_else(|| unreadable("this node opens no Secrets".to_owned()))?;
        let data = secrets.open(name, item)?;
        let json = data.get(DOCKER_CONFIG_KEY);
        let json =
            json.ok_or_else(|| unreadable(format!("{name} has no key `{DOCKER_CONFIG_KEY}`")))?;
        let of_secret = credentials_for(image, json.reveal());
        found.extend(
            of_secret.map_err(|problem| {
                unreadable(format!("{name}: `{DOCKER_CONFIG_KEY}`: {problem}"))
            })?,
        );
    }
    Ok(found)
}
