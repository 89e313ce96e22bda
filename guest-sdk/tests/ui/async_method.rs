use alphorn_guest::{Plugin, Result, Start, plugin};

struct Hello;

#[plugin]
impl Plugin for Hello {
    async fn start(_: Start) -> Result<Self> {
        Ok(Self)
    }
}

fn main() {}
