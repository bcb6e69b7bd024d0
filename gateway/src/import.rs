//! stub
use crate::model::{Family, Ruleset};
use std::collections::BTreeMap;
use std::sync::Arc;
/// o
pub struct Options {
    /// f
    pub family: Family,
    /// f
    pub file: Arc<str>,
    /// i
    pub ipset: Option<(Arc<str>, String)>,
    /// m
    pub interfaces: BTreeMap<String, String>,
    /// l
    pub lenient: bool,
    /// l
    pub local: Vec<ipnet::IpNet>,
}
impl Options {
    /// n
    pub fn new(family: Family, file: Arc<str>) -> Self {
        Options { family, file, ipset: None, interfaces: BTreeMap::new(), lenient: false, local: vec![] }
    }
}
/// i
pub struct Imported {
    /// r
    pub ruleset: Ruleset,
    /// r
    pub report: String,
}
/// i
pub fn import(_: &str, _: &Options) -> Result<Imported, Vec<String>> {
    Err(vec![])
}
/// i
pub fn interfaces(_: &Arc<str>, _: &str) -> Result<BTreeMap<String, String>, Vec<String>> {
    Err(vec![])
}
