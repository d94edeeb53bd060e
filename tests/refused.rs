//! Combinations that cannot work are refused by the compiler, with a message that says what to do instead.
//!
//! That they are refused at all are doctests of `ShmTable` and `With`. The wording of the compiler around our message
//! differs between its versions, so that the whole message is compared only under the one it was taken from;
//! after a deliberate change: `TRYBUILD=overwrite cargo test --test refused`.

/// The version of the compiler that wrote the expected messages.
const RUSTC: &str = "rustc 1.95.";

#[test]
fn what_cannot_work_does_not_compile() {
    #[allow(clippy::disallowed_methods, reason = "asks the compiler for its version")]
    let rustc = std::process::Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .arg("--version")
        .output()
        .unwrap();
    if String::from_utf8_lossy(&rustc.stdout).starts_with(RUSTC) {
        trybuild::TestCases::new().compile_fail("tests/refused/*.rs");
    } else {
        println!("compared only under {RUSTC}*");
    }
}
