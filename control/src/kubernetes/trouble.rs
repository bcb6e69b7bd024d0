//! What can be wrong between Penstock and the API server, each in a sentence that says what to do.

use std::error::Error as StdError;

use super::lean::Kind;
use super::server;

/// Why the source cannot be set up: the configuration has to be mended, waiting does not help.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A kubeconfig file that cannot be read, or makes no sense.
    #[error("kubeconfig {file}: {reason}; name a file that kubectl can use (kubectl --kubeconfig FILE get nodes)")]
    Kubeconfig {
        /// The file, or where it was looked for.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// There is no service account.
    #[error(
        "there is no service account here ({0}): outside a cluster, name a kubeconfig; inside, see that the pod has \
         automountServiceAccountToken"
    )]
    NoServiceAccount(String),
    /// Certificates, keys or a way to get a token that cannot be used.
    #[error("the credentials of {origin} cannot be used: {reason}")]
    Credentials {
        /// Where they come from.
        origin: String,
        /// What is wrong.
        reason: String,
    },
}

/// Why the API server says nothing just now. Whatever runs keeps running by the last state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// No connection.
    #[error("the API server at {server} cannot be reached: {reason}; see that it runs and that this node can reach it")]
    Unreachable {
        /// Its address.
        server: String,
        /// Why not.
        reason: String,
    },
    /// A connection that is not trusted.
    #[error(
        "the API server at {server} is not trusted: {reason}; the certificate authority that Penstock is given is not the one \
         that signed the server's certificate, or the certificate is not for that address, or has expired"
    )]
    Untrusted {
        /// Its address.
        server: String,
        /// Why not.
        reason: String,
    },
    /// 401.
    #[error(
        "the API server at {server} does not accept Penstock's credentials: the token or certificate has expired or was \
         revoked; they are read again at every attempt, so renew them where they come from"
    )]
    Unauthorized {
        /// Its address.
        server: String,
    },
    /// 403.
    #[error(
        "the API server does not allow {user} to {verb} {resource}; add this rule to its ClusterRole: apiGroups: [\"{group}\"], \
         resources: [\"{plain}\"], verbs: [{verbs}]"
    )]
    Forbidden {
        /// As whom Penstock came.
        user: String,
        /// What it wanted to do.
        verb: &'static str,
        /// With what, as access rules show it: `networkpolicies.networking.k8s.io`.
        resource: String,
        /// The group of the resource.
        group: String,
        /// Its name within the group.
        plain: String,
        /// What the rule has to allow, each in quotes.
        verbs: String,
    },
    /// There are no network policies.
    #[error(
        "the API server at {server} serves network policies in none of the versions that Penstock reads ({versions})"
    )]
    NotServed {
        /// Its address.
        server: String,
        /// Those versions.
        versions: String,
    },
    /// An answer that is an error, or none at all.
    #[error("the API server at {server} answers to {request}: {answer}")]
    Refused {
        /// Its address.
        server: String,
        /// What was asked: `list pods`.
        request: String,
        /// What it says.
        answer: String,
    },
    /// An answer that makes no sense.
    #[error(
        "what the API server at {server} answers to {request} cannot be read: {reason}; is it a Kubernetes API server?"
    )]
    Unreadable {
        /// Its address.
        server: String,
        /// What was asked.
        request: String,
        /// Why not.
        reason: String,
    },
}

/// What was asked of the server.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) verb: &'static str,
    pub(super) resource: &'static str,
    pub(super) group: String,
}

impl Asked {
    pub(super) fn new(verb: &'static str, kind: Kind, version: &str) -> Asked {
        let group = version.split_once('/').map_or("", |(group, _)| group).to_owned();
        Asked { verb, resource: server::resource(kind, version), group }
    }

    pub(super) fn discovery() -> Asked {
        Asked { verb: "get", resource: "API versions", group: String::new() }
    }

    fn request(&self) -> String {
        format!("{} {}", self.verb, self.resource)
    }
}

impl Trouble {
    /// The trouble's name, as a metric's label.
    pub fn label(&self) -> &'static str {
        match self {
            Trouble::Unreachable { .. } => "unreachable",
            Trouble::Untrusted { .. } => "untrusted",
            Trouble::Unauthorized { .. } => "unauthorized",
            Trouble::Forbidden { .. } => "forbidden",
            Trouble::NotServed { .. } => "not_served",
            Trouble::Refused { .. } => "refused",
            Trouble::Unreadable { .. } => "unreadable",
        }
    }

    /// Whether other credentials may help.
    pub(super) fn is_of_credentials(&self) -> bool {
        matches!(self, Trouble::Untrusted { .. } | Trouble::Unauthorized { .. })
    }

    /// Reads a client's error.
    pub(super) fn of(error: &kube::Error, asked: &Asked, server: &str) -> Trouble {
        let (server, request) = (server.to_owned(), asked.request());
        match error {
            kube::Error::Api(status) => match status.code {
                401 => Trouble::Unauthorized { server },
                403 => Trouble::forbidden(&status.message, asked),
                code => {
                    let message = if status.message.is_empty() { &status.reason } else { &status.message };
                    Trouble::Refused { server, request, answer: format!("{code} {message}").trim_end().to_owned() }
                }
            },
            kube::Error::SerdeError(error) => Trouble::Unreadable { server, request, reason: error.to_string() },
            kube::Error::FromUtf8(error) => Trouble::Unreadable { server, request, reason: error.to_string() },
            kube::Error::Auth(error) => Trouble::Refused {
                server,
                request,
                answer: format!("nothing, as it was not asked: no credentials: {}", cause(error)),
            },
            error => {
                let reason = match cause(error) {
                    reason if reason.contains("deadline has elapsed") => "it does not answer in time".to_owned(),
                    reason => reason,
                };
                if reason.contains("certificate") || reason.contains("TLS") {
                    Trouble::Untrusted { server, reason }
                } else {
                    Trouble::Unreachable { server, reason }
                }
            }
        }
    }

    /// The server's message names the user: `pods is forbidden: User "x" cannot list resource "pods" in API group "" …`.
    fn forbidden(message: &str, asked: &Asked) -> Trouble {
        let user = message.split_once("User \"").and_then(|(_, rest)| rest.split_once('"'));
        let user = user.map_or_else(|| "Penstock's service account".to_owned(), |(user, _)| user.to_owned());
        let resource = match asked.group.as_str() {
            "" => asked.resource.to_owned(),
            group => format!("{}.{group}", asked.resource),
        };
        let (group, plain) = (asked.group.clone(), asked.resource.to_owned());
        let verbs = match asked.verb {
            "list" | "watch" => "\"get\", \"list\", \"watch\"".to_owned(),
            "get" if asked.resource == "pods" => "\"get\", \"list\", \"watch\"".to_owned(),
            verb => format!("\"{verb}\""),
        };
        Trouble::Forbidden { user, verb: asked.verb, resource, group, plain, verbs }
    }
}

/// The innermost cause of an error: the outer ones say that something failed.
pub(super) fn cause(error: &(dyn StdError + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    // An operating system's error hides behind the I/O error that holds it.
    innermost.to_string().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::Status;

    fn trouble(status: Status, kind: Kind, version: &str) -> Trouble {
        let asked = Asked::new("list", kind, version);
        Trouble::of(&kube::Error::Api(status.boxed()), &asked, "https://10.96.0.1")
    }

    #[test]
    fn forbidden_names_user_verb_resource_and_rule() {
        let message = "networkpolicies.networking.k8s.io is forbidden: User \"system:serviceaccount:a:b\" cannot list resource \
                       \"networkpolicies\" in API group \"networking.k8s.io\" at the cluster scope";
        let status = Status::failure(message, "Forbidden").with_code(403);
        assert_eq!(
            trouble(status, Kind::NetworkPolicy, "networking.k8s.io/v1").to_string(),
            "the API server does not allow system:serviceaccount:a:b to list networkpolicies.networking.k8s.io; add this \
             rule to its ClusterRole: apiGroups: [\"networking.k8s.io\"], resources: [\"networkpolicies\"], verbs: [\"get\", \
             \"list\", \"watch\"]"
        );
        let pods = trouble(Status::failure("no", "Forbidden").with_code(403), Kind::Pod, "v1").to_string();
        assert!(pods.contains("Penstock's service account to list pods; add") && pods.contains("[\"\"]"), "{pods}");
    }

    #[test]
    fn other_answers() {
        let expired = trouble(Status::failure("Unauthorized", "Unauthorized").with_code(401), Kind::Pod, "v1");
        assert_eq!((expired.label(), expired.is_of_credentials()), ("unauthorized", true));
        let busy = trouble(Status::failure("etcd leader changed", "").with_code(503), Kind::Pod, "v1");
        assert!(busy.to_string().ends_with("answers to list pods: 503 etcd leader changed"), "{busy}");
    }
}
