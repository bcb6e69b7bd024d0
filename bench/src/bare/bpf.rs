//! The XDP program that hands the frames of queue 0 to a socket: five instructions, loaded with bpf(2) itself.
#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};

const MAP_CREATE: i64 = 0;
const MAP_UPDATE: i64 = 2;
const PROG_LOAD: i64 = 5;
const LINK_CREATE: i64 = 28;
const MAP_TYPE_XSKMAP: u32 = 17;
const PROG_TYPE_XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;
const XDP_DROP: i32 = 1;
const HELPER_REDIRECT_MAP: i32 = 51;
/// `XDP_FLAGS_DRV_MODE`: by the driver, not on socket buffers.
const NATIVE: u32 = 1 << 2;

/// One instruction: operation, registers (destination in the low half), offset, immediate.
fn instruction(operation: u8, registers: u8, offset: i16, immediate: i32) -> u64 {
    u64::from(operation)
        | u64::from(registers) << 8
        | u64::from(offset as u16) << 16
        | u64::from(immediate as u32) << 32
}

/// `union bpf_attr`, as far as it is used here, zeros behind.
type Attributes = [u64; 16];

fn bpf(command: i64, attributes: &Attributes) -> io::Result<i64> {
    // SAFETY: the pointer and length describe `attributes`; the pointers in it lead to values that the callers keep alive,
    // and the kernel reads as much of them as the attributes say.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), mem::size_of::<Attributes>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn descriptor(command: i64, attributes: &Attributes) -> io::Result<OwnedFd> {
    let descriptor = bpf(command, attributes)?;
    // SAFETY: the commands that come here answer a new descriptor, which is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor as i32) })
}

/// Two 32-bit fields in the machine's (little-endian) order.
fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

/// The attached program: it is detached when this is dropped.
pub(super) struct Redirect {
    _link: OwnedFd,
    _map: OwnedFd,
}

impl Redirect {
    /// Hands the frames that come in on queue 0 of a device to a socket.
    pub(super) fn attach(index: u32, socket: BorrowedFd<'_>) -> Result<Self> {
        let mut create: Attributes = [0; 16];
        create[0] = pair(MAP_TYPE_XSKMAP, 4);
        create[1] = pair(4, 1);
        let map = descriptor(MAP_CREATE, &create).context("making the XSKMAP")?;
        let (key, value) = (0u32, socket.as_raw_fd());
        let mut update: Attributes = [0; 16];
        update[0] = pair(map.as_raw_fd() as u32, 0);
        update[1] = (&raw const key).expose_provenance() as u64;
        update[2] = (&raw const value).expose_provenance() as u64;
        bpf(MAP_UPDATE, &update).context("registering the AF_XDP socket")?;
        let program = [
            // r2 = context->rx_queue_index; r1 = map; r3 = XDP_DROP; call redirect_map; exit
            instruction(0x61, 0x12, 16, 0),
            instruction(0x18, 0x11, 0, map.as_raw_fd()),
            0,
            instruction(0xb7, 0x03, 0, XDP_DROP),
            instruction(0x85, 0, 0, HELPER_REDIRECT_MAP),
            instruction(0x95, 0, 0, 0),
        ];
        let license = c"Dual MIT/GPL";
        let mut load: Attributes = [0; 16];
        load[0] = pair(PROG_TYPE_XDP, program.len() as u32);
        load[1] = program.as_ptr().expose_provenance() as u64;
        load[2] = license.as_ptr().expose_provenance() as u64;
        let program = descriptor(PROG_LOAD, &load).context("loading the XDP program")?;
        let mut link: Attributes = [0; 16];
        link[0] = pair(program.as_raw_fd() as u32, index);
        link[1] = pair(ATTACH_XDP, NATIVE);
        let link = descriptor(LINK_CREATE, &link).context("attaching the XDP program")?;
        Ok(Redirect { _link: link, _map: map })
    }
}
