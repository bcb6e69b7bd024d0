//! NetworkPolicy (`pkg/apis/networking/v1/defaults.go` and `pkg/apis/networking/validation`): defaults filled in, then
//! every field checked.

use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::cidr::Cidr;
use super::field::FieldError;
use super::metadata::{Scope, validate_metadata};
use super::name;
use super::selector::validate_selector;

/// A policy that the API server would accept, with the defaults that it fills in.
#[derive(Clone, Debug, PartialEq)]
pub struct AcceptedPolicy {
    object: NetworkPolicy,
    warnings: Vec<String>,
}

impl AcceptedPolicy {
    /// The object as the API server would store it: defaults filled in, empty lists left out.
    pub fn object(&self) -> &NetworkPolicy {
        &self.object
    }

    /// The object, taken out.
    pub fn into_object(self) -> NetworkPolicy {
        self.object
    }

    /// What the API server would warn of, each with its field.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

/// Fills in the defaults of a policy and checks it. A policy without a namespace is refused: whoever reads objects
/// knows the default.
pub fn accept(mut object: NetworkPolicy) -> Result<AcceptedPolicy, Vec<FieldError>> {
    let spec = object.spec.get_or_insert_default();
    fill_in_defaults(spec);
    leave_out_empty_lists(spec);
    let mut errors = validate_metadata(&object.metadata, Scope::Namespaced);
    let spec = object.spec.get_or_insert_default();
    let mut warnings = Vec::new();
    validate_spec(spec, &mut errors, &mut warnings);
    if errors.is_empty() { Ok(AcceptedPolicy { object, warnings }) } else { Err(errors) }
}

fn fill_in_defaults(spec: &mut NetworkPolicySpec) {
    spec.pod_selector.get_or_insert_default();
    for port in ports_mut(spec) {
        // An empty text is not an absent one, and is refused later.
        port.protocol.get_or_insert_with(|| "TCP".to_owned());
    }
    let types = spec.policy_types.get_or_insert_default();
    if types.is_empty() {
        types.push("Ingress".to_owned());
        if spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()) {
            types.push("Egress".to_owned());
        }
    }
}

fn ports_mut(spec: &mut NetworkPolicySpec) -> impl Iterator<Item = &mut NetworkPolicyPort> {
    let ingress = spec.ingress.iter_mut().flatten().flat_map(|rule| rule.ports.iter_mut().flatten());
    let egress = spec.egress.iter_mut().flatten().flat_map(|rule| rule.ports.iter_mut().flatten());
    ingress.chain(egress)
}

/// Absent and empty lists mean the same, and the API server stores neither (`omitempty`).
fn leave_out_empty_lists(spec: &mut NetworkPolicySpec) {
    fn tidy<T>(list: &mut Option<Vec<T>>) {
        list.take_if(|list| list.is_empty());
    }
    fn tidy_selector(selector: &mut LabelSelector) {
        selector.match_labels.take_if(|labels| labels.is_empty());
        tidy(&mut selector.match_expressions);
        for expression in selector.match_expressions.iter_mut().flatten() {
            tidy(&mut expression.values);
        }
    }
    fn tidy_peers(peers: &mut Option<Vec<NetworkPolicyPeer>>) {
        tidy(peers);
        for peer in peers.iter_mut().flatten() {
            peer.pod_selector.as_mut().map(tidy_selector);
            peer.namespace_selector.as_mut().map(tidy_selector);
            if let Some(block) = &mut peer.ip_block {
                tidy(&mut block.except);
            }
        }
    }
    spec.pod_selector.as_mut().map(tidy_selector);
    tidy(&mut spec.ingress);
    for rule in spec.ingress.iter_mut().flatten() {
        tidy(&mut rule.ports);
        tidy_peers(&mut rule.from);
    }
    tidy(&mut spec.egress);
    for rule in spec.egress.iter_mut().flatten() {
        tidy(&mut rule.ports);
        tidy_peers(&mut rule.to);
    }
}

fn validate_spec(spec: &NetworkPolicySpec, errors: &mut Vec<FieldError>, warnings: &mut Vec<String>) {
    if let Some(selector) = &spec.pod_selector {
        validate_selector(selector, "spec.podSelector", errors);
    }
    for (index, rule) in spec.ingress.iter().flatten().enumerate() {
        validate_ports(&rule.ports, &format!("spec.ingress[{index}]"), errors);
        validate_peers(&rule.from, &format!("spec.ingress[{index}].from"), errors, warnings);
    }
    for (index, rule) in spec.egress.iter().flatten().enumerate() {
        validate_ports(&rule.ports, &format!("spec.egress[{index}]"), errors);
        validate_peers(&rule.to, &format!("spec.egress[{index}].to"), errors, warnings);
    }
    validate_policy_types(spec.policy_types.as_deref().unwrap_or_default(), errors);
}

fn validate_policy_types(types: &[String], errors: &mut Vec<FieldError>) {
    const TYPES: &[&str] = &["Egress", "Ingress"];
    if types.len() > TYPES.len() {
        let reason = "may not specify more than two policyTypes";
        errors.push(FieldError::invalid_value("spec.policyTypes", format!("{types:?}"), reason));
        return;
    }
    for (index, name) in types.iter().enumerate() {
        if !TYPES.contains(&name.as_str()) {
            errors.push(FieldError::not_supported(format!("spec.policyTypes[{index}]"), name, TYPES));
        }
    }
}

fn validate_ports(ports: &Option<Vec<NetworkPolicyPort>>, rule: &str, errors: &mut Vec<FieldError>) {
    const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
    for (index, port) in ports.iter().flatten().enumerate() {
        let field = format!("{rule}.ports[{index}]");
        if let Some(protocol) = port.protocol.as_deref().filter(|protocol| !PROTOCOLS.contains(protocol)) {
            errors.push(FieldError::not_supported(format!("{field}.protocol"), protocol, PROTOCOLS));
        }
        validate_port_and_end(port, &field, errors);
    }
}

fn validate_port_and_end(port: &NetworkPolicyPort, field: &str, errors: &mut Vec<FieldError>) {
    const RANGE: &str = "must be between 1 and 65535, inclusive";
    let (number_field, end_field) = (format!("{field}.port"), format!("{field}.endPort"));
    let is_port = |number: i32| (1..=65535).contains(&number);
    match (&port.port, port.end_port) {
        (None, None) => {}
        (None, Some(end)) => {
            let reason = "may not be specified when `port` is not specified";
            errors.push(FieldError::invalid_value(end_field, end, reason));
        }
        (Some(IntOrString::Int(number)), end) => {
            if !is_port(*number) {
                errors.push(FieldError::invalid_value(number_field, number, RANGE));
            }
            if let Some(end) = end {
                if end < *number {
                    let reason = "must be greater than or equal to `port`";
                    errors.push(FieldError::invalid_value(end_field.as_str(), end, reason));
                }
                if !is_port(end) {
                    errors.push(FieldError::invalid_value(end_field, end, RANGE));
                }
            }
        }
        (Some(IntOrString::String(text)), end) => {
            if let Some(end) = end {
                let reason = "may not be specified when `port` is non-numeric";
                errors.push(FieldError::invalid_value(end_field, end, reason));
            }
            let hint = text.parse::<u16>().ok().map(|number| format!("write {number} without quotes"));
            let reasons = name::port_name(text).into_iter();
            errors.extend(
                reasons.map(|reason| FieldError::invalid(number_field.as_str(), text, reason).with_hint(hint.clone())),
            );
        }
    }
}

fn validate_peers(
    peers: &Option<Vec<NetworkPolicyPeer>>,
    list: &str,
    errors: &mut Vec<FieldError>,
    warnings: &mut Vec<String>,
) {
    for (index, peer) in peers.iter().flatten().enumerate() {
        let field = format!("{list}[{index}]");
        if let Some(selector) = &peer.pod_selector {
            validate_selector(selector, &format!("{field}.podSelector"), errors);
        }
        if let Some(selector) = &peer.namespace_selector {
            validate_selector(selector, &format!("{field}.namespaceSelector"), errors);
        }
        if let Some(block) = &peer.ip_block {
            validate_block(block, &format!("{field}.ipBlock"), errors, warnings);
        }
        let selectors = peer.pod_selector.is_some() || peer.namespace_selector.is_some();
        match (&peer.ip_block, selectors) {
            (None, false) => errors.push(FieldError::required(field, "must specify a peer")),
            (Some(_), true) => {
                errors.push(FieldError::forbidden(field, "may not specify both ipBlock and another peer"));
            }
            _ => {}
        }
    }
}

fn validate_block(block: &IPBlock, field: &str, errors: &mut Vec<FieldError>, warnings: &mut Vec<String>) {
    let cidr_field = format!("{field}.cidr");
    if block.cidr.is_empty() {
        errors.push(FieldError::required(cidr_field, ""));
        return;
    }
    let Some(cidr) = validate_cidr(&block.cidr, &cidr_field, errors, warnings) else { return };
    for (index, text) in block.except.iter().flatten().enumerate() {
        let except_field = format!("{field}.except[{index}]");
        let Some(except) = validate_cidr(text, &except_field, errors, warnings) else { continue };
        if !cidr.strictly_contains(&except) {
            errors.push(FieldError::invalid(except_field, text, "must be a strict subset of `cidr`"));
        }
    }
}

fn validate_cidr(text: &str, field: &str, errors: &mut Vec<FieldError>, warnings: &mut Vec<String>) -> Option<Cidr> {
    let Some(cidr) = Cidr::parse(text) else {
        let reason = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
        let hint = text
            .parse::<std::net::IpAddr>()
            .ok()
            .map(|address| format!("for this address alone write {:?}", ipnet::IpNet::from(address).to_string()));
        errors.push(FieldError::invalid(field, text, reason).with_hint(hint));
        return None;
    };
    let network = cidr.network();
    if cidr.has_host_bits() {
        warnings.push(format!(
            "{field}: CIDR value {text:?} is ambiguous in this context (bits set beyond the prefix): it means {network}"
        ));
    }
    if !cidr.is_standard(text) {
        warnings.push(format!(
            "{field}: non-standard CIDR value {text:?} will be considered invalid in a future Kubernetes release: \
             it means {network}"
        ));
    }
    Some(cidr)
}
