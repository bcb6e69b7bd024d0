//! Messages and descriptors between the processes: frames of postcard on a Unix stream socket.
//!
//! A frame is a header (length of the message and number of descriptors, each four bytes, little-endian), with which the
//! descriptors travel (`SCM_RIGHTS`, unix(7)), and the message. Both ends are of the same build, so there is no versioning.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The most descriptors that a message carries: a worker's file each, and more than there are workers.
pub const MOST_DESCRIPTORS: usize = 64;

/// Longest message in bytes: the rules of a node, many times over.
const LONGEST: u32 = 1 << 30;

const HEADER: usize = 8;

fn invalid(reason: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.to_string())
}

/// Sends a message with copies of these descriptors.
///
/// # Errors
/// When the other end is gone, or the message is longer than any may be.
pub fn send<T: Serialize>(stream: &UnixStream, message: &T, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = postcard::to_stdvec(message).map_err(invalid)?;
    let length = u32::try_from(bytes.len()).ok().filter(|&length| length <= LONGEST);
    let length = length.ok_or_else(|| invalid("a message is too long"))?;
    if descriptors.len() > MOST_DESCRIPTORS {
        return Err(invalid("a message has too many descriptors"));
    }
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(&length.to_le_bytes());
    header[4..].copy_from_slice(&(descriptors.len() as u32).to_le_bytes());
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    let sent =
        rustix::io::retry_on_intr(|| sendmsg(stream, &[IoSlice::new(&header)], &mut ancillary, SendFlags::NOSIGNAL))?;
    let mut stream = stream;
    stream.write_all(&header[sent..])?;
    stream.write_all(&bytes)
}

/// Waits for the next message.
///
/// # Errors
/// [`io::ErrorKind::UnexpectedEof`] when the other end is gone; what is no message of this build.
pub fn receive<T: DeserializeOwned>(stream: &UnixStream) -> io::Result<(T, Vec<OwnedFd>)> {
    let mut header = [0; HEADER];
    let mut descriptors = Vec::new();
    let mut have = 0;
    while have < HEADER {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut header[have..])];
        let got = rustix::io::retry_on_intr(|| recvmsg(stream, &mut slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC))?;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(more) = message {
                descriptors.extend(more);
            }
        }
        if got.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        have += got.bytes;
    }
    let number = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if number(0) > LONGEST || number(4) as usize != descriptors.len() {
        return Err(invalid("a message that is not whole"));
    }
    let mut bytes = vec![0; number(0) as usize];
    let mut stream = stream;
    stream.read_exact(&mut bytes)?;
    Ok((postcard::from_bytes(&bytes).map_err(invalid)?, descriptors))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn messages_and_descriptors_arrive_in_order_and_whole() {
        let (one, other) = UnixStream::pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        let long = vec![7u8; 3 << 20];
        let sender = std::thread::spawn(move || {
            send(&one, &"first".to_owned(), &[file.as_fd(), file.as_fd()]).unwrap();
            file.write_all(b"by another way").unwrap();
            send(&one, &long, &[]).unwrap();
        });
        let (text, descriptors) = receive::<String>(&other).unwrap();
        assert_eq!((text.as_str(), descriptors.len()), ("first", 2));
        let (bytes, none) = receive::<Vec<u8>>(&other).unwrap();
        assert_eq!((bytes.len(), none.len()), (3 << 20, 0));
        assert_eq!(File::from(descriptors.into_iter().next().unwrap()).metadata().unwrap().len(), 14);
        sender.join().unwrap();
        assert_eq!(receive::<String>(&other).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let (mut one, other) = UnixStream::pair().unwrap();
        one.write_all(&[0xff; 64]).unwrap();
        assert_eq!(receive::<String>(&other).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
