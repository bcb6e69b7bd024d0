//! [`struct@Hash`]: `rte_hash` as a flow table.

use super::{Peer, Unavailable};

/// A hash function of DPDK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// `rte_hash_crc`, its default: CRC32 instructions. Not keyed: whoever chooses addresses chooses buckets.
    Crc,
    /// `rte_jhash`.
    Jhash,
}

/// Memory of a table.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Buckets and keys.
    pub table_bytes: u64,
    /// The payloads beside them.
    pub payload_bytes: u64,
    /// Of all that the process has, in huge pages.
    pub huge_bytes: u64,
}

/// How large a table is made.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Bytes of a key.
    pub key_bytes: usize,
    /// The most flows; DPDK rounds its buckets up to a power of two.
    pub capacity: usize,
    /// Bytes of a flow's payload.
    pub payload_bytes: usize,
}

/// `rte_hash` in a process of its own, with keys to add and to find.
#[derive(Debug)]
pub struct Hash {
    peer: Peer,
    keys: usize,
}

impl Hash {
    /// Starts it, pinned to a CPU, with keys of `shape.key_bytes` each, one after the other, in the order of adding, and their
    /// numbers in the order of looking up.
    ///
    /// # Errors
    /// DPDK is missing, or does not start.
    pub fn start(
        cpu: usize,
        shape: Shape,
        function: Function,
        keys: &[u8],
        order: &[u32],
    ) -> Result<Self, Unavailable> {
        let sizes = [shape.key_bytes, order.len(), shape.capacity, shape.payload_bytes];
        let mut input: Vec<u8> = sizes.iter().flat_map(|size| (*size as u32).to_ne_bytes()).collect();
        input.extend_from_slice(keys);
        input.extend(order.iter().flat_map(|number| number.to_ne_bytes()));
        let flow = 2 * (shape.key_bytes + 24) + shape.payload_bytes;
        let megabytes = (2 * input.len() + flow * shape.capacity.next_power_of_two()) / (1 << 20) + 64;
        let function = match function {
            Function::Crc => "crc",
            Function::Jhash => "jhash",
        };
        Ok(Hash { peer: Peer::start("hash_bench", cpu, megabytes, &input, &[function])?, keys: order.len() })
    }

    /// Makes the table, empty.
    ///
    /// # Errors
    /// Its memory does not do.
    pub fn create(&mut self) -> Result<Memory, Unavailable> {
        let answer = self.peer.ask("create")?;
        let number = |name| self.peer.number(&answer, name);
        Ok(Memory {
            table_bytes: number("table_bytes")?,
            payload_bytes: number("payload_bytes")?,
            huge_bytes: number("huge_bytes")?,
        })
    }

    /// Empties the table and adds all keys: nanoseconds a key.
    ///
    /// # Errors
    /// A key found no room.
    pub fn insert(&mut self) -> Result<f64, Unavailable> {
        let answer = self.peer.ask("insert")?;
        Ok(self.peer.number(&answer, "ns")? as f64 / self.keys.max(1) as f64)
    }

    /// Finds all keys, `burst` (at most 64) in a call: nanoseconds a key. With `payload`, each flow's payload is fetched and
    /// read, as whoever keeps state a flow has to.
    ///
    /// # Errors
    /// Not every key was found to be its own flow.
    pub fn lookup(&mut self, burst: usize, payload: bool) -> Result<f64, Unavailable> {
        let answer = self.peer.ask(&format!("lookup {burst} {}", u8::from(payload)))?;
        let found = self.peer.number(&answer, "found")?;
        if found != self.keys as u64 {
            return Err(Unavailable::failed("rte_hash", format!("it found {found} flows of {}", self.keys)));
        }
        Ok(self.peer.number(&answer, "ns")? as f64 / self.keys.max(1) as f64)
    }
}
