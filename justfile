# Routine actions. Everything goes through ./mesh, which makes .venv on first use, so that nothing but
# a Python is needed; `just` itself is a convenience.

set shell := ["bash", "-euo", "pipefail", "-c"]
set positional-arguments := true

bin := justfile_directory() / ".venv/bin"
lint := justfile_directory() / ".venv-lint/bin"

# List the recipes.
[private]
default:
    @{{ just_executable() }} --list --unsorted

# Make or refresh .venv from requirements.lock.
[group('setup')]
setup:
    ./mesh --version

# Pin all dependencies again, by hash; needs uv. Read the diff before you commit it.
[group('setup')]
lock *args:
    uv pip compile pyproject.toml --extra demo --extra bench --extra test --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-header --quiet --output-file requirements.lock "$@"
    printf '%s\n' codespell import-linter mypy ruff | uv pip compile - --universal \
        --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate \
        --quiet --output-file requirements-lint.lock "$@"

# Run the research demo: just demo "What is a queue group?"
[group('run')]
demo *args: setup
    ./mesh demo "$@"

# Start the local mesh: embedded nats-server and etcd, every service a process.
[group('run')]
up *args: setup
    ./mesh up "$@"

# Stop the local mesh.
[group('run')]
down *args:
    ./mesh down "$@"

# Show what runs, where, and in which state.
[group('run')]
status *args:
    ./mesh status "$@"

# Measure the mesh.
[group('run')]
bench *args: setup
    ./mesh bench "$@"

# Run the tests: just test tests/wire -k codec.
[group('check')]
test *args: setup
    ./mesh test "$@"

# Read only: lint, format, types, import contracts, spelling.
[group('check')]
lint:
    .ci/run --checks-only

# Rewrite files: imports, safe lint fixes, formatting.
[group('check')]
fmt: setup
    {{ lint }}/ruff check --fix .
    {{ lint }}/ruff format .

# Everything that a change must pass, as CI runs it.
[group('check')]
ci *args:
    .ci/run "$@"

# Render docs/protocol.md from shared/langmesh/wire.
[group('docs')]
docs: setup
    {{ bin }}/python -m langmesh.wire.document

# Fail when docs/protocol.md is stale.
[group('docs')]
docs-check: setup
    {{ bin }}/python -m langmesh.wire.document --check
