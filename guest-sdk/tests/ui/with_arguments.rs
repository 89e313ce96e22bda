use alphorn_guest::{Plugin, Result, Start, plugin};

struct Hello;

#[plugin(name = "hello")]
impl Plugin for Hello {
    fn start(_: Start) -> Result<Self> {
        Ok(Self)
    }
}

fn main() {}
