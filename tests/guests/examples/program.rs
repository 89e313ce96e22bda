//! A plain WASI program: reads lines, prints lines, and does what they say.

#![expect(clippy::print_stdout, clippy::print_stderr, clippy::panic, clippy::exit, reason = "that is what it is for")]

use std::{
    env,
    io::{self, BufRead as _, Write as _},
    thread::sleep,
    time::Duration,
};

fn main() -> io::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let is = |word: &str| arguments.iter().any(|argument| argument == word);
    if !is("quiet") {
        println!("started {}", arguments.join(" "));
    }
    for line in io::stdin().lock().split(b'\n') {
        obey(&line?)?;
    }
    if !is("quiet") {
        println!("end of input");
    }
    while is("stubborn") {
        sleep(Duration::from_secs(1));
    }
    if is("bad") {
        std::process::exit(1);
    }
    print!("without an end");
    io::stdout().flush()
}

fn obey(line: &[u8]) -> io::Result<()> {
    let text = String::from_utf8_lossy(line);
    let (deed, rest) = text.split_once(' ').unwrap_or((&text, ""));
    let number = || rest.parse().unwrap_or(0_u32);
    match deed {
        "print" => println!("{rest}"),
        "exit" => std::process::exit(rest.parse().unwrap_or(0)),
        "trap" => panic!("trapped as told"),
        "nap" => {
            println!("napping");
            sleep(Duration::from_millis(number().into()));
            println!("awake");
        }
        "flood" => (0..number()).for_each(|number| println!("flood {number}")),
        "complain" => (0..number()).for_each(|number| eprintln!("complaint {number}")),
        "long" => println!("{}", "x".repeat(number() as usize)),
        "endless" => {
            println!("begins");
            loop {
                io::stdout().write_all(&[b'x'; 4096])?;
            }
        }
        "spin" => {
            println!("spinning");
            while std::hint::black_box(true) {}
        }
        "eat" => {
            let mut eaten = Vec::new();
            loop {
                eaten.push(std::hint::black_box(vec![1_u8; 1 << 20]));
            }
        }
        _ => {
            let mut out = io::stdout().lock();
            out.write_all(b"got ")?;
            out.write_all(line)?;
            out.write_all(b"\n")?;
        }
    }
    Ok(())
}
