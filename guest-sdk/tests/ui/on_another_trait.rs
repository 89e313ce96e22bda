use alphorn_guest::plugin;

struct Hello;

#[plugin]
impl Default for Hello {
    fn default() -> Self {
        Self
    }
}

fn main() {}
