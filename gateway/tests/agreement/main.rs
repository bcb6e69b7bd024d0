//! Penstock's rules against the kernel's.
mod kernel;
mod observer;
mod packet;
