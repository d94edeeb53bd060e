//! A mapping whose file was cut off: an access beyond the new end is turned from death by SIGBUS into zeros and
//! a mark.
//!
//! Mapped ranges are registered here. At a SIGBUS inside one of them, memory of zeros is mapped over the rest of
//! the range, from the faulting page on, the range is marked as lost, and the access is repeated. Whoever uses
//! the mapping asks for the mark before believing what was read.
//!
//! Any other SIGBUS goes where it went before: to the handler that was there when the first range was
//! registered, or to the default action. A program that installs a handler of its own later, without calling
//! the one before it, loses this protection and nothing else; so does one that survives a SIGBUS that was *sent*,
//! because the handler of std, which looks for stack overflows, then takes itself and us away. There is room for [`SLOTS`] ranges at a time;
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

use crate::sync::global::{AtomicBool, AtomicUsize, Once, OnceLock, Ordering, compiler_fence, fence};

/// How many ranges can be registered at a time.
const SLOTS: usize = 1024;

/// A range. The handler may look at it while it changes, and then must not mix the old with the new: whoever
/// changes it raises `version` before and after, and the handler passes over a slot whose version is odd, or was
/// another after looking. The slot of a range that is in use does not change.
#[derive(Debug)]
struct Slot {
    taken: AtomicBool,
    version: AtomicUsize,
    /// First byte of the range; 0 if there is none.
    start: AtomicUsize,
    end: AtomicUsize,
    lost: AtomicBool,
}

static RANGES: [Slot; SLOTS] = [const {
    Slot {
        taken: AtomicBool::new(false),
        version: AtomicUsize::new(0),
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        lost: AtomicBool::new(false),
    }
}; SLOTS];

/// Bytes in a page; set before the handler can run.
static PAGE: AtomicUsize = AtomicUsize::new(4096);

static INSTALLED: Once = Once::new();
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

impl Slot {
    /// Changes the range; only its owner does.
    fn set(&self, start: usize, end: usize) {
        self.version.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::Release);
        self.start.store(start, Ordering::Relaxed);
        self.end.store(end, Ordering::Relaxed);
        self.lost.store(false, Ordering::Relaxed);
        self.version.fetch_add(1, Ordering::Release);
    }

    /// The end of the range, if `address` is in it.
    fn end_around(&self, address: usize) -> Option<usize> {
        let version = self.version.load(Ordering::Acquire);
        let (start, end) = (self.start.load(Ordering::Relaxed), self.end.load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        let stable = version % 2 == 0 && self.version.load(Ordering::Relaxed) == version;
        (stable && start != 0 && start <= address && address < end).then_some(end)
    }
}

/// A registered range. It must be dropped before the range is unmapped.
#[derive(Debug)]
pub(super) struct Guard {
    /// `None` if all slots were taken.
    slot: Option<&'static Slot>,
}

impl Guard {
    /// Registers `length` bytes from `start`, which are mapped and stay so until the guard is dropped.
    pub(super) fn new(start: usize, length: usize) -> Guard {
        INSTALLED.call_once(install);
        let free = |slot: &&Slot| !slot.taken.swap(true, Ordering::Acquire);
        let Some(slot) = RANGES.iter().find(free) else { return Guard { slot: None } };
        slot.set(start, start + length);
        Guard { slot: Some(slot) }
    }

    /// Whether a part of the range was found to be gone.
    #[inline]
    pub(super) fn is_lost(&self) -> bool {
        // After the stores before it: the handler runs in the middle of the one that faults.
        compiler_fence(Ordering::SeqCst);
        self.slot.is_some_and(|slot| slot.lost.load(Ordering::Acquire))
    }

    /// A part of the range is gone, as the system says.
    pub(super) fn lose(&self) {
        if let Some(slot) = self.slot {
            slot.lost.store(true, Ordering::Release);
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            slot.set(0, 0);
            slot.taken.store(false, Ordering::Release);
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
    action.sa_flags =
        action.sa_flags & (libc::SA_NODEFER | libc::SA_RESTART) | libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: `action` is a valid local, and the handler keeps the rules of handlers, as argued above.
    unsafe { libc::sigaction(libc::SIGBUS, &action, ptr::null_mut()) };
}

extern "C" fn on_bus_error(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel gives a valid structure to handlers with `SA_SIGINFO`.
    let info_of_fault = unsafe { &*info };
    // SAFETY: the address is there for faults, and the field is plain memory for all other causes.
    let address = unsafe { info_of_fault.si_addr() } as usize;
    // Not for signals that were sent, which tell no address, and not for memory that failed or is misaligned.
    if info_of_fault.si_code == libc::BUS_ADRERR && replace(address) {
        return;
    }
    let sent = info_of_fault.si_code <= 0;
    pass_on(signal, info, context, sent);
}

/// Maps zeros over the rest of the range with `address` in it, if there is one.
fn replace(address: usize) -> bool {
    let around = |slot: &'static Slot| slot.end_around(address).map(|end| (slot, end));
    let Some((slot, end)) = RANGES.iter().find_map(around) else { return false };
    let size = PAGE.load(Ordering::Relaxed);
    let page = address - address % size;
    slot.lost.store(true, Ordering::Release);
    // All of the rest at once; or, where the system would count that as used memory, page by page.
    zeros(page, end - page) || zeros(page, size)
}

/// Maps zeros over pages of a registered range.
fn zeros(page: usize, length: usize) -> bool {
    // SAFETY: the pages belong to a live mapping, as argued in the module's head.
    let mapped = unsafe {
        libc::mmap(
            page as *mut c_void,
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    mapped != libc::MAP_FAILED
}

/// Does what would have happened without this handler.
fn pass_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void, sent: bool) {
    let previous = PREVIOUS.get();
    match previous.map(|action| action.sa_sigaction) {
        Some(libc::SIG_IGN) if sent => {}
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
