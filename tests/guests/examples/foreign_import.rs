//! A plugin that also wants an interface the host does not lend.

use alphorn_guest::{Plugin, Result, Start, info, plugin};

mod bindings {
    wit_bindgen::generate!({
        inline: "
            package test:hardware@1.0.0;
            interface pins { read: func(pin: u32) -> bool; }
            world board { import pins; }
        ",
    });
}

struct Foreign;

#[plugin]
impl Plugin for Foreign {
    fn start(_: Start) -> Result<Self> {
        info!("pin 7: {}", bindings::test::hardware::pins::read(7));
        Ok(Self)
    }
}
