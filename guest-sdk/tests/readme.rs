//! The plugin that the README shows is the one that is compiled and tested.

#[test]
fn the_readme_shows_the_smallest_example_word_for_word() {
    let readme = include_str!("../../README.md");
    let example = include_str!("../examples/smallest.rs");
    let shown = readme.split("```rust\n").nth(1).and_then(|rest| rest.split("```").next());
    assert_eq!(shown, Some(example));
    assert!(example.lines().count() < 15);
}
