//! TAP and TUN devices.
