//! Penstock's benchmarks: what they measure with. The benchmarks themselves are in `benches/`; `README.md` tells how to run
//! them and what their figures do not say.

pub mod bare;
pub mod classbench;
pub mod compare;
pub mod dpdk;
pub mod environment;
pub mod idle_node;
pub mod live;
pub mod micro;
pub mod pktgen;
pub mod plot;
pub mod random;
pub mod rulesets;
pub mod scale;
pub mod seen;
