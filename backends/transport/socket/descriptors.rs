//! Descriptors that travel with messages.
//!
//! The kernel attaches them to the bytes that are sent with them, of which the first is the first of the message's
//! [frame](crate::transport::frame); it delivers them with that byte, and delivers nothing behind the piece that had
//! them in the same call. So the last byte of a call that has brought descriptors is of the message that they belong
//! to, and nothing has to be written about them in the frame.
//!
//! | the peer | and then |
//! |---|---|
//! | sends more than [`DESCRIPTORS_MAX`] with one message | the link is [broken](crate::transport::TransportError::Broken), and they are closed |
//! | sends some with bytes in the middle of a frame | they belong to that message |
//! | sends some with a message that does not want them | they are closed |
//!
//! This module does not know messages, and does not judge what the descriptors are.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use crate::transport::{DESCRIPTORS_MAX, Message};

/// Room for so many, as the kernel packs them.
const ROOM: usize = rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX));

/// Descriptors that have come with messages that were not taken yet.
#[derive(Default)]
pub(super) struct Arrived {
    /// How many bytes have come in all.
    bytes: u64,
    /// Each with the number of bytes that had come with it, oldest first.
    waiting: VecDeque<(u64, Batch)>,
}

/// What has come with a message.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) descriptors: Vec<OwnedFd>,
    /// Some were lost, because no number was free for them.
    pub(super) lost: bool,
}

/// Sends bytes, the second part behind the first, with descriptors.
pub(super) fn send_with(
    socket: BorrowedFd<'_>,
    parts: [&[u8]; 2],
    descriptors: &[BorrowedFd<'_>],
) -> Result<usize, Errno> {
    let mut room = [MaybeUninit::uninit(); ROOM];
    let mut control = SendAncillaryBuffer::new(&mut room);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Errno::INVAL);
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    sendmsg(socket, &parts.map(IoSlice::new), &mut control, flags)
}

impl Batch {
    /// As everybody wants them but [`Message`]s.
    pub(super) fn or_lost(self) -> Result<Vec<OwnedFd>, Errno> {
        if self.lost { Err(Errno::MFILE) } else { Ok(self.descriptors) }
    }

    /// Gives them to the message that they have come with.
    pub(super) fn give_to<M: Message>(self, mut message: M) -> M {
        if self.lost || !self.descriptors.is_empty() {
            message.attach(self.or_lost().map_err(io::Error::from));
        }
        message
    }
}

impl Arrived {
    /// Receives bytes, the second part when the first is full, and remembers the descriptors that come with them.
    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>, space: [&mut [u8]; 2]) -> Result<usize, Errno> {
        let mut room = [MaybeUninit::uninit(); ROOM];
        let mut control = RecvAncillaryBuffer::new(&mut room);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = recvmsg(socket, &mut space.map(IoSliceMut::new), &mut control, flags)?;
        self.bytes += received.bytes as u64;
        let mut batch = Batch { descriptors: Vec::new(), lost: received.flags.contains(ReturnFlags::CTRUNC) };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                batch.descriptors.extend(descriptors);
            }
        }
        if batch.lost || !batch.descriptors.is_empty() {
            self.waiting.push_back((self.bytes, batch));
        }
        Ok(received.bytes)
    }

    /// Whether more wait than one message can have.
    pub(super) fn is_too_many(&self) -> bool {
        self.waiting.iter().map(|(_, batch)| batch.descriptors.len()).sum::<usize>() > DESCRIPTORS_MAX
    }

    /// Takes those of the message that is taken now, behind which `held` bytes have come.
    pub(super) fn take(&mut self, held: usize) -> Batch {
        let end = self.bytes - held as u64;
        let mut taken = Batch::default();
        while self.waiting.front().is_some_and(|(position, _)| *position <= end) {
            if let Some((_, batch)) = self.waiting.pop_front() {
                taken.descriptors.extend(batch.descriptors);
                taken.lost |= batch.lost;
            }
        }
        taken
    }
}
