//! A component of another world: a WASI command.

#[expect(clippy::print_stdout, reason = "a command that does nothing would not import anything")]
fn main() {
    println!("not a plugin");
}
