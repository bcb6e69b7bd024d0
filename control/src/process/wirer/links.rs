//! Told by the kernel when an interface of the host changes.

use std::io;
use std::sync::mpsc::Sender;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

use super::Input;

/// The group of messages about interfaces (`RTMGRP_LINK`, rtnetlink(7)).
const LINKS: u32 = 1;

/// How often it is looked anyway: nobody tells what happens inside a pod.
const ANYWAY: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// For how long changes are gathered: a pod that comes or goes makes a dozen.
const GATHER: Duration = Duration::from_millis(100);

/// Begins to tell of changes as [`Input::Links`].
pub(super) fn watch(inputs: Sender<Input>) -> io::Result<()> {
    let socket =
        socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    bind(&socket, &SocketAddrNetlink::new(0, LINKS))?;
    std::thread::Builder::new().name("links".to_owned()).spawn(move || {
        let mut bytes = vec![0; 64 << 10];
        loop {
            // Interrupted, out of time or readable: in any case it is looked.
            let _any = poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&ANYWAY));
            std::thread::sleep(GATHER);
            // What did not fit into the socket's buffer is of no interest: that something changed is all there is to know.
            while recv(&socket, &mut bytes[..], RecvFlags::empty()).is_ok() {}
            if inputs.send(Input::Links).is_err() {
                break;
            }
        }
    })?;
    Ok(())
}
