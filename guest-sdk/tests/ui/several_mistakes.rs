use alphorn_guest::{Event, Plugin, plugin};

struct Hello;

#[plugin(qos = 1)]
impl Plugin for Hello {
    async fn on_event(&mut self, _: Event) {}

    fn halt(&mut self) {}
}

fn main() {}
