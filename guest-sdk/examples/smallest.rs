use alphorn_guest::{Plugin, Result, Start, plugin, publish};

struct Hello;

#[plugin]
impl Plugin for Hello {
    fn start(_: Start) -> Result<Self> {
        publish("hello/world", "Hello!")?;
        Ok(Self)
    }
}
