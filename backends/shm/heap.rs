//! Objects of this process alone, for tests, fuzzing and threads.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use super::{Mapping, Open, ShmBackend, ShmError, WORD};
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
/// It has no descriptor, so that `Fcntl` cannot lock it: `ShmTable<Heap, Fcntl>` does not compile.
#[derive(Debug)]
pub struct Heap {
    object: Arc<Object>,
    name: OsString,
}

impl ShmBackend for Heap {
    type Memory = Mapping;

    fn open(name: &OsStr, how: Open) -> Result<Heap, ShmError> {
        let component = name::component(name)?;
        let generation = Generation::current();
        let mut objects = lock(&OBJECTS);
        let existing = objects.get(component).filter(|object| object.generation == generation);
        let object = match (existing, how) {
            (Some(_), Open::CreateNew { .. }) => {
                return Err(ShmError::AlreadyExists { name: name.to_owned() });
            }
            (Some(object), _) => Arc::clone(object),
            (None, Open::Existing) => return Err(ShmError::NotFound { name: name.to_owned() }),
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
        Ok(Heap { object, name: name.to_owned() })
    }

    fn unlink(name: &OsStr) -> Result<(), ShmError> {
        let component = name::component(name)?;
        match lock(&OBJECTS).remove(component) {
            Some(object) if object.generation.is_current() => Ok(()),
            _ => Err(ShmError::NotFound { name: name.to_owned() }),
        }
    }

    fn name(&self) -> &OsStr {
        &self.name
    }

    fn size(&self) -> Result<u64, ShmError> {
        if self.object.generation.is_current() {
            Ok(self.object.mapping.size())
        } else {
            Err(ShmError::Forked { name: self.name.clone() })
        }
    }

    fn grow(&self, bytes: u64) -> Result<(), ShmError> {
        self.size()?;
        let bytes = bytes.checked_next_multiple_of(WORD).unwrap_or(u64::MAX);
        let max = self.object.mapping.reserved();
        if bytes > max {
            return Err(ShmError::TooLarge { name: self.name.clone(), bytes, max });
        }
        self.object.mapping.extend_to(bytes);
        Ok(())
    }

    #[inline]
    fn intact(&self) -> Result<(), ShmError> {
        Ok(())
    }

    #[inline]
    fn memory(&self) -> &Mapping {
        &self.object.mapping
    }
}
