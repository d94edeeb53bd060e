//! A table on memory that its lock method cannot lock does not compile, and the compiler says what to do.

#[test]
fn a_table_that_cannot_be_locked_does_not_compile() {
    trybuild::TestCases::new().compile_fail("tests/refused/*.rs");
}
