//! Capture files: a port that receives what one file holds and writes what it sends to another. PCAP and PCAPNG are read, PCAP
//! with nanoseconds is written.
//!
//! Replay is deterministic: a frame is due when as much time has passed since the first `receive` as lies between its
//! timestamp and the file's first one ([`Pace::Recorded`]), or at once ([`Pace::Immediate`]). What is sent is written with
//! the time that was passed in, as the medium would carry it: checksums complete, tags in the bytes, super-frames in segments.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pcap_file::pcap::{PcapHeader, PcapReader, PcapWriter, RawPcapPacket};
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
use pcap_file::pcapng::{Block, PcapNgReader};
use pcap_file::{DataLink, Endianness, TsResolution};

use crate::frame::{Burst, Checksum, Frame};
use crate::port::segment::Plan;
use crate::port::{Capabilities, Pool, Port, PortCounters, PortError, PortKind, checksum};
use crate::time::Time;

/// The longest frame that is written.
const LONGEST: usize = Pool::SUPER_FRAME;

/// When a frame of a capture is due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pace {
    /// As far after the first as it was captured.
    #[default]
    Recorded,
    /// At once, as fast as frames are asked for.
    Immediate,
}

/// Which files a port reads and writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PcapOptions {
    /// The capture that is received; without one, nothing is.
    pub read: Option<PathBuf>,
    /// The capture that is written, replacing what was there; without one, what is sent is forgotten.
    pub write: Option<PathBuf>,
    /// When frames are due.
    pub pace: Pace,
}

/// A frame of a capture.
struct Record {
    timestamp: Duration,
    bytes: Vec<u8>,
}

/// Either format.
enum Source {
    Pcap(Box<PcapReader<BufReader<File>>>),
    PcapNg(Box<PcapNgReader<BufReader<File>>>),
}

/// A port on capture files.
pub struct PcapPort {
    name: String,
    capabilities: Capabilities,
    counters: PortCounters,
    source: Option<Source>,
    sink: Option<PcapWriter<BufWriter<File>>>,
    pace: Pace,
    /// The next frame, and the timestamp of the first.
    next: Option<Record>,
    first: Duration,
    started: Option<Time>,
    buffer: Box<[u8]>,
}

impl std::fmt::Debug for PcapPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PcapPort({})", self.name)
    }
}

impl PcapPort {
    /// Opens the files. `name` is for people.
    ///
    /// # Errors
    /// [`PortError::Capture`]: a file that cannot be opened, is no capture, or holds neither Ethernet frames nor IP packets.
    pub fn open(name: impl Into<String>, options: &PcapOptions) -> Result<Self, PortError> {
        let (mut source, mut link) = (None, DataLink::ETHERNET);
        if let Some(path) = &options.read {
            let fail = |reason: String| PortError::Capture { path: path.clone(), reason };
            let (opened, found) = Source::open(path).map_err(&fail)?;
            if !matches!(found, DataLink::ETHERNET | DataLink::RAW | DataLink::IPV4 | DataLink::IPV6) {
                return Err(fail(format!(
                    "its link type is {found:?}, and only Ethernet and raw IP can be replayed; convert it with editcap"
                )));
            }
            (source, link) = (Some(opened), found);
        }
        let sink = match &options.write {
            None => None,
            Some(path) => {
                let made = create(path, link);
                Some(made.map_err(|reason| PortError::Capture { path: path.clone(), reason })?)
            }
        };
        let mut port = PcapPort {
            name: name.into(),
            capabilities: Capabilities {
                gso: true,
                partial_checksum: false,
                multi_segment: false,
                vlan: false,
                ethernet: link == DataLink::ETHERNET,
                max_frame: LONGEST - Pool::HEADROOM,
            },
            counters: PortCounters::default(),
            source,
            sink,
            pace: options.pace,
            next: None,
            first: Duration::ZERO,
            started: None,
            buffer: vec![0; LONGEST].into(),
        };
        port.read_next();
        port.first = port.next.as_ref().map_or(Duration::ZERO, |record| record.timestamp);
        Ok(port)
    }

    /// Whether every frame of the capture was received.
    pub fn is_finished(&self) -> bool {
        self.next.is_none()
    }

    /// When the next frame is due; `None` before the first `receive` and after the last frame.
    pub fn due(&self) -> Option<Time> {
        let (started, record) = (self.started?, self.next.as_ref()?);
        Some(match self.pace {
            Pace::Immediate => started,
            Pace::Recorded => started + record.timestamp.saturating_sub(self.first),
        })
    }

    /// Reads one frame ahead. A capture that breaks off ends there, as one that is still being written does.
    fn read_next(&mut self) {
        self.next = match self.source.as_mut().map(Source::next) {
            Some(Ok(record)) => record,
            Some(Err(_)) => {
                self.counters.receive_errors += 1;
                self.source = None;
                None
            }
            None => None,
        };
    }

    /// Writes a frame as packets of the medium. `false` when its metadata does not fit it.
    fn write(&mut self, frame: &mut Frame, now: Time) -> io::Result<bool> {
        let Some(sink) = &mut self.sink else { return Ok(true) };
        if frame.gso.is_none() && matches!(frame.checksum, Checksum::Partial { .. }) {
            if !checksum::complete(frame) {
                return Ok(false);
            }
            self.counters.checksums_completed += 1;
        }
        let Some(plan) = Plan::new(frame).filter(|plan| plan.longest() <= self.buffer.len()) else {
            return Ok(false);
        };
        for i in 0..plan.count() {
            let length = plan.write(frame, i, &mut self.buffer);
            let bytes = &self.buffer[..length];
            let packet = RawPcapPacket {
                ts_sec: now.as_secs(),
                ts_frac: (now.0 % 1_000_000_000) as u32,
                incl_len: length as u32,
                orig_len: length as u32,
                data: bytes.into(),
            };
            sink.write_raw_packet(&packet).map_err(io::Error::other)?;
        }
        Ok(true)
    }
}

/// Makes the file that is written.
fn create(path: &Path, link: DataLink) -> Result<PcapWriter<BufWriter<File>>, String> {
    let file = File::create(path).map_err(|error| format!("it cannot be written ({error})"))?;
    let header = PcapHeader {
        snaplen: LONGEST as u32,
        datalink: link,
        ts_resolution: TsResolution::NanoSecond,
        endianness: Endianness::native(),
        ..PcapHeader::default()
    };
    PcapWriter::with_header(BufWriter::new(file), header).map_err(|error| format!("it cannot be written ({error})"))
}

impl Source {
    /// Opens a capture and tells its link type.
    fn open(path: &Path) -> Result<(Source, DataLink), String> {
        const SECTION_HEADER: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
        let no_capture = |error: &dyn std::fmt::Display| format!("it is neither a PCAP nor a PCAPNG file ({error})");
        let mut file = File::open(path).map_err(|error| format!("it cannot be read ({error})"))?;
        let mut magic = [0; 4];
        file.read_exact(&mut magic).map_err(|error| no_capture(&error))?;
        file.rewind().map_err(|error| no_capture(&error))?;
        let reader = BufReader::new(file);
        if magic != SECTION_HEADER {
            let reader = PcapReader::new(reader).map_err(|error| no_capture(&error))?;
            let link = reader.header().datalink;
            return Ok((Source::Pcap(Box::new(reader)), link));
        }
        let mut reader = PcapNgReader::new(reader).map_err(|error| no_capture(&error))?;
        // Interfaces are described before their frames: the first one tells.
        while reader.interfaces().is_empty() {
            match reader.next_block() {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(no_capture(&error)),
                None => return Ok((Source::PcapNg(Box::new(reader)), DataLink::ETHERNET)),
            }
        }
        let link = reader.interfaces()[0].linktype;
        Ok((Source::PcapNg(Box::new(reader)), link))
    }

    fn next(&mut self) -> Result<Option<Record>, String> {
        match self {
            Source::Pcap(reader) => {
                let resolution = reader.header().ts_resolution;
                // The raw form: the checked one refuses captures whose snap length is nonsense, which many are.
                let Some(packet) = reader.next_raw_packet() else { return Ok(None) };
                let packet = packet.map_err(|error| error.to_string())?;
                let fraction = match resolution {
                    TsResolution::MicroSecond => Duration::from_micros(packet.ts_frac.into()),
                    TsResolution::NanoSecond => Duration::from_nanos(packet.ts_frac.into()),
                };
                let timestamp = Duration::from_secs(packet.ts_sec.into()) + fraction;
                Ok(Some(Record { timestamp, bytes: packet.data.into_owned() }))
            }
            Source::PcapNg(reader) => Self::next_block(reader),
        }
    }

    /// The next block that carries a frame.
    fn next_block(reader: &mut PcapNgReader<BufReader<File>>) -> Result<Option<Record>, String> {
        loop {
            let (interface, units, bytes) = match reader.next_block() {
                None => return Ok(None),
                Some(Err(error)) => return Err(error.to_string()),
                // The library takes a timestamp's units for nanoseconds, whatever the interface says.
                Some(Ok(Block::EnhancedPacket(block))) => {
                    (block.interface_id as usize, block.timestamp.as_nanos(), block.data.into_owned())
                }
                Some(Ok(Block::SimplePacket(block))) => (0, 0, block.data.into_owned()),
                Some(Ok(_)) => continue,
            };
            let interface =
                reader.interfaces().get(interface).ok_or("a frame of an interface that is not described")?;
            let resolution = interface.options.iter().find_map(|option| match option {
                InterfaceDescriptionOption::IfTsResol(resolution) => Some(*resolution),
                _ => None,
            });
            return Ok(Some(Record { timestamp: timestamp(units, resolution.unwrap_or(6)), bytes }));
        }
    }
}

/// A PCAPNG timestamp: `units` of 10^-n seconds, or of 2^-n with the highest bit of `resolution` set (option
/// `if_tsresol`).
fn timestamp(units: u128, resolution: u8) -> Duration {
    let exponent = u32::from(resolution & 0x7f);
    let per_second = if resolution & 0x80 == 0 { 10u128.checked_pow(exponent) } else { 1u128.checked_shl(exponent) };
    let nanoseconds = per_second.and_then(|per| units.checked_mul(1_000_000_000).map(|units| units / per));
    Duration::from_nanos(u64::try_from(nanoseconds.unwrap_or(0)).unwrap_or(u64::MAX))
}

impl Port for PcapPort {
    fn kind(&self) -> PortKind {
        PortKind::Pcap
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn receive(&mut self, pool: &mut Pool, burst: &mut Burst, now: Time) -> io::Result<()> {
        self.started.get_or_insert(now);
        while burst.remaining_capacity() > 0 && pool.available() > 0 && self.due().is_some_and(|due| due <= now) {
            let Some(record) = self.next.take() else { break };
            match pool.frame(&record.bytes) {
                Some(frame) => burst.push(frame),
                None => self.counters.receive_errors += 1,
            }
            self.read_next();
        }
        Ok(())
    }

    fn send(&mut self, pool: &mut Pool, burst: &mut Burst, now: Time) -> io::Result<()> {
        while !burst.is_empty() {
            let written = self.write(&mut burst[0], now)?;
            self.counters.send_errors += u64::from(!written);
            pool.release(burst.remove(0));
        }
        Ok(())
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn counters(&self) -> PortCounters {
        self.counters
    }

    /// Writes what is buffered; nothing can be sent afterwards.
    fn close(&mut self, _pool: &mut Pool) {
        if let Some(sink) = self.sink.take()
            && sink.into_writer().flush().is_err()
        {
            self.counters.send_errors += 1;
        }
    }
}

#[cfg(test)]
mod tests;
