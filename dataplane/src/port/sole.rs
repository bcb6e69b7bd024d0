//! A device that nobody reads but its port: the kernel's own copy of each frame that an AF_PACKET socket is given is dropped at tc ingress.

use std::io;

use aya::programs::tc::{self, SchedClassifier, TcAttachType};
use aya::programs::{ProgramError, TcError};
use aya::{Ebpf, EbpfLoader};

use crate::port::PortError;

/// Compiled by `build.rs` from `drop.bpf.c`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/drop.bpf.o"));

/// The attached program. Dropping it gives the device back to the kernel; so does the end of the process, from Linux 6.6 on.
pub(super) struct Sole(
    /// It detaches what it has attached when it goes.
    #[allow(dead_code, reason = "held for its drop")]
    Ebpf,
);

impl Sole {
    /// Attaches the program to a device of the calling thread's namespace.
    ///
    /// # Errors
    /// No CAP_BPF or CAP_NET_ADMIN; a kernel without BPF at tc.
    pub(super) fn attach(device: &str) -> Result<Sole, PortError> {
        let fail = |error: &(dyn std::error::Error + 'static)| {
            let mut cause = Some(error);
            let system = std::iter::from_fn(|| {
                let now = cause?;
                cause = now.source();
                Some(now)
            });
            let code = system.filter_map(|error| error.downcast_ref::<io::Error>()?.raw_os_error()).last();
            let source = code.map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error);
            PortError::of(device, "having the kernel's copy of its frames dropped at tc ingress", source)
        };
        let mut program = EbpfLoader::new().load(OBJECT).map_err(|error| fail(&error))?;
        let drop: &mut SchedClassifier = program
            .program_mut("drop")
            .expect("the object defines the program")
            .try_into()
            .map_err(|error: ProgramError| fail(&error))?;
        drop.load().map_err(|error| fail(&error))?;
        if let Err(error) = drop.attach(device, TcAttachType::Ingress) {
            // Older kernels want a queueing discipline to attach it to.
            let missing = matches!(error, ProgramError::TcError(TcError::NetlinkError(_)));
            if !missing || tc::qdisc_add_clsact(device).is_err() {
                return Err(fail(&error));
            }
            drop.attach(device, TcAttachType::Ingress).map_err(|error| fail(&error))?;
        }
        Ok(Sole(program))
    }
}
