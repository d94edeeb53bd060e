//! Looking up keys: what tables, groups and groups of reads have in common, and how a table does it without
//! taking the lock.
//!
//! Without the lock, everything is copied first, and believed only if the sequence words say that nobody wrote
//! meanwhile; see [`layout`](super::layout). After some attempts the lock decides.
//!
//! This module writes nothing, and does not know where in a bucket a key is: `bindings` does.

use std::ops::ControlFlow;

use manycore_backends::{LockMethod, ShmBackend};

use super::ShmTable;
use super::bindings::{Bucket, Content, Glimpse, Route};
use super::error::Result;
use super::journal::is_odd;
use super::layout::*;
use super::view::{Flaw, Look, View};

/// How often a reader without a lock tries before it takes the lock: as long as a writer needs for some single
/// operations.
const ATTEMPTS: u32 = 100;

/// How many keys are looked up together.
const BATCH: usize = 32;

impl<B: ShmBackend> View<'_, B> {
    #[inline(always)]
    pub(super) fn find_in(&self, bucket: &Bucket, key: i32) -> Look<Option<Vec<i32>>> {
        match self.glimpse(bucket)? {
            Glimpse::Nothing => Ok(None),
            Glimpse::Word(word) => Ok(Some(vec![word as i32])),
            glimpse => {
                let mut value = Vec::new();
                Ok(self.append_seen(glimpse, bucket, key, &mut value)?.then_some(value))
            }
        }
    }

    #[inline(always)]
    pub(super) fn find_into_in(&self, bucket: &Bucket, key: i32, value: &mut Vec<i32>) -> Look<bool> {
        value.clear();
        self.append_seen(self.glimpse(bucket)?, bucket, key, value)
    }

    /// Appends the value to which a glimpse of the bucket leads. Whether there is one.
    #[inline(always)]
    fn append_seen(&self, glimpse: Glimpse, bucket: &Bucket, key: i32, value: &mut Vec<i32>) -> Look<bool> {
        match glimpse {
            Glimpse::Nothing => Ok(false),
            Glimpse::Word(word) => {
                value.push(word as i32);
                Ok(true)
            }
            Glimpse::Record(at) => {
                self.append(&Content::Record(self.record(at, key)?), value)?;
                Ok(true)
            }
            Glimpse::Elsewhere => self.again().append_newest(*bucket, key, value),
        }
    }

    #[inline(never)]
    fn append_newest(&self, bucket: Bucket, key: i32, value: &mut Vec<i32>) -> Look<bool> {
        let Some(place) = self.newest(&bucket, key)? else { return Ok(false) };
        self.append(&place.content, value)?;
        Ok(true)
    }

    pub(super) fn find_all_in(&self, bucket: &Bucket, key: i32) -> Look<Vec<Vec<i32>>> {
        let mut values = Vec::new();
        self.bindings(bucket, key, |place| {
            let mut value = Vec::with_capacity(place.content.length());
            self.append(&place.content, &mut value)?;
            values.push(value);
            Ok::<_, Flaw>(ControlFlow::<()>::Continue(()))
        })?;
        Ok(values)
    }

    /// Gives the values of the key's bindings to `visit`, newest first, until it finds what it looks for.
    pub(super) fn search_in<T>(
        &self,
        bucket: &Bucket,
        key: i32,
        visit: &mut impl FnMut(&[u32]) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let mut value: Vec<u32> = Vec::new();
        self.bindings(bucket, key, |place| {
            value.clear();
            self.append(&place.content, &mut value)?;
            Ok(match visit(&value)? {
                Some(found) => ControlFlow::Break(found),
                None => ControlFlow::Continue(()),
            })
        })
    }

    /// Looks up a batch of keys, each with its bucket on the way already.
    fn many(&self, keys: &[i32], mut visit: impl FnMut(i32, Option<&Route>) -> Result<()>) -> Result<()> {
        let mut routes = [None; BATCH];
        for batch in keys.chunks(BATCH) {
            for (route, key) in routes.iter_mut().zip(batch) {
                *route = self.route(*key).ok();
            }
            for (route, key) in routes.iter().zip(batch) {
                visit(*key, route.as_ref())?;
            }
        }
        Ok(())
    }

    /// The newest bindings of all keys, under a lock.
    pub(super) fn get_many(&self, keys: &[i32], mut visit: impl FnMut(i32, Option<&[i32]>)) -> Result<()> {
        let mut buffer = Vec::new();
        self.many(keys, |key, route| {
            let bucket = self.bucket_by(route, key)?;
            let found = self.believe(self.find_into_in(&bucket, key, &mut buffer))?;
            visit(key, found.then_some(&buffer[..]));
            Ok(())
        })
    }
}

/// What came of looking without the lock.
enum Glance<T> {
    Seen(T),
    /// Somebody wrote meanwhile.
    Disturbed,
    /// Nobody wrote, and yet something was wrong.
    Wrong,
}

#[inline(always)]
fn glance<B: ShmBackend, T>(
    view: &View<'_, B>,
    key: i32,
    route: Option<&Route>,
    copy: &mut impl FnMut(&View<'_, B>, &Bucket) -> Look<T>,
) -> Glance<T> {
    // Wrong places are no surprise while somebody writes; nor is anything that `copy` meets.
    let Ok(head) = view.head() else { return Glance::Wrong };
    if is_odd(head.sequence) {
        return Glance::Disturbed;
    }
    let Ok(bucket) = view.place_of_key(&head, key, route).and_then(|at| view.read_bucket(at, key)) else {
        return wrong(&view.again(), head.sequence, None);
    };
    if is_odd(bucket.sequence) {
        return Glance::Disturbed;
    }
    let Ok(value) = copy(view, &bucket) else {
        return wrong(&view.again(), head.sequence, Some((bucket.at, bucket.sequence)));
    };
    if view.load(bucket.at).ok() != Some(bucket.sequence)
        || view.load(AT_SEQUENCE).ok() != Some(head.sequence)
    {
        return Glance::Disturbed;
    }
    if view.is_intact() { Glance::Seen(value) } else { Glance::Wrong }
}

/// What is to be said of something that makes no sense: somebody may have written meanwhile.
#[cold]
fn wrong<B: ShmBackend, T>(view: &View<'_, B>, sequence: u32, bucket: Option<(u32, u32)>) -> Glance<T> {
    let stays = |at: u32, was: u32| view.load(at).is_ok_and(|now| now == was);
    if stays(AT_SEQUENCE, sequence) && bucket.is_none_or(|(at, sequence)| stays(at, sequence)) {
        Glance::Wrong
    } else {
        Glance::Disturbed
    }
}

impl<B: ShmBackend, L: LockMethod<B>> ShmTable<B, L> {
    /// What `copy` reads of the bucket of `key`, without the lock if that is possible. It may be called again.
    #[inline(always)]
    pub(super) fn look<T>(&self, key: i32, copy: impl FnMut(&View<'_, B>, &Bucket) -> Look<T>) -> Result<T> {
        self.look_by(None, key, copy)
    }

    /// The same, if there is a `route` from before.
    #[inline(always)]
    fn look_by<T>(
        &self,
        route: Option<&Route>,
        key: i32,
        mut copy: impl FnMut(&View<'_, B>, &Bucket) -> Look<T>,
    ) -> Result<T> {
        if self.shared.generation.is_current() {
            let view = View::glance(&self.shared.object);
            if let Glance::Seen(value) = glance(&view, key, route, &mut copy) {
                return Ok(value);
            }
        }
        self.look_again(key, copy)
    }

    /// The same after a first attempt; in the end with the lock, which decides what is so.
    #[cold]
    #[inline(never)]
    fn look_again<T>(&self, key: i32, mut copy: impl FnMut(&View<'_, B>, &Bucket) -> Look<T>) -> Result<T> {
        if self.shared.generation.is_current() {
            let view = View::glance(&self.shared.object);
            for _ in 0..ATTEMPTS {
                std::hint::spin_loop();
                match glance(&view, key, None, &mut copy) {
                    Glance::Seen(value) => return Ok(value),
                    Glance::Disturbed => {}
                    Glance::Wrong => break,
                }
            }
        }
        self.read(|view| Ok(copy(view, &view.bucket_of_key(key)?)?))
    }

    /// The newest binding of a key whose bucket by itself does not tell it.
    #[inline(never)]
    pub(super) fn find_long(&self, key: i32) -> Result<Option<Vec<i32>>> {
        self.look(key, |view, bucket| view.find_in(bucket, key))
    }

    /// The number of bindings, without the lock if that is possible.
    pub(super) fn glance_at_length(&self) -> Option<u32> {
        let view = View::glance(&self.shared.object);
        if !self.shared.generation.is_current() {
            return None;
        }
        for _ in 0..ATTEMPTS {
            let transaction = view.load(AT_TRANSACTION).ok()?;
            let bindings = view.load(AT_BINDINGS).ok()?;
            if !is_odd(transaction) && view.load(AT_TRANSACTION).ok()? == transaction {
                return view.is_intact().then_some(bindings);
            }
            std::hint::spin_loop();
        }
        None
    }

    /// What `body` finds by several lookups of single keys, if no group happened between the first and the last of
    /// them, so that it saw no state that nobody may see. `None` if groups follow each other fast: take the lock.
    pub(crate) fn between_groups<T, E>(
        &self,
        mut body: impl FnMut() -> Result<T, E>,
    ) -> Result<Option<T>, E> {
        let view = View::glance(&self.shared.object);
        for _ in 0..3 {
            let Ok(before) = view.load(AT_SEQUENCE) else { return Ok(None) };
            if is_odd(before) {
                continue;
            }
            let found = body()?;
            if view.load(AT_SEQUENCE).is_ok_and(|after| after == before) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// See [`ShmTable::get_many`].
    pub(super) fn look_up_many(
        &self,
        keys: &[i32],
        mut visit: impl FnMut(i32, Option<&[i32]>),
    ) -> Result<()> {
        let mut buffer = Vec::new();
        View::glance(&self.shared.object).many(keys, |key, route| {
            let found =
                self.look_by(route, key, |view, bucket| view.find_into_in(bucket, key, &mut buffer))?;
            visit(key, found.then_some(&buffer[..]));
            Ok(())
        })
    }

    /// Gives the values of the key's bindings to `visit`, newest first, until it finds what it looks for. `visit` sees
    /// only what is so.
    pub(crate) fn search<T>(
        &self,
        key: i32,
        mut visit: impl FnMut(&[u32]) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        // Mostly there is one binding. More are looked at under the lock.
        let mut value: Vec<u32> = Vec::new();
        let only = self.look(key, |view, bucket| {
            value.clear();
            let Some(place) = view.newest(bucket, key)? else { return Ok(None) };
            view.append(&place.content, &mut value)?;
            Ok(Some(place.content.older() == 0))
        })?;
        match only {
            None => Ok(None),
            Some(true) => visit(&value),
            Some(false) => self.read(|view| view.search_in(&view.bucket_of_key(key)?, key, &mut visit)),
        }
    }
}
