//! What the end-to-end tests share: namespaces joined by wires ([`site`]), programs that run in them ([`process`]),
//! what policies say ([`policy`]), payloads ([`payload`]) and streams of them ([`traffic`]), and what the fuzz targets do
//! ([`fuzz`]).
//!
//! ```text
//!  pod namespace      wires namespace            router namespace                          other hosts
//!  eth0 ════ veth ═══ iN ─ [engine] ─ oN ═ veth ═ pN  routes ── veth ── (narrow link) ── …  eth0
//!  10.77.N.2                                       10.77.N.1
//! ```
//! A test that cannot be set up fails: nothing here skips.

pub mod fuzz;
pub mod payload;
pub mod policy;
pub mod process;
pub mod site;
pub mod traffic;

/// Makes one test a port kind of a function that takes a [`dataplane::port::PortKind`].
#[macro_export]
macro_rules! each_port {
    ($($test:ident),+ $(,)?) => {$(
        mod $test {
            #[test]
            fn af_packet() {
                super::$test(dataplane::port::PortKind::AfPacket);
            }
            #[test]
            fn af_xdp() {
                super::$test(dataplane::port::PortKind::AfXdp);
            }
            #[test]
            fn tap() {
                super::$test(dataplane::port::PortKind::Tap);
            }
        }
    )+};
}
