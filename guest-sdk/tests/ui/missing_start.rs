use alphorn_guest::{Plugin, Result, Timer, plugin};

struct Hello;

#[plugin]
impl Plugin for Hello {
    fn on_timer(&mut self, _: Timer, _: u32) -> Result {
        Ok(())
    }
}

fn main() {}
