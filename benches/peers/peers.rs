//! The link between two processes beside what others offer for it, in one run: `ipc-channel`, `iceoryx2`, and a bare Unix
//! socket whose reader knows how much comes.
//!
//! | row | what is measured |
//! |---|---|
//! | round trip | microseconds until 16 bytes are answered by 16 bytes |
//! | one way | messages or bytes a second, as fast as the receiver takes them |
//!
//! The parties are kept on different cores, as far as there are any. Figures are medians of the rounds, in each of which
//! all take their turn; ratios are medians of the ratios of a round. `ipc-channel` has channels of bytes, which
//! serialise nothing. `iceoryx2` never sleeps: both parties look for messages in a loop, and the receiver reads where
//! the sender has written.
//!
//! ```sh
//! cargo run --release --manifest-path benches/peers/Cargo.toml
//! MANYCORE_BENCH_ROUNDS=21 cargo run --release --manifest-path benches/peers/Cargo.toml   # instead of 5
//! ```

mod links;
#[path = "../table_targets/machine.rs"]
#[allow(dead_code, reason = "the bench `table_targets` uses the rest")]
mod machine;

use std::time::Instant;

use links::{Bare, Channel, Iceoryx, Link, Ours};
use machine::{cores, pin, unpin};
use manycore::spawn::{Child, Exit, Fork};

/// One measurement: so many messages of a size, each answered by one of that size, or only the last one.
#[derive(Clone, Copy)]
struct Task {
    size: usize,
    count: usize,
    is_answered: bool,
}

/// Seconds that it takes.
fn seconds<L: Link>(task: Task) -> f64 {
    let Task { size, count, is_answered } = task;
    let cores = cores();
    let theirs = cores.clone();
    let (meeting, name) = L::meet();
    let child = Fork.fork(&[], move || {
        pin(1, &theirs);
        let mut far = L::connect(&name, size);
        for number in 1..=count {
            far.receive(size);
            if is_answered || number == count {
                far.send(if is_answered { size } else { 1 });
            }
        }
        // Until the other one has the last answer.
        far.receive(1);
        0
    });
    let child = child.expect("there are no other threads");
    pin(0, &cores);
    let mut near = L::accept(meeting, size);
    let start = Instant::now();
    for number in 1..=count {
        near.send(size);
        if is_answered || number == count {
            near.receive(if is_answered { size } else { 1 });
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    near.send(1);
    unpin(&cores);
    assert_eq!(child.wait().expect("it is a child"), Exit::Code(0));
    seconds
}

/// Whether more is better.
#[derive(Clone, Copy, PartialEq)]
enum Better {
    Less,
    More,
}

struct Row {
    what: &'static str,
    task: Task,
    figure: fn(Task, f64) -> f64,
    better: Better,
    /// How far ours may be from that of a bare socket, and from `ipc-channel`.
    limits: [Option<f64>; 2],
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn verdict(ratio: f64, better: Better, limit: Option<f64>) -> String {
    match (limit, better) {
        (None, _) => format!("{ratio:.2}"),
        (Some(limit), Better::Less) => {
            format!("{ratio:.2} (<= {limit:.1} {})", if ratio <= limit { "ok" } else { "MISSED" })
        }
        (Some(limit), Better::More) => {
            format!("{ratio:.2} (>= {limit:.1} {})", if ratio >= limit { "ok" } else { "MISSED" })
        }
    }
}

fn main() {
    let rounds = std::env::var("MANYCORE_BENCH_ROUNDS").map_or(5, |rounds| rounds.parse().expect("a number"));
    let micros: fn(Task, f64) -> f64 = |task, seconds| seconds * 1e6 / task.count as f64;
    let millions: fn(Task, f64) -> f64 = |task, seconds| task.count as f64 / seconds / 1e6;
    let gigabytes: fn(Task, f64) -> f64 = |task, seconds| (task.size * task.count) as f64 / seconds / 1e9;
    let one_way = |size, count| Task { size, count, is_answered: false };
    let rows = [
        Row {
            what: "round trip of 16 B, us",
            task: Task { size: 16, count: 20_000, is_answered: true },
            figure: micros,
            better: Better::Less,
            limits: [Some(1.2), Some(0.9)],
        },
        Row {
            what: "one way 16 B, M/s",
            task: one_way(16, 50_000),
            figure: millions,
            better: Better::More,
            limits: [None, None],
        },
        Row {
            what: "one way 64 KiB, GB/s",
            task: one_way(64 << 10, 1 << 13),
            figure: gigabytes,
            better: Better::More,
            limits: [Some(0.9), None],
        },
        Row {
            what: "one way 1 MiB, GB/s",
            task: one_way(1 << 20, 1 << 9),
            figure: gigabytes,
            better: Better::More,
            limits: [Some(0.9), None],
        },
    ];
    println!("{rounds} rounds, {} cores\n", cores().len());
    println!(
        "{:<24} {:>8} {:>8} {:>11} {:>9}   {:<19} Socket / ipc-channel",
        "", "bare", "Socket", "ipc-channel", "iceoryx2", "Socket / bare"
    );
    let parties = [seconds::<Bare>, seconds::<Ours>, seconds::<Channel>, seconds::<Iceoryx>];
    for row in rows {
        let mut figures = vec![Vec::new(); parties.len()];
        for _ in 0..rounds {
            for (figures, party) in figures.iter_mut().zip(parties) {
                figures.push((row.figure)(row.task, party(row.task)));
            }
        }
        let ratio = |to: usize| {
            median(figures[1].iter().zip(&figures[to]).map(|(ours, theirs)| ours / theirs).collect())
        };
        let [bare, channel] =
            [(0, row.limits[0]), (2, row.limits[1])].map(|(to, limit)| verdict(ratio(to), row.better, limit));
        let of = |party: usize| median(figures[party].clone());
        println!(
            "{:<24} {:>8.2} {:>8.2} {:>11.2} {:>9.2}   {bare:<19} {channel}",
            row.what,
            of(0),
            of(1),
            of(2),
            of(3)
        );
    }
}
