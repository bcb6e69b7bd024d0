//! What the processor does quickly is what any processor does.

use proptest::prelude::*;

use super::*;

/// Everything a walk asks of a processor.
struct Both<'a> {
    words: &'a [u32],
    lanes: usize,
    key: Key,
    word: u64,
    mask: u64,
}

impl Job for Both<'_> {
    type Output = (u64, u32);

    #[inline(always)]
    fn run<W: Wide>(self, wide: W) -> (u64, u32) {
        wide.prefetch(self.words, usize::MAX / 8);
        (wide.gather(self.word, self.mask), wide.matching(self.words, 0, self.lanes, &self.key))
    }
}

/// Few values and their neighbours, so that fields meet, begin and end beside one another.
fn field() -> impl Strategy<Value = u32> {
    let half = prop::sample::select(vec![0u32, 1, 2, 80, 0x7fff, 0x8000, 0xfffe, 0xffff]);
    (half.clone(), half).prop_map(|(high, low)| high << 16 | low)
}

proptest! {
    #[test]
    fn this_processor_agrees_with_any(
        words in prop::collection::vec(field(), LANES * LANE_WORDS + PADDING),
        lanes in 1..=LANES,
        key in prop::array::uniform4(field()),
        from in 0..LANES,
        word: u64,
        mask: u64,
    ) {
        let mut words = words;
        // One lane that means exactly this packet, or nearly: random ones hardly ever match.
        let lane = from % lanes;
        for (place, value) in [(0, key[0]), (2, key[1]), (4, key[2]), (6, key[3] & 0xffff)] {
            words[place * lanes + lane] = value;
        }
        let job = || Both { words: &words, lanes, key: Key(key), word, mask };
        let expected = job().run(Portable);
        prop_assert_eq!(expected.1 >> lane & 1, 1);
        prop_assert_eq!(run(job()), expected);
    }
}

#[test]
fn a_lane_ends_where_its_fields_end() {
    // Sources 10 to 12, destination 7, source ports 1 to 2, destination port 80 alone, protocol 6 with SYN of SYN and ACK.
    let lane = [10, 2, 7, 0, 1 << 16 | 80, 1 << 16, 0x12ff_0206, 99];
    let mut words = lane.to_vec();
    words.extend([0; PADDING]);
    let matches = |key: [u32; 4]| run(Both { words: &words, lanes: 1, key: Key(key), word: 0, mask: 0 }).1;
    let inside = [11, 7, 2 << 16 | 80, 0x0206];
    assert_eq!(matches(inside), 1);
    for (field, value, expected) in [
        (0, 9, 0),
        (0, 10, 1),
        (0, 12, 1),
        (0, 13, 0),
        (1, 6, 0),
        (1, 8, 0),
        (2, 80, 0),
        (2, 1 << 16 | 80, 1),
        (2, 3 << 16 | 80, 0),
        (2, 1 << 16 | 79, 0),
        (2, 1 << 16 | 81, 0),
        (3, 0x0211, 0),
        (3, 0x1206, 0),
        (3, 0x0a06, 1),
        (3, 0x0006, 0),
    ] {
        let mut key = inside;
        key[field] = value;
        assert_eq!(matches(key), expected, "{field} {value:#x}");
    }
}

#[test]
fn bits_are_gathered_in_order() {
    assert_eq!(Portable.gather(0b1010_0110, 0b1111_0000), 0b1010);
    assert_eq!(Portable.gather(0b1010_0110, 0b1000_0011), 0b110);
    assert_eq!(Portable.gather(u64::MAX, 0), 0);
}
