//! A frame as the vector of buffers that one system call sends: header, MAC addresses, reinserted tag, the rest.
#![allow(unsafe_code)]

use std::ptr;

use crate::frame::Frame;
use crate::port::vnet;

/// Bytes of the two MAC addresses, after which a tag belongs (IEEE 802.1Q clause 9.5).
const MAC_ADDRESSES: usize = 12;

/// Buffers that one frame needs at most.
const MOST: usize = 4 + Frame::MAX_TAIL;

/// What one frame is sent from. It points into itself and into the frame, so it is used where it lies.
pub(super) struct Gather {
    header: [u8; vnet::LENGTH],
    tag: [u8; 4],
    vectors: [libc::iovec; MOST],
}

// SAFETY: the pointers are set and used within one call of `fill` and the system call after it, by one thread; between
// calls they are never followed.
unsafe impl Send for Gather {}

impl Gather {
    pub(super) fn new() -> Self {
        let nothing = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        Gather { header: [0; vnet::LENGTH], tag: [0; 4], vectors: [nothing; MOST] }
    }

    /// Points at the frame's bytes, with the virtio header first and a tag that was out of band back in its place.
    /// The answer is valid while `self` is not moved and the frame lives.
    pub(super) fn fill(&mut self, frame: &Frame) -> &mut [libc::iovec] {
        self.header = vnet::encode(frame);
        let mut count = 0;
        let mut push = |bytes: &[u8]| {
            self.vectors[count] = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
            count += 1;
        };
        push(&self.header);
        match frame.vlan {
            Some(tag) if frame.bytes().len() >= MAC_ADDRESSES => {
                self.tag[..2].copy_from_slice(&tag.protocol.to_be_bytes());
                self.tag[2..].copy_from_slice(&tag.control.to_be_bytes());
                push(&frame.bytes()[..MAC_ADDRESSES]);
                push(&self.tag);
                push(&frame.bytes()[MAC_ADDRESSES..]);
            }
            _ => push(frame.bytes()),
        }
        for segment in frame.tail() {
            push(segment.bytes());
        }
        &mut self.vectors[..count]
    }
}
