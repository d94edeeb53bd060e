//! Ten workers square a number each, and the first worker adds up: prints 385.
//!
//! ```sh
//! cargo run --example create_join
//! cargo run --example create_join -- --platform threaded    # or execed
//! ```

use std::process::ExitCode;

use manycore::{Execed, Forked, Platform, RunError, Runtime, Threaded, Worker, Workers};

const SQUARE: Worker<u64, u64> = Worker::new("square", |_, number| number * number);

const SUM: Worker<u64, u64> = Worker::fallible("sum of squares", |context, count| {
    let workers = context.start_all(&SQUARE, 1..=count)?;
    Ok(context.join_all(workers)?.into_iter().sum())
});

fn workers() -> Workers {
    Workers::new().with(&SQUARE).with(&SUM)
}

fn sum<P: Platform>() -> Result<u64, RunError> {
    Runtime::<P>::default().with_all(&workers()).run(&SUM, 10)
}

fn main() -> ExitCode {
    workers().enter::<Execed>(); // in a worker that is this program run anew, this does not return
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(|argument| argument.to_str()).collect();
    let sum = match arguments[..] {
        [] | [Some("--platform"), Some("forked")] => sum::<Forked>(),
        [Some("--platform"), Some("execed")] => sum::<Execed>(),
        [Some("--platform"), Some("threaded")] => sum::<Threaded>(),
        _ => {
            eprintln!("usage: create_join [--platform forked|execed|threaded]");
            return ExitCode::from(2);
        }
    };
    match sum {
        Ok(sum) => {
            println!("{sum}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("create_join: {error}");
            ExitCode::FAILURE
        }
    }
}
