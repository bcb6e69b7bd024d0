//! Bytes to a packet, or the reason why not.
