use super::*;
use crate::port::MemoryPort;

const FRAMES: u32 = 2000;

/// Sends numbered frames through a faulty port; the answer is what came out, and the counts.
fn through(plan: FaultPlan, seed: u64) -> (Vec<Vec<u8>>, Arc<FaultCounts>) {
    let mut pool = Pool::new(400, 256);
    let (inner, link) = MemoryPort::new("m");
    let mut port = Fault::new(Box::new(inner), plan, seed).unwrap();
    let mut received = Vec::new();
    for number in 0..FRAMES {
        let mut bytes = number.to_be_bytes().to_vec();
        bytes.resize(64, 0);
        link.inject(bytes);
    }
    let mut now = Time::ZERO;
    for _ in 0..400 {
        let mut burst = Burst::new();
        port.receive(&mut pool, &mut burst, now).unwrap();
        for frame in burst {
            received.push(frame.bytes().to_vec());
            pool.release(frame);
        }
        now = now + Duration::from_millis(1);
    }
    assert_eq!(pool.outstanding(), port.held_chunks());
    port.close(&mut pool);
    assert_eq!(pool.outstanding(), 0);
    (received, port.counts())
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().unwrap())
}

#[test]
fn without_faults_nothing_changes() {
    let (received, _) = through(FaultPlan::default(), 1);
    assert!(received.iter().map(|bytes| number(bytes)).eq(0..FRAMES));
}

#[test]
fn each_fault_happens_as_often_as_it_should_and_is_counted() {
    let seed = 7;
    let near = |counter: &AtomicU64, expected: u32| {
        let happened = counter.load(Ordering::Relaxed);
        assert!(happened.abs_diff(expected.into()) < u64::from(expected) / 3, "{happened}, not about {expected}");
        happened as usize
    };
    let (received, counts) = through(FaultPlan { drop: 0.1, ..FaultPlan::default() }, seed);
    assert_eq!(received.len(), FRAMES as usize - near(&counts.dropped, FRAMES / 10));

    let (received, counts) = through(FaultPlan { duplicate: 0.5, ..FaultPlan::default() }, seed);
    assert_eq!(received.len(), FRAMES as usize + near(&counts.duplicated, FRAMES / 2));

    let (received, counts) = through(FaultPlan { truncate: 0.1, ..FaultPlan::default() }, seed);
    assert_eq!(received.iter().filter(|bytes| bytes.len() < 64).count(), near(&counts.truncated, FRAMES / 10));

    let (received, counts) = through(FaultPlan { corrupt: 0.1, ..FaultPlan::default() }, seed);
    let changed = received.iter().enumerate().filter(|(i, bytes)| {
        let ones: u32 = bytes[4..].iter().map(|byte| byte.count_ones()).sum();
        ones + (number(bytes) ^ *i as u32).count_ones() == 1
    });
    assert_eq!(changed.count(), near(&counts.corrupted, FRAMES / 10));
}

#[test]
fn reordering_loses_nothing() {
    let (received, counts) = through(FaultPlan { reorder: 0.1, ..FaultPlan::default() }, 3);
    let mut numbers: Vec<_> = received.iter().map(|bytes| number(bytes)).collect();
    let in_order = numbers.is_sorted();
    numbers.sort_unstable();
    assert!(!in_order && counts.reordered.load(Ordering::Relaxed) > 100);
    assert!(numbers.into_iter().eq(0..FRAMES));
}

#[test]
fn a_stall_ends_and_loses_nothing() {
    let plan = FaultPlan { stall: 0.3, stall_time: Duration::from_millis(5), ..FaultPlan::default() };
    let (received, counts) = through(plan, 3);
    assert!(counts.stalled.load(Ordering::Relaxed) > 5);
    assert!(received.iter().map(|bytes| number(bytes)).eq(0..FRAMES));
}

#[test]
fn the_same_seed_gives_the_same_faults() {
    let plan =
        FaultPlan { drop: 0.1, duplicate: 0.1, reorder: 0.1, truncate: 0.1, corrupt: 0.1, ..FaultPlan::default() };
    assert_eq!(through(plan, 42).0, through(plan, 42).0);
    assert_ne!(through(plan, 42).0, through(plan, 43).0);
}
