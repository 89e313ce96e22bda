//! Compiling in a process of its own.
//!
//! Cranelift can neither be cancelled nor held to an amount of memory within a process, so a
//! hostile component could stop the device. A child of the same program compiles under limits
//! of the kernel and is killed when it takes too long.

use std::{fs, os::unix::process::ExitStatusExt, path::Path, process::Stdio};

use tokio::{process::Command, time::timeout};

use super::{CompileError, CompileLimits, cache};

/// The name of the command that compiles.
pub const COMMAND: &str = "compile-component";

/// The exit code of the child for a component that is none (EX_DATAERR).
const DATA: i32 = 65;

/// Has the child compile one file.
pub(super) async fn run(
    program: &Path,
    input: &Path,
    output: &Path,
    limits: CompileLimits,
) -> Result<(), CompileError> {
    let mut command = Command::new(program);
    command.arg(COMMAND).arg(input).arg(output).arg(limits.memory.to_string()).arg(limits.time.as_secs().to_string());
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = match timeout(limits.time, command.spawn()?.wait_with_output()).await {
        Ok(output) => output?,
        // Dropping what waits for it kills it.
        Err(_) => return Err(CompileError::Time(limits.time)),
    };
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    match (output.status.code(), output.status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(DATA), _) => Err(CompileError::Invalid(words)),
        (_, Some(signal)) if signal == rustix::process::Signal::XCPU.as_raw() => Err(CompileError::Time(limits.time)),
        _ => Err(CompileError::Memory(limits.memory, format!("the compiler ended with {} {words}", output.status))),
    }
}

/// The child's work. An error is one of the component.
pub fn compile_file(input: &Path, output: &Path, memory: u64, seconds: u64) -> anyhow::Result<()> {
    use rustix::process::{Resource, Rlimit, setrlimit};

    let limit = |bytes| Rlimit { current: Some(bytes), maximum: Some(bytes) };
    setrlimit(Resource::Core, limit(0))?;
    setrlimit(Resource::Data, limit(memory))?;
    // Of all its threads together; the parent looks at the clock.
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get() as u64);
    setrlimit(Resource::Cpu, limit((seconds + 1).saturating_mul(threads)))?;
    let engine = wasmtime::Engine::new(&super::super::engine::config())?;
    let compiled = engine.precompile_component(&fs::read(input)?)?;
    cache::write(output, &compiled)?;
    Ok(())
}
