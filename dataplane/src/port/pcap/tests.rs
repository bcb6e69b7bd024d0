use super::*;
use crate::frame::{Gso, GsoKind, VlanTag};

fn temporary() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn reading(path: &Path, pace: Pace) -> PcapPort {
    PcapPort::open("replay", &PcapOptions { read: Some(path.to_owned()), write: None, pace }).unwrap()
}

fn receive(port: &mut PcapPort, pool: &mut Pool, now: u64) -> Vec<Vec<u8>> {
    let mut burst = Burst::new();
    port.receive(pool, &mut burst, Time(now)).unwrap();
    burst.drain(..).map(|frame| (frame.bytes().to_vec(), pool.release(frame)).0).collect()
}

/// Sends frames at the given times into a file.
fn written(path: &Path, frames: Vec<(u64, Frame)>, pool: &mut Pool) -> PortCounters {
    let options = PcapOptions { read: None, write: Some(path.to_owned()), pace: Pace::Recorded };
    let mut port = PcapPort::open("capture", &options).unwrap();
    for (now, frame) in frames {
        let mut burst = Burst::new();
        burst.push(frame);
        port.send(pool, &mut burst, Time(now)).unwrap();
        assert!(burst.is_empty());
    }
    port.close(pool);
    assert_eq!(pool.outstanding(), 0);
    port.counters()
}

#[test]
fn what_was_written_is_read_at_its_time() {
    let directory = temporary();
    let path = directory.path().join("a.pcap");
    let mut pool = Pool::new(8, 2048);
    let times = [5_000_000_000, 5_000_000_001, 7_500_000_000];
    let frames = times.iter().enumerate().map(|(i, &now)| (now, pool.frame(&[i as u8; 60]).unwrap())).collect();
    assert_eq!(written(&path, frames, &mut pool), PortCounters::default());

    let mut port = reading(&path, Pace::Recorded);
    assert!(port.capabilities().ethernet && port.due().is_none());
    assert_eq!(receive(&mut port, &mut pool, 100), [vec![0; 60]], "the first one is due when asked for");
    assert_eq!(port.due(), Some(Time(101)));
    assert_eq!(receive(&mut port, &mut pool, 100), [[0; 0]; 0]);
    assert_eq!(receive(&mut port, &mut pool, 2_500_000_099), [vec![1; 60]]);
    assert!(!port.is_finished());
    assert_eq!(receive(&mut port, &mut pool, 2_500_000_100), [vec![2; 60]]);
    assert!(port.is_finished());

    let mut port = reading(&path, Pace::Immediate);
    assert_eq!(receive(&mut port, &mut pool, 0).len(), 3);
    assert_eq!(pool.outstanding(), 0);
}

#[test]
fn metadata_is_written_out() {
    let directory = temporary();
    let path = directory.path().join("a.pcap");
    let mut pool = Pool::new(8, 4096);
    let mut segment = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0x0b, 0xe0, 0, 1, 0x40, 0, 64, 6, 0, 0];
    segment.extend([10, 0, 0, 1, 10, 0, 0, 2, 0, 80, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
    segment.extend([7; 3000]);
    let mut frame = pool.frame(&segment).unwrap();
    frame.gso = Some(Gso { kind: GsoKind::TcpV4, size: 1000, header_length: 54, ecn: false });
    frame.checksum = Checksum::Partial { start: 34, offset: 16 };
    frame.vlan = Some(VlanTag { protocol: 0x8100, control: 9 });
    let mut broken = pool.frame(&[0; 60]).unwrap();
    broken.checksum = Checksum::Partial { start: 60, offset: 16 };
    let counters = written(&path, vec![(0, frame), (0, broken)], &mut pool);
    assert_eq!(counters.send_errors, 1);
    let frames = receive(&mut reading(&path, Pace::Immediate), &mut pool, 0);
    assert_eq!(frames.iter().map(Vec::len).collect::<Vec<_>>(), [1058, 1058, 1058]);
    assert!(frames.iter().all(|bytes| bytes[12..18] == [0x81, 0, 0, 9, 8, 0]));
}

#[test]
fn pcapng_timestamps_follow_the_interface() {
    assert_eq!(timestamp(1_500_000, 6), Duration::from_millis(1500));
    assert_eq!(timestamp(1_500_000_000, 9), Duration::from_millis(1500));
    assert_eq!(timestamp(3 << 19, 0x80 | 20), Duration::from_millis(1500));
    assert_eq!(timestamp(1, 127), Duration::ZERO);

    // A section, an Ethernet interface without options (microseconds), and two frames a second apart.
    let mut file = Vec::new();
    let mut block = |kind: u32, body: &[u8]| {
        let length = (12 + body.len()) as u32;
        for part in [&kind.to_le_bytes()[..], &length.to_le_bytes(), body, &length.to_le_bytes()] {
            file.extend_from_slice(part);
        }
    };
    block(0x0a0d_0d0a, &[[0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0], [0xff; 8]].concat());
    block(1, &[1, 0, 0, 0, 0, 0, 4, 0]);
    for (units, byte) in [(10_000_000u32, 1u8), (11_000_000, 2)] {
        let mut body = [0u32, 0, units, 60, 60].iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
        body.extend([byte; 60]);
        block(6, &body);
    }
    let directory = temporary();
    let path = directory.path().join("a.pcapng");
    std::fs::write(&path, file).unwrap();
    let mut pool = Pool::new(8, 2048);
    let mut port = reading(&path, Pace::Recorded);
    assert_eq!(receive(&mut port, &mut pool, 0), [vec![1; 60]]);
    assert_eq!(receive(&mut port, &mut pool, 999_999_999).len(), 0);
    assert_eq!(receive(&mut port, &mut pool, 1_000_000_000), [vec![2; 60]]);
    assert!(port.is_finished());
}

#[test]
fn what_is_no_capture_is_refused_with_its_name() {
    let directory = temporary();
    let path = directory.path().join("note.txt");
    std::fs::write(&path, "this is no capture at all").unwrap();
    for path in [path, directory.path().join("missing.pcap")] {
        let options = PcapOptions { read: Some(path.clone()), ..PcapOptions::default() };
        let error = PcapPort::open("replay", &options).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        assert!(!error.is_system_refusal());
    }
}

#[test]
fn a_capture_that_breaks_off_ends_there() {
    let directory = temporary();
    let path = directory.path().join("a.pcap");
    let mut pool = Pool::new(8, 2048);
    let frames = (0..2).map(|i| (i, pool.frame(&[i as u8; 60]).unwrap())).collect();
    written(&path, frames, &mut pool);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 10]).unwrap();
    let mut port = reading(&path, Pace::Immediate);
    assert_eq!(receive(&mut port, &mut pool, 0).len(), 1);
    assert!(port.is_finished());
    assert_eq!(port.counters().receive_errors, 1);
}
