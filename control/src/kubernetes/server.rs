//! What the API server is: its version, where it serves network policies, and which fields of them it drops.

use kube::Client;
use serde_json::Value;

use super::lean::Kind;
use super::trouble::{Asked, Trouble};

/// Groups and versions that have served network policies, the one to be preferred first. All have the same fields.
const POLICY_VERSIONS: [&str; 2] = ["networking.k8s.io/v1", "extensions/v1beta1"];

/// A version of Kubernetes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The major number.
    pub major: u32,
    /// The minor number.
    pub minor: u32,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl Version {
    /// The first version that keeps `endPort` without being asked to (beta and on by default; in 1.21 a feature gate, off by
    /// default; before that the field did not exist).
    pub const KEEPS_END_PORT: Version = Version { major: 1, minor: 22 };

    /// Reads the numbers of `/version`; providers append to the minor one (`27+`).
    pub fn parse(major: &str, minor: &str) -> Option<Version> {
        let number = |text: &str| {
            let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
            text[..digits].parse().ok()
        };
        Some(Version { major: number(major)?, minor: number(minor)? })
    }
}

/// What was found out about a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    /// Its version, where it says so.
    pub(super) version: Option<Version>,
    /// The group and version of network policies: `networking.k8s.io/v1`.
    pub(super) policies: &'static str,
}

/// Where slices of endpoints are served, from Kubernetes 1.21 on.
const SLICES: &str = "discovery.k8s.io/v1";

/// The group and version of endpoints: slices, or `v1` for what there was before.
pub(super) async fn discover_endpoints(client: &Client, place: &str) -> Result<&'static str, Trouble> {
    match client.list_api_group_resources(SLICES).await {
        Ok(list) if list.resources.iter().any(|resource| resource.name == "endpointslices") => Ok(SLICES),
        Ok(_) => Ok("v1"),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok("v1"),
        // Nearly all servers have them.
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(SLICES),
        Err(error) => Err(Trouble::of(&error, &Asked::discovery(), place)),
    }
}

/// What a kind's collection is called in a version.
pub(super) fn resource(kind: Kind, version: &str) -> &'static str {
    match (kind, version) {
        (Kind::EndpointSlice, "v1") => "endpoints",
        (kind, _) => kind.resource(),
    }
}

/// Asks the server. What may not be asked is assumed: a server that forbids discovery still serves policies where nearly all do.
pub(super) async fn discover(client: &Client, place: &str) -> Result<Server, Trouble> {
    let version = client.apiserver_version().await;
    let version = version.ok().and_then(|info| Version::parse(&info.major, &info.minor));
    let mut reached = false;
    for policies in POLICY_VERSIONS {
        match client.list_api_group_resources(policies).await {
            Ok(list) if list.resources.iter().any(|resource| resource.name == "networkpolicies") => {
                return Ok(Server { version, policies });
            }
            Ok(_) => reached = true,
            Err(kube::Error::Api(status)) if status.code == 404 => reached = true,
            Err(kube::Error::Api(status)) if status.code == 403 => break,
            Err(error) => return Err(Trouble::of(&error, &Asked::discovery(), place)),
        }
    }
    match reached {
        true => Err(Trouble::NotServed { server: place.to_owned(), versions: POLICY_VERSIONS.join(", ") }),
        false => Ok(Server { version, policies: POLICY_VERSIONS[0] }),
    }
}

/// The path of a kind's collection in all namespaces.
pub(super) fn path(version: &str, resource: &str) -> String {
    match version {
        "v1" => format!("/api/v1/{resource}"),
        version => format!("/apis/{version}/{resource}"),
    }
}

/// Fields of policies that some servers drop without a word.
///
/// `kubectl apply` leaves what it was given in an annotation. Where that has an `endPort` for a port of the same rule, and the
/// object has none, the server dropped it, or somebody has taken it away since; which of the two, the server's version decides
/// (the caller knows it).
pub(super) fn pruned_fields(applied: &str, spec: &Value) -> Vec<String> {
    // Nearly all annotations end here.
    if !applied.contains("endPort") {
        return Vec::new();
    }
    let Ok(applied) = serde_json::from_str::<Value>(applied) else { return Vec::new() };
    let mut pruned = Vec::new();
    for direction in ["ingress", "egress"] {
        let rules = applied["spec"][direction].as_array().into_iter().flatten().enumerate();
        for (index, rule) in rules {
            let ports = rule["ports"].as_array().into_iter().flatten().enumerate();
            for (port, given) in ports.filter(|(_, given)| !given["endPort"].is_null()) {
                let kept = &spec[direction][index]["ports"][port];
                if kept["endPort"].is_null() && kept["port"] == given["port"] {
                    pruned.push(format!("spec.{direction}[{index}].ports[{port}].endPort"));
                }
            }
        }
    }
    pruned
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn versions_with_and_without_what_providers_append() {
        let parse = |major, minor| Version::parse(major, minor).map(|version| version.to_string());
        assert_eq!(parse("1", "20").as_deref(), Some("1.20"));
        assert_eq!(parse("1", "27+").as_deref(), Some("1.27"));
        assert_eq!(parse("", ""), None);
        assert!(Version::parse("1", "9").unwrap() < Version::KEEPS_END_PORT);
        assert!(Version::parse("1", "22+").unwrap() >= Version::KEEPS_END_PORT);
    }

    #[test]
    fn an_end_port_that_was_given_and_is_not_there() {
        let spec = |ports: Value| json!({"podSelector": {}, "egress": [{}, {"ports": ports}]});
        let given = |ports: Value| json!({"spec": spec(ports)}).to_string();
        let kept = spec(json!([{"port": 80, "protocol": "TCP"}, {"port": 90, "protocol": "TCP"}]));
        let applied = given(json!([{"port": 80}, {"port": 90, "endPort": 99}]));
        assert_eq!(pruned_fields(&applied, &kept), ["spec.egress[1].ports[1].endPort"]);
        // Kept, never given, or of a port that is another one by now.
        let whole = spec(json!([{"port": 80}, {"port": 90, "endPort": 99}]));
        assert!(pruned_fields(&applied, &whole).is_empty());
        assert!(pruned_fields(&given(json!([{"port": 80}, {"port": 90}])), &kept).is_empty());
        assert!(pruned_fields(&given(json!([{"port": 80}, {"port": 91, "endPort": 99}])), &kept).is_empty());
        assert!(pruned_fields("no JSON, but endPort", &kept).is_empty());
    }
}
