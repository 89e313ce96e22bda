use alphorn_guest::plugin;

#[plugin]
struct Hello;

fn main() {
    let _ = Hello;
}
