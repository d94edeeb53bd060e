//! Everything at once, by workers that are killed.

use super::*;

/// Numbers that look random.
pub(super) struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    fn moment(&mut self) -> Duration {
        Duration::from_micros(self.below(3000))
    }
}

/// From which worker, and the how manieth.
pub(super) type Letter = (u64, u64);

pub(super) const LETTERS: Mailbox<Letter> = Mailbox::with_capacity("letters", 3);
pub(super) const REPORTS: Mailbox<Letter> = Mailbox::with_capacity("reports", 1_000_000);
pub(super) const OVER: SharedVar<bool> = SharedVar::new("over");
/// Who is in the section that the mutex protects, and the last fence.
pub(super) const INSIDE: SharedVar<(u64, u64)> = SharedVar::new("inside");
pub(super) const HAMMERS: u64 = 8;
pub(super) const SEATS: u64 = 4;

/// Does everything at random until it is over. Tells how many letters it has sent.
pub(super) const HAMMER: Worker<u64, u64> = Worker::fallible("hammer", |context, seed| {
    let mut random = Random(seed);
    let mut over = OVER.cached();
    let own = context.number();
    let mut sent = 0;
    while !*over.get(context)? {
        match random.below(5) {
            0 => {
                let guard = match random.below(3) {
                    0 => LOCK.try_lock(context)?,
                    1 => LOCK.lock_timeout(context, random.moment())?,
                    _ => Some(LOCK.lock(context)?),
                };
                if let Some(guard) = guard {
                    let (inside, fence) = INSIDE.get(context)?;
                    assert!(inside == 0 || guard.was_abandoned(), "worker {inside} is inside");
                    assert!(guard.fence() > fence);
                    INSIDE.set(context, &(own, guard.fence()))?;
                    assert_eq!(INSIDE.get(context)?, (own, guard.fence()));
                    INSIDE.set(context, &(0, guard.fence()))?;
                }
            }
            1 => {
                let units = 1 + random.below(3);
                let permit = match random.below(3) {
                    0 => UNITS.try_acquire(context, units)?,
                    1 => UNITS.acquire_timeout(context, units, random.moment())?,
                    _ => Some(UNITS.acquire(context, units)?),
                };
                assert!(UNITS.get(context)? <= SEATS - permit.map_or(0, |permit| permit.units()));
            }
            2 | 3 if seed % 2 == 0 => {
                let letter = (own, sent);
                let accepted = match random.below(2) {
                    0 => LETTERS.try_send(context, &letter)?,
                    _ => LETTERS.send_timeout(context, &letter, random.moment())?,
                };
                sent += u64::from(accepted);
            }
            2 | 3 => {
                let letter = match random.below(2) {
                    0 => LETTERS.try_receive(context)?,
                    _ => LETTERS.receive_timeout(context, random.moment())?,
                };
                if let Some(letter) = letter {
                    REPORTS.send(context, &letter)?;
                }
            }
            _ => {
                let list = [LETTERS.receivable(), UNITS.available(2), LOCK.unlocked()];
                context.wait_any_timeout(&list, random.moment())?;
            }
        }
    }
    Ok(sent)
});

/// Workers that do everything with everything, and are killed at random moments: one is inside at most, units are neither
/// made nor lost, letters come in order and once, and are lost only with who has received them.
pub(super) fn killed_workers_hammer_on_everything<P: Platform>() {
    play::<P>(hammering);
}

pub(super) fn hammering(context: &mut Context) -> Result<(), Failure> {
    let seconds = std::env::var("MANYCORE_TORTURE_SECONDS").ok().and_then(|text| text.parse().ok());
    let end = Instant::now() + Duration::from_secs_f64(seconds.unwrap_or(10.0) / 3.0);
    let seed = RandomState::new().build_hasher().finish();
    eprintln!("seed {seed}");
    let mut random = Random(seed);
    UNITS.create_with(context, SemaphoreOptions::new(SEATS).maximum(SEATS).protected())?;
    INSIDE.create_with(context, VarOptions::new().value(&(0, 0)))?;
    OVER.create_with(context, VarOptions::new().value(&false))?;
    LETTERS.open(context)?;
    REPORTS.open(context)?;
    let mut workers =
        context.start_all(&HAMMER, (0..HAMMERS).map(|number| number + 8 * random.below(1000)))?;
    let mut letters = Vec::new();
    let mut killed_receivers = 0;
    while Instant::now() < end {
        while let Some(letter) = REPORTS.receive_timeout(context, random.moment())? {
            letters.push(letter);
            if random.below(50) == 0 {
                break;
            }
        }
        let index = random.below(HAMMERS);
        let worker = &mut workers[index as usize];
        context.signal(*worker, 9)?;
        match context.join(*worker) {
            Err(JoinError::Killed { .. }) => killed_receivers += usize::from(index % 2 == 1),
            other => panic!("{other:?}"),
        }
        *worker = context.start(&HAMMER, index + 8 * random.below(1000))?;
    }
    OVER.set(context, &true)?;
    let sent: BTreeMap<u64, u64> = workers
        .iter()
        .map(|worker| Ok((worker.number(), context.join(*worker)?)))
        .collect::<Result<_, JoinError>>()?;
    while let Some(letter) = REPORTS.try_receive(context)? {
        letters.push(letter);
    }
    while let Some(letter) = LETTERS.try_receive(context)? {
        letters.push(letter);
    }
    assert_eq!(UNITS.get(context)?, SEATS);
    assert!(LOCK.try_lock(context)?.is_some());
    let mut from: BTreeMap<u64, Vec<u64>> = sent.keys().map(|sender| (*sender, Vec::new())).collect();
    for (sender, number) in &letters {
        from.entry(*sender).or_default().push(*number);
    }
    let mut lost = 0;
    for (sender, mut numbers) in from {
        let count = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), count, "a letter of worker {sender} came twice");
        // The last of one that was killed may have been sent, or not.
        let all = sent.get(&sender).copied().unwrap_or(numbers.last().map_or(0, |last| last + 1));
        assert!(numbers.iter().all(|number| *number < all), "what was not sent came");
        lost += all as usize - count;
    }
    assert!(lost <= killed_receivers, "{lost} lost by {killed_receivers} that were killed");
    assert!(letters.len() > 10, "{}", letters.len());
    Ok(())
}
