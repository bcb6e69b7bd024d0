//! The frame: what crosses a wire, with the metadata that must cross it untouched.
//!
//! A frame owns its memory: one chunk of a [`crate::port::Pool`] a segment. It is not `Clone`, and it has to be given
//! back: to a port that sends it, or to [`crate::port::Pool::release`]. Dropping one without either loses its chunk
//! (never memory safety); the pool counts what is outstanding, and tests hold that count to zero.

use arrayvec::ArrayVec;

use crate::port::Chunk;

/// The most frames that are received, judged and sent at once.
pub const BURST: usize = 64;

/// Frames on their way through a wire in one direction.
pub type Burst = ArrayVec<Frame, BURST>;

/// What is known of a frame's transport checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Checksum {
    /// Nothing is known: the bytes are as they came from the medium.
    #[default]
    Unknown,
    /// Verified by the device or the kernel, or not needed because the sender is on this machine.
    Valid,
    /// Not complete: the field holds the sum of the pseudo header, and whoever puts the frame onto a medium adds
    /// the sum of the bytes from `start` and stores it at `start + offset` (`VIRTIO_NET_HDR_F_NEEDS_CSUM`).
    Partial {
        /// Offset of the first summed byte from the start of the frame's bytes.
        start: u16,
        /// Offset of the checksum field from `start`.
        offset: u16,
    },
}

/// The kind of super-frame (`VIRTIO_NET_HDR_GSO_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GsoKind {
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// UDP segmentation offload: datagrams of equal size, each with a header of its own.
    UdpL4,
    /// UDP fragmentation offload: one datagram, to be fragmented.
    Udp,
}

/// A super-frame's segmentation: the frame stands for several packets that share their headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gso {
    /// What is segmented.
    pub kind: GsoKind,
    /// Bytes of payload a segment.
    pub size: u16,
    /// Bytes of headers (Ethernet to transport), as the sender's kernel stated them; 0 when it did not.
    pub header_length: u16,
    /// Whether TCP's congestion-window-reduced flag belongs to the first segment only (`VIRTIO_NET_HDR_GSO_ECN`).
    pub ecn: bool,
}

/// An IEEE 802.1Q or 802.1ad tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VlanTag {
    /// The tag's EtherType: 0x8100, 0x88a8.
    pub protocol: u16,
    /// Priority, drop eligibility and the VLAN's number, as on the wire.
    pub control: u16,
}

impl VlanTag {
    /// The VLAN's number, 0 to 4095.
    pub fn id(&self) -> u16 {
        self.control & 0x0fff
    }
}

/// The further segments of a frame.
type Tail = ArrayVec<Chunk, { Frame::MAX_TAIL }>;

/// A frame and its metadata, one cache line. The bytes include the Ethernet header, except on a wire of `tun` ports.
#[derive(Debug)]
#[must_use = "a frame has to be sent or released, or its memory is lost to the pool"]
pub struct Frame {
    /// The first segment: it holds all headers that are parsed.
    pub(crate) head: Chunk,
    /// The further segments of a multi-buffer frame, in order. Elsewhere, so that the others, which are almost all, stay
    /// small: a port that receives such frames pays for the box.
    tail: Option<Box<Tail>>,
    /// A VLAN tag that the port delivered outside the bytes: the frame's outermost tag.
    pub vlan: Option<VlanTag>,
    /// The transport checksum.
    pub checksum: Checksum,
    /// Segmentation, for a super-frame.
    pub gso: Option<Gso>,
}

const _: () = assert!(size_of::<Frame>() <= 64, "a frame is moved by value, several times on its way");

impl Frame {
    /// The most segments after the first.
    pub const MAX_TAIL: usize = 4;

    /// A frame of one segment.
    #[inline]
    pub fn new(head: Chunk) -> Self {
        Frame { head, tail: None, vlan: None, checksum: Checksum::Unknown, gso: None }
    }

    /// The bytes of the first segment: all of the frame, unless [`Frame::segments`] is above one.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        self.head.bytes()
    }

    /// The bytes of the first segment, to be changed by a port (never by the journey: frames cross unchanged).
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.head.bytes_mut()
    }

    /// Bytes in all segments.
    #[inline]
    pub fn length(&self) -> usize {
        self.head.len() + self.tail().iter().map(Chunk::len).sum::<usize>()
    }

    /// Number of segments in memory, 1 for almost every frame.
    #[inline]
    pub fn segments(&self) -> usize {
        1 + self.tail().len()
    }

    /// All segments' bytes, in order.
    pub fn iter_bytes(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::once(self.head.bytes()).chain(self.tail().iter().map(Chunk::bytes))
    }

    /// The segments after the first.
    #[inline]
    pub(crate) fn tail(&self) -> &[Chunk] {
        self.tail.as_ref().map_or(&[], |tail| &tail[..])
    }

    /// Whether there is more to the frame than the bytes of one segment: a further one, a tag, segmentation, an unfinished
    /// checksum.
    #[inline(always)]
    pub(crate) fn is_adorned(&self) -> bool {
        let unfinished = matches!(self.checksum, Checksum::Partial { .. });
        self.tail.is_some() | self.vlan.is_some() | self.gso.is_some() | unfinished
    }

    /// All segments, the first apart.
    pub(crate) fn into_chunks(self) -> (Chunk, impl Iterator<Item = Chunk>) {
        (self.head, self.tail.into_iter().flat_map(|tail| *tail))
    }

    /// Adds a further segment.
    ///
    /// # Errors
    /// Gives the segment back when the frame has [`Frame::MAX_TAIL`] already.
    pub fn push_segment(&mut self, segment: Chunk) -> Result<(), Chunk> {
        self.tail.get_or_insert_default().try_push(segment).map_err(|full| full.element())
    }

    /// How many packets of the medium this frame stands for: 1, or the segments of a super-frame. `header_length`
    /// is the length of all headers, as parsed.
    #[inline]
    pub fn wire_packets(&self, header_length: usize) -> u64 {
        match self.gso {
            Some(gso) if gso.size > 0 => {
                (self.length().saturating_sub(header_length)).div_ceil(usize::from(gso.size)).max(1) as u64
            }
            _ => 1,
        }
    }
}
