use alphorn_guest::{Result, Start, plugin};

struct Hello;

#[plugin]
impl Hello {
    fn start(_: Start) -> Result<Self> {
        Ok(Self)
    }
}

fn main() {}
