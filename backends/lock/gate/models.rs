//! Every interleaving of a few threads, with a system lock that checks what it is told.

use crate::sync::thread;
use loom::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// A stand-in for the kernel, which sees the process as one holder: 0 free, 1 read, 2 written.
#[derive(Default)]
struct Kernel(AtomicUsize);

impl Kernel {
    fn lock(&self, mode: Mode) -> Result<(), LockError> {
        let level = if mode == Mode::Read { 1 } else { 2 };
        assert_eq!(self.0.swap(level, Ordering::AcqRel), 0, "asked twice");
        Ok(())
    }

    fn unlock(&self) -> Result<(), LockError> {
        assert_ne!(self.0.swap(0, Ordering::AcqRel), 0, "released twice");
        Ok(())
    }
}

struct World {
    gate: Arc<Gate>,
    kernel: Kernel,
    readers: AtomicUsize,
    writers: AtomicUsize,
}

fn world() -> Arc<World> {
    Arc::new(World {
        gate: Arc::new(Gate::new()),
        kernel: Kernel::default(),
        readers: AtomicUsize::new(0),
        writers: AtomicUsize::new(0),
    })
}

fn write(world: &World) {
    world.gate.acquire(Mode::Write, Wait::Forever, |_| world.kernel.lock(Mode::Write)).unwrap();
    assert_eq!(world.writers.fetch_add(1, Ordering::AcqRel), 0);
    assert_eq!(world.readers.load(Ordering::Acquire), 0);
    world.writers.fetch_sub(1, Ordering::AcqRel);
    world.gate.release(|| world.kernel.unlock()).unwrap();
}

fn read(world: &World) {
    world.gate.acquire(Mode::Read, Wait::Forever, |_| world.kernel.lock(Mode::Read)).unwrap();
    world.readers.fetch_add(1, Ordering::AcqRel);
    assert_eq!(world.writers.load(Ordering::Acquire), 0);
    world.readers.fetch_sub(1, Ordering::AcqRel);
    world.gate.release(|| world.kernel.unlock()).unwrap();
}

#[test]
fn writers_exclude_each_other_and_readers() {
    loom::model(|| {
        let world = world();
        let other = Arc::clone(&world);
        let third = Arc::clone(&world);
        let writer = thread::spawn(move || write(&other));
        let reader = thread::spawn(move || read(&third));
        write(&world);
        writer.join().unwrap();
        reader.join().unwrap();
    });
}

#[test]
fn a_reader_reads_again_while_a_writer_waits() {
    loom::model(|| {
        let world = world();
        let other = Arc::clone(&world);
        let ask = |world: &World| {
            world.gate.acquire(Mode::Read, Wait::Forever, |_| world.kernel.lock(Mode::Read)).unwrap();
        };
        ask(&world);
        let writer = thread::spawn(move || write(&other));
        ask(&world);
        world.gate.release(|| world.kernel.unlock()).unwrap();
        world.gate.release(|| world.kernel.unlock()).unwrap();
        writer.join().unwrap();
    });
}

#[test]
fn a_writer_that_gives_up_lets_readers_in() {
    loom::model(|| {
        let world = world();
        let other = Arc::clone(&world);
        let trying = thread::spawn(move || {
            match other.gate.acquire(Mode::Write, Wait::Try, |_| other.kernel.lock(Mode::Write)) {
                Ok(()) => other.gate.release(|| other.kernel.unlock()).unwrap(),
                Err(error) => assert!(matches!(error, LockError::Busy)),
            }
        });
        read(&world);
        trying.join().unwrap();
        read(&world);
    });
}

#[test]
fn a_refused_request_leaves_the_gate_open() {
    loom::model(|| {
        let world = world();
        let other = Arc::clone(&world);
        let refused = thread::spawn(move || {
            let answer = other.gate.acquire(Mode::Write, Wait::Forever, |_| Err(LockError::Deadlock));
            assert!(matches!(answer, Err(LockError::Deadlock)));
        });
        write(&world);
        refused.join().unwrap();
        write(&world);
    });
}
