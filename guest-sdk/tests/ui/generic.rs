use alphorn_guest::{Plugin, Result, Start, plugin};

struct Hello<T>(T);

#[plugin]
impl<T: Default> Plugin for Hello<T> {
    fn start(_: Start) -> Result<Self> {
        Ok(Self(T::default()))
    }
}

fn main() {}
