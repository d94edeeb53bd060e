//! Objects of this process alone, for tests, fuzzing and threads.
//!
//! This module shares nothing with other processes: a forked child is refused.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use super::mapping::Access;
use super::{Mapped, Mapping, Memory, Open, ShmBackend, ShmError, Trust, WORD};
use crate::generation::Generation;
use crate::name;
use crate::sync::global::{Arc, Mutex, lock};

static OBJECTS: Mutex<BTreeMap<OsString, Arc<Object>>> = Mutex::new(BTreeMap::new());

#[derive(Debug)]
struct Object {
    mapping: Mapping,
    generation: Generation,
}

/// An object in memory of this process, named like the others and shared between its threads. It is gone
/// when it is unlinked and its last handle dropped; a forked child sees none of its parent's.
///
/// It has no descriptor, so that `Fcntl` cannot lock it: `ShmTable<Heap, Fcntl>` does not compile. `Futex` can.
#[derive(Debug)]
pub struct Heap {
    memory: HeapMemory,
    name: OsString,
}

/// The words of a [`Heap`] object, as one handle sees them.
#[derive(Debug)]
pub struct HeapMemory {
    object: Arc<Object>,
    access: Access,
}

impl Memory for HeapMemory {
    type Window<'a> = Mapped<'a>;

    #[inline(always)]
    fn window(&self) -> Mapped<'_> {
        self.object.mapping.window_for(self.access)
    }
}

impl Heap {
    /// Unlike that of every other object.
    pub(crate) fn address(&self) -> usize {
        Arc::as_ptr(&self.memory.object) as usize
    }

    pub(crate) fn is_current(&self) -> bool {
        self.memory.object.generation.is_current()
    }
}

impl ShmBackend for Heap {
    type Memory = HeapMemory;

    fn open_trusting(name: &OsStr, how: Open, _trust: Trust) -> Result<Heap, ShmError> {
        let component = name::component(name)?;
        let generation = Generation::current();
        let mut objects = lock(&OBJECTS);
        let existing = objects.get(component).filter(|object| object.generation == generation);
        let object = match (existing, how) {
            (Some(_), Open::CreateNew { .. }) => {
                return Err(ShmError::AlreadyExists { name: name.to_owned() });
            }
            (Some(object), _) => Arc::clone(object),
            (None, Open::Existing | Open::ReadOnly) => {
                return Err(ShmError::NotFound { name: name.to_owned() });
            }
            (None, _) => {
                let mapping = Mapping::private().map_err(|source| ShmError::Io {
                    op: "mmap",
                    name: name.to_owned(),
                    source,
                })?;
                let object = Arc::new(Object { mapping, generation });
                objects.insert(component.to_owned(), Arc::clone(&object));
                object
            }
        };
        let access = Access::new(how == Open::ReadOnly);
        Ok(Heap { memory: HeapMemory { object, access }, name: name.to_owned() })
    }

    fn unlink(name: &OsStr) -> Result<(), ShmError> {
        let component = name::component(name)?;
        match lock(&OBJECTS).remove(component) {
            Some(object) if object.generation.is_current() => Ok(()),
            _ => Err(ShmError::NotFound { name: name.to_owned() }),
        }
    }

    fn try_clone(&self) -> Result<Heap, ShmError> {
        self.size()?;
        let memory = HeapMemory { object: Arc::clone(&self.memory.object), access: self.memory.access };
        Ok(Heap { memory, name: self.name.clone() })
    }

    fn name(&self) -> &OsStr {
        &self.name
    }

    fn size(&self) -> Result<u64, ShmError> {
        if self.memory.object.generation.is_current() {
            Ok(self.memory.object.mapping.size())
        } else {
            Err(ShmError::Forked { name: self.name.clone() })
        }
    }

    fn grow(&self, bytes: u64) -> Result<(), ShmError> {
        self.size()?;
        if self.memory.access.is_read_only() {
            return Err(ShmError::ReadOnly { name: self.name.clone() });
        }
        let bytes = bytes.checked_next_multiple_of(WORD).unwrap_or(u64::MAX);
        let mapping = &self.memory.object.mapping;
        let max = mapping.reserved();
        if bytes > max {
            return Err(ShmError::TooLarge { name: self.name.clone(), bytes, max });
        }
        mapping.grown(mapping.size(), bytes);
        Ok(())
    }

    #[inline]
    fn intact(&self) -> Result<(), ShmError> {
        Ok(())
    }

    #[inline]
    fn memory(&self) -> &HeapMemory {
        &self.memory
    }

    /// Does nothing: nobody else could have access anyway.
    fn chmod(&self, _mode: u32) -> Result<(), ShmError> {
        self.size().map(drop)
    }

    /// Does nothing: nobody else could have access anyway.
    fn chown(&self, _user: Option<u32>, _group: Option<u32>) -> Result<(), ShmError> {
        self.size().map(drop)
    }
}
