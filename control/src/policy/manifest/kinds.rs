//! Each kind of object, decoded, checked and put into the cluster's state.

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use super::super::cluster::{EndpointSlice, Service};
use super::super::validation::{self, FieldError, Scope};
use super::document::Origin;
use super::{Loader, Warning};

impl Loader {
    pub(super) fn add_namespace(&mut self, value: Value, object: &str, origin: &Origin) -> Result<(), Vec<FieldError>> {
        let namespace: core::Namespace = self.decode(value, object, origin)?;
        self.admit("Namespace", &namespace.metadata, Scope::Namespace, origin).into_result()?;
        self.loaded.cluster.apply_namespace(&namespace);
        Ok(())
    }

    pub(super) fn add_node(&mut self, value: Value, object: &str, origin: &Origin) -> Result<(), Vec<FieldError>> {
        let node: core::Node = self.decode(value, object, origin)?;
        self.admit("Node", &node.metadata, Scope::Cluster, origin).into_result()?;
        self.loaded.cluster.apply_node(&node).map(|_touched| ())
    }

    pub(super) fn add_pod(&mut self, value: Value, object: &str, origin: &Origin) -> Result<(), Vec<FieldError>> {
        let mut pod: core::Pod = self.decode(value, object, origin)?;
        default_namespace(&mut pod.metadata);
        self.admit("Pod", &pod.metadata, Scope::Namespaced, origin).into_result()?;
        self.loaded.cluster.apply_pod(&pod).map(|_touched| ())
    }

    pub(super) fn add_service(&mut self, value: Value, object: &str, origin: &Origin) -> Result<(), Vec<FieldError>> {
        let mut service: core::Service = self.decode(value, object, origin)?;
        default_namespace(&mut service.metadata);
        self.admit("Service", &service.metadata, Scope::Namespaced, origin).into_result()?;
        self.loaded.cluster.apply_service(Service::read(&service));
        Ok(())
    }

    pub(super) fn add_endpoints(&mut self, value: Value, object: &str, origin: &Origin) -> Result<(), Vec<FieldError>> {
        let mut endpoints: core::Endpoints = self.decode(value, object, origin)?;
        default_namespace(&mut endpoints.metadata);
        self.admit("Endpoints", &endpoints.metadata, Scope::Namespaced, origin).into_result()?;
        self.loaded.cluster.apply_slice(EndpointSlice::read_endpoints(&endpoints));
        Ok(())
    }

    pub(super) fn add_slice(&mut self, value: Value, object: &str, origin: &Origin) -> Result<(), Vec<FieldError>> {
        let mut slice: discovery::EndpointSlice = self.decode(value, object, origin)?;
        default_namespace(&mut slice.metadata);
        self.admit("EndpointSlice", &slice.metadata, Scope::Namespaced, origin).into_result()?;
        self.loaded.cluster.apply_slice(EndpointSlice::read(&slice));
        Ok(())
    }

    pub(super) fn add_policy(&mut self, value: Value, object: &str, origin: &Origin) -> Result<(), Vec<FieldError>> {
        let mut policy: networking::NetworkPolicy = self.decode(value, object, origin)?;
        default_namespace(&mut policy.metadata);
        let accepted = validation::accept(policy)?;
        self.admit("NetworkPolicy", &accepted.object().metadata, Scope::Namespaced, origin).into_result()?;
        for warning in accepted.warnings() {
            let place = origin.place_of(warning.split(": ").next().unwrap_or_default());
            self.loaded.warnings.push(Warning { place, message: format!("{object}: {warning}") });
        }
        self.loaded.cluster.apply_policy(accepted);
        Ok(())
    }
}

fn default_namespace(metadata: &mut ObjectMeta) {
    let namespace = metadata.namespace.get_or_insert_default();
    if namespace.is_empty() {
        *namespace = "default".to_owned();
    }
}
