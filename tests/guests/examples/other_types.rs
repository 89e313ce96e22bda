//! Exports an interface with the right name and other functions: what a plugin built
//! against another state of `wit/` looks like.

#![expect(unsafe_code, reason = "generated code")]

wit_bindgen::generate!({
    inline: "
        package alphorn:plugin@0.1.0;
        interface guest { start: func() -> u32; }
        world plugin { export guest; }
    ",
});

struct Other;

impl exports::alphorn::plugin::guest::Guest for Other {
    fn start() -> u32 {
        7
    }
}

export!(Other);
