//! Manifests to a [`Cluster`]: what `-f FILE|DIR|-` means.
//!
//! Files hold YAML documents or JSON, one object or a list of objects each. Namespaces, Pods, Nodes and NetworkPolicies
//! are read, decoded and checked; other kinds are left out with a warning. A namespaced object without a namespace is
//! in `default`; a namespace that only pods or policies speak of need not be declared.
//!
//! A world that cannot be is refused: an object given twice, two live pods with one address, a running pod without one.
//! All errors of all files are reported together, each in one sentence with its place, object, field and reason.

pub(crate) mod decode;
mod document;
mod files;
mod kinds;
mod yaml;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use serde_json::Value;

use self::document::{Document, Origin};
use super::cluster::{Cluster, ObjectName};
use super::shown;
use super::validation::{self, FieldError, Scope};

/// Where something stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file, as it was named, or `standard input`.
    pub file: String,
    /// The document's number from 1, if the file holds several.
    pub document: Option<usize>,
    /// The line from 1, where known.
    pub line: Option<usize>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown::shorten(&self.file, usize::MAX))?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        match self.document {
            Some(document) => write!(f, " (document {document})"),
            None => Ok(()),
        }
    }
}

/// Why a manifest was refused.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file cannot be read.
    #[error("{file}: cannot be read: {error}; check the path given with -f")]
    Unreadable {
        /// The file.
        file: String,
        /// Why not.
        error: std::io::Error,
    },
    /// There is nothing to read in a directory.
    #[error("{0}: the directory holds no *.yaml, *.yml or *.json file; directories within it are not read")]
    EmptyDirectory(String),
    /// A file in a directory should be read and cannot be.
    #[error(
        "{file}: cannot be read: {error}; mend it or remove it: without it, policies that it holds would be missing"
    )]
    UnreadableEntry {
        /// The file.
        file: String,
        /// Why not.
        error: std::io::Error,
    },
    /// Neither a file nor, where a person named it, a pipe.
    #[error("{file}: {what}, not a file; name a file or a directory, or remove it from the directory")]
    NotAFile {
        /// The path.
        file: String,
        /// What it is.
        what: &'static str,
    },
    /// A file that goes on and on.
    #[error("{0}: more than {limit} MiB, which is the most that is read from one file; split it", limit = files::MAX_BYTES >> 20)]
    TooLarge(String),
    /// The text is neither YAML nor JSON.
    #[error("{place}: not valid YAML or JSON: {}", shown::shorten(reason, shown::MAX_TEXT))]
    Syntax {
        /// Where.
        place: Place,
        /// Why not.
        reason: String,
    },
    /// A document is no Kubernetes object.
    #[error("{place}: not a Kubernetes object: {reason}")]
    NotAnObject {
        /// Where.
        place: Place,
        /// Why not.
        reason: String,
    },
    /// A kind that does not exist, where one that Penstock reads may be meant.
    #[error("{place}: {object}: there is no kind {} in {}; {remedy}", shown::quoted(kind), shown::name(version))]
    Kind {
        /// Where.
        place: Place,
        /// Which object.
        object: String,
        /// Its kind.
        kind: String,
        /// Its version.
        version: String,
        /// What to write instead.
        remedy: String,
    },
    /// A kind that Penstock reads, of a version that it does not.
    #[error("{place}: {object}: apiVersion {} of {kind} is not supported; {remedy}", shown::quoted(found))]
    Version {
        /// Where.
        place: Place,
        /// Which object.
        object: String,
        /// Its kind.
        kind: &'static str,
        /// Its version.
        found: String,
        /// What to write instead.
        remedy: String,
    },
    /// A field is wrong.
    #[error("{place}: {object}: {error}")]
    Field {
        /// Where.
        place: Place,
        /// Which object.
        object: String,
        /// What is wrong.
        error: FieldError,
    },
    /// An object is there twice.
    #[error("{place}: {object}: the object is also in {first}; keep one of them")]
    Duplicate {
        /// Where it is for the second time.
        place: Place,
        /// Which object.
        object: String,
        /// Where it is for the first time.
        first: Place,
    },
    /// Two live pods have one address.
    #[error(
        "{place}: Pod {newer}: status.podIPs: {address} is also the address of Pod {older} in {first}; \
             live pods cannot share an address"
    )]
    SharedAddress {
        /// Where the second pod is.
        place: Place,
        /// The second pod.
        newer: ObjectName,
        /// The address.
        address: std::net::IpAddr,
        /// The first pod.
        older: ObjectName,
        /// Where the first pod is.
        first: Place,
    },
}

/// All that was wrong, one sentence a line.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct ManifestErrors(pub Vec<ManifestError>);

/// Something odd that is no error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Where.
    pub place: Place,
    /// Which object, in which field, and what.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

/// What was read.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The state.
    pub cluster: Cluster,
    /// What people should know.
    pub warnings: Vec<Warning>,
}

/// Loads everything that the paths mean; `-` is the standard input.
pub fn load<P: AsRef<Path>>(paths: &[P]) -> Result<Loaded, ManifestErrors> {
    load_into(Cluster::new(), paths)
}

/// Loads the paths once more, as a successor of what they meant before: [`Cluster::changes_since`] tells the difference.
pub fn load_again<P: AsRef<Path>>(paths: &[P], before: &Cluster) -> Result<Loaded, ManifestErrors> {
    load_into(before.successor(), paths)
}

fn load_into<P: AsRef<Path>>(cluster: Cluster, paths: &[P]) -> Result<Loaded, ManifestErrors> {
    let mut loader = Loader { loaded: Loaded { cluster, ..Loaded::default() }, ..Loader::default() };
    for path in paths {
        let listing = files::list(path.as_ref());
        loader.loaded.warnings.extend(listing.warnings);
        loader.errors.extend(listing.errors);
        for file in listing.files {
            match files::read(&file) {
                Ok((name, text)) => loader.add_documents(document::read_text(&name, &text)),
                Err(error) => loader.errors.push(error),
            }
        }
    }
    loader.finish()
}

/// Loads a text, which `file` names in errors.
pub fn load_text(file: &str, text: &str) -> Result<Loaded, ManifestErrors> {
    let mut loader = Loader::default();
    loader.add_documents(document::read_text(file, text));
    loader.finish()
}

/// The kinds that are read. People mistype their case.
const KINDS: [&str; 15] = [
    "EndpointSlice",
    "EndpointSliceList",
    "Endpoints",
    "EndpointsList",
    "List",
    "Namespace",
    "NamespaceList",
    "NetworkPolicy",
    "NetworkPolicyList",
    "Node",
    "NodeList",
    "Pod",
    "PodList",
    "Service",
    "ServiceList",
];
/// The kinds of `networking.k8s.io`; those that are no policies are left out.
const NETWORKING_KINDS: [&str; 5] = ["Ingress", "IngressClass", "IPAddress", "NetworkPolicy", "ServiceCIDR"];

#[derive(Default)]
struct Loader {
    loaded: Loaded,
    errors: Vec<ManifestError>,
    /// Where each object stands, by kind and name.
    seen: BTreeMap<(&'static str, String), Place>,
}

impl Loader {
    fn finish(mut self) -> Result<Loaded, ManifestErrors> {
        for conflict in self.loaded.cluster.address_conflicts() {
            let mut pods = conflict.pods;
            let place = |pod: &ObjectName| self.seen[&("Pod", pod.to_string())].clone();
            pods.sort_by_key(|pod| (place(pod).file, place(pod).document, place(pod).line));
            let (older, newer) = (pods.remove(0), pods.remove(0));
            let error = ManifestError::SharedAddress {
                place: place(&newer),
                first: place(&older),
                address: conflict.address,
                newer,
                older,
            };
            self.errors.push(error);
        }
        self.warn_of_lost_policies();
        if self.errors.is_empty() { Ok(self.loaded) } else { Err(ManifestErrors(self.errors)) }
    }

    /// Warns of policies in namespaces that nothing else speaks of: often the namespace was forgotten or mistyped. Where
    /// there is no namespace or pod at all, policies are looked at alone.
    fn warn_of_lost_policies(&mut self) {
        let cluster = &self.loaded.cluster;
        let declared = cluster.namespaces().filter(|namespace| namespace.declared).map(|namespace| &namespace.name);
        let known: BTreeSet<_> = declared.chain(cluster.pods().map(|pod| &pod.name.namespace)).collect();
        if known.is_empty() {
            return;
        }
        for name in cluster.policies().map(|policy| &policy.name).filter(|name| !known.contains(&name.namespace)) {
            let place = self.seen[&("NetworkPolicy", name.to_string())].clone();
            let message = format!(
                "NetworkPolicy {name}: the manifests have neither a Namespace {0} nor a pod in it, so the policy selects \
                 nothing; check metadata.namespace",
                name.namespace
            );
            self.loaded.warnings.push(Warning { place, message });
        }
    }

    fn add_documents(&mut self, documents: Result<Vec<Document>, Box<ManifestError>>) {
        match documents {
            Ok(documents) => documents.into_iter().for_each(|document| self.add(document.value, &document.origin)),
            Err(error) => self.errors.push(*error),
        }
    }

    fn add(&mut self, mut value: Value, origin: &Origin) {
        let text = |value: &Value, field: &str| value.get(field).and_then(Value::as_str).map(str::to_owned);
        let (Some(kind), Some(version)) = (text(&value, "kind"), text(&value, "apiVersion")) else {
            let reason = match &value {
                Value::Object(fields) if fields.contains_key("kind") => "apiVersion is missing or no text",
                Value::Object(_) => "kind is missing or no text",
                _ => "the document is no mapping",
            };
            self.errors.push(ManifestError::NotAnObject { place: origin.place(), reason: reason.to_owned() });
            return;
        };
        if let Some(item_kind) = kind.strip_suffix("List")
            && let Some(Value::Array(items)) = value.get_mut("items").map(Value::take)
        {
            for (index, mut item) in items.into_iter().enumerate() {
                // Items of a typed list need not repeat kind and version.
                if let Value::Object(fields) = &mut item
                    && !item_kind.is_empty()
                {
                    fields.entry("kind").or_insert_with(|| item_kind.into());
                    fields.entry("apiVersion").or_insert_with(|| version.as_str().into());
                }
                self.add(item, &origin.item(index));
            }
            return;
        }
        self.add_object(&kind, &version, value, origin);
    }

    fn add_object(&mut self, kind: &str, version: &str, value: Value, origin: &Origin) {
        let object = object_text(kind, &value);
        let (kind, expected) = match kind {
            "Namespace" => ("Namespace", "v1"),
            "Pod" => ("Pod", "v1"),
            "Node" => ("Node", "v1"),
            "NetworkPolicy" => ("NetworkPolicy", "networking.k8s.io/v1"),
            "Service" => ("Service", "v1"),
            "Endpoints" => ("Endpoints", "v1"),
            "EndpointSlice" => ("EndpointSlice", "discovery.k8s.io/v1"),
            kind => return self.leave_out(kind, version, object, origin),
        };
        if version != expected {
            let remedy = match version {
                "extensions/v1beta1" => format!("it was removed in Kubernetes 1.16: write {expected}"),
                _ if version.contains("projectcalico.org") => {
                    format!("Calico's own policies are another dialect: write the policy for {expected}")
                }
                _ => format!("write {expected}"),
            };
            let found = version.to_owned();
            self.errors.push(ManifestError::Version { place: origin.place(), object, kind, found, remedy });
            return;
        }
        let result = match kind {
            "Namespace" => self.add_namespace(value, &object, origin),
            "Pod" => self.add_pod(value, &object, origin),
            "Node" => self.add_node(value, &object, origin),
            "Service" => self.add_service(value, &object, origin),
            "Endpoints" => self.add_endpoints(value, &object, origin),
            "EndpointSlice" => self.add_slice(value, &object, origin),
            _ => self.add_policy(value, &object, origin),
        };
        for error in result.err().unwrap_or_default() {
            let place = origin.place_of(&error.field);
            self.errors.push(ManifestError::Field { place, object: object.clone(), error });
        }
    }

    /// Leaves an object out with a warning, unless a mistyped kind would leave a policy out.
    fn leave_out(&mut self, kind: &str, version: &str, object: String, origin: &Origin) {
        let place = origin.place();
        let meant = KINDS.iter().find(|known| known.eq_ignore_ascii_case(kind));
        let group = version.split('/').next().unwrap_or_default();
        let remedy = match meant {
            Some(meant) if *meant != kind => Some(format!("did you mean {meant:?}?")),
            _ if group == "networking.k8s.io" && !NETWORKING_KINDS.contains(&kind.trim_end_matches("List")) => {
                Some("write \"NetworkPolicy\" if it is a policy, or leave it out".to_owned())
            }
            _ => None,
        };
        if let Some(remedy) = remedy {
            let (kind, version) = (kind.to_owned(), version.to_owned());
            self.errors.push(ManifestError::Kind { place, object, kind, version, remedy });
            return;
        }
        let shown_kind = shown::name(kind);
        let message = if kind.ends_with("NetworkPolicy") {
            let version = shown::name(version);
            format!("{object}: policies of kind {shown_kind} ({version}) are not enforced; what they deny may pass")
        } else if kind.ends_with("List") {
            format!("{object}: the list has no items and is left out")
        } else {
            format!("{object}: objects of kind {shown_kind} say nothing to policy and are left out")
        };
        self.loaded.warnings.push(Warning { place, message });
    }

    fn decode<T: DeserializeOwned>(
        &mut self,
        value: Value,
        object: &str,
        origin: &Origin,
    ) -> Result<T, Vec<FieldError>> {
        let decoded = decode::decode(value).map_err(|error| vec![error])?;
        for field in decoded.unknown {
            let place = origin.place_of(&field);
            self.loaded
                .warnings
                .push(Warning { place, message: format!("{object}: unknown field {}", shown::quoted(&field)) });
        }
        Ok(decoded.object)
    }

    /// Checks metadata and that the object has not been there before.
    fn admit(&mut self, kind: &'static str, metadata: &ObjectMeta, scope: Scope, origin: &Origin) -> Admission {
        let errors = validation::validate_metadata(metadata, scope);
        if !errors.is_empty() {
            return Admission::Refused(errors);
        }
        let name = full_name(metadata.namespace.as_deref(), metadata.name.as_deref().unwrap_or_default());
        if let Some(first) = self.seen.get(&(kind, name.clone())) {
            let (place, object, first) = (origin.place(), format!("{kind} {name}"), first.clone());
            self.errors.push(ManifestError::Duplicate { place, object, first });
            return Admission::Refused(Vec::new());
        }
        self.seen.insert((kind, name), origin.place());
        Admission::New
    }
}

/// Whether an object may go on.
enum Admission {
    New,
    /// It may not; errors that are not reported yet.
    Refused(Vec<FieldError>),
}

impl Admission {
    fn into_result(self) -> Result<(), Vec<FieldError>> {
        match self {
            Admission::New => Ok(()),
            Admission::Refused(errors) => Err(errors),
        }
    }
}

fn full_name(namespace: Option<&str>, name: &str) -> String {
    match namespace {
        Some(namespace) if !namespace.is_empty() => format!("{namespace}/{name}"),
        _ => name.to_owned(),
    }
}

/// `Pod default/web`, as far as the metadata can be read.
fn object_text(kind: &str, value: &Value) -> String {
    let metadata = |field: &str| value.get("metadata")?.get(field)?.as_str().filter(|text| !text.is_empty());
    let name = shown::name(metadata("name").unwrap_or("(without a name)"));
    let (shown_kind, namespace) = (shown::name(kind), metadata("namespace").map(shown::name));
    match (namespace, kind) {
        (Some(namespace), _) => format!("{shown_kind} {namespace}/{name}"),
        (None, "Pod" | "NetworkPolicy") => format!("{kind} default/{name}"),
        (None, _) => format!("{shown_kind} {name}"),
    }
}

#[cfg(test)]
mod tests;
