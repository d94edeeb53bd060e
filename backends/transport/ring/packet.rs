//! What goes over the socket beside a ring.
//!
//! A message goes as it is: its [frame] holds what it encodes to, and nothing else, so that one that
//! [holds its bytes](Message::as_bytes) is sent from where it lies and received where it may stay. What two ends have to
//! tell each other begins with eight bytes that hardly any message begins with; one that does is sent behind them:
//!
//! | bytes | hold |
//! |---|---|
//! | `0..8` | [`MARK`] |
//! | 8 | 1: the bell; 2: a ring is offered, whose descriptor comes along; 3: a message follows |
//! | `9..` | the message |
//!
//! Anything else that begins with the mark is [`Packet::Nonsense`]. This module does not know what any of it does.

use std::io;
use std::mem;
use std::os::fd::OwnedFd;

use crate::transport::{BoxError, Message, TransportError, frame};

/// What begins with this is not a message, or not as it is.
pub(super) const MARK: [u8; 8] = *b"\xf5ring\x00\x8f\xf9";

/// Bytes in front of a message that begins with the mark.
pub(super) const EXTRA: usize = MARK.len() + 1;

const BELL: u8 = 1;
const OFFER: u8 = 2;
const MARKED: u8 = 3;

/// What is sent over the socket, or has come over it.
pub(super) enum Packet<M> {
    /// A message that has come, and how many bytes it had.
    Message(Result<M, BoxError>, usize),
    /// A message to be sent, and its encoding, which begins at this byte; and the descriptors that were taken out of it.
    Whole(M, Vec<u8>, usize, Vec<OwnedFd>),
    /// A message to be sent, and what comes before the bytes that it lends; and the descriptors that were taken out of it.
    Lent(M, Vec<u8>, Vec<OwnedFd>),
    /// The memory of a ring; `None` if its descriptor was lost, or is on its way.
    Offer(Option<OwnedFd>),
    /// There is something in the ring.
    Bell,
    /// Nothing that this module has made.
    Nonsense,
}

impl<M: Message> Packet<M> {
    /// A message whose frame this is.
    pub(super) fn whole(message: M, frame: Vec<u8>, descriptors: Vec<OwnedFd>) -> Packet<M> {
        let payload = frame.get(frame::HEADER_BYTES..).unwrap_or_default();
        if payload.starts_with(&MARK) {
            let marked = [&MARK[..], &[MARKED], payload].concat();
            return Packet::Whole(message, marked, 0, descriptors);
        }
        Packet::Whole(message, frame, frame::HEADER_BYTES, descriptors)
    }

    /// A message that lends its bytes, of which there are not too many.
    pub(super) fn lent(
        message: M,
        descriptors: Vec<OwnedFd>,
        limit: usize,
    ) -> Result<Packet<M>, TransportError> {
        let mut head = Vec::new();
        message.encode_head(&mut head).map_err(TransportError::Encode)?;
        let bytes = message.as_bytes().unwrap_or_default();
        let size = head.len().saturating_add(bytes.len());
        let limit = limit.min(u32::MAX as usize);
        if size > limit {
            return Err(TransportError::TooBig { size, limit });
        }
        if head.iter().chain(bytes).take(MARK.len()).eq(&MARK) {
            head.splice(0..0, MARK.into_iter().chain([MARKED]));
        }
        Ok(Packet::Lent(message, head, descriptors))
    }

    /// The message that was to be sent, with all that it had.
    pub(super) fn into_message(self) -> Option<M> {
        match self {
            Packet::Whole(mut message, .., descriptors) | Packet::Lent(mut message, _, descriptors) => {
                if !descriptors.is_empty() {
                    message.attach(Ok(descriptors));
                }
                Some(message)
            }
            Packet::Message(message, _) => message.ok(),
            Packet::Offer(_) | Packet::Bell | Packet::Nonsense => None,
        }
    }
}

impl<M: Message> Message for Packet<M> {
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), BoxError> {
        let tag = match self {
            Packet::Whole(..) | Packet::Lent(..) => {
                self.encode_head(out)?;
                out.extend_from_slice(self.as_bytes().ok_or("it lends no bytes any more")?);
                return Ok(());
            }
            Packet::Offer(_) => OFFER,
            Packet::Bell => BELL,
            Packet::Message(..) | Packet::Nonsense => return Err("it has come, and is not to be sent".into()),
        };
        out.extend_from_slice(&MARK);
        out.push(tag);
        Ok(())
    }

    fn decode(bytes: &[u8]) -> Result<Packet<M>, BoxError> {
        Ok(match bytes.strip_prefix(&MARK) {
            None => Packet::Message(M::decode(bytes), bytes.len()),
            Some([MARKED, message @ ..]) if message.starts_with(&MARK) => {
                Packet::Message(M::decode(message), message.len())
            }
            Some([BELL]) => Packet::Bell,
            Some([OFFER]) => Packet::Offer(None),
            Some(_) => Packet::Nonsense,
        })
    }

    fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Packet::Whole(_, bytes, start, _) => bytes.get(*start..),
            Packet::Lent(message, ..) => message.as_bytes(),
            _ => None,
        }
    }

    fn encode_head(&self, out: &mut Vec<u8>) -> Result<(), BoxError> {
        if let Packet::Lent(_, head, _) = self {
            out.extend_from_slice(head);
        }
        Ok(())
    }

    fn decode_owned(bytes: Vec<u8>) -> Result<Packet<M>, BoxError> {
        if bytes.starts_with(&MARK) {
            return Packet::decode(&bytes);
        }
        let size = bytes.len();
        Ok(Packet::Message(M::decode_owned(bytes), size))
    }

    fn detach(&mut self) -> Vec<OwnedFd> {
        match self {
            Packet::Whole(.., descriptors) | Packet::Lent(.., descriptors) => mem::take(descriptors),
            Packet::Offer(memory) => memory.take().into_iter().collect(),
            _ => Vec::new(),
        }
    }

    fn attach(&mut self, descriptors: io::Result<Vec<OwnedFd>>) {
        match self {
            Packet::Message(Ok(message), _) => message.attach(descriptors),
            // It is given back.
            Packet::Whole(.., detached) | Packet::Lent(.., detached) => {
                *detached = descriptors.unwrap_or_default()
            }
            // More than one is as good as another.
            Packet::Offer(memory) => *memory = descriptors.ok().and_then(|mut all| all.pop()),
            Packet::Message(Err(_), _) | Packet::Bell | Packet::Nonsense => {}
        }
    }
}
