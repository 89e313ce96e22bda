use alphorn_guest::{Delivery, Failure, Plugin, Result, Start, plugin};

struct Hello;

#[plugin]
impl Plugin for Hello {
    fn start(_: Start) -> Result<Self> {
        Ok(Self)
    }

    fn on_mesage(&mut self, _: Delivery) -> Result<(), Failure> {
        Ok(())
    }
}

fn main() {}
