//! Chameneos-redux, of the Computer Language Benchmarks Game: creatures meet in pairs at a place where there is room for
//! two, and take on a colour that depends on both. Two games, with three and with ten creatures, have N meetings each. The
//! last line printed is the sum over the creatures of the second one: 2N.
//!
//! Each creature is a worker. The meeting place is a mailbox with one message in it, which says who waits there and how many
//! meetings are left: who takes the message is alone at the place, and leaves by putting it back. Who came first waits at a
//! mailbox of its own for who comes second.
//!
//! So what takes the time is the way to the master and back: a meeting costs six of them, three for each of the two, most of
//! which wait for other creatures. The program measures nothing else, in particular no memory that is shared: see
//! [`ShmMap`](manycore::ShmMap) for that.
//!
//! ```sh
//! cargo run --release --example chameneos -- 600                              # prints 1200 in the end
//! cargo run --release --example chameneos -- 600 --platform threaded
//! ```

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::process::ExitCode;
use std::time::Instant;

use manycore::{
    AtEnd, Context, Execed, Failure, Forked, Mailbox, Platform, RunError, Runtime, Threaded, Worker, Workers,
};
use serde::{Deserialize, Serialize};

use Colour::{Blue, Red, Yellow};

const USAGE: &str = "\
usage: chameneos N [--platform forked|execed|threaded]

Plays two games of N meetings each, with 3 and with 10 creatures.

  --platform P    what creatures are (default: forked)";

const GAMES: [&[Colour]; 2] =
    [&[Blue, Red, Yellow], &[Blue, Red, Yellow, Red, Yellow, Blue, Red, Yellow, Red, Blue]];

#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Colour {
    Blue,
    Red,
    Yellow,
}

impl Colour {
    const ALL: [Colour; 3] = [Blue, Red, Yellow];

    /// What one of this colour becomes when it meets the other.
    fn complement(self, other: Colour) -> Colour {
        match (self, other) {
            (Blue, Blue) | (Red, Yellow) | (Yellow, Red) => Blue,
            (Red, Red) | (Blue, Yellow) | (Yellow, Blue) => Red,
            (Yellow, Yellow) | (Blue, Red) | (Red, Blue) => Yellow,
        }
    }
}

impl fmt::Display for Colour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Blue => "blue",
            Red => "red",
            Yellow => "yellow",
        })
    }
}

fn main() -> ExitCode {
    workers().enter::<Execed>();
    let (meetings, run) = match parse(env::args_os().skip(1)) {
        Ok(found) => found,
        Err(message) => {
            eprintln!("chameneos: {message}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let began = Instant::now();
    match run(meetings) {
        Ok(games) => {
            eprintln!("{:.3} s", began.elapsed().as_secs_f64());
            print(&games);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("chameneos: {error}");
            ExitCode::FAILURE
        }
    }
}

type Run = fn(u64) -> Result<Vec<Game>, RunError>;

fn parse(arguments: impl Iterator<Item = OsString>) -> Result<(u64, Run), String> {
    let mut arguments = arguments.map(|argument| argument.to_string_lossy().into_owned());
    let (mut meetings, mut chosen): (_, Run) = (None, run::<Forked>);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--platform" => {
                chosen = match arguments.next().ok_or("--platform needs a value")?.as_str() {
                    "forked" => run::<Forked>,
                    "execed" => run::<Execed>,
                    "threaded" => run::<Threaded>,
                    other => return Err(format!("no platform {other:?}")),
                }
            }
            option if option.starts_with('-') => return Err(format!("unknown option {option}")),
            text if meetings.is_none() => meetings = Some(number(text)?),
            text => return Err(format!("{text:?} is one argument too many")),
        }
    }
    Ok((meetings.ok_or("how many meetings?")?, chosen))
}

fn number(text: &str) -> Result<u64, String> {
    let most = 1_000_000_000;
    let number = text.parse().ok().filter(|number| *number <= most);
    number.ok_or_else(|| format!("{text:?} is no number from 0 to {most}"))
}

fn workers() -> Workers {
    Workers::new().with(&PLAY).with(&MEET)
}

fn run<P: Platform>(meetings: u64) -> Result<Vec<Game>, RunError> {
    // If the first worker fails, nobody else has to wait for messages any more.
    Runtime::<P>::default().with_all(&workers()).at_end(AtEnd::Terminate).run(&PLAY, meetings)
}

/// What there is to know at the meeting place.
#[derive(Serialize, Deserialize)]
struct Place {
    left: u64,
    waiting: Option<Creature>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct Creature {
    number: u64,
    colour: Colour,
}

/// The meetings of a creature.
#[derive(Default, Serialize, Deserialize)]
struct Count {
    all: u64,
    /// Those with itself.
    own: u64,
}

/// The counts of all creatures.
type Game = Vec<Count>;

const PLACE: Mailbox<Place> = Mailbox::new("meeting place");

/// Where a creature waits for who comes second.
fn partner_of(creature: u64) -> Mailbox<Creature> {
    Mailbox::named(format!("partner of {creature}"), 1)
}

const PLAY: Worker<u64, Vec<Game>> = Worker::fallible("play", |context, meetings| {
    GAMES.iter().map(|colours| play(context, meetings, colours)).collect()
});

fn play(context: &mut Context, meetings: u64, colours: &[Colour]) -> Result<Game, Failure> {
    let creatures = context.start_all(&MEET, colours.iter().copied())?;
    PLACE.send(context, &Place { left: meetings, waiting: None })?;
    // Each as it ends: one that fails leaves others waiting.
    let mut running = creatures.clone();
    while !running.is_empty() {
        let (index, count) = context.join_any(&running)?;
        running.swap_remove(index);
        count?;
    }
    PLACE.receive(context)?;
    let game = context.join_all(creatures)?;
    match sum(&game) {
        sum if sum == 2 * meetings => Ok(game),
        sum => Err(Failure::new(format!("{meetings} meetings, but the creatures have counted {sum}"))),
    }
}

/// A creature of this colour.
const MEET: Worker<Colour, Count> = Worker::fallible("meet", |context, colour| {
    let mut this = Creature { number: context.number(), colour };
    let partner = partner_of(this.number);
    let mut count = Count::default();
    loop {
        let Place { left, waiting } = PLACE.receive(context)?;
        let other = match waiting {
            _ if left == 0 => {
                PLACE.send(context, &Place { left, waiting })?;
                return Ok(count);
            }
            None => {
                PLACE.send(context, &Place { left, waiting: Some(this) })?;
                partner.receive(context)?
            }
            Some(other) => {
                PLACE.send(context, &Place { left: left - 1, waiting: None })?;
                partner_of(other.number).send(context, &this)?;
                other
            }
        };
        this.colour = this.colour.complement(other.colour);
        count.all += 1;
        count.own += u64::from(other.number == this.number);
    }
});

fn sum(game: &Game) -> u64 {
    game.iter().map(|count| count.all).sum()
}

/// Prints the complements, and the games.
fn print(games: &[Game]) {
    for one in Colour::ALL {
        for other in Colour::ALL {
            println!("{one} + {other} -> {}", one.complement(other));
        }
    }
    for (colours, game) in GAMES.iter().zip(games) {
        println!();
        for colour in *colours {
            print!(" {colour}");
        }
        println!();
        for count in game {
            println!("{}{}", count.all, spelled(count.own));
        }
        println!("{}", spelled(sum(game)));
    }
    println!("\n{}", games.last().map_or(0, sum));
}

/// The digits of a number in English, each after a blank.
fn spelled(number: u64) -> String {
    let digits = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];
    let number = number.to_string();
    number.bytes().map(|digit| format!(" {}", digits[usize::from(digit - b'0')])).collect()
}
