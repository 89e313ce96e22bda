//! What the compiler says to a wrong use of `#[plugin]`. After a change,
//! `TRYBUILD=overwrite cargo test -p alphorn-guest --test ui` writes the new words.

#[test]
fn wrong_use_is_told_the_right_one() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
