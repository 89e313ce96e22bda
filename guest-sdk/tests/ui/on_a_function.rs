use alphorn_guest::{Delivery, plugin};

#[plugin]
fn on_message(_: Delivery) {}

fn main() {}
