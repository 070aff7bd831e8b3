//! Which ConfigMaps and Secrets are watched, and what is known of them. Pure.
//!
//! Of a namespace whose workloads name ConfigMaps these are watched together, and those that nobody names are
//! let go at once. A Secret is watched alone: the hub asks for no other, so that it needs the right to none.

use crate::manifests::{
    AttachedObject, AttachedObjects, InferenceWorkload, Lookup, Standing, standing,
};
use shared::model::{ObjectKind, ObjectName, PodTemplate};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// Watches at once. Each is a request to the API server that stays open; those of ConfigMaps come first.
pub(super) const WATCHES_MAX: usize = 512;

/// What one watch is of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Source {
    pub(crate) kind: ObjectKind,
    pub(crate) namespace: String,
    /// The one Secret; `None` for the ConfigMaps of the namespace.
    pub(crate) name: Option<String>,
}

impl Source {
    fn of(object: &ObjectName) -> Self {
        let name = (object.kind == ObjectKind::Secret).then(|| object.name.clone());
        Self { kind: object.kind, namespace: object.namespace.clone(), name }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{:?} {}/{name}", self.kind, self.namespace),
            None => write!(f, "{:?}s in {}", self.kind, self.namespace),
        }
    }
}

/// Which objects of a source are kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Filter {
    names: BTreeSet<String>,
    prefixes: BTreeSet<String>,
}

impl Filter {
    pub(crate) fn takes(&self, name: &str) -> bool {
        self.names.contains(name) || self.prefixes.iter().any(|prefix| name.starts_with(prefix))
    }
}

/// What is watched.
pub(crate) type Interest = BTreeMap<Source, Filter>;

/// The objects of a source by name; those that are of no use with the reason.
pub(crate) type Contents = BTreeMap<String, Result<Arc<AttachedObject>, String>>;

/// What was seen of a source.
#[derive(Debug)]
pub(crate) enum Sight {
    /// These are all that are kept of it by this filter.
    All(Filter, Contents),
    /// The hub may not read it, in the words of the API server.
    Forbidden(Filter, String),
    /// It can't be read at present, in words: what was read last stays in force.
    Away(String),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Attached {
    interest: Interest,
    seen: BTreeMap<Source, (Filter, Result<Contents, String>)>,
    problems: BTreeMap<Source, String>,
}

impl Attached {
    /// What is to be watched from now on; `None` where it is what is watched already.
    pub(super) fn watch(&mut self, interest: Interest) -> Option<Interest> {
        if self.interest == interest {
            return None;
        }
        self.seen.retain(|source, _| interest.contains_key(source));
        self.problems.retain(|source, _| interest.contains_key(source));
        self.interest.clone_from(&interest);
        let beyond: Vec<_> = interest.iter().skip(WATCHES_MAX).collect();
        for (source, filter) in beyond {
            let words = format!("more than {WATCHES_MAX} Secrets and namespaces are named");
            self.seen.insert(source.clone(), (filter.clone(), Err(words)));
        }
        Some(interest.into_iter().take(WATCHES_MAX).collect())
    }

    /// Something was seen; what is known stays where it is only that it can't be read.
    pub(super) fn handle(&mut self, source: Source, sight: Sight) {
        if !self.interest.contains_key(&source) {
            return;
        }
        match sight {
            Sight::All(filter, contents) => {
                self.problems.remove(&source);
                self.seen.insert(source, (filter, Ok(contents)));
            }
            Sight::Forbidden(filter, words) => {
                self.problems.insert(source.clone(), words.clone());
                let known = self.seen.get(&source).is_some_and(|(_, contents)| contents.is_ok());
                if !known {
                    self.seen.insert(source, (filter, Err(words)));
                }
            }
            Sight::Away(words) => drop(self.problems.insert(source, words)),
        }
    }

    /// Whether all that is of interest was read. A Secret that may not be read is one that is not there;
    /// ConfigMaps that may not be read are what every node's parameters are found by.
    pub(super) fn is_read(&self) -> bool {
        self.interest.iter().all(|(source, filter)| {
            let is_settled = |(seen, contents): &(Filter, Result<Contents, String>)| {
                seen == filter && (contents.is_ok() || source.kind == ObjectKind::Secret)
            };
            self.seen.get(source).is_some_and(is_settled)
        })
    }

    /// What can't be read, in words.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        self.problems.iter().map(|(source, problem)| {
            format!("{source} can't be read, and what was read last stays in force: {problem}")
        })
    }

    /// Every object that is of use.
    pub(super) fn objects(&self) -> AttachedObjects {
        let mut objects = AttachedObjects::new();
        for (source, (_, contents)) in &self.seen {
            for (name, object) in contents.iter().flatten() {
                let Ok(object) = object else { continue };
                let (namespace, name) = (source.namespace.clone(), name.clone());
                objects
                    .insert(ObjectName { kind: source.kind, namespace, name }, Arc::clone(object));
            }
        }
        objects
    }

    /// Whether `workload` has all that it names.
    pub(super) fn standing(&self, workload: &InferenceWorkload) -> Standing {
        match standing(workload, |name| self.look(name)) {
            Standing::Whole => self.standing_of_parameters(workload),
            other => other,
        }
    }

    fn look(&self, name: &ObjectName) -> Lookup<'_> {
        let Some((filter, contents)) = self.seen.get(&Source::of(name)) else {
            return Lookup::NotRead;
        };
        match contents {
            _ if !filter.takes(&name.name) => Lookup::NotRead,
            Err(words) => Lookup::Useless(words),
            Ok(contents) => match contents.get(&name.name) {
                None => Lookup::Absent,
                Some(Ok(object)) => Lookup::There(object),
                Some(Err(problem)) => Lookup::Useless(problem),
            },
        }
    }

    /// Which nodes have parameters is looked at where they are chosen; here, whether that can be known.
    fn standing_of_parameters(&self, workload: &InferenceWorkload) -> Standing {
        let namespace = workload.key.namespace();
        for (index, from) in workload.parameters_from.iter().enumerate() {
            match self.seen.get(&config_maps_of(namespace)) {
                Some((filter, contents)) if filter.prefixes.contains(&from.prefix) => {
                    if let Err(words) = contents {
                        let path = format!("spec.parametersFrom[{index}]");
                        let problem = format!("ConfigMaps in {namespace} can't be read: {words}");
                        return Standing::Lacks((path, problem));
                    }
                }
                _ => return Standing::NotRead,
            }
        }
        Standing::Whole
    }
}

fn config_maps_of(namespace: &str) -> Source {
    Source { kind: ObjectKind::ConfigMap, namespace: namespace.to_owned(), name: None }
}

/// Adds what `template` names.
pub(super) fn add_template(interest: &mut Interest, namespace: &str, template: &PodTemplate) {
    for reference in template.references() {
        let object = reference.object(namespace);
        interest.entry(Source::of(&object)).or_default().names.insert(object.name);
    }
}

/// Adds what `workload` names, and where its parameters are found.
pub(super) fn add_workload(interest: &mut Interest, workload: &InferenceWorkload) {
    let namespace = workload.key.namespace();
    add_template(interest, namespace, &workload.template);
    for from in &workload.parameters_from {
        let filter = interest.entry(config_maps_of(namespace)).or_default();
        filter.prefixes.insert(from.prefix.clone());
    }
}

/// Whether `workload` names anything at all.
pub(super) fn names_some(workload: &InferenceWorkload) -> bool {
    !workload.parameters_from.is_empty() || workload.template.names_objects()
}
