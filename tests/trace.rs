//! With the feature `tracing`, subscribers are told what the master does.

#![cfg(feature = "tracing")]

use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex};

use manycore::{Runtime, Threaded, Worker};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber, subscriber};

/// Writes events down, one a line.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<String>>);

struct Fields<'line>(&'line mut String);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = write!(self.0, " {}={value:?}", field.name());
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "manycore"
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut lines = self.0.lock().unwrap();
        let _ = write!(lines, "{}", event.metadata().level());
        event.record(&mut Fields(&mut lines));
        lines.push('\n');
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[test]
fn starts_and_ends_of_workers_are_told() {
    const WELL: Worker<(), ()> = Worker::new("well", |_, ()| ());
    const BADLY: Worker<(), ()> = Worker::fallible("badly", |context, ()| {
        let worker = context.start(&WELL, ())?;
        context.join(worker)?;
        context.exit(3)
    });
    let lines = Lines::default();
    let run = || Runtime::<Threaded>::default().with(&WELL).run(&BADLY, ());
    subscriber::with_default(lines.clone(), run).unwrap_err();
    let lines = lines.0.lock().unwrap();
    let told: Vec<(&str, &str, bool)> = lines
        .lines()
        .map(|line| {
            let name = if line.contains("\"well\"") { "well" } else { "badly" };
            (line.split(' ').next().unwrap(), name, line.contains("ended"))
        })
        .collect();
    let expected = [
        ("DEBUG", "badly", false),
        ("DEBUG", "well", false),
        ("DEBUG", "well", true),
        ("WARN", "badly", true),
    ];
    assert_eq!(told, expected, "{lines}");
    assert!(lines.contains("Exited { code: 3 }"), "{lines}");
}
