//! A mapping whose file was cut off: an access beyond the new end is turned from death by SIGBUS into zeros and
//! a mark.
//!
//! Mapped ranges are registered here. At a SIGBUS inside one of them, memory of zeros is mapped over the rest of
//! the range, from the faulting page on, the range is marked as lost, and the access is repeated. Whoever uses
//! the mapping asks for the mark before believing what was read.
//!
//! Any other SIGBUS goes where it went before: to the handler that was there when the first range was
//! registered, or to the default action. A program that installs a handler of its own later, without calling
//! the one before it, loses this protection and nothing else. There is room for [`SLOTS`] ranges at a time;
//! more are mapped without protection.
//!
//! This module does not know what is mapped.
//!
//! # Safety
//!
//! The handler runs at any instruction of any thread, and so does only what is safe there: atomic loads and
//! stores, `mmap`, `sigaction`. It replaces pages only inside a registered range, which belongs to a live
//! mapping: ranges are registered after mapping and withdrawn before unmapping, and a fault inside one comes
//! from an access through the mapping, which keeps it alive meanwhile. What Rust knows of these pages is that
//! anybody may change them at any time ([`Mapping`](super::Mapping)); that they become zeros is no more than that.

#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr;

use crate::sync::global::{AtomicBool, AtomicUsize, Once, OnceLock, Ordering};

/// How many ranges can be registered at a time.
const SLOTS: usize = 1024;

struct Slot {
    taken: AtomicBool,
    /// First byte of the range; 0 if there is none.
    start: AtomicUsize,
    end: AtomicUsize,
    lost: AtomicBool,
}

static RANGES: [Slot; SLOTS] = [const {
    Slot {
        taken: AtomicBool::new(false),
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        lost: AtomicBool::new(false),
    }
}; SLOTS];

/// Bytes in a page; set before the handler can run.
static PAGE: AtomicUsize = AtomicUsize::new(4096);

static INSTALLED: Once = Once::new();
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

/// A registered range. It must be dropped before the range is unmapped.
#[derive(Debug)]
pub(super) struct Guard {
    /// `None` if all slots were taken.
    slot: Option<usize>,
}

impl Guard {
    /// Registers `length` bytes from `start`, which are mapped and stay so until the guard is dropped.
    pub(super) fn new(start: usize, length: usize) -> Guard {
        INSTALLED.call_once(install);
        let free = |slot: &&Slot| !slot.taken.swap(true, Ordering::Acquire);
        let Some(slot) = RANGES.iter().find(free) else { return Guard { slot: None } };
        slot.lost.store(false, Ordering::Relaxed);
        slot.end.store(start + length, Ordering::Relaxed);
        slot.start.store(start, Ordering::Release);
        Guard { slot: RANGES.iter().position(|other| ptr::eq(other, slot)) }
    }

    /// Whether a part of the range was found to be gone.
    #[inline]
    pub(super) fn is_lost(&self) -> bool {
        self.slot.is_some_and(|slot| RANGES[slot].lost.load(Ordering::Acquire))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            RANGES[slot].start.store(0, Ordering::Release);
            RANGES[slot].taken.store(false, Ordering::Release);
        }
    }
}

fn install() {
    PAGE.store(rustix::param::page_size(), Ordering::Relaxed);
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a null pointer means that nothing is set; the other is to a local.
    if unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), action.as_mut_ptr()) } != 0 {
        return;
    }
    // SAFETY: all zeroes is a value of this plain C structure, and the call has filled it in.
    let mut action = unsafe { action.assume_init() };
    // Before the handler can run.
    if PREVIOUS.set(action).is_err() {
        return;
    }
    action.sa_sigaction = on_bus_error as *const () as usize;
    // On the alternate stack, if the thread has one, as the handler before us may need it.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: `action` is a valid local, and the handler keeps the rules of handlers, as argued above.
    unsafe { libc::sigaction(libc::SIGBUS, &action, ptr::null_mut()) };
}

extern "C" fn on_bus_error(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel gives a valid structure to handlers with `SA_SIGINFO`.
    let info_of_fault = unsafe { &*info };
    // SAFETY: the address is there for faults, and the field is plain memory for all other causes.
    let address = unsafe { info_of_fault.si_addr() } as usize;
    // Sent by somebody (`kill`), it tells no address.
    if info_of_fault.si_code > 0 && replace(address) {
        return;
    }
    pass_on(signal, info, context);
}

/// Maps zeros over the rest of the range with `address` in it, if there is one.
fn replace(address: usize) -> bool {
    let inside = |slot: &&Slot| {
        let start = slot.start.load(Ordering::Acquire);
        start != 0 && start <= address && address < slot.end.load(Ordering::Relaxed)
    };
    let Some(slot) = RANGES.iter().find(inside) else { return false };
    let page = address - address % PAGE.load(Ordering::Relaxed);
    let end = slot.end.load(Ordering::Relaxed);
    slot.lost.store(true, Ordering::Release);
    // SAFETY: the pages belong to a live mapping, as argued in the module's head.
    let zeros = unsafe {
        libc::mmap(
            page as *mut c_void,
            end - page,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    zeros != libc::MAP_FAILED
}

/// Does what would have happened without this handler.
fn pass_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let previous = PREVIOUS.get();
    match previous.map(|action| action.sa_sigaction) {
        None | Some(libc::SIG_DFL | libc::SIG_IGN) => {
            let mut action = MaybeUninit::<libc::sigaction>::zeroed();
            // SAFETY: all zeroes means the default action, without flags.
            let action = unsafe { action.assume_init_mut() };
            // SAFETY: a valid local.
            unsafe { libc::sigaction(signal, action, ptr::null_mut()) };
            // A fault comes again when the access is repeated; a signal that was sent does not.
            // SAFETY: takes an integer, and is safe in handlers.
            unsafe { libc::raise(signal) };
        }
        Some(handler) if previous.is_some_and(|action| action.sa_flags & libc::SA_SIGINFO != 0) => {
            // SAFETY: with this flag the value is the address of such a function.
            let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
                unsafe { std::mem::transmute(handler) };
            handler(signal, info, context);
        }
        Some(handler) => {
            // SAFETY: without the flag the value is the address of such a function.
            let handler: extern "C" fn(c_int) = unsafe { std::mem::transmute(handler) };
            handler(signal);
        }
    }
}
